"""Indices of windows: where the positions of a padded input, a kernel and an output meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]
Position = tuple[int, ...]


def last_axes(*indices: Any) -> Any:
    """The index that takes ``indices`` along the last axes and everything along the others."""
    return (Ellipsis, *indices)


def pad_spatial(x: Array, padding: tuple[tuple[int, int], ...], value: float) -> Array:
    """x (N, C, spatial…) with ``value`` around its spatial axes."""
    shape = [extent + low + high for extent, (low, high) in zip(x.shape[2:], padding, strict=True)]
    result = np.full((*x.shape[:2], *shape), value, x.dtype)
    result[inner(padding, x.shape[2:])] = x
    return result


def inner(padding: tuple[tuple[int, int], ...], extents: tuple[int, ...]) -> Any:
    """Where elements of the given ``extents`` lie among the padding, along the last axes."""
    return last_axes(*(slice(low, low + extent) for (low, _), extent in zip(padding, extents, strict=True)))


def output_window(j: Position, spatial: tuple[int, ...], attrs: Attrs) -> Any:
    """Where the padded input meets kernel position ``j``, for every output position."""
    axes = zip(j, spatial, attrs["strides"], attrs["dilations"], strict=True)
    return last_axes(*(slice(k * d, k * d + (extent - 1) * s + 1, s) for k, extent, s, d in axes))


def kernel_window(q: Position, kernel: tuple[int, ...], attrs: Attrs) -> Any:
    """Where the padded input meets output position ``q``, for every kernel position."""
    axes = zip(q, kernel, attrs["strides"], attrs["dilations"], strict=True)
    return last_axes(*(slice(k * s, k * s + (extent - 1) * d + 1, d) for k, extent, s, d in axes))
