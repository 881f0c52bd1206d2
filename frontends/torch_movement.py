"""ATen operators that move data or make it from nothing; see ``torch_converters``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import MAX_CONSTANT, Emitter, Expr, constant, dtype_of, number, rank_of, shape_of
from gensyn_tvm.frontends.torch_converters import Arguments, Converter


def convert_to_shape(e: Emitter, a: Arguments) -> Expr:
    return e.reshape(a.self, a.out_shape)


def convert_transpose(e: Emitter, a: Arguments) -> Expr:
    axes = list(range(rank_of(a.self)))
    one, two = (0, 1) if not hasattr(a, "dim0") else (a.dim0, a.dim1)
    if axes:
        axes[one], axes[two] = axes[two], axes[one]
    return e.transpose(a.self, axes)


def convert_cat(e: Emitter, a: Arguments) -> Expr:
    parts = [e.cast(t, a.out_dtype) for t in a.tensors if shape_of(t) != [0] or len(a.out_shape) == 1]
    return e.concat(parts, a.dim % len(a.out_shape))


def convert_stack(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % len(a.out_shape)
    shape = [1 if k == axis else d for k, d in enumerate(a.out_shape)]
    return e.concat([e.reshape(e.cast(t, a.out_dtype), shape) for t in a.tensors], axis)


def convert_slice(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    start, stop, step = slice(a.start, a.end, a.step).indices(shape_of(a.self)[axis])
    return e.slice(a.self, axis, start, max(start, stop), step)


def convert_select(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    index = a.index % shape_of(a.self)[axis]
    return e.reshape(e.slice(a.self, axis, index, index + 1), a.out_shape)


def _pieces(e: Emitter, x: Expr, axis: int, sizes: list[int]) -> list[Expr]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x, axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def convert_split(e: Emitter, a: Arguments) -> Any:
    axis = a.dim % rank_of(a.self)
    extent = shape_of(a.self)[axis]
    if hasattr(a, "split_sizes"):
        sizes = list(a.split_sizes)
    else:
        size = a.split_size if hasattr(a, "split_size") else -(-extent // a.chunks)
        sizes = [min(size, extent - start) for start in range(0, extent, size)] if extent else [0]
    return _pieces(e, a.self, axis, sizes)


def convert_unbind(e: Emitter, a: Arguments) -> Any:
    axis = a.dim % rank_of(a.self)
    shape = [d for k, d in enumerate(shape_of(a.self)) if k != axis]
    return [e.reshape(piece, shape) for piece in _pieces(e, a.self, axis, [1] * shape_of(a.self)[axis])]


def convert_repeat(e: Emitter, a: Arguments) -> Expr:
    repeats = a.repeats if hasattr(a, "repeats") else a.dims
    rank = max(rank_of(a.self), len(repeats))
    x = e.reshape(a.self, [1] * (rank - rank_of(a.self)) + shape_of(a.self))
    for axis, count in enumerate([1] * (rank - len(repeats)) + list(repeats)):
        x = e.concat([x] * count, axis) if count else e.slice(x, axis, 0, 0)
    return x


def convert_pad(e: Emitter, a: Arguments) -> Expr:
    rank = rank_of(a.self)
    mode = {"constant": "", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[getattr(a, "mode", "constant")]
    if mode:
        y = a.self
        for k in range(len(a.pad) // 2):
            y = blocks.pad_by_elements(e, y, rank - 1 - k, a.pad[2 * k], a.pad[2 * k + 1], mode)
        return y
    lows, highs = [0] * rank, [0] * rank
    for k in range(len(a.pad) // 2):
        lows[rank - 1 - k], highs[rank - 1 - k] = a.pad[2 * k], a.pad[2 * k + 1]
    return blocks.pad(e, a.self, lows, highs, a.value or 0.0)


def convert_flip(e: Emitter, a: Arguments) -> Expr:
    axes = tuple(sorted({d % max(rank_of(a.self), 1) for d in a.dims}))
    return e.canonical("reverse", a.self, axes=axes) if rank_of(a.self) and axes else a.self


def convert_roll(e: Emitter, a: Arguments) -> Expr:
    """Without axes the elements are rolled as one line."""
    x = a.self if a.dims else e.reshape(a.self, [math.prod(shape_of(a.self))])
    for shift, axis in zip(a.shifts, a.dims or [0], strict=True):
        axis = axis % max(rank_of(x), 1)
        extent = shape_of(x)[axis]
        cut = -shift % extent if extent else 0
        if cut:
            x = e.concat([e.slice(x, axis, cut, extent), e.slice(x, axis, 0, cut)], axis)
    return e.reshape(x, a.out_shape)


def _with_part(e: Emitter, x: Expr, part: Expr, axis: int, places: range) -> Expr:
    """x with ``part`` at places of an axis."""
    if not places:
        return x
    extent = shape_of(x)[axis]
    if places.step == 1:
        pieces = [e.slice(x, axis, 0, places.start), part, e.slice(x, axis, places.stop, extent)]
        return e.concat([p for p in pieces if shape_of(p)[axis]], axis)
    chosen = np.arange(extent, dtype=np.int64)
    chosen[places.start : places.stop : places.step] = extent + np.arange(len(places))
    return blocks.take(e, e.concat([x, part], axis), constant(chosen), axis)


def convert_slice_scatter(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    start, stop, step = slice(a.start, a.end, a.step).indices(shape_of(a.self)[axis])
    return _with_part(e, a.self, e.cast(a.src, a.out_dtype), axis, range(start, max(start, stop), step))


def convert_select_scatter(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    shape = shape_of(a.self)
    index = a.index % shape[axis]
    part = e.reshape(e.cast(a.src, a.out_dtype), [1 if k == axis else n for k, n in enumerate(shape)])
    return _with_part(e, a.self, part, axis, range(index, index + 1))


def convert_copy(e: Emitter, a: Arguments) -> Expr:
    return e.broadcast(e.cast(a.src, a.out_dtype), a.out_shape)


def convert_diagonal(e: Emitter, a: Arguments) -> Expr:
    """The diagonal as the last axis."""
    shape, rank = shape_of(a.self), rank_of(a.self)
    one, two = a.dim1 % rank, a.dim2 % rank
    rest = [k for k in range(rank) if k not in (one, two)]
    outer = [shape[k] for k in rest]
    flat = e.reshape(e.transpose(a.self, [*rest, one, two]), [*outer, shape[one] * shape[two]])
    first = a.offset if a.offset >= 0 else -a.offset * shape[two]
    count = a.out_shape[-1]
    places = first + (shape[two] + 1) * np.arange(count, dtype=np.int64)
    return blocks.take(e, flat, constant(places), len(rest)) if count else e.full(a.out_shape, 0, a.out_dtype)


def convert_windows(e: Emitter, a: Arguments) -> Expr:
    """``Tensor.unfold``: windows along an axis, their elements as the last axis."""
    axis = a.dimension % max(rank_of(a.self), 1)
    count = a.out_shape[axis]
    places = a.step * np.arange(count, dtype=np.int64)[:, None] + np.arange(a.size, dtype=np.int64)
    y = blocks.take(e, a.self, constant(places), axis)
    order = [k for k in range(rank_of(y)) if k != axis + 1]
    return e.transpose(y, [*order, axis + 1])


def convert_as_strided(e: Emitter, a: Arguments) -> Expr:
    """Elements by their places in memory, where the input lies as PyTorch laid it; all of them have to be its own."""
    own = a.nodes[0].meta["val"]
    strides, shape = [int(s) for s in own.stride()], [int(n) for n in own.shape]
    first = int(own.storage_offset())
    if max(math.prod(shape), math.prod(a.out_shape)) > MAX_CONSTANT:
        raise e.refuse(f"{math.prod(a.out_shape):,} elements of {math.prod(shape):,}", expected=f"at most {MAX_CONSTANT:,}")
    places = _places(shape, strides, first)
    wanted = _places(a.out_shape, a.stride, first if a.storage_offset is None else a.storage_offset)
    if not wanted.size:
        return e.full(a.out_shape, 0, a.out_dtype)
    found = np.full(max(places.max(initial=0), wanted.max()) + 1, -1, np.int64)
    found[places] = np.arange(places.size)
    chosen = found[wanted]
    if chosen.min() < 0:
        raise e.refuse(
            "elements of memory that are not in the input", expected="a view of the input", remedy="index it instead"
        )
    return e.reshape(blocks.take(e, e.reshape(a.self, [places.size]), constant(chosen), 0), a.out_shape)


def _places(shape: Sequence[int], strides: Sequence[int], first: int) -> np.ndarray:
    """Where the elements lie in memory, in row-major order."""
    places = np.full(1, first, np.int64)
    for extent, stride in zip(shape, strides, strict=True):
        places = (places[:, None] + stride * np.arange(extent, dtype=np.int64)).reshape(-1)
    return places


def convert_fill(value: float | None) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        filling = value if value is not None else getattr(a, "fill_value", getattr(a, "value", getattr(a, "s", 0)))
        if not isinstance(filling, bool | int | float):
            raise e.refuse("a value computed at run time", expected="a number")
        return e.full(a.out_shape, filling, a.out_dtype)

    return convert


def convert_arange(e: Emitter, a: Arguments) -> Expr:
    start, step = getattr(a, "start", 0), getattr(a, "step", 1)
    if not float(start).is_integer() or not float(step).is_integer():
        raise e.refuse(f"start {start}, step {step}", expected="integers")
    return e.arange(int(start), a.out_shape[0], int(step), a.out_dtype)


def convert_triangle(function: Callable[[np.ndarray, int], np.ndarray]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        keep = constant(function(np.ones(shape_of(a.self)[-2:], dtype=bool), a.diagonal))
        return e.where(keep, a.self, number(0, dtype_of(a.self)))

    return convert


def convert_same(e: Emitter, a: Arguments) -> Expr:
    return a.self


def convert_getitem(e: Emitter, a: Arguments) -> Expr:
    item = a.values[a.index]
    if item is None:
        raise e.refuse(f"a use of output {a.index} of {a.source}", expected="its first output only")
    return item
