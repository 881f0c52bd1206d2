"""Correctly rounded elementary functions of float32 in NumPy.

A float32 result is decided by the binary64 value of NumPy (``math.erf`` for erf), unless that value lies so close to the
middle between two floats that the library's error could matter; then mpmath decides with ``_PRECISION`` bits. The result
depends on no library's last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import MPContext

Array = np.ndarray

#: Relative error that no binary64 library exceeds: 256 units in the last place.
_MARGIN = 2.0**-44
_PRECISION = 300
_CANONICAL_NAN = np.uint32(0x7FC00000)

_MP: Any = MPContext()
_MP.prec = _PRECISION


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _sigmoid_mp(x: Any) -> Any:
    return 1 / (1 + _MP.exp(-x))


def _rsqrt(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


def _rsqrt_mp(x: Any) -> Any:
    return 1 / _MP.sqrt(x)


def _cbrt_mp(x: Any) -> Any:
    return -_MP.cbrt(-x) if x < 0 else _MP.cbrt(x)


def _exp2_mp(x: Any) -> Any:
    return _MP.power(2, x)


def _log2_mp(x: Any) -> Any:
    return _MP.log(x, 2)


_erf_of_each = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    """erf of binary64 ``x`` (any shape); ``math.erf`` is called only where it is neither linear nor 1 (or -1)."""
    magnitude = np.abs(x)
    # |x| < 2^-28: the next term of the series, x^2 / 3, is below the last bit. |x| >= 6: 1 - erf(x) < 2^-54.
    result = np.where(magnitude < 2.0**-28, x * (2.0 / math.sqrt(math.pi)), np.where(magnitude >= 6.0, np.sign(x), x))
    between = (magnitude >= 2.0**-28) & (magnitude < 6.0)
    result[between] = _erf_of_each(x[between]).astype(np.float64)
    return result


_erfc_of_each = np.frompyfunc(math.erfc, 1, 1)


def _erfc(x: Array) -> Array:
    """erfc of binary64 ``x`` (any shape); beyond [-6, 27] it is 2 or 0 to the last bit."""
    result = np.where(x < 0, 2.0, np.where(x > 0, 0.0, x))
    between = np.abs(x - 10.5) <= 16.5
    result[between] = _erfc_of_each(x[between]).astype(np.float64)
    return result


def _nearest(name: str, x: np.float32, below: np.float32, above: np.float32) -> np.float32:
    """Which of two neighbouring floats is nearer to the exact value at ``x``; the lower one of 0 and 2^-149 at a tie."""
    low, high = (float(v) if np.isfinite(v) else math.copysign(2.0**128, v) for v in (below, above))
    middle = (low + high) / 2.0  # exact in binary64
    return above if _MP_FUNCTIONS[name](_MP.mpf(float(x))) > middle else below


def _evaluate(name: str, x: Array) -> Array:
    """The function called ``name`` of a float32 array of rank 1."""
    with np.errstate(all="ignore"):
        wide = _BINARY64[name](x.astype(np.float64))
        first = (wide * (1.0 - _MARGIN)).astype(np.float32)
        second = (wide * (1.0 + _MARGIN)).astype(np.float32)
        unsure = np.flatnonzero((first != second) & ~np.isnan(wide))
    result = first
    if unsure.size:
        inputs, first_index, inverse = np.unique(x[unsure], return_index=True, return_inverse=True)
        decided = np.empty(inputs.shape, np.float32)
        for position, index in enumerate(unsure[first_index]):
            below, above = sorted((first[index], second[index]))
            decided[position] = _nearest(name, x[index], below, above)
        result[unsure] = decided[inverse.reshape(-1)]
    bits = result.view(np.uint32)
    bits[np.isnan(wide)] = _CANONICAL_NAN
    return result


def _function(name: str) -> Callable[[Array], Array]:
    def function(x: Array) -> Array:
        x = np.asarray(x)
        if x.dtype != np.float32:
            raise TypeError(f"{name} takes float32, not {x.dtype}")
        return _evaluate(name, x.reshape(-1)).reshape(x.shape)

    function.__name__ = name
    function.__doc__ = f"{name} of each float32 of ``x`` (any shape), correctly rounded; NaNs are canonical."
    return function


_BINARY64: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "exp2": np.exp2,
    "log2": np.log2,
    "log10": np.log10,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "erfc": _erfc,
    "rsqrt": _rsqrt,
    "cbrt": np.cbrt,
    "atanh": np.arctanh,
}
_MP_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": _MP.exp,
    "expm1": _MP.expm1,
    "log": _MP.log,
    "log1p": _MP.log1p,
    "tanh": _MP.tanh,
    "sigmoid": _sigmoid_mp,
    "erf": _MP.erf,
    "exp2": _exp2_mp,
    "log2": _log2_mp,
    "log10": _MP.log10,
    "atan": _MP.atan,
    "sinh": _MP.sinh,
    "cosh": _MP.cosh,
    "sin": _MP.sin,
    "cos": _MP.cos,
    "tan": _MP.tan,
    "asin": _MP.asin,
    "acos": _MP.acos,
    "asinh": _MP.asinh,
    "acosh": _MP.acosh,
    "erfc": _MP.erfc,
    "rsqrt": _rsqrt_mp,
    "cbrt": _cbrt_mp,
    "atanh": _MP.atanh,
}

#: float32 arrays of any shape to float32 arrays of the same shape.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {name: _function(name) for name in _BINARY64}
