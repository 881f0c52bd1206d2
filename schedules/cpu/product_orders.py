"""Orders of a chunked product in which each chunk's results are added to a total in memory."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.operators.nest import PANEL, STREAMED
from gensyn_tvm.schedules.cpu.product_stages import REDUCTION, Group, chunk_count, hint, packed_terms
from gensyn_tvm.schedules.cpu.product_tiles import place, static, store_with, tiles_of
from gensyn_tvm.schedules.cpu.tiles import MANY_CHUNKS

#: Tiles of a chunk below which threads take chunks instead.
_FEW_TILES = 16


def by_chunks(sch: Any, group: Group, rows: int, width: int) -> bool:
    """Whether a product runs chunk by chunk.

    With many chunks neither operand's tile of all terms of a matrix product stays in a cache. With two, a long and a short
    one, LLVM holds the first result in registers while it calculates the second, and spills.
    """
    block, total = group.parts[0]
    if packed_terms(sch, block) or (PANEL not in dict(sch.get(block).annotations) and not hint(sch, block, "by_chunks", 0)):
        return False
    if total is None:
        return group.join is not None and len(group.parts) > 1 and bool(hint(sch, block, "by_chunks", 1))
    spatial = [int(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) != REDUCTION]
    matrix = sum(int(v.iter_type) == REDUCTION for v in sch.get(block).iter_vars) == 1
    many = int(chunk_count(sch, block) >= MANY_CHUNKS)
    fits = matrix or bool(hint(sch, block, "by_chunks", 0)) or _few_tiles(sch, block, rows, width)
    possible = fits and math.prod(spatial[:-3]) == 1  # batch…, chunk, row, column
    return possible and bool(hint(sch, block, "by_chunks", many))


def chunks_outermost(sch: Any, group: Group, lanes: int, rows: int, width: int, last: Any, parallel: bool) -> Any:
    """For each chunk all tiles, whose results are added to a total in memory; then the last, shorter chunk."""
    block, total = group.parts[0]
    annotations = {**dict(sch.get(block).annotations), STREAMED: 0}
    if total is None or _few_tiles(sch, block, rows, width):
        driver = sch.cache_write(block, 0, "local")
        tiles, _, inner = tiles_of(sch, driver, lanes, rows, width, annotations)
        chains = place(sch, block, None, driver, tiles, lanes)
        if total is not None:
            chains.append((total, _sum_chunks(sch, total, lanes)))
    else:
        sch.set_scope(block, 0, "local")
        loops = zip(sch.get_loops(total), sch.get(total).iter_vars, strict=True)
        (chunks,) = [loop for loop, v in loops if int(v.iter_type) == REDUCTION]
        tiles, _, inner = tiles_of(sch, total, lanes, rows, width, annotations)
        sch.reorder(chunks, tiles)
        chains = [*place(sch, block, None, total, tiles, lanes), (total, chunks)]
    static(sch, inner)
    if parallel:
        sch.parallel(tiles)
    if group.join is not None:
        rest, _ = group.parts[1]
        sch.set_scope(rest, 0, "local")
        tiles, tasks, inner = tiles_of(sch, group.join, lanes, rows, width, dict(sch.get(rest).annotations))
        if last is not None:
            sch.set_scope(group.join, 0, "local")
            store_with(sch, last, tasks, tiles, lanes)
        chains += place(sch, rest, None, group.join, tiles, lanes)
        static(sch, inner)
        if parallel:
            sch.parallel(tasks)
    for stage, loop in chains:
        sch.decompose_reduction(stage, loop)
    return block


def _few_tiles(sch: Any, block: Any, rows: int, width: int) -> bool:
    """Whether a chunk has so few tiles that threads should take chunks instead; the results of all are then stored."""
    *_, row, column = [int(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) != REDUCTION]
    return math.ceil(row / rows) * math.ceil(column / width) < _FEW_TILES


def _sum_chunks(sch: Any, total: Any, lanes: int) -> Any:
    """Vectors along a row of the total; returns the loop over chunks."""
    *outer, column, chunks = sch.get_loops(total)
    columns, lane = sch.split(column, [None, lanes])
    sch.reorder(*outer, chunks, columns, lane)
    sch.vectorize(lane)
    return chunks
