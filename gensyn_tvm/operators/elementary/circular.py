"""Circular functions and their inverses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import (
    F64,
    ROUNDER,
    finish,
    flip_sign,
    multiply_add,
    polynomial,
    widen,
    with_sign_of,
)
from gensyn_tvm.operators.elementary.coefficients import (
    ASIN_SERIES,
    ATAN_SERIES,
    INVERSE_PI,
    SIN_PI_SERIES,
    TAN_COS_SERIES,
    TAN_SIN_SERIES,
)
from gensyn_tvm.targets.body import Body

Expr = Any

_HALF_PI = float.fromhex("0x1.921fb54442d18p+0")
#: pi / 2 - _HALF_PI.
_HALF_PI_LOW = float.fromhex("0x1.1a62633145c07p-54")
_PI_LOW = 2.0 * _HALF_PI_LOW
#: tan(pi / 8) and tan(3 pi / 8), roughly: where atan changes its reduction.
_TAN_LOW, _TAN_HIGH = 0.4140625, 2.4140625
#: Exponents: where the second row of INVERSE_PI begins, and how far each reaches.
_REDUCTION_START, _REDUCTION_STEP = 44, 19


def _reduce_by_pi(body: Body, a: Expr) -> tuple[Expr, Expr]:
    """(p, q) with p + q = a / pi up to a multiple of 2 and 2^-64, |q| < 2^-8, for a binary64 variable a >= 0 of 24 bits.

    The larger a is, the fewer of the leading bits of 1 / pi matter; those that do are selected. a times the first two parts
    is exact. Infinity and NaN give NaN.
    """
    parts: list[Expr] = [body.const(part, F64) for part in _inverse_pi(body, 0)]
    for step in range(1, len(INVERSE_PI)):
        small = exact.lt(a, body.const(2.0 ** (_REDUCTION_START + _REDUCTION_STEP * (step - 1)), F64))
        new = (body.const(part, F64) for part in _inverse_pi(body, step))
        parts = [exact.select(small, old, part) for old, part in zip(parts, new, strict=True)]
    parts = [body.let(part) for part in parts]
    if body.has_fma:
        p = body.let(exact.mul(a, parts[0]))
        error = exact.fma(a, parts[0], exact.neg(p))
    else:
        first, second = body.let(exact.mul(a, parts[0])), body.let(exact.mul(a, parts[1]))
        p = body.let(exact.add(first, second))
        error = exact.sub(second, exact.sub(p, first))
    return p, body.let(multiply_add(body, a, parts[-1], error))


def _inverse_pi(body: Body, step: int) -> tuple[float, ...]:
    """The parts of 1 / pi: with fma the product with 53 bits at once has an exact error."""
    high, middle, low = INVERSE_PI[step]
    return (high + middle, low) if body.has_fma else (high, middle, low)


def _parity_flip(body: Body, rounded: Expr, x: Expr) -> Expr:
    """The binary64 x with its sign flipped if the lowest bit of ``rounded`` is 1."""
    sign = tirx.shift_left(body.reinterpret("uint64", rounded), body.int_const(63, "uint64"))
    return body.reinterpret(F64, tirx.bitwise_xor(body.reinterpret("uint64", x), sign))


def _sin_pi(body: Body, r: Expr) -> Expr:
    """sin(pi r) for a binary64 variable |r| <= 1/2 + 2^-8."""
    z = body.let(exact.mul(r, r))
    correction = multiply_add(body, z, polynomial(body, z, SIN_PI_SERIES), body.const(_PI_LOW, F64))
    return multiply_add(body, r, body.const(2.0 * _HALF_PI, F64), exact.mul(r, correction))


def sin(body: Body, x: Expr) -> Expr:
    """Sine: with |x| / pi = k + r, |r| <= 1/2, it is (-1)^k sin(pi r)."""
    magnitude = body.let(exact.absolute(x))
    rounder = body.const(ROUNDER, F64)
    p, q = _reduce_by_pi(body, widen(body, magnitude))
    rounded = body.let(exact.add(p, rounder))
    r = body.let(exact.add(exact.sub(p, exact.sub(rounded, rounder)), q))
    result = finish(body, "sin", magnitude, _parity_flip(body, rounded, _sin_pi(body, r)))
    return flip_sign(body, x, result)


def cos(body: Body, x: Expr) -> Expr:
    """Cosine: with |x| / pi = k + 1/2 + r, |r| <= 1/2, it is -(-1)^k sin(pi r)."""
    magnitude = body.let(exact.absolute(x))
    rounder, half = body.const(ROUNDER, F64), body.const(0.5, F64)
    p, q = _reduce_by_pi(body, widen(body, magnitude))
    rounded = body.let(exact.add(exact.sub(p, half), rounder))
    middle = exact.add(exact.sub(rounded, rounder), half)
    r = body.let(exact.neg(exact.add(exact.sub(p, middle), q)))
    return finish(body, "cos", magnitude, _parity_flip(body, rounded, _sin_pi(body, r)))


def tan(body: Body, x: Expr) -> Expr:
    """Tangent: with |x| / pi = k / 2 + r, |r| <= 1/4, it is tan(pi r) or, for odd k, -1 / tan(pi r)."""
    magnitude = body.let(exact.absolute(x))
    rounder = body.const(ROUNDER / 2.0, F64)
    p, q = _reduce_by_pi(body, widen(body, magnitude))
    rounded = body.let(exact.add(p, rounder))
    r = body.let(exact.add(exact.sub(p, exact.sub(rounded, rounder)), q))
    z = body.let(exact.mul(r, r))
    correction = multiply_add(body, z, polynomial(body, z, TAN_SIN_SERIES), body.const(_PI_LOW, F64))
    sine = body.let(multiply_add(body, r, body.const(2.0 * _HALF_PI, F64), exact.mul(r, correction)))
    cosine = body.let(multiply_add(body, z, polynomial(body, z, TAN_COS_SERIES), body.const(1.0, F64)))
    low_bit = tirx.bitwise_and(body.reinterpret("uint64", rounded), body.int_const(1, "uint64"))
    even = tirx.EQ(low_bit, body.int_const(0, "uint64"))
    numerator, denominator = exact.select(even, sine, cosine), exact.select(even, cosine, sine)
    quotient = body.let(exact.div(body.let(numerator), body.let(denominator)))
    return flip_sign(body, x, finish(body, "tan", magnitude, _parity_flip(body, rounded, quotient)))


def _asin_core(body: Body, magnitude: Expr) -> tuple[Expr, Expr]:
    """(s, t): asin(s) = s + t for s = |x| up to 1/2, s = sqrt((1 - |x|) / 2) above (NaN above 1); binary64 variables.

    ``magnitude`` is a float32 variable.
    """
    a, half = widen(body, magnitude), body.const(0.5, F64)
    small = exact.le(magnitude, body.const(0.5))
    halved = body.let(exact.sub(half, exact.mul(a, half)))
    z = body.let(exact.select(small, exact.mul(a, a), halved))
    s = body.let(exact.select(small, a, exact.sqrt(halved)))
    return s, body.let(exact.mul(s, exact.mul(z, polynomial(body, z, ASIN_SERIES))))


def asin(body: Body, x: Expr) -> Expr:
    """Inverse sine: asin(s), or pi/2 - 2 asin(s) with s = sqrt((1 - |x|) / 2) where |x| > 1/2."""
    magnitude = body.let(exact.absolute(x))
    s, t = _asin_core(body, magnitude)
    small = exact.le(magnitude, body.const(0.5))
    low = exact.sub(body.const(_HALF_PI_LOW, F64), exact.add(t, t))
    large = exact.add(exact.sub(body.const(_HALF_PI, F64), exact.add(s, s)), low)
    wide = exact.select(small, exact.add(s, t), large)
    return with_sign_of(body, x, finish(body, "asin", magnitude, wide))


def acos(body: Body, x: Expr) -> Expr:
    """Inverse cosine: pi/2 - asin(x), or with s = sqrt((1 - |x|) / 2): 2 asin(s), pi - 2 asin(s) where |x| > 1/2."""
    magnitude = body.let(exact.absolute(x))
    s, t = _asin_core(body, magnitude)
    small = exact.le(magnitude, body.const(0.5))
    negative = exact.lt(x, body.const(0.0))
    zero = body.const(0.0, F64)
    # offset + factor (s + t)
    factor = exact.select(small, body.const(1.0, F64), body.const(2.0, F64))
    signed = exact.select(negative, factor, exact.neg(factor))
    factor = body.let(exact.select(small, signed, exact.neg(signed)))
    offsets = [
        exact.select(small, body.const(v, F64), exact.select(negative, body.const(2.0 * v, F64), zero))
        for v in (_HALF_PI, _HALF_PI_LOW)
    ]
    offset, offset_low = (body.let(v) for v in offsets)
    high = body.let(exact.mul(factor, s))
    low = exact.add(exact.mul(factor, t), offset_low)
    return finish(body, "acos", x, exact.add(offset, exact.add(high, low)))


def atan(body: Body, x: Expr) -> Expr:
    """Inverse tangent: atan(t), pi/4 + atan(t) or pi/2 + atan(t) with t = a, (a - 1) / (a + 1) or -1 / a, a = |x|."""
    magnitude = body.let(exact.absolute(x))
    a, one, zero = widen(body, magnitude), body.const(1.0, F64), body.const(0.0, F64)
    small = exact.lt(magnitude, body.const(_TAN_LOW))
    large = exact.lt(body.const(_TAN_HIGH), magnitude)
    numerator = exact.select(small, a, exact.select(large, exact.neg(one), exact.sub(a, one)))
    denominator = exact.select(small, one, exact.select(large, a, exact.add(a, one)))
    t = body.let(exact.div(body.let(numerator), body.let(denominator)))
    high, low = ((body.const(v / 2.0, F64), body.const(v, F64)) for v in (_HALF_PI, _HALF_PI_LOW))
    offset = body.let(exact.select(small, zero, exact.select(large, high[1], high[0])))
    offset_low = body.let(exact.select(small, zero, exact.select(large, low[1], low[0])))
    z = body.let(exact.mul(t, t))
    tail = multiply_add(body, exact.mul(t, z), polynomial(body, z, ATAN_SERIES), offset_low)
    wide = exact.add(offset, exact.add(t, tail))
    return with_sign_of(body, x, finish(body, "atan", magnitude, wide))


BODIES: dict[str, Callable[[Body, Expr], Expr]] = {
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "asin": asin,
    "acos": acos,
    "atan": atan,
}
