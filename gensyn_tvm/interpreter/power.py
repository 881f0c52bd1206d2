"""x^y as docs/numerics-float64.md and docs/numerics.md define it."""

from __future__ import annotations

import numpy as np

from gensyn_tvm.interpreter import float64
from gensyn_tvm.interpreter.scalar import Array


def _magnitude(a: Array, y: Array) -> Array:
    """a^y for a >= 0."""
    exponent = np.clip(y, -(2.0**70), 2.0**70)
    f, k = float64.decompose(a)
    high, low = float64.log(f, np.zeros_like(f), k)
    product, error = float64.two_product(exponent, high)
    error = float64.fma(exponent, low, error)
    inside = np.abs(product) <= 800.0
    clamped = np.where(inside, product, np.where(product < 0.0, -800.0, 800.0))
    result = float64.exp(clamped, np.where(inside, error, 0.0))
    return np.where((a == 0.0) | (a == np.inf), np.where((a > 1.0) == (y > 0.0), np.inf, 0.0), result)


def _power64(x: Array, y: Array) -> Array:
    integer = np.floor(y) == y
    odd = np.abs(np.fmod(y, 2.0)) == 1.0
    magnitude = _magnitude(np.abs(x), y)
    result = np.where(odd & np.signbit(x), -magnitude, magnitude)
    result = np.where((x < 0.0) & (x > -np.inf) & ~integer, np.nan, result)
    result = np.where(np.isnan(x) | np.isnan(y), np.nan, result)
    return np.where((y == 0.0) | (x == 1.0), 1.0, result)


def _integer_power(x: Array, y: Array) -> Array:
    x, y = np.broadcast_arrays(x, y)
    result, factor = np.ones_like(x), x
    for bit in range(np.iinfo(x.dtype).bits - 1):
        result = np.where((y >> bit) & 1 == 1, result * factor, result)
        factor = factor * factor
    inverse = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))
    return np.where(y < 0, inverse, result).astype(x.dtype)


def power(x: Array, y: Array) -> Array:
    """x^y of arrays of one dtype (float32, float64, int32, int64) that broadcast."""
    with np.errstate(all="ignore"):
        if x.dtype.kind == "i":
            return _integer_power(x, y)
        wide = _power64(*np.broadcast_arrays(x.astype(np.float64), y.astype(np.float64)))
        return np.asarray(wide).astype(x.dtype)
