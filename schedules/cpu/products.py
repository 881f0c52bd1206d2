"""Chunked products: a register tile of rows x vectors of columns, the fma chain of a chunk innermost.

for batch, columns / tile, rows / tile:          threads
    for chunk:
        tile = -0.0
        for term: for row: for vector: tile = fma(left, right, tile)
        total += tile
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators.nest import PANEL, STREAMED, TILE
from gensyn_tvm.schedules.blocks import role_of
from gensyn_tvm.schedules.cpu.elementwise import element_bits, elementwise, vector_length
from gensyn_tvm.schedules.cpu.product_orders import by_chunks, chunks_outermost
from gensyn_tvm.schedules.cpu.product_panels import panel_by_panel
from gensyn_tvm.schedules.cpu.product_stages import REDUCTION, group_of, hint, packed_terms
from gensyn_tvm.schedules.cpu.product_tiles import panel_layout, place, static, store_with, tiles_of
from gensyn_tvm.targets.cpu import CpuTarget

#: Registers left for operands beside the accumulators. Fewer make LLVM spill: it keeps what neighbouring kernel positions of a
#: convolution both read, so a 3x3 kernel wants more than a matrix product does.
_OPERAND_REGISTERS = 8
_MAX_ROWS = 14
#: Vectors of a tile of one row: what is read of each row of the other operand should be long, for pages and prefetchers.
_LONE_ROW_VECTORS = 16
#: Multiplications from which a second thread is worth waking.
PARALLEL_WORK = 500_000
#: How much longer a term of a product takes whose right operand is read for a single row.
SINGLE_ROW = 4


def register_tile(rows: int, vectors: int, terms: int, target: CpuTarget) -> tuple[int, int]:
    """(rows, vectors of columns) of the tile that needs the fewest loads for each fma, among divisors.

    Where there are fewer terms than rows, storing the result takes longest, and fewer rows are stored from end to end faster.
    """
    budget = max(1, target.registers - _OPERAND_REGISTERS)
    best, best_loads = (1, 1), math.inf
    for r in range(1, min(rows, terms, _MAX_ROWS) + 1):
        for v in range(1, min(vectors, _LONE_ROW_VECTORS if rows == 1 else 4) + 1):
            if rows % r == 0 and vectors % v == 0 and r * v <= budget:
                # Loads for each fma (the panel comes from the second-level cache), and a penalty for too few
                # independent chains to hide the latency of fma.
                loads = (r + 3 * v) / (r * v) + max(0.0, 8 - r * v) * 0.25
                if loads < best_loads:
                    best, best_loads = (r, v), loads
    return best


def panel(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Pack an operand before the product reads it, unless that packs it inside of its tiles."""
    return None if packed_terms(sch, block) else elementwise(sch, block, target)


def chunk(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Tile the stages of a product together with the stage that stores its result."""
    group = group_of(sch, block)
    lanes, tile_rows, width = _tile(sch, block, target)
    last = _follower(sch, group.result, width)
    work = sum(math.prod(int(v.dom.extent) for v in sch.get(c).iter_vars) for c, _ in group.parts)
    work *= SINGLE_ROW if tile_rows == 1 else 1
    parallel = work >= hint(sch, block, "threads_from", PARALLEL_WORK)
    if packed_terms(sch, block) > target.lanes(element_bits(sch, block)):
        panel_by_panel(sch, group, (lanes, tile_rows, width), last, parallel)
        return block
    if by_chunks(sch, group, tile_rows, width):
        return chunks_outermost(sch, group, lanes, tile_rows, width, last, parallel)
    stages = [s for part in group.parts for s in part if s is not None]
    driver = group.result
    if last is None and group.join is None and len(stages) == 1:
        driver = sch.cache_write(block, 0, "local")
    for stage in stages:
        if last is not None or stage is not driver:
            sch.set_scope(stage, 0, "local")
    if last is not None and group.join is not None:
        sch.set_scope(group.join, 0, "local")
    for c, _ in group.parts:
        if not packed_terms(sch, c) and any(role_of(sch, p) == "panel" for p in sch.get_producers(c)):
            panel_layout(sch, c, width)
    tiles, tasks, inner = tiles_of(sch, driver, lanes, tile_rows, width, dict(sch.get(block).annotations))
    if last is not None:
        store_with(sch, last, tasks, tiles, lanes)
    chains = [place(sch, c, total, driver, tiles, lanes) for c, total in group.parts]
    if driver is not block:
        if group.join is None:
            sch.vectorize(inner[-1])
        else:
            static(sch, inner)
    if parallel:
        sch.parallel(tasks)
    # Last: once the initial value is a block of its own, TVM no longer sees that the rest is a reduction.
    for stage, loop in (pair for pairs in chains for pair in pairs):
        sch.decompose_reduction(stage, loop)
    return block


def _tile(sch: Any, block: Any, target: CpuTarget) -> tuple[int, int, int]:
    """(lanes of a vector, rows of the register tile, its columns)."""
    annotations = dict(sch.get(block).annotations)
    variables = sch.get(block).iter_vars
    rows, columns = [int(v.dom.extent) for v in variables if int(v.iter_type) != REDUCTION][-2:]
    most = target.lanes(element_bits(sch, block))
    if PANEL in annotations:
        width = int(annotations[PANEL])
        return vector_length(width, most), int(annotations[TILE]), width
    lanes = vector_length(columns, most)
    terms = math.prod(int(v.dom.extent) for v in variables if int(v.iter_type) == REDUCTION)
    tile_rows, vectors = register_tile(rows, columns // lanes, terms, target)
    return lanes, tile_rows, vectors * lanes


def _follower(sch: Any, block: Any, width: int) -> Any:
    """The elementwise stage that alone reads a product's result, each element where it is, if whole tiles fit the columns."""
    consumers = list(sch.get_consumers(block))
    if len(consumers) != 1 or role_of(sch, consumers[0]) != "map" or len(sch.get_producers(consumers[0])) != 1:
        return None
    (last,) = consumers
    streamed = any(dict(sch.get(c).annotations).get(STREAMED) for c in _chunks_before(sch, block))
    buffer = sch.get(block).writes[0].source
    variables = [v.var for v in sch.get(last).iter_vars]
    loads: list[Any] = []
    tvm_ffi.structural_walk(sch.get(last).body, [(tvm.ir.TensorLoad, loads.append)])
    for load in loads:
        if not load.source.same_as(buffer) or streamed:
            continue
        found = [k for i in load.indices for k, v in enumerate(variables) if i.same_as(v)]
        fixed = sum(isinstance(i, tirx.IntImm) for i in load.indices)
        moving = {k for k, v in enumerate(sch.get(last).iter_vars) if int(v.dom.extent) > 1}
        if len(set(found)) != len(found) or len(found) + fixed != len(load.indices) or not moving <= set(found):
            return None
        columns = int(sch.get(last).iter_vars[found[-1]].dom.extent)
        if columns % width and columns > width:
            return None
    return last


def _chunks_before(sch: Any, block: Any) -> list[Any]:
    """The ``chunk`` stages whose results a stage joins, or itself."""
    if role_of(sch, block) == "chunk":
        return [block]
    return [
        c for p in sch.get_producers(block) if role_of(sch, p) in ("chunk", "total", "join") for c in _chunks_before(sch, p)
    ]
