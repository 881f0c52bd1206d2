"""Register tiles of chunked products: their loops, and the stages that run inside of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
import tvm_ffi

from gensyn_tvm.operators.nest import AROUND, BLOCK, LINES, STREAMED
from gensyn_tvm.schedules.blocks import extents, has_guards, role_of
from gensyn_tvm.schedules.cpu.elementwise import vector_length
from gensyn_tvm.schedules.cpu.product_stages import REDUCTION, packed_terms
from gensyn_tvm.schedules.cpu.ragged import goes_along

#: Chunks of a single row that run side by side: one chain of multiply-adds alone waits for itself.
_SIDE_BY_SIDE = 2
#: Lanes with which they do.
_FEW_LANES = 8


def tiles_of(
    sch: Any, driver: Any, lanes: int, rows: int, width: int, annotations: Mapping[str, Any]
) -> tuple[Any, Any, list[Any]]:
    """The loop over tiles, the loop whose iterations are independent tasks, and the loops in a tile: rows, vectors, lanes."""
    loops = list(sch.get_loops(driver))
    kinds = [int(v.iter_type) for v in sch.get(driver).iter_vars]
    terms = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == REDUCTION]
    *batch, row, column = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != REDUCTION]
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


def static(sch: Any, inner: list[Any]) -> None:
    """Vectors, and no loops inside of a tile: LLVM keeps an array in registers only if every index into it is a constant."""
    rows, vectors, lane = inner
    sch.vectorize(lane)
    sch.unroll(vectors)
    sch.unroll(rows)


def place(sch: Any, block: Any, total: Any, driver: Any, tiles: Any, lanes: int) -> list[tuple[Any, Any]]:
    """One part of a product inside of a tile: for each chunk its chain of terms, whose result is added to the total.

    Returns the reductions, each with the loop before which it gets its initial value.
    """
    around = tiles
    if total is not None:
        if total is not driver:
            sch.compute_at(total, tiles, preserve_unit_loops=True)
            tile_loops(sch, total, lanes)
        chunks = [v for v in sch.get(total).iter_vars if int(v.iter_type) == REDUCTION]
        around = next(loop for loop in loops_below(sch, total, tiles))
        assert len(chunks) == 1
        if _has_one_chain(sch, block, lanes) and int(chunks[0].dom.extent) % _SIDE_BY_SIDE == 0:
            around, _ = sch.split(around, [None, _SIDE_BY_SIDE])
    if block is not driver:
        sch.compute_at(block, around, preserve_unit_loops=True)
        term = _pack_squares(sch, block, lanes) if packed_terms(sch, block) else tile_loops(sch, block, lanes)
    else:
        inner = loops_below(sch, block, tiles)
        sch.vectorize(inner[-1])
        sch.unroll(inner[-2])
        sch.unroll(inner[-3])
        term = inner[0]
    return [(block, term), *([] if total is None else [(total, around)])]


def tile_loops(sch: Any, block: Any, lanes: int) -> Any:
    """Order the loops inside a tile: terms, rows, vectors, lanes. Returns the outermost loop over terms."""
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    inner = list(sch.get_loops(block))[-len(kinds) :]
    reduction = [loop for loop, kind in zip(inner, kinds, strict=True) if kind == REDUCTION]
    spatial = [loop for loop, kind in zip(inner, kinds, strict=True) if kind != REDUCTION]
    vectors, lane = sch.split(spatial[-1], [None, lanes])
    sch.reorder(*reduction, spatial[-2], vectors, lane)
    sch.vectorize(lane)
    sch.unroll(vectors)
    sch.unroll(spatial[-2])
    return reduction[0]


def _has_one_chain(sch: Any, chunk: Any, lanes: int) -> bool:
    """Whether squares of few rows of the right operand are turned for a single row of the left one.

    Those of sixteen rows read from as many places at a time as a processor keeps apart, and twice as many are slower.
    """
    *_, rows, _ = [v for v in sch.get(chunk).iter_vars if int(v.iter_type) != REDUCTION]
    return packed_terms(sch, chunk) == lanes <= _FEW_LANES and int(rows.dom.extent) == 1


def _pack_squares(sch: Any, chunk: Any, lanes: int) -> Any:
    """Order the loops inside a tile: groups of as many terms as a vector has lanes, chunks that run side by side, vectors,
    terms, rows, lanes. Each vector's terms are packed just before they are used, as a square that ``targets.transposition``
    turns in registers.

    Returns the loop over groups.
    """
    kinds = [int(v.iter_type) for v in sch.get(chunk).iter_vars]
    *chunks, row, column, term = list(sch.get_loops(chunk))[-len(kinds) :]
    groups, terms = sch.split(term, [None, lanes])
    vectors, lane = sch.split(column, [None, lanes])
    sch.reorder(groups, *chunks, vectors, terms, row, lane)
    sch.vectorize(lane)
    for loop in (*chunks, row):
        sch.unroll(loop)
    sch.unroll(terms)
    (panel,) = [p for p in sch.get_producers(chunk) if role_of(sch, p) == "panel"]
    sch.set_scope(panel, 0, "local")
    sch.compute_at(panel, vectors, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(panel)[-1])
    return groups


def store_with(sch: Any, last: Any, tasks: Any, tiles: Any, lanes: int) -> None:
    """Store a tile, or all tiles of some rows, as soon as they are complete, and what elementwise stages make of it."""
    while last is not None:
        sch.reverse_compute_at(last, tasks, preserve_unit_loops=True)
        inner = loops_below(sch, last, tasks)
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


def loops_below(sch: Any, block: Any, loop: Any) -> list[Any]:
    loops = list(sch.get_loops(block))
    (place,) = [k for k, other in enumerate(loops) if sch.get(other).same_as(sch.get(loop))]
    return loops[place + 1 :]


def panel_layout(sch: Any, block: Any, width: int) -> Any:
    """Store the right operand as panels as wide as the tile, so that the innermost loop reads it from end to end.

    Returns the stage that packs it.
    """
    (panel,) = [p for p in sch.get_producers(block) if role_of(sch, p) == "panel"]
    rank = len(sch.get(panel).iter_vars)
    if len(sch.get(panel).writes[0].region) == rank:  # else another chunk with the same panel and tile has put it in place
        terms = sum(int(v.iter_type) == REDUCTION for v in sch.get(block).iter_vars)
        layout = _by_panel(rank - 1 - terms, width)
        sch.transform_layout(panel, ("write", 0), tvm.tirx.IndexMap.from_func(layout, ndim=rank))
    return panel


def _by_panel(batch: int, width: int) -> Callable[..., list[Any]]:
    """(batch…, terms…, column) -> (batch…, panel, terms…, column in panel)."""
    return lambda *index: [*index[:batch], index[-1] // width, *index[batch:-1], index[-1] % width]
