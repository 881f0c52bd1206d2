"""TFLite's fixed-point arithmetic of 32 bits, in int64 and without overflow: ``high`` and ``divide`` round as gemmlowp does.

Everything here takes arrays of int64, for tables that are made at import, or ``Wide`` expressions of the program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, number

LOWEST, LARGEST = -(2**31), 2**31 - 1


@dataclass(frozen=True, eq=False)
class Wide:
    """An int64 expression with the arithmetic of an array."""

    e: Emitter
    expr: Expr

    def _pair(self, other: Any) -> tuple[Expr, Expr]:
        if isinstance(other, Wide):
            return self.expr, other.expr
        return self.expr, number(other, "int64") if isinstance(other, int) else constant(np.asarray(other, np.int64))

    def _bits(self, name: str, other: Any) -> Wide:
        return Wide(self.e, self.e.canonical(name, *self._pair(other)))

    def __add__(self, other: Any) -> Wide:
        return Wide(self.e, self.e.add(*self._pair(other)))

    def __sub__(self, other: Any) -> Wide:
        return Wide(self.e, self.e.sub(*self._pair(other)))

    def __mul__(self, other: Any) -> Wide:
        return Wide(self.e, self.e.mul(*self._pair(other)))

    def __rsub__(self, other: int) -> Wide:
        return self * -1 + other

    __radd__, __rmul__ = __add__, __mul__

    def __and__(self, other: Any) -> Wide:
        return self._bits("bit_and", other)

    def __rshift__(self, other: Any) -> Wide:
        return self._bits("shift_right", other)

    def __lshift__(self, other: Any) -> Wide:
        return self._bits("shift_left", other)

    def __rlshift__(self, other: int) -> Wide:
        return Wide(self.e, self.e.canonical("shift_left", number(other, "int64"), self.expr))

    def clip(self, low: int, high: int) -> Wide:
        """Limited to [low, high]."""
        return Wide(self.e, self.e.clip(self.expr, low, high))


def high(a: Any, b: Any) -> Any:
    """a * b / 2^31, rounded to nearest, halves up."""
    return (a * b + 2**30) >> 31


def divide(x: Any, count: Any) -> Any:
    """x / 2^count, rounded to nearest, halves away from 0."""
    if isinstance(count, Wide):  # which is not 0
        return (x + (1 << (count - 1)) + (x >> 63)) >> count
    counts = np.asarray(count, np.int64)
    if not counts.any():
        return x
    away = (x >> 63) if counts.all() else (x >> 63) * (counts > 0).astype(np.int64)
    return (x + ((1 << counts) >> 1) + away) >> counts


def saturating_left(x: Any, count: int) -> Any:
    """x * 2^count, limited to 32 bits."""
    return (x << count).clip(LOWEST, LARGEST)


def half_away(value: Any) -> Any:
    """A float rounded to an integer, halves away from 0."""
    wide = np.asarray(value, np.float64)
    return np.trunc(wide + np.copysign(0.5, wide))


def multiplier(value: float) -> tuple[int, int]:
    """(m, shift) with value = m / 2^31 * 2^shift and m in [2^30, 2^31); (0, 0) for what is below 2^-32."""
    if value == 0:
        return 0, 0
    fraction, shift = math.frexp(value)
    m = int(half_away(fraction * 2**31))
    if m == 2**31:
        m, shift = m // 2, shift + 1
    return (0, 0) if shift < -31 else (m, shift)


@dataclass(frozen=True)
class Multiplier:
    """What integers are multiplied by: one number, or one for each index of the last axis.

    Attributes:
        factors: int64, below 2^31.
        shifts: int64.
    """

    factors: np.ndarray
    shifts: np.ndarray

    @staticmethod
    def of(values: Any) -> Multiplier:
        """The nearest multipliers to real numbers (doubles)."""
        pairs = [multiplier(float(v)) for v in np.asarray(values, np.float64).reshape(-1)]
        factors, shifts = (np.array(part, np.int64) for part in zip(*pairs, strict=True))
        return Multiplier(factors, shifts) if len(pairs) > 1 else Multiplier(factors[0], shifts[0])

    def apply(self, x: Any) -> Any:
        """x times the numbers, rounded twice as TFLite does."""
        left, right = np.maximum(self.shifts, 0), np.maximum(-self.shifts, 0)
        if np.any(left):
            x = (((x << left) + 2**31) & (2**32 - 1)) - 2**31  # wraps at 32 bits
        return divide(high(x, self.factors), right)


# ---- functions ------------------------------------------------------------------------------------------------------

#: exp(-2^k) for k = -2, -1, …, 4 as fractions of 2^31.
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exponential(a: np.ndarray) -> np.ndarray:
    """exp of numbers that are not positive, in units of 2^-26; the result in units of 2^-31."""
    quarter = 1 << 24
    rest = (a & (quarter - 1)) - quarter
    x = (rest << 5) + (1 << 28)  # around -1/8
    x2 = high(x, x)
    x3, x4 = high(x2, x), high(x2, x2)
    tail = divide(high(divide(x4, 2) + x3, 715827883) + x2, 1)
    y = 1895147668 + high(x + tail, 1895147668)
    whole = rest - a
    for k, factor in enumerate(_EXPONENTIALS):
        y = np.where(whole >> (24 + k) & 1, high(y, factor), y)
    return np.where(a == 0, LARGEST, y)


def reciprocal(a: Any) -> Any:
    """1 / (1 + a) for a in [0, 1), both in units of 2^-31: three steps of Newton's method."""
    half = (a + 2**31) >> 1
    x = high(half, -1010580540) + 1515870810  # 48/17 - 32/17 * half, in units of 2^-29
    for _ in range(3):
        x = x + saturating_left(high(x, 2**29 - high(half, x)), 2)
    return saturating_left(x, 1)


def inverse_root(value: int) -> tuple[int, int]:
    """(m, shift) of 1 / sqrt(value) for a positive integer."""
    if value == 1:
        return LARGEST, 0
    shift = 11
    pairs = (31 - value.bit_length()) // 2 - 1
    shift -= pairs
    value <<= 2 * pairs
    a = value >> 1  # in units of 2^-28, as x
    half = int(divide(np.int64(a), 1))
    x = 1 << 28
    for _ in range(5):
        cube = int(saturating_left(np.int64(high(high(x, x), x)), 6))
        x = int(saturating_left(np.int64(high((1 << 28) + (1 << 27), x) - high(half, cube)), 3))
    m = high(x, 1518500250)
    return (m << -shift, 0) if shift < 0 else (m, -shift)
