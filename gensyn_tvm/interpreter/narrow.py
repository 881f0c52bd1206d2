"""Narrow dtypes in NumPy: every number that a format has, by its definition, and the nearest of them to a given number.

Arrays of narrow dtypes have the NumPy dtype of that name (from ``ml_dtypes``), which serves as a label for bit patterns; its
arithmetic and conversions are not used.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from gensyn_tvm.canonical.types import NARROW, NARROW_FLOATS, from_carrier, to_carrier

Array = np.ndarray

#: Bits of the exponent and the fraction, and the bias, of the floats with a sign.
_LAYOUT = {
    "float16": (5, 10, 15),
    "bfloat16": (8, 7, 127),
    "float8_e5m2": (5, 2, 15),
    "float8_e4m3fn": (4, 3, 7),
    "float8_e5m2fnuz": (5, 2, 16),
    "float8_e4m3fnuz": (4, 3, 8),
    "float4_e2m1fn": (2, 1, 1),
}
_NAN = {
    "float16": 0x7E00,
    "bfloat16": 0x7FC0,
    "float8_e5m2": 0x7E,
    "float8_e4m3fn": 0x7F,
    "float8_e5m2fnuz": 0x80,
    "float8_e4m3fnuz": 0x80,
    "float8_e8m0fnu": 0xFF,
}


def _number(code: int, dtype: str) -> float:
    """What a bit pattern means."""
    if dtype == "float8_e8m0fnu":
        return math.nan if code == 255 else 2.0 ** (code - 127)
    exponent_bits, fraction_bits, bias = _LAYOUT[dtype]
    sign = -1.0 if code >> (exponent_bits + fraction_bits) else 1.0
    exponent = (code >> fraction_bits) & (2**exponent_bits - 1)
    fraction = code & (2**fraction_bits - 1)
    if dtype.endswith("fnuz") and code == 0x80:
        return math.nan
    if dtype in ("float16", "bfloat16", "float8_e5m2") and exponent == 2**exponent_bits - 1:
        return math.nan if fraction else sign * math.inf
    if dtype == "float8_e4m3fn" and code & 0x7F == 0x7F:
        return math.nan
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - fraction_bits)
    return sign * (1 + fraction / 2**fraction_bits) * 2.0 ** (exponent - bias)


@cache
def _table(dtype: str) -> Array:
    """float64 values of all bit patterns."""
    return np.array([_number(code, dtype) for code in range(2 ** NARROW[dtype])])


@cache
def _finite(dtype: str) -> Array:
    """The finite numbers from +0 up; their patterns are their indices (for float8_e8m0fnu too)."""
    table = _table(dtype)
    return table[: int(np.argmin(np.isfinite(table) & ~np.signbit(table))) or len(table)]


def is_nan(x: Array) -> Array:
    """Whether the elements of a narrow float array are NaN."""
    return np.isnan(_table(x.dtype.name)[to_carrier(x)])


def canonical_nan(x: Array) -> Array:
    """x with every NaN replaced by the one pattern that docs/numerics.md gives."""
    if x.dtype.name not in _NAN:
        return x
    patterns = to_carrier(x)
    return from_carrier(np.where(is_nan(x), patterns.dtype.type(_NAN[x.dtype.name]), patterns), x.dtype.name)


def decode(x: Array) -> Array:
    """float32 (floats), int8 or uint8 (integers) with the values of a narrow array."""
    dtype, patterns = x.dtype.name, to_carrier(x)
    if dtype in NARROW_FLOATS:
        return np.asarray(_table(dtype)[patterns]).astype(np.float32)
    if dtype.startswith("u"):
        return patterns
    half = 2 ** (NARROW[dtype] - 1)
    return np.where(patterns >= half, patterns.astype(np.int16) - 2 * half, patterns).astype(np.int8)


def encode(x: Array, dtype: str, *, saturate: bool = False) -> Array:
    """The nearest number of a narrow float format to each float64 (one rounding, ties to the even pattern)."""
    x = np.asarray(x, np.float64)
    finite = _finite(dtype)
    magnitude = np.abs(x)
    # The pattern after the largest finite one stands for what would be the next number; halfway to it rounds to even.
    following = 2.0**128 if dtype == "float8_e8m0fnu" else 2 * finite[-1] - finite[-2]
    numbers = np.append(finite, following)
    above = np.clip(np.searchsorted(numbers, magnitude, side="left"), 1, len(numbers) - 1)
    low, high = numbers[above - 1], numbers[above]
    with np.errstate(invalid="ignore"):
        even = (above % 2 == 0) | np.bool_(dtype == "float8_e8m0fnu")  # whose ties go up
        up = (magnitude - low > high - magnitude) | ((magnitude - low == high - magnitude) & even)
    code = np.where(up, above, above - 1)
    code = np.where(magnitude >= following, len(numbers) - 1, code)
    code = np.where(magnitude <= finite[0], 0, code)
    beyond = code == len(numbers) - 1
    return from_carrier(_signed(x, code, beyond, dtype, saturate=saturate), dtype)


def _signed(x: Array, code: Array, beyond: Array, dtype: str, *, saturate: bool) -> Array:
    """Patterns with what lies beyond the largest number, the signs and the NaNs put in."""
    largest = len(_finite(dtype)) - 1
    if dtype == "float8_e8m0fnu":
        code = np.where(beyond, largest if saturate else 255, code)
        number = (x > 0) | ((x == 0) & ~np.signbit(x) & np.bool_(saturate))
        return np.where(number, code, 255).astype(np.uint8)
    sign = 1 << (NARROW[dtype] - 1)
    infinite = dtype in ("float16", "bfloat16", "float8_e5m2")
    if saturate or dtype == "float4_e2m1fn":
        code = np.where(beyond, largest, code)
    signed = np.where(np.signbit(x), code | sign, code)
    if dtype.endswith("fnuz"):
        signed = np.where(code == 0, 0, signed)
    if not infinite and dtype in _NAN and not saturate:
        nan = np.where(np.signbit(x) & ~np.bool_(dtype.endswith("fnuz")), _NAN[dtype] | sign, _NAN[dtype])
        signed = np.where(beyond, nan, signed)
    signed = np.where(np.isnan(x), _NAN.get(dtype, 0), signed)
    return signed.astype(np.uint16 if NARROW[dtype] == 16 else np.uint8)


def encode_integer(x: Array, dtype: str) -> Array:
    """The lowest bits of int8 or uint8."""
    return from_carrier(x.view(np.uint8) & np.uint8(2 ** NARROW[dtype] - 1), dtype)
