"""Gradients of canonical operators that index with data: gathering becomes ``add``-scattering, which adds in index order."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, attrs_of, like


def _int64(value: int) -> Expr:
    return number(value, "int64")


def _wrapped(e: Emitter, indices: Expr, extents: Expr) -> Expr:
    """int64 indices with negative ones counted from the end."""
    indices = e.cast(indices, "int64")
    return e(op.where(e(op.less(indices, _int64(0))), e(op.add(indices, extents)), indices))


def _inside(e: Emitter, indices: Expr, extents: Expr) -> Expr:
    """Where gathering operators read: wrapped, then moved inside."""
    wrapped = _wrapped(e, indices, extents)
    return e(op.minimum(e(op.maximum(wrapped, _int64(0))), e(op.subtract(extents, _int64(1)))))


def _zeros(e: Emitter, shape: list[int], dtype: str) -> Expr:
    return e(op.zeros(shape, dtype)) if shape else number(0, dtype)


def _take(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """The rows of the gradient added to zeros in x's shape."""
    x, indices = call.args
    axis, shape, tail = attrs_of(call)["axis"], shape_of(x), shape_of(indices)
    if 0 in shape_of(g):
        return [None, None]
    count = len(tail)
    flat = e(op.reshape(indices, [math.prod(tail), 1]))
    index = _inside(e, flat, _int64(shape[axis]))
    order = [*range(axis, axis + count), *range(axis), *range(axis + count, len(shape) - 1 + count)]
    rest = [n for a, n in enumerate(shape) if a != axis]
    rows = e(op.reshape(e(op.permute_dims(g, order)) if order else g, [math.prod(tail), *rest]))
    total = e(canonical("scatter_nd", _zeros(e, [shape[axis], *rest], dtype_of(g)), index, rows, reduction="add"))
    return [op.permute_dims(total, [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]), None]


