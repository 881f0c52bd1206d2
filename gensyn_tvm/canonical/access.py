"""Which elements of a value an array is made of: affine accesses, the algebra of the normal form (``canonical.normal``).

A *loop* runs over part of one axis: index = start + stride * i. An array is demanded as *dims*, each a tuple of loops,
outermost first; its elements are those of the value at the loops' indices. Transpositions, reshapes and slices map one access
to another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

#: Most accesses of one value that are compared in pairs.
_MANY = 500

#: The axis of a loop that the value does not depend on: it is repeated.
NOWHERE = -1


class Loop(NamedTuple):
    """``extent`` indices of ``axis``, ``stride`` apart."""

    extent: int
    axis: int
    stride: int


Dim = tuple[Loop, ...]


class Access(NamedTuple):
    """The element of a demanded array at indices i is the value's at ``starts`` plus the sum of stride * i along each axis."""

    starts: tuple[int, ...]
    dims: tuple[Dim, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the demanded array."""
        return tuple(extent_of(dim) for dim in self.dims)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """All loops, outermost first."""
        return tuple(loop for dim in self.dims for loop in dim)


class Digit(NamedTuple):
    """A position of a mixed-radix number: ``size`` values of weight ``weight``; it becomes axis ``axis``."""

    size: int
    weight: int
    axis: int


def extent_of(dim: Dim) -> int:
    """Number of elements along one dim."""
    return math.prod(loop.extent for loop in dim)


def tidy(dim: Sequence[Loop]) -> Dim:
    """Without loops of extent 1, neighbours that together are one loop joined."""
    found: list[Loop] = []
    for loop in dim:
        if loop.extent == 1:
            continue
        outer = found[-1] if found else None
        if outer and outer.axis == loop.axis and (outer.stride == loop.stride * loop.extent or loop.axis == NOWHERE):
            found[-1] = Loop(outer.extent * loop.extent, loop.axis, loop.stride)
        else:
            found.append(loop)
    return tuple(found)


def whole(shape: Sequence[int], order: Sequence[int] | None = None) -> Access:
    """All elements, a dim for each axis, in the given order of axes."""
    axes = range(len(shape)) if order is None else order
    return Access((0,) * len(shape), tuple(tidy([Loop(shape[k], k, 1)]) for k in axes))


def digits_of(shape: Sequence[int]) -> list[Digit]:
    """Row-major positions of a shape, those of extent 1 left out."""
    digits, weight = [], 1
    for axis in reversed(range(len(shape))):
        if shape[axis] > 1:
            digits.append(Digit(shape[axis], weight, axis))
        weight *= shape[axis]
    return digits[::-1]


def split(extent: int, stride: int, digits: Sequence[Digit]) -> list[Loop] | None:
    """A loop over a number as loops over its digits, outermost first; None if it is not that."""
    found: list[Loop] = []
    for digit in reversed(digits):
        if extent == 1:
            break
        if stride >= digit.weight * digit.size:
            continue
        if stride % digit.weight:
            return None
        step = stride // digit.weight
        if extent * step <= digit.size:
            found.append(Loop(extent, digit.axis, step))
            extent = 1
            break
        if digit.size % step or extent % (digit.size // step):
            # It may still end inside of this digit: the last step need not be whole.
            if (extent - 1) * step < digit.size:
                found.append(Loop(extent, digit.axis, step))
                extent = 1
            break
        inner = digit.size // step
        if inner > 1:
            found.append(Loop(inner, digit.axis, step))
        extent, stride = extent // inner, digit.weight * digit.size
    return found[::-1] if extent == 1 else None


def spread(
    access_dims: Sequence[Dim], offset: int, strides: Sequence[int], digits: Sequence[Digit], rank: int
) -> Access | None:
    """An access through a number (offset + sum of loops with ``strides`` by axis) as an access through its digits.

    Returns:
        None if some index carries from one digit to the next, so that there is no such access.
    """
    starts = [0] * rank
    for digit in digits:
        starts[digit.axis] = offset // digit.weight % digit.size
    dims = []
    for dim in access_dims:
        loops: list[Loop] = []
        # Over the number itself first: loops over two axes may be one there.
        number = [loop if loop.axis == NOWHERE else Loop(loop.extent, 0, loop.stride * strides[loop.axis]) for loop in dim]
        for loop in tidy(number):
            if loop.axis == NOWHERE:
                loops.append(loop)
                continue
            parts = split(loop.extent, loop.stride, digits)
            if parts is None:
                return None
            loops += parts
        dims.append(tidy(loops))
    last = list(starts)
    for loop in (loop for dim in dims for loop in dim if loop.axis != NOWHERE):
        last[loop.axis] += (loop.extent - 1) * loop.stride
    sizes = {digit.axis: digit.size for digit in digits}
    if any(last[k] >= sizes.get(k, 1) for k in range(rank)):
        return None
    return Access(tuple(starts), tuple(dims))


def through_reshape(access: Access, shape: Sequence[int], source: Sequence[int]) -> Access | None:
    """An access of a reshaped value as one of the value before; None if it is not affine there."""
    weights = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    offset = sum(s * w for s, w in zip(access.starts, weights, strict=True))
    return spread(access.dims, offset, weights, digits_of(source), len(source))


def renamed(access: Access, axes: Sequence[int], starts: Sequence[int]) -> Access:
    """The access with axis k called ``axes[k]``, of a value with these starts."""

    def rename(loop: Loop) -> Loop:
        axis = NOWHERE if loop.axis == NOWHERE else axes[loop.axis]
        return Loop(loop.extent, axis, 0 if axis == NOWHERE else loop.stride)

    return Access(tuple(starts), tuple(tidy([rename(loop) for loop in dim]) for dim in access.dims))


def through_broadcast(access: Access, shape: Sequence[int], source: Sequence[int]) -> Access:
    """An access of a broadcast value as one of the value before; loops along repeated axes run nowhere."""
    missing = len(shape) - len(source)
    axes = [k - missing if k >= missing and source[k - missing] == shape[k] else NOWHERE for k in range(len(shape))]
    starts = [s if axes[k + missing] != NOWHERE else 0 for k, s in enumerate(access.starts[missing:])]
    return renamed(access, axes, starts)


def indices(access: Access, shape: Sequence[int]) -> np.ndarray:
    """Row-major positions in the value of all elements of the demanded array, which has the access's shape."""
    weights = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    flat = np.full((), sum(s * w for s, w in zip(access.starts, weights, strict=True)), np.int64)
    for loop in access.loops:
        weight = 0 if loop.axis == NOWHERE else weights[loop.axis]
        flat = flat[..., None] + np.arange(loop.extent, dtype=np.int64) * (loop.stride * weight)
    return flat.reshape(access.shape)


def elements(array: np.ndarray, access: Access) -> np.ndarray:
    """The demanded array of a row-major value, of which it is a read-only view where that is possible."""
    return view(np.ascontiguousarray(array).reshape(array.shape), access, writeable=False).reshape(access.shape)


def view(array: np.ndarray, access: Access, *, writeable: bool) -> np.ndarray:
    """The elements of an access, an axis for each loop, as a view of a row-major array with at least one element."""
    weights = [math.prod(array.shape[k + 1 :]) for k in range(array.ndim)]
    offset = sum(s * w for s, w in zip(access.starts, weights, strict=True))
    steps = [0 if loop.axis == NOWHERE else loop.stride * weights[loop.axis] * array.itemsize for loop in access.loops]
    extents = [loop.extent for loop in access.loops]
    return np.lib.stride_tricks.as_strided(array.reshape(-1)[offset:], extents, steps, writeable=writeable)


def slice_of(access: Access, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Starts, limits and strides of the slice that has the elements of an access, if there is one."""
    starts, limits, strides = [], [], []
    for axis in range(len(shape)):
        loops = sorted((loop for loop in access.loops if loop.axis == axis), key=lambda loop: loop.stride)
        step = loops[0].stride if loops else 1
        count = 1
        for loop in loops:
            if loop.stride != step * count:
                return None
            count *= loop.extent
        starts.append(access.starts[axis])
        limits.append(access.starts[axis] + (count - 1) * step + 1)
        strides.append(step)
    return tuple(starts), tuple(limits), tuple(strides)


def covers(access: Access, shape: Sequence[int]) -> bool:
    """Whether every element of the value is in the demanded array, and once."""
    return slice_of(access, shape) == ((0,) * len(shape), tuple(shape), (1,) * len(shape))


def disjoint(accesses: Sequence[Access], rank: int) -> bool:
    """Whether it is certain that no two accesses of a value share an element: each pair lies apart along some axis."""
    ranges = []
    for access in accesses:
        last = list(access.starts)
        for loop in access.loops:
            last[loop.axis] += (loop.extent - 1) * loop.stride
        ranges.append(tuple(zip(access.starts, last, strict=True)))
    for axis in range(rank):
        ordered = sorted(r[axis] for r in ranges)
        if all(before[1] < after[0] for before, after in pairwise(ordered)):
            return True
    if len(ranges) > _MANY:
        return False
    return all(any(a[k][1] < b[k][0] or b[k][1] < a[k][0] for k in range(rank)) for a, b in combinations(ranges, 2))
