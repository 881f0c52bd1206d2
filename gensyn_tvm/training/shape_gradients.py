"""Gradients of operators that only move elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.op.grad import no_grad

from gensyn_tvm.canonical.convert_context import integer, integers
from gensyn_tvm.canonical.convert_movement import runs
from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.training.emit import Expr, dtype_of, number, op, shape_of

Gradient = Callable[[Any, Any, Any, Any], list[Expr]]


def reshaped(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """The gradient under the input's shape."""
    return [op.reshape(g, shape_of(call.args[0])), *(no_grad(a) for a in call.args[1:])]


def place_slice(bb: Any, g: Expr, axis: int, extent: int, start: int, stride: int) -> Expr:
    """A tensor of zeros with ``extent`` along ``axis`` that holds g at start, start + stride, …"""
    shape = shape_of(g)
    count = shape[axis]
    if stride > 1 and count > 1:
        apart = op.reshape(g, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
        spread = op.nn.pad(apart, _pads(len(shape) + 1, axis + 1, 0, stride - 1))
        g = bb.emit(op.reshape(spread, [*shape[:axis], count * stride, *shape[axis + 1 :]]))
        count = (count - 1) * stride + 1
        g = bb.emit(op.strided_slice(g, [axis], [0], [count], [1]))
    after = extent - start - count
    return bb.emit(op.nn.pad(g, _pads(len(shape), axis, start, after))) if start or after else g


def _pads(rank: int, axis: int, low: int, high: int) -> list[int]:
    widths = [0] * (2 * rank)
    widths[2 * axis], widths[2 * axis + 1] = low, high
    return widths


def strided_slice(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """The gradient placed among zeros."""
    shape = shape_of(call.args[0])
    axes, begin, end = (integers(a) for a in call.args[1:4])
    strides = integers(call.args[4]) if len(call.args) > 4 else (1,) * len(axes)
    for axis, b, e, s in zip(axes, begin, end, strides, strict=True):
        start, _, _ = slice(b, e, s).indices(shape[axis])
        g = place_slice(bb, g, axis % len(shape), shape[axis], min(start, shape[axis] - shape_of(g)[axis]), s)
    return [g, *(no_grad(a) for a in call.args[1:])]


def take(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Constant indices: every ascending range placed among zeros, added in order. Others: scattered, added in order."""
    x, indices = call.args
    array = indices.value.numpy() if isinstance(indices, GenericConst) else None
    flat = [math.prod(shape_of(x))] if call.attrs.axis is None else shape_of(x)
    axis = integer(call.attrs.axis or 0) % len(flat)
    if array is None:
        return [_scattered(x, indices, g, axis, bb), no_grad(indices)]
    g = bb.emit(op.reshape(g, [*flat[:axis], array.size, *flat[axis + 1 :]]))
    total, done = None, 0
    for start, count, stride in runs([int(i) % flat[axis] for i in array.reshape(-1)]):
        part = bb.emit(op.strided_slice(g, [axis], [done], [done + count], [1]))
        placed = place_slice(bb, part, axis, flat[axis], start, stride)
        total = placed if total is None else bb.emit(op.add(total, placed))
        done += count
    return [op.reshape(total, shape_of(x)), no_grad(indices)]


def _scattered(x: Expr, indices: Expr, g: Expr, axis: int, bb: Any) -> Expr:
    """The gradients of ``take`` added, in the order of the indices, to zeros in x's shape."""
    shape, tail = shape_of(x), shape_of(indices)
    count = len(tail)
    index = bb.emit(op.reshape(indices, [math.prod(tail), 1]))
    index = index if dtype_of(index) == "int64" else bb.emit(op.astype(index, "int64"))
    zero, extent = number(0, "int64"), number(shape[axis], "int64")
    index = bb.emit(op.where(op.less(index, zero), op.add(index, extent), index))
    index = bb.emit(op.minimum(op.maximum(index, zero), number(shape[axis] - 1, "int64")))  # where ``take`` reads
    order = [*range(axis, axis + count), *range(axis), *range(axis + count, len(shape) - 1 + count)]
    rows = bb.emit(op.permute_dims(g, order))
    rest = [n for a, n in enumerate(shape) if a != axis]
    rows = bb.emit(op.reshape(rows, [math.prod(tail), *rest]))
    zeros = bb.emit(op.zeros([shape[axis], *rest], dtype_of(x)))
    total = bb.emit(canonical("scatter_nd", zeros, index, rows, reduction="add"))
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    return op.permute_dims(total, back)


def stack(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """The gradient's slices."""
    parts = call.args[0].ty.fields
    axis = integer(call.attrs.axis or 0) % (len(shape_of(var)))
    pieces = bb.emit(op.split(g, len(parts), axis)) if len(parts) > 1 else None
    shape = [n for a, n in enumerate(shape_of(var)) if a != axis]
    split = [g] if pieces is None else [relax.TupleGetItem(pieces, k) for k in range(len(parts))]
    return [relax.Tuple([bb.emit(op.reshape(piece, shape)) for piece in split])]


def repeated(inner: bool) -> Gradient:
    """tile, or repeat (``inner``): the sum over the copies."""

    def gradient(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
        (x,) = call.args
        shape = shape_of(x)
        if not inner:
            repeats = list(integers(call.attrs.repeats))
        else:
            shape = [math.prod(shape)] if call.attrs.axis is None else shape
            repeats = [1] * len(shape)
            repeats[integer(call.attrs.axis or 0)] = integer(call.attrs.repeats)
        rank = max(len(repeats), len(shape))
        repeats = [1] * (rank - len(repeats)) + repeats
        shape = [1] * (rank - len(shape)) + shape
        pairs = [(n, r) if inner else (r, n) for n, r in zip(shape, repeats, strict=True)]
        split = op.reshape(g, [n for pair in pairs for n in pair])
        copies = op.sum(split, [2 * k + inner for k in range(rank)], False)
        return [op.reshape(copies, shape_of(x))]

    return gradient


def pad(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """The gradient without the padding."""
    (x,) = call.args
    widths = integers(call.attrs.pad_width)
    axes = [a for a in range(len(shape_of(x))) if widths[2 * a] or widths[2 * a + 1]]
    if not axes:
        return [g]
    starts = [widths[2 * a] for a in axes]
    stops = [widths[2 * a] + shape_of(x)[a] for a in axes]
    return [op.strided_slice(g, axes, starts, stops, [1] * len(axes))]


def triangle(function: Callable[[Expr, Any], Expr]) -> Gradient:
    """tril or triu of the gradient."""

    def gradient(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
        return [function(g, call.args[1]), no_grad(call.args[1])]

    return gradient
