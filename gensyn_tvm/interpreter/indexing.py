"""Operators that index with data, and orders: gathering, scattering, sorting, cumulative sums, suppression of boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
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


OPERATORS: dict[str, Callable[..., Array]] = {
    "take": take,
    "gather_elements": gather_elements,
    "gather_nd": gather_nd,
    "reverse": reverse,
}
