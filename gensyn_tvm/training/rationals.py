"""Real numbers as fractions: cosines and powers to 256 bits, one rounding to float32. The machine's libm has no part in it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from mpmath import MPContext
from mpmath.libmp import to_rational

from gensyn_tvm.errors import InputError

#: Bits of a cosine or power, and bits while it is computed: enough that the result is the nearest of 256 bits.
PRECISION = 256
_WORKING = 448
_CONTEXT = MPContext()

#: Powers up to this one are exact.
_LARGEST_EXACT = 16

_FRACTION_BITS, _LEAST_EXPONENT = 23, -126
_LARGEST = Fraction(float(np.finfo(np.float32).max))


def cos_pi(x: Fraction) -> Fraction:
    """cos(pi * x), to 256 bits."""
    with _CONTEXT.workprec(_WORKING):
        value = _CONTEXT.cospi(_CONTEXT.mpf(x.numerator) / x.denominator)
    return _rounded(value)


def power(x: Fraction, exponent: Fraction) -> Fraction:
    """x^exponent for x >= 0: exact for whole exponents from 0 to 16, otherwise to 256 bits; 0^0 is 1."""
    if exponent.denominator == 1 and 0 <= exponent <= _LARGEST_EXACT:
        return x**exponent.numerator
    with _CONTEXT.workprec(_WORKING):
        base = _CONTEXT.mpf(x.numerator) / x.denominator
        value = _CONTEXT.power(base, _CONTEXT.mpf(exponent.numerator) / exponent.denominator)
    return _rounded(value)


def _rounded(value: Any) -> Fraction:
    with _CONTEXT.workprec(PRECISION):
        numerator, denominator = to_rational((+value)._mpf_)
    return Fraction(int(numerator), int(denominator))


def float32(x: Fraction) -> np.float32:
    """The nearest float32, ties to even, subnormal where it has to be; a zero is +0.

    Raises:
        InputError: beyond the largest float32.
    """
    if abs(x) > _LARGEST:
        raise InputError(f"{float(x):.6g} is beyond the largest float32")
    exponent = abs(x).numerator.bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    unit = max(exponent, _LEAST_EXPONENT) - _FRACTION_BITS
    return np.float32(math.ldexp(round(x / Fraction(2) ** unit), unit))