def _gather_elements(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, indices = call.args
    axis = attrs_of(call)["axis"]
    index = _inside(e, indices, _int64(shape_of(x)[axis]))
    zeros = _zeros(e, shape_of(x), dtype_of(g))
    return [canonical("scatter_elements", zeros, index, g, axis=axis, reduction="add"), None]


def _gather_nd(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, indices = call.args
    batch, shape = attrs_of(call)["batch_dims"], shape_of(x)
    places = shape_of(indices)[:-1]
    length = shape_of(indices)[-1]
    if not length:
        lead = [a for a in range(batch, len(places))]
        return [op.sum(g, lead, False) if lead else g, None]
    extents = _row(shape[batch : batch + length])
    index = _inside(e, indices, extents)
    own = [e(canonical("iota", dtype="int64", shape=(*places, 1), axis=a)) for a in range(batch)]
    index = e(op.concat([*own, index], len(places))) if own else index
    return [canonical("scatter_nd", _zeros(e, shape, dtype_of(g)), index, g, reduction="add"), None]


def _row(values: list[int]) -> Expr:
    return number(values, "int64")


# ---- scattering -----------------------------------------------------------------------------------------------------


class _Scatter:
    """A scattering call: how to read from the places that it writes to, and how to write to them."""

    def __init__(self, call: Any, e: Emitter) -> None:
        self.e = e
        self.x, self.index, self.updates = call.args
        self.name = call.op.name.rpartition(".")[2]
        a = attrs_of(call)
        self.reduction = a["reduction"]
        shape = shape_of(self.x)
        if self.name == "scatter_elements":
            self.axis = a["axis"]
            extents = _int64(shape[self.axis])
        else:
            self.length = shape_of(self.index)[-1]
            extents = _row(shape[: self.length])
        wrapped = _wrapped(e, self.index, extents)
        inside = e(op.logical_and(e(op.greater_equal(wrapped, _int64(0))), e(op.less(wrapped, extents))))
        self.kept = inside if self.name == "scatter_elements" else self._tuples_inside(inside)

    def _tuples_inside(self, inside: Expr) -> Expr:
        """Whether every index of a tuple is inside, in a shape that broadcasts to the updates."""
        e, lead = self.e, shape_of(self.index)[:-1]
        beside = [*lead, *[1] * (len(shape_of(self.x)) - self.length)]
        if not self.length:
            return e(op.ones(beside, "bool")) if beside else number(True, "bool")
        every = e(op.min(e(op.astype(inside, "int32")), [len(lead)], False))
        return e(op.reshape(e(op.greater(every, number(0, "int32"))), beside))

    def read(self, x: Expr) -> Expr:
        """The elements of ``x``, in the shape of the updates; dropped places read something inside."""
        if self.name == "scatter_elements":
            return self.e(canonical("gather_elements", x, self.index, axis=self.axis))
        return self.e(canonical("gather_nd", x, self.index, batch_dims=0))

    def write(self, x: Expr, updates: Expr, reduction: str) -> Expr:
        """``updates`` scattered into ``x``."""
        attrs = {"axis": self.axis} if self.name == "scatter_elements" else {}
        return self.e(canonical(self.name, x, self.index, updates, reduction=reduction, **attrs))

    def only_kept(self, g: Expr) -> Expr:
        """``g`` where an update is not dropped, 0 elsewhere."""
        return self.e(op.where(self.kept, g, like(0.0, g)))


def _scatter(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    if 0 in shape_of(call.args[2]):
        return [g, None, None]
    s = _Scatter(call, e)
    if s.reduction == "add":
        return [g, None, s.only_kept(s.read(g))]
    if s.reduction == "none":
        return _replaced(s, g)
    if s.reduction == "mul":
        return _multiplied(s, var, g)
    return _extreme(s, var, g)


def _replaced(s: _Scatter, g: Expr) -> list[Expr | None]:
    """Of several updates of one place only the last one is in the result."""
    e, shape = s.e, shape_of(s.updates)
    dx = s.write(g, e(op.zeros(shape, dtype_of(g))), "none")
    numbers = e(op.reshape(e(canonical("iota", dtype="int64", shape=(math.prod(shape),), axis=0)), shape))
    winners = s.write(e(op.zeros(shape_of(s.x), "int64")), numbers, "none")
    last = e(op.equal(s.read(winners), numbers))
    return [dx, None, s.only_kept(e(op.where(last, s.read(g), like(0.0, g))))]


def _multiplied(s: _Scatter, y: Expr, g: Expr) -> list[Expr | None]:
    """Each factor's gradient is g times the product of the other factors; a place with two zeros has none, so that no division
    by zero is needed: products over the factors that are not 0, and the number of those that are, decide."""
    e = s.e
    one, zero = like(1.0, g), like(0.0, g)

    def parts(t: Expr) -> tuple[Expr, Expr]:
        is_zero = e(op.equal(t, zero))
        return e(op.where(is_zero, one, t)), e(op.astype(is_zero, dtype_of(g)))

    x, x_zeros = parts(s.x)
    u, u_zeros = parts(s.updates)
    product, zeros = s.write(x, u, "mul"), s.write(x_zeros, u_zeros, "add")

    def slope(factor: Expr, own_zeros: Expr, product: Expr, zeros: Expr) -> Expr:
        others_zero = e(op.greater(e.sub(zeros, own_zeros), zero))
        return e(op.where(others_zero, zero, e.div(product, factor)))

    dx = e.mul(g, slope(x, x_zeros, product, zeros))
    du = e.mul(s.read(g), slope(u, u_zeros, s.read(product), s.read(zeros)))
    return [dx, None, s.only_kept(du)]


def _extreme(s: _Scatter, y: Expr, g: Expr) -> list[Expr | None]:
    """Shared equally among the elements that equal the extremum of their place."""
    e, dtype = s.e, dtype_of(g)
    own = e(op.astype(e(op.equal(s.x, y)), dtype))
    theirs = s.only_kept(e(op.astype(e(op.equal(s.updates, s.read(y))), dtype)))
    share = e.div(g, s.write(own, theirs, "add"))
    dx = e(op.where(e(op.greater(own, like(0.0, g))), share, like(0.0, g)))
    return [dx, None, e(op.where(e(op.greater(theirs, like(0.0, g))), s.read(share), like(0.0, g)))]


INDEXING: dict[str, Gradient] = {
    "take": _take,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "scatter_elements": _scatter,
    "scatter_nd": _scatter,
}
