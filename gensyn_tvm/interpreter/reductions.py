"""sum, prod, reduce_max, reduce_min, argmax and argmin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter import scalar
from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]

LANES = 32
BLOCK = 1024


def reduce_sum(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Floats: 32 lanes from -0.0 in blocks of 1,024. Integers wrap, in any order."""
    if not scalar.is_float(x):
        return np.add.reduce(x, axis=attrs["axes"], dtype=x.dtype).reshape(out.shape)
    return lane_sum(reduced_first(x, attrs["axes"])).reshape(out.shape)


def reduce_prod(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Like ``reduce_sum`` with multiplication and 1."""
    if not scalar.is_float(x):
        return np.multiply.reduce(x, axis=attrs["axes"], dtype=x.dtype).reshape(out.shape)
    elements = reduced_first(x, attrs["axes"])
    return _in_lanes(elements, np.multiply, 1.0, 1.0).reshape(out.shape)


def lane_sum(elements: Array) -> Array:
    """``sum`` of docs/numerics.md over axis 0 of float ``elements`` (R, …); the other axes are independent."""
    return _in_lanes(elements, np.add, -0.0, 0.0)


def reduced_first(x: Array, axes: tuple[int, ...]) -> Array:
    """x as (R, rest): the reduced elements in row-major order along axis 0, the others in row-major order."""
    kept = tuple(k for k in range(x.ndim) if k not in axes)
    count = math.prod(x.shape[k] for k in axes)
    return x.transpose(*axes, *kept).reshape(count, math.prod(x.shape[k] for k in kept))


def _in_lanes(elements: Array, operation: np.ufunc, identity: float, empty: float) -> Array:
    """Reduce axis 0 in blocks; the block results once more as one block."""
    count = elements.shape[0]
    if count == 0:
        return np.full(elements.shape[1:], empty, elements.dtype)
    if count <= BLOCK:
        return _one_block(elements[np.newaxis], operation, identity)[0]
    blocks = _in_rows(elements[np.newaxis], BLOCK, identity)[0]
    partial = _one_block(blocks, operation, identity)
    return _one_block(partial[np.newaxis], operation, identity)[0]


def _one_block(blocks: Array, operation: np.ufunc, identity: float) -> Array:
    """(B, R, …) to (B, …): lane r mod 32 in ascending order, then the halving tree, in each of the B blocks."""
    rounds = _in_rows(blocks, LANES, identity)
    lanes = np.full(rounds[:, 0].shape, identity, blocks.dtype)
    for k in range(rounds.shape[1]):
        lanes = operation(lanes, rounds[:, k])
    width = LANES // 2
    while width >= 1:
        lanes = operation(lanes[:, :width], lanes[:, width : 2 * width])
        width //= 2
    return lanes[:, 0]


def _in_rows(elements: Array, length: int, identity: float) -> Array:
    """(B, R, …) to (B, ceil(R / length), length, …), filled up with the identity, which changes no bits."""
    batch, count, *rest = elements.shape
    rows = -(-count // length)
    missing = np.full((batch, rows * length - count, *rest), identity, elements.dtype)
    return np.concatenate([elements, missing], axis=1).reshape(batch, rows, length, *rest)


def reduce_max(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """``maximum`` over the elements."""
    return _extreme(reduced_first(x, attrs["axes"]), scalar.maximum).reshape(out.shape)


def reduce_min(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """``minimum`` over the elements."""
    return _extreme(reduced_first(x, attrs["axes"]), scalar.minimum).reshape(out.shape)


def _extreme(elements: Array, operation: Callable[[Array, Array], Array]) -> Array:
    """Reduce axis 0, which is not empty, by halves: the order does not matter."""
    while len(elements) > 1:
        half = len(elements) // 2
        pairs = operation(elements[:half], elements[half : 2 * half])
        elements = np.concatenate([pairs, elements[2 * half :]])
    return elements[0]


def argmax(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Index of the first NaN, else of the first of the largest."""
    return first_extreme(reduced_first(x, attrs["axes"]), scalar.maximum).reshape(out.shape)


def argmin(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Index of the first NaN, else of the first of the smallest."""
    return first_extreme(reduced_first(x, attrs["axes"]), scalar.minimum).reshape(out.shape)


def first_extreme(elements: Array, operation: Callable[[Array, Array], Array], eligible: Array | None = None) -> Array:
    """Along axis 0, int64: the first eligible NaN, else the first eligible element that equals the extreme.

    Elements that are not ``eligible`` (bool, of the same shape) must not change the extreme.
    """
    extreme = _extreme(elements, operation)
    # The extreme is NaN exactly where there is one, and equals nothing: +0 and -0 are equal here.
    hit = (elements == extreme) | (elements != elements)
    if np.any(extreme != extreme):
        hit &= (elements != elements) | (extreme == extreme)
    if eligible is not None:
        hit &= eligible
    return np.argmax(hit, axis=0).astype(np.int64)
