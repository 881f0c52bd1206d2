"""Chunked products: a register tile of rows x vectors of columns, the fma chain of a chunk innermost.

for batch, columns / tile, rows / tile:          threads
    for chunk:
        tile = -0.0
        for term: for row: for vector: tile = fma(left, right, tile)
        total += tile
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators.nest import AROUND, BLOCK, INSIDE, LINES, PANEL, STREAMED, TILE
from gensyn_tvm.schedules.blocks import extents, has_guards, role_of
from gensyn_tvm.schedules.cpu.elementwise import element_bits, elementwise, vector_length
from gensyn_tvm.schedules.cpu.ragged import goes_along
from gensyn_tvm.schedules.cpu.tiles import MANY_CHUNKS
from gensyn_tvm.targets.cpu import CpuTarget

#: Registers left for operands beside the accumulators. Fewer make LLVM spill: it keeps what neighbouring kernel positions of a
#: convolution both read, so a 3x3 kernel wants more than a matrix product does.
_OPERAND_REGISTERS = 8
_MAX_ROWS = 14
#: Vectors of a tile of one row: what is read of each row of the other operand should be long, for pages and prefetchers.
_LONE_ROW_VECTORS = 16
_REDUCTION = 2  # tirx.IterVar.CommReduce
#: Tiles of a chunk below which threads take chunks instead.
_FEW_TILES = 16
#: Multiplications from which a second thread is worth waking.
PARALLEL_WORK = 500_000
#: How much longer a term of a product takes whose right operand is read for a single row.
SINGLE_ROW = 4


def register_tile(rows: int, vectors: int, target: CpuTarget) -> tuple[int, int]:
    """(rows, vectors of columns) of the tile that needs the fewest loads for each fma, among divisors."""
    budget = max(1, target.registers - _OPERAND_REGISTERS)
    best, best_loads = (1, 1), math.inf
    for r in range(1, min(rows, _MAX_ROWS) + 1):
        for v in range(1, min(vectors, _LONE_ROW_VECTORS if rows == 1 else 4) + 1):
            if rows % r == 0 and vectors % v == 0 and r * v <= budget:
                # Loads for each fma (the panel comes from the second-level cache), and a penalty for too few
                # independent chains to hide the latency of fma.
                loads = (r + 3 * v) / (r * v) + max(0.0, 8 - r * v) * 0.25
                if loads < best_loads:
                    best, best_loads = (r, v), loads
    return best


@dataclass(frozen=True)
class _Group:
    """The stages of one product: chunks, each with the sum of its results or None, and what adds those."""

    parts: tuple[tuple[Any, Any], ...]
    join: Any

    @property
    def result(self) -> Any:
        """The stage that holds the product."""
        chunk, total = self.parts[0]
        return self.join if self.join is not None else total if total is not None else chunk


def _group(sch: Any, block: Any) -> _Group:
    def with_role(blocks: Any, role: str) -> list[Any]:
        return [b for b in blocks if role_of(sch, b) == role]

    total = next(iter(with_role(sch.get_consumers(block), "total")), None)
    join = next(iter(with_role(sch.get_consumers(block if total is None else total), "join")), None)
    if join is None:
        return _Group(((block, total),), None)
    parts = []
    for producer in sch.get_producers(join):
        chunks = with_role(sch.get_producers(producer), "chunk")
        parts.append((chunks[0], producer) if chunks else (producer, None))
    return _Group(tuple(parts), join)


def panel(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Pack an operand before the product reads it, unless that packs it inside of its tiles."""
    return None if _is_inside(sch, block) else elementwise(sch, block, target)


def _is_inside(sch: Any, block: Any) -> bool:
    return bool(dict(sch.get(block).annotations).get(INSIDE))


