"""Gradients of canonical reductions, running sums and products, and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, attrs_of, kept, like, swapped, unbroadcast


def _sum(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    shape = shape_of(x)
    beside = kept(g, shape, attrs_of(call)["axes"]) if shape_of(g) else g
    return [op.broadcast_to(e(beside), shape)]


def _extremum(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """The gradient is shared equally among the elements that equal the extremum."""
    (x,) = call.args
    shape, axes = shape_of(x), attrs_of(call)["axes"]
    hits = e(op.astype(op.equal(x, kept(var, shape, axes)), dtype_of(x)))
    return [op.multiply(hits, op.divide(kept(g, shape, axes), op.sum(hits, list(axes), True)))]


def _prod(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * (product of the elements before * product of the elements after), which needs no division"""
    (x,) = call.args
    shape, axes = shape_of(x), list(attrs_of(call)["axes"])
    order = [a for a in range(len(shape)) if a not in axes] + axes
    moved = [shape[a] for a in order]
    rest = moved[: len(moved) - len(axes)]
    flat = e(op.reshape(e(op.permute_dims(x, order)) if order else x, [*rest, math.prod(moved[len(rest) :])]))
    before = e(canonical("cumprod", flat, axis=len(rest), exclusive=True, reverse=False))
    after = e(canonical("cumprod", flat, axis=len(rest), exclusive=True, reverse=True))
    dx = e(op.reshape(e.mul(e(op.reshape(g, [*rest, 1])), e.mul(before, after)), moved))
    return [op.permute_dims(dx, [order.index(a) for a in range(len(shape))]) if order else dx]


def _cumsum(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    a = attrs_of(call)
    return [canonical("cumsum", g, axis=a["axis"], exclusive=a["exclusive"], reverse=not a["reverse"])]


def _cumprod(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """dx[i] = (product before i) * sum over j >= i of g[j] * (product over i < k <= j), so zeros need no special care.

    It takes memory in the square of the axis.
    """
    (x,) = call.args
    a = attrs_of(call)
    axis, shape = a["axis"], shape_of(x)
    order = [k for k in range(len(shape)) if k != axis] + [axis]
    back = [order.index(k) for k in range(len(shape))]

    def run_forwards(t: Expr) -> Expr:
        t = e(op.permute_dims(t, order))
        return e(canonical("reverse", t, axes=(len(shape) - 1,))) if a["reverse"] else t

    x, g = run_forwards(x), run_forwards(g)
    n, last = shape[axis], len(shape)
    rest = shape_of(x)[:-1]
    square = [1] * len(rest) + [n, n]
    row, column = (e(canonical("iota", dtype="int64", shape=tuple(square), axis=last - 1 + k)) for k in (0, 1))
    one, zero = like(1.0, x), like(0.0, x)
    factors = e(op.where(e(op.greater(column, row)), e(op.reshape(x, [*rest, 1, n])), one))
    between = e(canonical("cumprod", factors, axis=last, exclusive=a["exclusive"], reverse=False))
    counted = e(op.greater(column, row) if a["exclusive"] else op.greater_equal(column, row))
    terms = e(op.where(counted, e.mul(between, e(op.reshape(g, [*rest, 1, n]))), zero))
    before = e(canonical("cumprod", x, axis=last - 1, exclusive=True, reverse=False))
    dx = e.mul(before, e(op.sum(terms, [last], False)))
    dx = e(canonical("reverse", dx, axes=(last - 1,))) if a["reverse"] else dx
    return [op.permute_dims(dx, back)]


def _matmul(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g @ b^T and a^T @ g, summed where an operand was broadcast.

    Where one matrix b meets many of a, the rows of all of them are one reduction: (rows of a)^T @ (rows of g).
    """
    a, b = call.args
    da = unbroadcast(e, op.matmul(g, swapped(e, b)), a)
    if len(shape_of(a)) > 2 and math.prod(shape_of(b)[:-2]) == 1:
        rows_a, rows_g = (e(op.reshape(t, [-1, shape_of(t)[-1]])) for t in (_expanded(e, a, g), g))
        db = e(op.matmul(swapped(e, rows_a), rows_g))
        return [da, db if shape_of(db) == shape_of(b) else op.reshape(db, shape_of(b))]
    return [da, unbroadcast(e, op.matmul(swapped(e, a), g), b)]


def _expanded(e: Emitter, a: Expr, g: Expr) -> Expr:
    """a with the leading axes of g."""
    shape: Sequence[int] = [*shape_of(g)[:-1], shape_of(a)[-1]]
    return a if shape_of(a) == list(shape) else e(op.broadcast_to(a, list(shape)))


REDUCTIONS: dict[str, Gradient] = {
    "sum": _sum,
    "prod": _prod,
    "reduce_max": _extremum,
    "reduce_min": _extremum,
    "cumsum": _cumsum,
    "cumprod": _cumprod,
    "matmul": _matmul,
}
