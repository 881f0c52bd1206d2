"""Conversions between number formats, bit operations and integer division."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, NARROW, NARROW_FLOATS, TensorType, from_carrier, to_carrier
from gensyn_tvm.interpreter import narrow, scalar
from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]


def cast(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Conversion to the dtype of the result."""
    return _converted(x, out.dtype, saturate=False)


def cast_saturating(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Conversion to a narrow float in which everything too large becomes the largest number."""
    return _converted(x, out.dtype, saturate=True)


def _converted(x: Array, target: str, *, saturate: bool) -> Array:
    if x.dtype.name == target:
        return x
    if x.dtype.name in NARROW:
        x = narrow.decode(x)
    if target not in NARROW:
        return x if x.dtype.name == target else scalar.convert(x, target)
    if target in NARROW_FLOATS:
        return narrow.encode(x if x.dtype.name in FLOATS else scalar.convert(x, "float32"), target, saturate=saturate)
    element, bits = ("uint8", NARROW[target]) if target.startswith("u") else ("int8", NARROW[target])
    whole = scalar.convert(x, element)
    if x.dtype.name in FLOATS:
        low, high = (0, 2**bits - 1) if element == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        whole = np.clip(whole, low, high).astype(element)
    return narrow.encode_integer(whole, target)


def bitcast(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """The same bits, those of a NaN the canonical ones."""
    patterns = np.ascontiguousarray(to_carrier(scalar.canonical_nan(x))).reshape(x.shape)
    return from_carrier(patterns.view(np.dtype(out.carrier)), out.dtype)


def divide(x: Array, y: Array) -> Array:
    """x / y of floats; of integers truncated toward zero, x / 0 with all bits set, the smallest number / -1 itself."""
    if scalar.is_float(x):
        return np.divide(x, y)
    quotient, _ = _divided(x, y)
    return quotient


def remainder(x: Array, y: Array) -> Array:
    """x - y * (x / y) with ``divide`` of integers: it has the sign of x, and is x if y is 0."""
    _, rest = _divided(x, y)
    return rest


def _divided(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = np.broadcast_arrays(x, y)
    zero = y == 0
    minus_one = (y == -1) if x.dtype.kind == "i" else np.zeros(x.shape, np.bool_)
    safe = np.where(zero | minus_one, x.dtype.type(1), y)
    rest = np.fmod(x, safe)
    quotient = (x - rest) // safe
    quotient = np.where(minus_one, np.subtract(x.dtype.type(0), x), quotient)
    all_bits = np.invert(x.dtype.type(0))
    return np.where(zero, all_bits, quotient).astype(x.dtype), np.where(zero, x, rest).astype(x.dtype)


def _count(x: Array, count: Array) -> tuple[Array, Array]:
    """The count read as unsigned: whether it is the width or more, and the count, 0 in that case."""
    width = 8 * x.dtype.itemsize
    unsigned = np.asarray(count).view(f"u{x.dtype.itemsize}")
    too_many = unsigned >= width
    return too_many, np.where(too_many, 0, unsigned).astype(f"u{x.dtype.itemsize}")


def shift_left(x: Array, count: Array) -> Array:
    """x * 2^count modulo 2^width; 0 for counts of the width or more."""
    too_many, safe = _count(x, count)
    shifted = np.left_shift(np.asarray(x).view(f"u{x.dtype.itemsize}"), safe)
    return np.where(too_many, shifted.dtype.type(0), shifted).view(x.dtype)


def shift_right(x: Array, count: Array) -> Array:
    """floor(x / 2^count); 0, or -1 for negative x, for counts of the width or more."""
    too_many, safe = _count(x, count)
    beyond = np.where(x < 0, np.invert(x.dtype.type(0)), x.dtype.type(0)) if x.dtype.kind == "i" else x.dtype.type(0)
    return np.where(too_many, beyond, np.right_shift(x, safe.astype(x.dtype))).astype(x.dtype)
