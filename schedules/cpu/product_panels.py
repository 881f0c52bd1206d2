"""Products that pack their right operand themselves, a chunk of a panel at a time.

for batch, some panels of columns:               threads
    for chunk:
        packed = the chunk's terms of these panels
        for panel, tile of rows: total += fma chain over packed

What is packed stays in the second-level cache while all rows read it, and so does the total. Panels that a kernel of its own
packs go through memory twice, which few rows do not make up for.
"""

from __future__ import annotations

from typing import Any

from gensyn_tvm.schedules.cpu.product_stages import REDUCTION, Group
from gensyn_tvm.schedules.cpu.product_tiles import panel_layout, static, store_with, tile_loops

#: Columns that are packed at once: short pieces of rows that lie in pages of their own are read at half the rate.
_COLUMNS = 128


def panel_by_panel(sch: Any, group: Group, tile: tuple[int, int, int], last: Any, parallel: bool) -> None:
    """Schedule a product; ``tile``: lanes of a vector, rows of the register tile, columns of a panel."""
    lanes, _, width = tile
    driver = group.result
    kinds = [int(v.iter_type) for v in sch.get(driver).iter_vars]
    loops = list(zip(sch.get_loops(driver), kinds, strict=True))
    sums = [loop for loop, kind in loops if kind == REDUCTION]
    *batch, row, column = [loop for loop, kind in loops if kind != REDUCTION]
    panels, column = sch.split(column, [None, width * _together(int(sch.get(column).extent) // width, width)])
    sch.reorder(*batch, panels, row, column, *sums)
    tasks = sch.fuse(*batch, panels)
    if last is not None:
        sch.set_scope(driver, 0, "local")
        store_with(sch, last, tasks, tasks, lanes)
    chains = [pair for part in group.parts for pair in _part(sch, part, group, (row, column, *sums), tasks, tile)]
    if parallel:
        sch.parallel(tasks)
    # Last: once the initial value is a block of its own, TVM no longer sees that the rest is a reduction.
    for stage, loop in chains:
        sch.decompose_reduction(stage, loop)


def _together(panels: int, width: int) -> int:
    """Panels that are packed at once: as many as divide them all and are no wider than a line of ``_COLUMNS``."""
    return max(n for n in range(1, panels + 1) if panels % n == 0 and (n == 1 or n * width <= _COLUMNS))


def _part(
    sch: Any, part: tuple[Any, Any], group: Group, loops: tuple[Any, ...], tasks: Any, tile: tuple[int, int, int]
) -> list[tuple[Any, Any]]:
    """One chunk, or all full ones and their total, in a panel; returns reductions, each with the loop before which it begins.

    ``loops`` of the product's result inside of a panel: rows, columns, and chunks if that adds them itself.
    """
    block, total = part
    lanes, rows, width = tile
    result = total
    if total is None:
        # The result of the first of two chunks waits in memory for the other; in registers it would be in its way.
        result = group.result if part is group.parts[-1] else sch.cache_write(block, 0, "local")
    if result is not group.result:
        sch.compute_at(result, tasks, preserve_unit_loops=True)
        sch.set_scope(result, 0, "local")
        kinds = [int(v.iter_type) for v in sch.get(result).iter_vars]
        inner = list(zip(list(sch.get_loops(result))[-len(kinds) :], kinds, strict=True))
        *_, row, column = [loop for loop, kind in inner if kind != REDUCTION]
        loops = (row, column, *[loop for loop, kind in inner if kind == REDUCTION])
    row, column, *sums = loops
    row_tiles, row = sch.split(row, [None, rows])
    panels, vectors, lane = sch.split(column, [None, width // lanes, lanes])
    sch.reorder(*sums, panels, row_tiles, row, vectors, lane)
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, row_tiles, preserve_unit_loops=True)
    chain = tile_loops(sch, block, lanes)
    panel = panel_layout(sch, block, width)
    sch.compute_at(panel, sums[0] if sums else tasks, preserve_unit_loops=True)
    packed_vectors, packed_lane = sch.split(list(sch.get_loops(panel))[-1], [None, lanes])
    sch.vectorize(packed_lane)
    sch.unroll(packed_vectors)
    static(sch, [row, vectors, lane])
    return [(block, chain), *([] if total is None else [(total, sums[0])])]
