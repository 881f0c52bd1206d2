"""Operators that move bits, and sources: constants, indices, random bits."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter.scalar import Array
from gensyn_tvm.interpreter.windows import inner, last_axes

Attrs = Mapping[str, Any]

_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def reshape(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """The same elements in row-major order."""
    return x.reshape(out.shape)


def transpose(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Axis k of the result is axis perm[k] of x."""
    return x.transpose(attrs["perm"])


def broadcast_to(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """x repeated to the shape."""
    return np.broadcast_to(x, out.shape)


def concat(attrs: Attrs, out: TensorType, *parts: Array) -> Array:
    """The parts one after another along an axis."""
    return np.concatenate(parts, axis=attrs["axis"])


def slice_(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Elements start, start + stride, … below limit, on every axis."""
    bounds = zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True)
    return x[last_axes(*(slice(start, limit, stride) for start, limit, stride in bounds))]


def pad(attrs: Attrs, out: TensorType, x: Array, value: Array) -> Array:
    """x surrounded by a value."""
    result = np.empty(out.shape, x.dtype)
    result[...] = value
    result[inner(attrs["padding"], x.shape)] = x
    return result


def constant(attrs: Attrs, out: TensorType) -> Array:
    """The little-endian bytes given, in this machine's byte order."""
    data = np.frombuffer(base64.b64decode(attrs["data"], validate=True), out.numpy_dtype())
    return data.astype(np.dtype(out.dtype)).reshape(out.shape)


def iota(attrs: Attrs, out: TensorType) -> Array:
    """The index along an axis."""
    axis = attrs["axis"]
    index = np.arange(out.shape[axis], dtype=np.dtype(out.dtype))
    return np.broadcast_to(index.reshape(-1, *[1] * (out.rank - axis - 1)), out.shape)


def random_bits(attrs: Attrs, out: TensorType, seed: Array, step: Array) -> Array:
    """Word e mod 4 of the Philox block with counter (floor(e / 4) low, high, op_id, step low), key (seed low, high)."""
    count = math.prod(out.shape)
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    key = int(seed) % 2**64
    counter = (
        blocks & _MASK,
        blocks >> np.uint64(32),
        np.full_like(blocks, attrs["op_id"]),
        np.full_like(blocks, int(step) % 2**32),
    )
    words = philox(counter, (key % 2**32, key // 2**32))
    return np.stack(words, axis=-1).reshape(-1)[:count].astype(np.uint32).reshape(out.shape)


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 of counters (uint64 arrays of 32-bit words) under one key; the result likewise."""
    c0, c1, c2, c3 = counter
    for r in range(_ROUNDS):
        k0, k1 = (np.uint64((k + r * step) % 2**32) for k, step in zip(key, _KEY_INCREMENTS, strict=True))
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & _MASK, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & _MASK
    return c0, c1, c2, c3
