"""Gradients of canonical operators that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.training.emit import Emitter, Expr, number, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, attrs_of, like, swapped_product, swaps


def _reshape(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    return [op.reshape(g, shape_of(call.args[0]))]


def _transpose(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    perm = list(attrs_of(call)["perm"])
    if swaps(perm):
        return [swapped_product(e, g)]
    return [op.permute_dims(g, [perm.index(a) for a in range(len(perm))]) if perm else g]


def _broadcast_to(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    return [g if shape_of(g) == shape_of(x) else op.collapse_sum_to(g, shape_of(x))]


def part(e: Emitter, x: Expr, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int] | None = None) -> Expr:
    """x[start:limit:stride] on every axis; x itself if that is all of it."""
    strides = strides or [1] * len(starts)
    if not any(starts) and list(limits) == shape_of(x) and set(strides) <= {1}:
        return x
    return e(canonical("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides)))


def _concat(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    axis, first = attrs_of(call)["axis"], 0
    pieces: list[Expr | None] = []
    for x in call.args:
        limit = first + shape_of(x)[axis]
        starts = [first if a == axis else 0 for a in range(len(shape_of(g)))]
        pieces.append(part(e, g, starts, [limit if a == axis else n for a, n in enumerate(shape_of(g))]))
        first = limit
    return pieces


def _padded(e: Emitter, x: Expr, padding: Sequence[tuple[int, int]]) -> Expr:
    if not any(low or high for low, high in padding):
        return x
    return e(canonical("pad", x, like(0.0, x), padding=tuple(padding)))


def _apart(e: Emitter, g: Expr, axis: int, stride: int) -> Expr:
    """g with stride - 1 zeros between its elements along an axis."""
    shape = shape_of(g)
    count = shape[axis]
    if stride == 1 or count < 2:
        return g
    beside = e(op.reshape(g, [*shape[: axis + 1], 1, *shape[axis + 1 :]]))
    spread = _padded(e, beside, [(0, stride - 1 if a == axis + 1 else 0) for a in range(len(shape) + 1)])
    flat = e(op.reshape(spread, [*shape[:axis], count * stride, *shape[axis + 1 :]]))
    limits = [(count - 1) * stride + 1 if a == axis else n for a, n in enumerate(shape_of(flat))]
    return part(e, flat, [0] * len(shape), limits)


def _slice(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """The gradient among zeros."""
    (x,) = call.args
    a = attrs_of(call)
    if 0 in shape_of(g):
        return [None]
    for axis, stride in enumerate(a["strides"]):
        g = _apart(e, g, axis, stride)
    sizes = zip(shape_of(x), a["starts"], shape_of(g), strict=True)
    return [_padded(e, g, [(start, n - start - count) for n, start, count in sizes])]


def _pad(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """The gradient without the padding; the pad value's is the sum of what lies in the padding."""
    x, _ = call.args
    padding = attrs_of(call)["padding"]
    starts = [low for low, _ in padding]
    limits = [low + n for low, n in zip(starts, shape_of(x), strict=True)]
    # Not sum(g) - sum(inside), which cancels and turns an infinite gradient inside into NaN.
    within = e(op.zeros(shape_of(x), "bool")) if shape_of(x) else number(False, "bool")
    around = e(canonical("pad", within, number(True, "bool"), padding=padding))
    return [part(e, g, starts, limits), e(op.sum(e(op.where(around, g, like(0.0, g)))))]


def _reverse(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    return [canonical("reverse", g, axes=attrs_of(call)["axes"])]


MOVEMENT: dict[str, Gradient] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "reverse": _reverse,
}