def chunk(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Tile the stages of a product together with the stage that stores its result."""
    group = _group(sch, block)
    lanes, tile_rows, width = _tile(sch, block, target)
    last = _follower(sch, group.result, width)
    work = sum(math.prod(int(v.dom.extent) for v in sch.get(c).iter_vars) for c, _ in group.parts)
    work *= SINGLE_ROW if tile_rows == 1 else 1
    parallel = work >= _hint(sch, block, "threads_from", PARALLEL_WORK)
    if _by_chunks(sch, group, tile_rows, width):
        return _chunks_outermost(sch, group, lanes, tile_rows, width, last, parallel)
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
        _panel_layout(sch, c, width)
    tiles, tasks, inner = _tiles(sch, driver, lanes, tile_rows, width, dict(sch.get(block).annotations))
    if last is not None:
        _store_with(sch, last, tasks, tiles, lanes)
    chains = [_place(sch, c, total, driver, tiles, lanes) for c, total in group.parts]
    if driver is not block:
        if group.join is None:
            sch.vectorize(inner[-1])
        else:
            _static(sch, inner)
    if parallel:
        sch.parallel(tasks)
    # Last: once the initial value is a block of its own, TVM no longer sees that the rest is a reduction.
    for stage, loop in (pair for pairs in chains for pair in pairs):
        sch.decompose_reduction(stage, loop)
    return block


def _hint(sch: Any, block: Any, name: str, default: int) -> int:
    """What a tuned record says (``parameters.HINTED``)."""
    return int(dict(sch.get(block).annotations).get(f"gensyn.{name}", default))


def _by_chunks(sch: Any, group: _Group, rows: int, width: int) -> bool:
    """Whether a product runs chunk by chunk.

    With many chunks neither operand's tile of all terms of a matrix product stays in a cache. With two, a long and a short
    one, LLVM holds the first result in registers while it calculates the second, and spills.
    """
    block, total = group.parts[0]
    if _is_inside(sch, block) or (PANEL not in dict(sch.get(block).annotations) and not _hint(sch, block, "by_chunks", 0)):
        return False
    if total is None:
        return group.join is not None and len(group.parts) > 1 and bool(_hint(sch, block, "by_chunks", 1))
    spatial = [int(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) != _REDUCTION]
    matrix = sum(int(v.iter_type) == _REDUCTION for v in sch.get(block).iter_vars) == 1
    many = int(_chunk_count(sch, block) >= MANY_CHUNKS)
    fits = matrix or bool(_hint(sch, block, "by_chunks", 0)) or _few_tiles(sch, block, rows, width)
    possible = fits and math.prod(spatial[:-3]) == 1  # batch…, chunk, row, column
    return possible and bool(_hint(sch, block, "by_chunks", many))


def _chunks_outermost(sch: Any, group: _Group, lanes: int, rows: int, width: int, last: Any, parallel: bool) -> Any:
    """For each chunk all tiles, whose results are added to a total in memory; then the last, shorter chunk."""
    block, total = group.parts[0]
    annotations = {**dict(sch.get(block).annotations), STREAMED: 0}
    if total is None or _few_tiles(sch, block, rows, width):
        driver = sch.cache_write(block, 0, "local")
        tiles, _, inner = _tiles(sch, driver, lanes, rows, width, annotations)
        chains = _place(sch, block, None, driver, tiles, lanes)
        if total is not None:
            chains.append((total, _sum_chunks(sch, total, lanes)))
    else:
        sch.set_scope(block, 0, "local")
        loops = zip(sch.get_loops(total), sch.get(total).iter_vars, strict=True)
        (chunks,) = [loop for loop, v in loops if int(v.iter_type) == _REDUCTION]
        tiles, _, inner = _tiles(sch, total, lanes, rows, width, annotations)
        sch.reorder(chunks, tiles)
        chains = [*_place(sch, block, None, total, tiles, lanes), (total, chunks)]
    _static(sch, inner)
    if parallel:
        sch.parallel(tiles)
    if group.join is not None:
        rest, _ = group.parts[1]
        sch.set_scope(rest, 0, "local")
        tiles, tasks, inner = _tiles(sch, group.join, lanes, rows, width, dict(sch.get(rest).annotations))
        if last is not None:
            sch.set_scope(group.join, 0, "local")
            _store_with(sch, last, tasks, tiles, lanes)
        chains += _place(sch, rest, None, group.join, tiles, lanes)
        _static(sch, inner)
        if parallel:
            sch.parallel(tasks)
    for stage, loop in chains:
        sch.decompose_reduction(stage, loop)
    return block


def _few_tiles(sch: Any, block: Any, rows: int, width: int) -> bool:
    """Whether a chunk has so few tiles that threads should take chunks instead; the results of all are then stored."""
    *_, row, column = [int(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) != _REDUCTION]
    return math.ceil(row / rows) * math.ceil(column / width) < _FEW_TILES


def _sum_chunks(sch: Any, total: Any, lanes: int) -> Any:
    """Vectors along a row of the total; returns the loop over chunks."""
    *outer, column, chunks = sch.get_loops(total)
    columns, lane = sch.split(column, [None, lanes])
    sch.reorder(*outer, chunks, columns, lane)
    sch.vectorize(lane)
    return chunks


def _static(sch: Any, inner: list[Any]) -> None:
    """Vectors, and no loops inside of a tile: LLVM keeps an array in registers only if every index into it is a constant."""
    rows, vectors, lane = inner
    sch.vectorize(lane)
    sch.unroll(vectors)
    sch.unroll(rows)


def _tiles(
    sch: Any, driver: Any, lanes: int, rows: int, width: int, annotations: Mapping[str, Any]
) -> tuple[Any, Any, list[Any]]:
    """The loop over tiles, the loop whose iterations are independent tasks, and the loops in a tile: rows, vectors, lanes."""
    loops = list(sch.get_loops(driver))
    kinds = [int(v.iter_type) for v in sch.get(driver).iter_vars]
    terms = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION]
    *batch, row, column = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != _REDUCTION]
    row_outer, row_inner = sch.split(row, [None, rows])
    column_outer, column_inner = sch.split(column, [None, width])
    vectors, lane = sch.split(column_inner, [None, lanes])
    inner = [row_inner, vectors, lane]
    around = int(annotations.get(AROUND, len(batch)))
    if annotations.get(STREAMED):
        sch.reorder(*batch, row_outer, column_outer, *terms, *inner)
        tasks = sch.fuse(*batch, row_outer)
        return column_outer, tasks, inner
    block = int(annotations.get(BLOCK, 0))
    lines = int(annotations.get(LINES, 0))
    if lines:
        panel, *samples, line = batch
        line_outer, line_inner = sch.split(line, [None, lines])
        order = [*samples, line_outer, panel, line_inner, column_outer, row_outer]
    elif not block and annotations.get("gensyn.rows_outside"):
        order = [*batch, row_outer, column_outer]
    elif not block:
        order = [*batch[:around], column_outer, *batch[around:], row_outer]
    else:
        row_block, row_outer = sch.split(row_outer, [None, block])
        order = [*batch, row_block, column_outer, row_outer]
    sch.reorder(*order, *terms, *inner)
    tasks = sch.fuse(*order)
    return tasks, tasks, inner


def _chunk_count(sch: Any, chunk: Any) -> int:
    """Chunks of a product that are full: the extent of the reduction of the total that follows, if any."""
    totals = [c for c in sch.get_consumers(chunk) if role_of(sch, c) == "total"]
    return math.prod(int(v.dom.extent) for t in totals for v in sch.get(t).iter_vars if int(v.iter_type) == _REDUCTION)


def _place(sch: Any, block: Any, total: Any, driver: Any, tiles: Any, lanes: int) -> list[tuple[Any, Any]]:
    """One part of a product inside of a tile: for each chunk its chain of terms, whose result is added to the total.

    Returns the reductions, each with the loop before which it gets its initial value.
    """
    around = tiles
    if total is not None:
        if total is not driver:
            sch.compute_at(total, tiles, preserve_unit_loops=True)
            _tile_loops(sch, total, lanes)
        chunks = [v for v in sch.get(total).iter_vars if int(v.iter_type) == _REDUCTION]
        around = next(loop for loop in _loops_below(sch, total, tiles))
        assert len(chunks) == 1
    if block is not driver:
        sch.compute_at(block, around, preserve_unit_loops=True)
        term = _pack_inside(sch, block, lanes) if _is_inside(sch, block) else _tile_loops(sch, block, lanes)
    else:
        inner = _loops_below(sch, block, tiles)
        sch.vectorize(inner[-1])
        sch.unroll(inner[-2])
        sch.unroll(inner[-3])
        term = inner[0]
    return [(block, term), *([] if total is None else [(total, around)])]


def _pack_inside(sch: Any, chunk: Any, lanes: int) -> Any:
    """Order the loops inside a tile: groups of as many terms as a vector has lanes, vectors, terms, rows, lanes. Each vector's
    terms are packed just before they are used, as a square that ``targets.transposition`` turns in registers.

    Returns the loop over groups.
    """
    kinds = [int(v.iter_type) for v in sch.get(chunk).iter_vars]
    *_, row, column, term = list(sch.get_loops(chunk))[-len(kinds) :]
    groups, terms = sch.split(term, [None, lanes])
    vectors, lane = sch.split(column, [None, lanes])
    sch.reorder(groups, vectors, terms, row, lane)
    sch.vectorize(lane)
    sch.unroll(row)
    sch.unroll(terms)
    (panel,) = [p for p in sch.get_producers(chunk) if role_of(sch, p) == "panel"]
    sch.set_scope(panel, 0, "local")
    sch.compute_at(panel, vectors, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(panel)[-1])
    return groups


def _tile(sch: Any, block: Any, target: CpuTarget) -> tuple[int, int, int]:
    """(lanes of a vector, rows of the register tile, its columns)."""
    annotations = dict(sch.get(block).annotations)
    rows, columns = (int(v.dom.extent) for v in [v for v in sch.get(block).iter_vars if int(v.iter_type) != _REDUCTION][-2:])
    most = target.lanes(element_bits(sch, block))
    if PANEL in annotations:
        width = int(annotations[PANEL])
        return vector_length(width, most), int(annotations[TILE]), width
    lanes = vector_length(columns, most)
    tile_rows, vectors = register_tile(rows, columns // lanes, target)
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


def _store_with(sch: Any, last: Any, tasks: Any, tiles: Any, lanes: int) -> None:
    """Store a tile, or all tiles of some rows, as soon as they are complete, and what elementwise stages make of it."""
    while last is not None:
        sch.reverse_compute_at(last, tasks, preserve_unit_loops=True)
        inner = _loops_below(sch, last, tasks)
        (extent,) = extents(sch, inner[-1:])
        length = vector_length(extent, lanes)
        # Longer rows that no whole vector divides are left to ``ragged``.
        ragged = length < lanes < extent and goes_along(sch.get(last).body, sch.get(last).iter_vars[-1].var)
        if not ragged and not has_guards(sch, last) and length >= min(lanes, 4):
            vectors, vector = sch.split(inner[-1], [None, length])
            sch.vectorize(vector)
            if sch.get(tasks).same_as(sch.get(tiles)) and length == lanes:
                sch.unroll(vectors)
        last = _next_map(sch, last)


def _next_map(sch: Any, block: Any) -> Any:
    """The elementwise stage that alone reads a stage of the same shape, element by element; None if there is none."""
    consumers = list(sch.get_consumers(block))
    if len(consumers) != 1 or role_of(sch, consumers[0]) != "map" or len(sch.get_producers(consumers[0])) != 1:
        return None
    (following,) = consumers
    domain = [int(v.dom.extent) for v in sch.get(block).iter_vars]
    variables = list(sch.get(following).iter_vars)
    if [int(v.dom.extent) for v in variables] != domain:
        return None
    buffer = sch.get(block).writes[0].source
    loads: list[Any] = []
    tvm_ffi.structural_walk(sch.get(following).body, [(tvm.ir.TensorLoad, loads.append)])
    for load in loads:
        if load.source.same_as(buffer) and not all(
            i.same_as(v.var) or int(v.dom.extent) == 1 for i, v in zip(load.indices, variables, strict=True)
        ):
            return None
    return following


def _loops_below(sch: Any, block: Any, loop: Any) -> list[Any]:
    loops = list(sch.get_loops(block))
    (place,) = [k for k, other in enumerate(loops) if sch.get(other).same_as(sch.get(loop))]
    return loops[place + 1 :]


def _panel_layout(sch: Any, block: Any, width: int) -> None:
    """Store the right operand as panels as wide as the tile, so that the innermost loop reads it from end to end."""
    for panel in sch.get_producers(block):
        if role_of(sch, panel) != "panel" or _is_inside(sch, panel):
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


def _tile_loops(sch: Any, block: Any, lanes: int) -> Any:
    """Order the loops inside a tile: terms, rows, vectors, lanes. Returns the outermost loop over terms."""
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    inner = list(sch.get_loops(block))[-len(kinds) :]
    reduction = [loop for loop, kind in zip(inner, kinds, strict=True) if kind == 2]
    spatial = [loop for loop, kind in zip(inner, kinds, strict=True) if kind != 2]
    vectors, lane = sch.split(spatial[-1], [None, lanes])
    sch.reorder(*reduction, spatial[-2], vectors, lane)
    sch.vectorize(lane)
    sch.unroll(vectors)
    sch.unroll(spatial[-2])
    return reduction[0]
