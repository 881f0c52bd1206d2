"""Logarithms and the functions made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import (
    F64,
    INFINITY,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    MINUS_ZERO,
    ONE_BITS,
    QUIET_NAN,
    finish,
    multiply_add,
    polynomial,
    widen,
    with_sign_of,
)
from gensyn_tvm.operators.elementary.coefficients import ATANH_SERIES, LOG_SERIES
from gensyn_tvm.targets.body import Body

Expr = Any

_LOG10_E = float.fromhex("0x1.bcb7b1526e50ep-2")
#: log10(2) in two parts like log(2).
_LOG10_2_HIGH = float.fromhex("0x1.34413509f7800p-2")
_LOG10_2_LOW = float.fromhex("0x1.fef311f12b358p-46")
_MANTISSA = 2**52 - 1
#: 1023.5 in units of an exponent.
_ONE_AND_HALF_STEP = ONE_BITS + 2**51
_SQRT_HALF = 0x3FE6A09E667F3BCD
_LARGEST = float.fromhex("0x1.fffffep+127")


def split_exponent(body: Body, w: Expr) -> tuple[Expr, Expr]:
    """w = 2^k z with z in [sqrt(1/2), sqrt(2)), for a positive finite binary64 w: the bits of z + C, and of k + 1023.

    Returns the uint64 variable whose low 52 bits plus those of sqrt(1/2) are z, and whose high 12 bits are k + 1023.
    """
    shifted = body.let(tirx.Add(body.reinterpret("uint64", w), body.int_const(ONE_BITS - _SQRT_HALF, "uint64")))
    biased = tirx.shift_right(shifted, body.int_const(52, "uint64"))
    return shifted, body.let(_exponent_as_float(body, biased))


def _exponent_as_float(body: Body, biased: Expr) -> Expr:
    """k as binary64 from the uint64 k + 1023: as the low bits of 2^52 it becomes a float without a conversion instruction."""
    packed = tirx.bitwise_or(biased, body.int_const((1023 + 52) << 52, "uint64"))
    return exact.sub(body.reinterpret(F64, packed), body.const(2.0**52 + 1023.0, F64))


def log_domain(body: Body, x: Expr, low: float) -> Expr:
    """``x`` (a variable) limited to [low, largest float], NaN to ``low``, and widened: bits that are safe to calculate with."""
    low_const, high_const = body.const(low), body.const(_LARGEST)
    raised = body.let(exact.select(exact.lt(low_const, x), x, low_const))
    return widen(body, exact.select(exact.lt(raised, high_const), raised, high_const))


def log_mantissa(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(f, k) with x = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), binary64 variables, for a float32 variable x."""
    shifted, k = split_exponent(body, log_domain(body, x, 2.0**-149))
    mantissa = tirx.bitwise_and(shifted, body.int_const(_MANTISSA, "uint64"))
    z = body.reinterpret(F64, tirx.Add(mantissa, body.int_const(_SQRT_HALF, "uint64")))
    return body.let(exact.sub(z, body.const(1.0, F64))), k


def log_tail(body: Body, f: Expr, low: Expr) -> Expr:
    """log(1 + f) - f + low for a binary64 variable f with 1 + f in [sqrt(1/2), sqrt(2)].

    With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 s + s R(s^2), and 2 s = f - s f without the error of the division.
    """
    s = body.let(exact.div(f, exact.add(f, body.const(2.0, F64))))
    z = body.let(exact.mul(s, s))
    correction = multiply_add(body, z, polynomial(body, z, LOG_SERIES), exact.neg(f))
    return multiply_add(body, s, correction, low)


def log_sum(body: Body, f: Expr, k: Expr) -> Expr:
    """log(1 + f) + k log(2) for binary64 variables with 1 + f in [sqrt(1/2), sqrt(2)]."""
    tail = log_tail(body, f, exact.mul(k, body.const(LN2_LOW, F64)))
    return multiply_add(body, k, body.const(LN2_HIGH, F64), exact.add(f, tail))


def log_specials(body: Body, x: Expr, pole: float, result: Expr) -> Expr:
    """-inf at ``pole``, NaN below it, infinity and NaN as they are."""
    result = exact.select(exact.lt(x, body.const(INFINITY)), result, x)
    result = exact.select(exact.lt(x, body.const(pole)), body.bits_const("float32", QUIET_NAN), result)
    return exact.select(exact.eq(x, body.const(pole)), body.const(-INFINITY), result)


def log(body: Body, x: Expr) -> Expr:
    """Natural logarithm."""
    f, k = log_mantissa(body, x)
    return log_specials(body, x, MINUS_ZERO, finish(body, "log", x, log_sum(body, f, k)))


def log1p(body: Body, x: Expr) -> Expr:
    """log(1 + x). 1 + x is rounded only to find its exponent k; (1 + x) 2^-k - 1 has one rounding."""
    d = log_domain(body, x, -1.0 + 2.0**-24)
    result = with_sign_of(body, x, finish(body, "log1p", x, _log1p_wide(body, d)))
    return log_specials(body, x, -1.0, result)


def log2(body: Body, x: Expr) -> Expr:
    """Logarithm to base 2, k + log(1 + f) / log(2): exact for powers of 2."""
    f, k = log_mantissa(body, x)
    fraction = exact.add(f, log_tail(body, f, body.const(MINUS_ZERO, F64)))
    wide = multiply_add(body, fraction, body.const(LOG2_E, F64), k)
    return log_specials(body, x, MINUS_ZERO, finish(body, "log2", x, wide))


