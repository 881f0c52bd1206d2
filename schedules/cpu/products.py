"""Chunked products: a register tile of rows x vectors of columns, the fma chain of a chunk innermost.

for batch, columns / tile, rows / tile:          threads
    for chunk:
        tile = -0.0
        for term: for row: for vector: tile = fma(left, right, tile)
        total += tile
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm

from gensyn_tvm.schedules.blocks import extents, role_of
from gensyn_tvm.schedules.cpu.elementwise import PARALLEL_WORK, element_bits, vector_length
from gensyn_tvm.targets.cpu import CpuTarget

#: Registers left for operands beside the accumulators. Fewer make LLVM spill: it keeps what neighbouring kernel positions of a
#: convolution both read, so a 3x3 kernel wants more than a matrix product does.
_OPERAND_REGISTERS = 8
_MAX_ROWS = 14


def register_tile(rows: int, vectors: int, target: CpuTarget) -> tuple[int, int]:
    """(rows, vectors of columns) of the tile that needs the fewest loads for each fma, among divisors."""
    budget = max(1, target.registers - _OPERAND_REGISTERS)
    best, best_loads = (1, 1), math.inf
    for r in range(1, min(rows, _MAX_ROWS) + 1):
        for v in range(1, min(vectors, 4) + 1):
            if rows % r == 0 and vectors % v == 0 and r * v <= budget:
                # Loads for each fma (the panel comes from the second-level cache), and a penalty for too few
                # independent chains to hide the latency of fma.
                loads = (r + 3 * v) / (r * v) + max(0.0, 8 - r * v) * 0.25
                if loads < best_loads:
                    best, best_loads = (r, v), loads
    return best


def chunk(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Tile a ``chunk`` stage together with the ``total`` that follows it, if any."""
    consumers = [c for c in sch.get_consumers(block) if role_of(sch, c) == "total"]
    if consumers:
        (outer,) = consumers
        sch.set_scope(block, 0, "local")
    else:
        outer = sch.cache_write(block, 0, "local")
    loops = list(sch.get_loops(outer))
    chunks = [loops.pop()] if consumers else []
    *batch, rows, columns = loops
    row_count, column_count = extents(sch, [rows, columns])
    lanes = vector_length(column_count, target.lanes(element_bits(sch, block)))
    tile_rows, tile_vectors = register_tile(row_count, column_count // lanes, target)
    row_outer, row_inner = sch.split(rows, [None, tile_rows])
    column_outer, column_inner = sch.split(columns, [None, tile_vectors * lanes])
    vectors, lane = sch.split(column_inner, [None, lanes])
    sch.reorder(*batch, column_outer, row_outer, *chunks, row_inner, vectors, lane)
    _panel_layout(sch, block, tile_vectors * lanes)
    tiles = sch.fuse(*batch, column_outer, row_outer)
    sch.compute_at(block, chunks[0] if chunks else tiles, preserve_unit_loops=True)
    work, term = _tile_loops(sch, block, lanes)
    sch.vectorize(lane)
    if work * extents(sch, [tiles])[0] * (extents(sch, chunks)[0] if chunks else 1) >= PARALLEL_WORK:
        sch.parallel(tiles)
    # Last: once the initial value is a block of its own, TVM no longer sees that the rest is a reduction.
    sch.decompose_reduction(block, term)
    if chunks:
        sch.decompose_reduction(outer, chunks[0])
    return block


def _panel_layout(sch: Any, block: Any, width: int) -> None:
    """Store the right operand as panels as wide as the tile, so that the innermost loop reads it from end to end."""
    for panel in sch.get_producers(block):
        if role_of(sch, panel) != "panel":
            continue
        rank = len(sch.get(panel).iter_vars)
        if len(sch.get(panel).writes[0].region) != rank:
            continue  # the full chunks and the last short one share a panel and a tile; it is in place already
        layout = _by_panel(rank - 1 - len(_reduction_axes(sch, block)), width)
        sch.transform_layout(panel, ("write", 0), tvm.tirx.IndexMap.from_func(layout, ndim=rank))


def _by_panel(batch: int, width: int) -> Callable[..., list[Any]]:
    """(batch…, terms…, column) -> (batch…, panel, terms…, column in panel)."""
    return lambda *index: [*index[:batch], index[-1] // width, *index[batch:-1], index[-1] % width]


def _reduction_axes(sch: Any, block: Any) -> list[Any]:
    return [v for v in sch.get(block).iter_vars if int(v.iter_type) == 2]


def _tile_loops(sch: Any, block: Any, lanes: int) -> tuple[int, Any]:
    """Order the loops inside a tile: terms, rows, vectors, lanes. Returns the number of fma and the loop over terms."""
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    inner = list(sch.get_loops(block))[-len(kinds) :]
    reduction = [loop for loop, kind in zip(inner, kinds, strict=True) if kind == 2]
    spatial = [loop for loop, kind in zip(inner, kinds, strict=True) if kind != 2]
    work = math.prod(extents(sch, inner))
    vectors, lane = sch.split(spatial[-1], [None, lanes])
    sch.reorder(*reduction, spatial[-2], vectors, lane)
    sch.vectorize(lane)
    sch.unroll(vectors)
    sch.unroll(spatial[-2])
    return work, reduction[0]
