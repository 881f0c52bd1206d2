"""Operators that index with data, and orders: gathering, scattering, sorting, cumulative sums, suppression of boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter import scalar
from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]

# ---- gathering ------------------------------------------------------------------------------------------------------


def _inside(indices: Array, extent: int) -> Array:
    """Negative indices count from the end, once; then the nearest position of the axis."""
    wide = indices.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + extent, wide), 0, extent - 1)


def take(attrs: Attrs, out: TensorType, x: Array, indices: Array) -> Array:
    """x[…, indices, …]"""
    axis = attrs["axis"]
    return x[(slice(None),) * axis + (_inside(indices, x.shape[axis]),)]


def gather_elements(attrs: Attrs, out: TensorType, x: Array, indices: Array) -> Array:
    """x at the place of each index, but for the axis."""
    axis = attrs["axis"]
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _inside(indices, x.shape[axis])
    return x[tuple(places)]


def gather_nd(attrs: Attrs, out: TensorType, x: Array, indices: Array) -> Array:
    """x[batch…, tuple…]"""
    batch = attrs["batch_dims"]
    outer = indices.shape[:-1]
    places: list[Array] = list(np.indices(outer, sparse=True)[:batch])
    places += [_inside(indices[..., c], x.shape[batch + c]) for c in range(indices.shape[-1])]
    if places:
        return np.broadcast_to(x[tuple(places)], out.shape)
    return np.broadcast_to(x, out.shape)


def reverse(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Back to front along axes."""
    return np.flip(x, attrs["axes"])


# ---- scattering -----------------------------------------------------------------------------------------------------


def _combined(reduction: str, old: Array, new: Array) -> Array:
    if reduction == "none":
        return new
    if reduction == "add":
        return np.add(old, new)
    if reduction == "mul":
        return np.multiply(old, new)
    return scalar.maximum(old, new) if reduction == "max" else scalar.minimum(old, new)


def scatter_elements(attrs: Attrs, out: TensorType, x: Array, indices: Array, updates: Array) -> Array:
    """For each position along the axis, ascending, the updates of all other positions at once: they never meet."""
    axis, result = attrs["axis"], x.copy()
    extent = x.shape[axis]
    for j in range(indices.shape[axis]):
        here = (slice(None),) * axis + (slice(j, j + 1),)
        index = indices[here].astype(np.int64)
        index = np.where(index < 0, index + extent, index)
        valid = np.nonzero((index >= 0) & (index < extent))
        place = list(valid)
        place[axis] = index[valid]
        new = updates[here][valid]
        result[tuple(place)] = _combined(attrs["reduction"], result[tuple(place)], new)
    return result


def scatter_nd(attrs: Attrs, out: TensorType, x: Array, indices: Array, updates: Array) -> Array:
    """One index tuple after the other."""
    result = x.copy()
    for outer in np.ndindex(indices.shape[:-1]):
        place = [int(i) + n if i < 0 else int(i) for i, n in zip(indices[outer], x.shape, strict=False)]
        if all(0 <= p < n for p, n in zip(place, x.shape, strict=False)):
            key = (*place, ...)
            new = updates[tuple([*outer, ...])]
            result[key] = _combined(attrs["reduction"], result[key], new)
    return result


OPERATORS: dict[str, Callable[..., Array]] = {
    "take": take,
    "gather_elements": gather_elements,
    "gather_nd": gather_nd,
    "reverse": reverse,
    "scatter_elements": scatter_elements,
    "scatter_nd": scatter_nd,
}
