"""max_pool, avg_pool and their gradients over x (N, C, spatial…)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.interpreter import scalar
from gensyn_tvm.interpreter.reductions import first_extreme, lane_sum
from gensyn_tvm.interpreter.scalar import Array
from gensyn_tvm.interpreter.windows import inner, output_window, pad_spatial

Attrs = Mapping[str, Any]


def max_pool(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """``maximum`` over the window's elements in the input; the lowest value around the input takes part without effect."""
    _inside(x.shape[2:], out.shape[2:], attrs)
    padded = pad_spatial(x, attrs["padding"], _lowest(x))
    result = np.full(out.shape, _lowest(x), x.dtype)
    for j in np.ndindex(*attrs["kernel"]):
        result = scalar.maximum(result, padded[output_window(j, out.shape[2:], attrs)])
    return result


def max_pool_indices(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Each window's argmax, as a flat index among the input's spatial positions."""
    spatial, extents = out.shape[2:], x.shape[2:]
    inside = _inside(extents, spatial, attrs)
    chosen = first_extreme(_windows(x, spatial, attrs, _lowest(x)), scalar.maximum, inside.reshape(len(inside), 1, 1, *spatial))
    # The flat index of every position, laid out and cut into windows as the input is.
    count = np.arange(math.prod(extents), dtype=np.int64)
    numbers: Array = count.reshape(extents[::-1]).T if attrs["column_major"] else count.reshape(extents)
    flat = _windows(numbers[np.newaxis, np.newaxis], spatial, attrs, -1)
    return np.take_along_axis(np.broadcast_to(flat, (len(flat), *out.shape)), chosen[np.newaxis], axis=0)[0]


def max_pool_backward(attrs: Attrs, out: TensorType, dy: Array, x: Array) -> Array:
    """Each window's dy goes to its argmax."""
    spatial = dy.shape[2:]
    inside = _inside(x.shape[2:], spatial, attrs)
    windows = _windows(x, spatial, attrs, -math.inf)
    eligible = inside.reshape(len(inside), 1, 1, *spatial)
    chosen = first_extreme(windows, scalar.maximum, eligible)
    return _scatter(attrs, out, dy, lambda number: chosen == number)


def avg_pool(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """``sum`` over the window, padding as -0.0, divided by the count."""
    windows = _windows(x, out.shape[2:], attrs, -0.0)
    return lane_sum(windows) / _count(attrs, x.shape[2:], out).astype(x.dtype)


def avg_pool_backward(attrs: Attrs, out: TensorType, dy: Array) -> Array:
    """The sum, over the windows that contain an element, of dy divided by the window's count."""
    share = dy / _count(attrs, attrs["input_spatial"], TensorType(dy.shape, out.dtype)).astype(dy.dtype)
    return _scatter(attrs, out, share, lambda number: np.ones(dy.shape, np.bool_))


def _lowest(x: Array) -> float | int:
    """What is no larger than any element."""
    return -math.inf if scalar.is_float(x) else int(np.iinfo(x.dtype).min)


def _windows(x: Array, spatial: tuple[int, ...], attrs: Attrs, value: float) -> Array:
    """(window size, N, C, spatial…): the windows' elements in row-major order, ``value`` in the padding."""
    padded = pad_spatial(x, attrs["padding"], value)
    return np.stack([padded[output_window(j, spatial, attrs)] for j in np.ndindex(*attrs["kernel"])])


def _inside(extents: tuple[int, ...], spatial: tuple[int, ...], attrs: Attrs) -> Array:
    """(window size, spatial…): whether a window's element lies in the input.

    Raises:
        InvalidProgramError: some window has no element in the input.
    """
    real = _windows(np.ones((1, 1, *extents)), spatial, attrs, 0.0)[:, 0, 0] != 0
    if not real.any(axis=0).all():
        raise InvalidProgramError(
            describe(
                "a pooling window lies entirely in the padding",
                found=f"kernel={attrs['kernel']}, padding={attrs['padding']}, dilations={attrs['dilations']}",
                expected=f"at least one element of the input {extents} in every window",
            )
        )
    return real


def _count(attrs: Attrs, extents: tuple[int, ...], out: TensorType) -> Array:
    """What each window of ``out`` is divided by, as (spatial…)."""
    inside = _inside(extents, out.shape[2:], attrs)
    if attrs["count_include_pad"]:
        return np.full(inside.shape[1:], math.prod(attrs["kernel"]))
    return np.count_nonzero(inside, axis=0)


def _scatter(attrs: Attrs, out: TensorType, values: Array, taken: Callable[[int], Array]) -> Array:
    """Add each window's value to its elements: one chain per element from -0.0, windows in row-major order.

    ``taken(number)`` says for which windows (N, C, spatial…) the element at kernel position ``number`` receives the value.
    For a fixed element, a later window meets it at an earlier kernel position: hence the descending loop.
    """
    shape = tuple(extent + low + high for extent, (low, high) in zip(out.shape[2:], attrs["padding"], strict=True))
    total = np.full((*out.shape[:2], *shape), -0.0, out.dtype)
    reached = np.zeros(total.shape, np.bool_)
    for number, j in reversed(list(enumerate(np.ndindex(*attrs["kernel"])))):
        where = output_window(j, values.shape[2:], attrs)
        mask = taken(number)
        total[where] = np.where(mask, total[where] + values, total[where])
        reached[where] |= mask
    crop = inner(attrs["padding"], out.shape[2:])
    return np.where(reached[crop], total[crop], np.zeros((), out.dtype))
