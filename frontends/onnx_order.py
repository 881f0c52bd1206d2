"""ONNX operators that sort, run along an axis, or give as many results as the data says.

The latter have the largest possible extent and an extent known at run time (``Emitter.set_extent``).
"""

from __future__ import annotations

import math

import numpy as np

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, optional


def _int64(value: int) -> Expr:
    return constant(np.array(value, np.int64))


def _iota(e: Emitter, count: int) -> Expr:
    return e.canonical("iota", dtype="int64", shape=(count,), axis=0)


def _sorted_positions(e: Emitter, x: Expr, axis: int, *, descending: bool = False) -> Expr:
    return e.canonical("argsort", x, axis=axis, descending=descending)


def _leading(e: Emitter, chosen: Expr) -> tuple[Expr, Expr]:
    """Positions of the true elements of a bool vector, ascending, then the others; and how many are true."""
    positions = _sorted_positions(e, e.canonical("logical_not", chosen), 0)
    return positions, e.canonical("sum", e.cast(chosen, "int64"), axes=(0,), keepdims=False)


def _take(e: Emitter, x: Expr, positions: Expr, axis: int = 0) -> Expr:
    return e.canonical("take", x, positions, axis=axis)


# ---- as many results as the data says ---------------------------------------------------------------------------------


def _unravelled(e: Emitter, flat: Expr, shape: list[int]) -> Expr:
    """(rank, n): the index of each flat position."""
    rows = []
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        index = e.canonical("div", flat, _int64(max(inner, 1)))
        rows.append(e.canonical("rem", index, _int64(max(shape[axis], 1))))
    count = shape_of(flat)[0]
    return e.concat([e.reshape(r, [1, count]) for r in rows], 0) if rows else e.full([0, count], 0, "int64")


def convert_non_zero(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape = shape_of(x[0])
    flat = e.cast(e.reshape(x[0], [math.prod(shape)]), "bool")
    positions, count = _leading(e, flat)
    result = _unravelled(e, positions, shape)
    e.set_extent(result, 1, count)
    return result


def convert_compress(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    data, axis = x[0], 0
    if "axis" in a:
        axis = convert_axis(a["axis"], rank_of(data))
    else:
        data = e.reshape(data, [math.prod(shape_of(data))])
    condition = x[1]
    extent = shape_of(data)[axis]
    if shape_of(condition)[0] > extent:
        condition = e.slice(condition, 0, 0, extent)
    positions, count = _leading(e, condition)
    result = _take(e, data, positions, axis)
    e.set_extent(result, axis, count)
    return result


def _lexicographic(e: Emitter, rows: Expr) -> Expr:
    """Positions of the rows of (n, m) in lexicographic order: a stable sort by the last column, …, by the first."""
    n, m = shape_of(rows)
    order = _iota(e, n)
    for column in reversed(range(e.check_steps(m))):
        values = e.reshape(e.slice(rows, 1, column, column + 1), [n])
        order = _take(e, order, _sorted_positions(e, _take(e, values, order), 0))
    return order


def _starts(e: Emitter, rows: Expr) -> Expr:
    """Which of the sorted rows differ from the one before."""
    n = shape_of(rows)[0]
    first = constant(np.ones(min(n, 1), np.bool_))
    if n <= 1:
        return first
    differs = e.canonical("not_equal", e.slice(rows, 0, 1, n), e.slice(rows, 0, 0, n - 1))
    number = e.canonical("sum", e.cast(differs, "int64"), axes=(1,), keepdims=False)
    return e.concat([first, e.canonical("greater", number, _int64(0))], 0)


def convert_unique(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """Values, where each occurs first, which one each element is, how often each occurs."""
    data, axis = x[0], 0
    if "axis" in a:
        axis = convert_axis(a["axis"], rank_of(data))
    else:
        data = e.reshape(data, [math.prod(shape_of(data))])
    n = shape_of(data)[axis]
    perm = [axis, *(k for k in range(rank_of(data)) if k != axis)]
    rows = e.reshape(e.transpose(data, perm), [n, math.prod(shape_of(data)) // n if n else 1])
    order = _lexicographic(e, rows)
    new = _starts(e, _take(e, rows, order))
    group = e.canonical("sub", e.canonical("cumsum", e.cast(new, "int64"), axis=0, exclusive=False, reverse=False), _int64(1))
    places, count = _leading(e, new)
    zeros = e.full([n], 0, "int64")
    first = _take(e, order, places)
    inverse = e.canonical("scatter_elements", zeros, order, group, axis=0, reduction="none")
    counts = e.canonical("scatter_elements", zeros, group, e.full([n], 1, "int64"), axis=0, reduction="add")
    if not a.get("sorted", 1):
        valid = e.canonical("less", _iota(e, n), count)
        by_first = _sorted_positions(e, e.canonical("where", valid, first, e.full([n], n, "int64")), 0)
        first, counts = _take(e, first, by_first), _take(e, counts, by_first)
        inverse = _take(e, _sorted_positions(e, by_first, 0), inverse)
    values = _take(e, data, first, axis)
    for value, where in ((values, axis), (first, 0), (counts, 0)):
        e.set_extent(value, where, count)
    return [values, first, inverse, counts]


# ---- boxes ------------------------------------------------------------------------------------------------------------


def _corners(e: Emitter, boxes: Expr, *, centred: bool) -> Expr:
    """(…, 4): low and high ends of the sides, from diagonally opposite corners or from centre, width and height."""
    parts = [e.slice(boxes, 2, k, k + 1) for k in range(4)]
    if centred:
        half = [e.div(p, 2.0) for p in parts[2:]]
        ends = [(e.sub(c, h), e.add(c, h)) for c, h in zip(parts[:2], half, strict=True)]
    else:
        ends = [(parts[0], parts[2]), (parts[1], parts[3])]
    low = [e.canonical("minimum", p, q) for p, q in ends]
    high = [e.canonical("maximum", p, q) for p, q in ends]
    return e.concat([*low, *high], 2)


def _scalar(e: Emitter, value: Expr | None, default: float, dtype: str) -> Expr:
    if value is None:
        return constant(np.array(default, dtype))
    return e.reshape(e.cast(value, dtype), [])


def convert_non_max_suppression(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    boxes, scores = x[0], x[1]
    batches, classes, count = shape_of(scores)
    limit = _scalar(e, optional(x, 2), 0, "int64")
    threshold = _scalar(e, optional(x, 3), 0.0, "float32")
    order = _sorted_positions(e, scores, 2, descending=True)
    sorted_scores = e.canonical("gather_elements", scores, order, axis=2)
    if optional(x, 4) is None:
        eligible = constant(np.ones((batches, classes, count), np.bool_))
    else:
        eligible = e.canonical("greater", sorted_scores, _scalar(e, x[4], 0.0, dtype_of(scores)))
    corners = _corners(e, boxes, centred=bool(a.get("center_point_box", 0)))
    kept = e.canonical("suppress", corners, order, eligible, threshold, limit)
    total = batches * classes * count
    positions, number = _leading(e, e.reshape(kept, [total]))
    index = _unravelled(e, positions, [batches, classes, count])
    chosen = _take(e, e.reshape(order, [total]), positions)
    result = e.transpose(e.concat([e.slice(index, 0, 0, 2), e.reshape(chosen, [1, total])], 0), [1, 0])
    e.set_extent(result, 0, number)
    return result


ORDER: dict[str, Converter] = {
    "Compress": convert_compress,
    "NonMaxSuppression": convert_non_max_suppression,
    "NonZero": convert_non_zero,
    "Unique": convert_unique,
}