def log10(body: Body, x: Expr) -> Expr:
    """Logarithm to base 10, k log10(2) + log(1 + f) / log(10)."""
    f, k = log_mantissa(body, x)
    fraction = exact.add(f, log_tail(body, f, body.const(MINUS_ZERO, F64)))
    low = multiply_add(body, fraction, body.const(_LOG10_E, F64), exact.mul(k, body.const(_LOG10_2_LOW, F64)))
    wide = multiply_add(body, k, body.const(_LOG10_2_HIGH, F64), low)
    return log_specials(body, x, MINUS_ZERO, finish(body, "log10", x, wide))


def _log1p_wide(body: Body, u: Expr) -> Expr:
    """log(1 + u) for a binary64 variable u > -1; 1 + u is rounded only to find its exponent."""
    one = body.const(1.0, F64)
    shifted, k = split_exponent(body, exact.add(u, one))
    return log_sum(body, _scaled_less_one(body, u, shifted), k)


def _scaled_less_one(body: Body, d: Expr, shifted: Expr) -> Expr:
    """(1 + d) 2^-k - 1 with one rounding, k + 1023 being the exponent of ``shifted``."""
    exponent = tirx.bitwise_and(shifted, body.int_const(0x7FF << 52, "uint64"))
    scale = body.let(body.reinterpret(F64, tirx.Sub(body.int_const(2046 << 52, "uint64"), exponent)))
    return body.let(multiply_add(body, d, scale, exact.sub(scale, body.const(1.0, F64))))


def asinh(body: Body, x: Expr) -> Expr:
    """log(1 + (a + a^2 / (1 + sqrt(1 + a^2)))) with a = |x|."""
    magnitude = body.let(exact.absolute(x))
    a, one = log_domain(body, magnitude, 0.0), body.const(1.0, F64)
    square = body.let(exact.mul(a, a))
    root = exact.add(one, exact.sqrt(body.let(exact.add(square, one))))
    u = body.let(exact.add(a, exact.div(square, root)))
    result = finish(body, "asinh", magnitude, _log1p_wide(body, u))
    result = exact.select(exact.lt(magnitude, body.const(INFINITY)), result, magnitude)
    return with_sign_of(body, x, result)


def acosh(body: Body, x: Expr) -> Expr:
    """log(1 + (x - 1 + sqrt(x^2 - 1))); NaN below 1."""
    d, one = log_domain(body, x, 1.0), body.const(1.0, F64)
    root = exact.sqrt(body.let(multiply_add(body, d, d, exact.neg(one))))
    u = body.let(exact.add(exact.sub(d, one), root))
    result = finish(body, "acosh", x, _log1p_wide(body, u))
    result = exact.select(exact.lt(x, body.const(INFINITY)), result, x)
    return exact.select(exact.lt(x, body.const(1.0)), body.bits_const("float32", QUIET_NAN), result)


def atanh(body: Body, x: Expr) -> Expr:
    """log((1 + a) / (1 - a)) / 2 with a = |x|: k log(2) / 2 + atanh(s) with s = (n - d) / (n + d), n = (1 + a) 2^-k, d = 1 - a.

    The difference of the bit patterns of 1 + a and d, read as fixed-point numbers, is their logarithm up to 0.09, which is
    enough to find k.
    """
    magnitude = body.let(exact.absolute(x))
    one = body.const(1.0, F64)
    limited = exact.select(exact.lt(magnitude, body.const(1.0)), magnitude, body.const(0.5))
    a = widen(body, limited)
    above, below = (body.reinterpret("int64", v) for v in (exact.add(one, a), exact.sub(one, a)))
    rounding = body.int_const(_ONE_AND_HALF_STEP, "int64")
    shifted = body.reinterpret("uint64", tirx.Add(tirx.Sub(above, below), rounding))
    biased = body.let(tirx.shift_right(body.let(shifted), body.int_const(52, "uint64")))
    k = body.let(_exponent_as_float(body, biased))
    exponent = tirx.shift_left(biased, body.int_const(52, "uint64"))
    scale = body.let(body.reinterpret(F64, tirx.Sub(body.int_const(2046 << 52, "uint64"), exponent)))
    more, less = body.let(exact.add(scale, one)), body.let(exact.sub(scale, one))
    s = body.let(exact.div(multiply_add(body, a, more, less), multiply_add(body, a, less, more)))
    z = body.let(exact.mul(s, s))
    low = exact.mul(k, body.const(LN2_LOW, F64))
    tail = multiply_add(body, exact.mul(s, z), polynomial(body, z, ATANH_SERIES), low)
    wide = multiply_add(body, k, body.const(LN2_HIGH, F64), exact.add(exact.add(s, s), tail))
    result = finish(body, "atanh", magnitude, exact.mul(wide, body.const(0.5, F64)))
    result = exact.select(exact.eq(magnitude, body.const(1.0)), body.const(INFINITY), result)
    result = exact.select(exact.le(magnitude, body.const(1.0)), result, body.bits_const("float32", QUIET_NAN))
    return with_sign_of(body, x, result)


BODIES: dict[str, Callable[[Body, Expr], Expr]] = {
    "log": log,
    "log1p": log1p,
    "log2": log2,
    "log10": log10,
    "asinh": asinh,
    "acosh": acosh,
    "atanh": atanh,
}
