"""Shape changes, slicing, padding and sources of Relax as canonical operators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gensyn_tvm.canonical.convert_context import Context, Converter, Value, integer, integers, type_of

_MAX_TAKE_RUNS = 16


def _to_result_shape(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """reshape, flatten, squeeze, expand_dims: the elements in row-major order under the result's shape."""
    return ctx.reshape(args[0], type_of(call).shape)


def _permute_dims(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    rank = len(ctx.shape(args[0]))
    axes = call.attrs.axes
    perm = list(range(rank))[::-1] if axes is None else [integer(a) % rank for a in axes]
    return ctx.transpose(args[0], perm)


def _broadcast_to(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return ctx.broadcast(args[0], type_of(call).shape)


def _concat(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    parts = args[0] if isinstance(args[0], tuple) else (args[0],)
    if call.attrs.axis is None:
        parts = tuple(ctx.reshape(p, [ctx.type(p).size]) for p in parts)
    axis = integer(call.attrs.axis or 0) % len(ctx.shape(parts[0]))
    return parts[0] if len(parts) == 1 else ctx.emit("concat", *parts, axis=axis)


def _stack(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    parts = args[0] if isinstance(args[0], tuple) else (args[0],)
    shape = ctx.shape(parts[0])
    axis = integer(call.attrs.axis or 0) % (len(shape) + 1)
    return ctx.emit("concat", *(ctx.reshape(p, (*shape[:axis], 1, *shape[axis:])) for p in parts), axis=axis)


def _split(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """A tuple of slices, as many as the result has."""
    (x,) = args
    axis = integer(call.attrs.axis) % len(ctx.shape(x))
    extent = ctx.shape(x)[axis]
    where = call.attrs.indices_or_sections
    if hasattr(where, "value") or isinstance(where, int):
        size = -(-extent // integer(where))
        borders = [min(k * size, extent) for k in range(integer(where) + 1)]
    else:
        inner = [min(max(i + extent if i < 0 else i, 0), extent) for i in integers(where)]
        borders = [0, *inner, extent]
    return tuple(ctx.slice(x, axis, a, max(a, b)) for a, b in pairwise(borders))


def _strided_slice(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """Python's slices with positive strides."""
    x = args[0]
    axes, begin, end = (integers(a) for a in call.args[1:4])
    strides = integers(call.args[4]) if len(call.args) > 4 else (1,) * len(axes)
    for axis, b, e, s in zip(axes, begin, end, strides, strict=True):
        if s < 1:
            raise ctx.refuse(f"stride {s}", expected="positive strides")
        extent = ctx.shape(x)[axis]
        start, stop, _ = slice(b, e, s).indices(extent)
        if (start, stop, s) != (0, extent, 1):
            x = ctx.slice(x, axis % len(ctx.shape(x)), start, max(start, stop), s)
    return x


def _pad(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    (x,) = args
    if str(call.attrs.pad_mode) != "constant":
        raise ctx.refuse(f"pad_mode {call.attrs.pad_mode}", expected="constant")
    flat = integers(call.attrs.pad_width)
    widths = tuple((flat[2 * k], flat[2 * k + 1]) for k in range(len(flat) // 2))
    return ctx.emit("pad", x, ctx.number(float(call.attrs.pad_value), x), padding=widths)


def _tile(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    repeats = list(integers(call.attrs.repeats))
    return _interleave(ctx, args[0], repeats, inner=False)


def _repeat(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    (x,) = args
    if call.attrs.axis is None:
        x = ctx.reshape(x, [ctx.type(x).size])
    repeats = [1] * len(ctx.shape(x))
    repeats[integer(call.attrs.axis or 0)] = integer(call.attrs.repeats)
    return _interleave(ctx, x, repeats, inner=True)


def _interleave(ctx: Context, x: int, repeats: list[int], *, inner: bool) -> int:
    """Each axis repeated as a whole (tile), or element by element (``inner``)."""
    rank = max(len(repeats), len(ctx.shape(x)))
    repeats = [1] * (rank - len(repeats)) + repeats
    shape = [1] * (rank - len(ctx.shape(x))) + list(ctx.shape(x))
    single, full = [], []
    for n, r in zip(shape, repeats, strict=True):
        single += [n, 1] if inner else [1, n]
        full += [n, r] if inner else [r, n]
    return ctx.reshape(ctx.broadcast(ctx.reshape(x, single), full), [n * r for n, r in zip(shape, repeats, strict=True)])


# ---- constant indices -----------------------------------------------------------------------------------------------


def runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Indices as (start, count, stride) of ascending ranges, greedily."""
    result: list[tuple[int, int, int]] = []
    k = 0
    while k < len(indices):
        stride = indices[k + 1] - indices[k] if k + 1 < len(indices) and indices[k + 1] > indices[k] else 1
        count = 1
        while k + count < len(indices) and indices[k + count] == indices[k] + count * stride:
            count += 1
        result.append((indices[k], count, stride))
        k += count
    return result


def _take(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """Constant indices in few ascending ranges: slices, concatenated. Other indices: ``take``."""
    x, indices = args
    array = ctx.constant(indices)
    if array is None:
        array = _immediate(call.args[1])
    if call.attrs.axis is None:
        x = ctx.reshape(x, [ctx.type(x).size])
    shape = ctx.shape(x)
    axis = integer(call.attrs.axis or 0) % len(shape)
    if array is None:
        return ctx.emit("take", x, index_value(ctx, indices), axis=axis)
    if array.size and (array.min() < -shape[axis] or array.max() >= shape[axis]):
        raise ctx.refuse(f"indices from {array.min()} to {array.max()}", expected=f"indices into {shape[axis]} elements")
    pieces = runs([int(i) % shape[axis] for i in array.reshape(-1)])
    if not 0 < len(pieces) <= _MAX_TAKE_RUNS:
        positions = ctx.array(array.astype("int64")) if indices is None else index_value(ctx, indices)
        return ctx.emit("take", x, positions, axis=axis)
    parts = [ctx.slice(x, axis, start, start + (count - 1) * stride + 1, stride) for start, count, stride in pieces]
    joined = parts[0] if len(parts) == 1 else ctx.emit("concat", *parts, axis=axis)
    return ctx.reshape(joined, (*shape[:axis], *array.shape, *shape[axis + 1 :]))


def index_value(ctx: Context, indices: int) -> int:
    """Indices as canonical operators take them: int32 or int64."""
    return indices if ctx.type(indices).dtype in ("int32", "int64") else ctx.cast(indices, "int64")


def _immediate(expr: Any) -> np.ndarray | None:
    value = getattr(expr, "value", None)
    return np.array(value, dtype=np.int64) if isinstance(value, int) else None


# ---- sources --------------------------------------------------------------------------------------------------------


def _filled(value: int) -> Converter:
    """zeros, ones and their *_like forms."""

    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        t = type_of(call)
        return ctx.broadcast(ctx.scalar(value, t.dtype), t.shape)

    return convert


def _full(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    t = type_of(call)
    value = args[1]
    if value is None:
        return ctx.broadcast(ctx.scalar(call.args[1].value, t.dtype), t.shape)
    array = ctx.constant(value)
    value = ctx.cast(value, t.dtype) if array is None else ctx.array(array.astype(t.dtype))
    return ctx.broadcast(value, t.shape)


def _arange(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """0, 1, … of an integer dtype: iota. Otherwise a constant: start + k * step, rounded to the dtype."""
    start, step = (getattr(call.args[k], "value", None) for k in (0, 2))
    if start is None or step is None:
        raise ctx.refuse("bounds that are not constant", expected="constant bounds")
    t = type_of(call)
    if (start, step) == (0, 1) and t.dtype in ("int32", "int64"):
        return ctx.iota(t.shape, 0, t.dtype)
    return ctx.array((start + np.arange(t.size) * step).astype(t.dtype))


def _one_hot(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """index == iota ? on_value : off_value"""
    t = type_of(call)
    indices = args[0]
    axis = integer(call.attrs.axis) % len(t.shape)
    shape = ctx.shape(indices)
    indices = ctx.reshape(ctx.cast(indices, "int64"), (*shape[:axis], 1, *shape[axis:]))
    beside = [n if a == axis else 1 for a, n in enumerate(t.shape)]
    on, off = (ctx.scalar(call.args[k].value, t.dtype) for k in (1, 2))
    return ctx.where(ctx.emit("equal", indices, ctx.iota(beside, axis, "int64")), on, off)


def _triangle(op: str) -> Converter:
    """triu keeps column - row >= k, tril keeps column - row <= k; +0 elsewhere."""

    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        x = args[0]
        shape = ctx.shape(x)[-2:]
        if len(shape) < 2:
            raise ctx.refuse(f"an input of {ctx.type(x)}", expected="a matrix, or a batch of matrices")
        distance = ctx.sub(ctx.iota((1, shape[1]), 1, "int64"), ctx.iota((shape[0], 1), 0, "int64"))
        k = ctx.scalar(integer(call.args[1]), "int64")
        return ctx.where(ctx.emit(op, distance, k), x, ctx.number(0, x))

    return convert


def _eye(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    t = type_of(call)
    distance = ctx.sub(ctx.iota((1, t.shape[1]), 1, "int64"), ctx.iota((t.shape[0], 1), 0, "int64"))
    return ctx.cast(ctx.emit("equal", distance, ctx.scalar(integer(call.args[2]), "int64")), t.dtype)


CONVERTERS: dict[str, Converter] = {
    "relax.reshape": _to_result_shape,
    "relax.flatten": _to_result_shape,
    "relax.nn.batch_flatten": _to_result_shape,
    "relax.squeeze": _to_result_shape,
    "relax.expand_dims": _to_result_shape,
    "relax.permute_dims": _permute_dims,
    "relax.broadcast_to": _broadcast_to,
    "relax.concat": _concat,
    "relax.stack": _stack,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.tile": _tile,
    "relax.repeat": _repeat,
    "relax.take": _take,
    "relax.zeros": _filled(0),
    "relax.zeros_like": _filled(0),
    "relax.ones": _filled(1),
    "relax.ones_like": _filled(1),
    "relax.full": _full,
    "relax.full_like": _full,
    "relax.arange": _arange,
    "relax.one_hot": _one_hot,
    "relax.triu": _triangle("greater_equal"),
    "relax.tril": _triangle("less_equal"),
    "relax.eye": _eye,
}
