"""Sums of two binary64 numbers (high, low) as values, and the kernels of docs/numerics-float64.md that calculate with them.

Unlike the correctly rounded functions these are fixed algorithms: every operation is part of the specification, and ``fma``
is one rounding on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import F64, LN2_HIGH, LN2_LOW, LOG2_E, ONE_BITS, ROUNDER
from gensyn_tvm.operators.elementary.coefficients import EXP_DOUBLE_TAIL, LOG_DOUBLE_SERIES
from gensyn_tvm.targets.body import Body

Expr = Any
Pair = tuple[Expr, Expr]

LARGEST64 = float.fromhex("0x1.fffffffffffffp+1023")
SMALLEST_NORMAL64 = 2.0**-1022
_SMALLEST64 = 2.0**-1074
_MANTISSA = 2**52 - 1
_SQRT_HALF = 0x3FE6A09E667F3BCD
_TWO_THIRDS = float.fromhex("0x1.5555555555555p-1")
#: 2 / 3 - _TWO_THIRDS.
_TWO_THIRDS_LOW = float.fromhex("0x1.5555555555555p-55")


def constant(body: Body, value: float) -> Expr:
    """A binary64 constant."""
    return body.const(value, F64)


def horner(body: Body, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme with fma; ``x`` is a variable."""
    result = constant(body, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = exact.fma(result, x, constant(body, coefficient))
    return body.let(result)


def fast_two_sum(body: Body, a: Expr, b: Expr) -> Pair:
    """a + b and its error, for variables with |a| >= |b| or a = 0."""
    total = body.let(exact.add(a, b))
    return total, body.let(exact.sub(b, exact.sub(total, a)))


def two_sum(body: Body, a: Expr, b: Expr) -> Pair:
    """a + b and its error, for variables."""
    total = body.let(exact.add(a, b))
    other = body.let(exact.sub(total, a))
    return total, body.let(exact.add(exact.sub(a, exact.sub(total, other)), exact.sub(b, other)))


def two_product(body: Body, a: Expr, b: Expr) -> Pair:
    """a * b and its error, for variables."""
    product = body.let(exact.mul(a, b))
    return product, body.let(exact.fma(a, b, exact.neg(product)))


def split_positive(body: Body, a: Expr) -> Pair:
    """(f, k) with a = 2^k (1 + f), 1 + f in [sqrt(1/2), sqrt(2)), k a binary64, for a binary64 variable.

    What is not in [2^-1074, largest] (NaN too) is taken as the nearer end.
    """
    low, high = constant(body, _SMALLEST64), constant(body, LARGEST64)
    raised = body.let(exact.select(exact.lt(low, a), a, low))
    limited = body.let(exact.select(exact.lt(raised, high), raised, high))
    small = exact.lt(limited, constant(body, SMALLEST_NORMAL64))
    normal = body.let(exact.select(small, exact.mul(limited, constant(body, 2.0**54)), limited))
    bias = exact.select(small, constant(body, 2.0**52 + 1077.0), constant(body, 2.0**52 + 1023.0))
    shifted = body.let(tirx.Add(body.reinterpret("uint64", normal), body.int_const(ONE_BITS - _SQRT_HALF, "uint64")))
    biased = tirx.shift_right(shifted, body.int_const(52, "uint64"))
    packed = tirx.bitwise_or(biased, body.int_const((1023 + 52) << 52, "uint64"))
    k = body.let(exact.sub(body.reinterpret(F64, packed), body.let(bias)))
    mantissa = tirx.bitwise_and(shifted, body.int_const(_MANTISSA, "uint64"))
    z = body.reinterpret(F64, tirx.Add(mantissa, body.int_const(_SQRT_HALF, "uint64")))
    return body.let(exact.sub(z, constant(body, 1.0))), k


def log_near_one(body: Body, f: Expr, g: Expr) -> Pair:
    """log(1 + f + g) as a pair, for variables with 1 + f in [sqrt(1/2), sqrt(2)] and |g| at most half a last place of f.

    With s + t = (f + g) / (2 + f + g) it is 2 (s + t) + s z (2/3 + z Q(z)), z = (s + t)^2.
    """
    two = constant(body, 2.0)
    d = body.let(exact.add(two, f))
    d_low = body.let(exact.add(exact.sub(f, exact.sub(d, two)), g))
    s = body.let(exact.div(f, d))
    minus_s = body.let(exact.neg(s))
    rest = exact.add(exact.fma(minus_s, d, f), exact.fma(minus_s, d_low, g))
    t = body.let(exact.div(body.let(rest), d))
    z, z_error = two_product(body, s, s)
    doubled = body.let(exact.add(s, s))
    z_low = body.let(exact.fma(doubled, t, z_error))
    q = body.let(exact.mul(z, horner(body, z, LOG_DOUBLE_SERIES)))
    c, c_error = fast_two_sum(body, constant(body, _TWO_THIRDS), q)
    c_low = body.let(exact.add(c_error, constant(body, _TWO_THIRDS_LOW)))
    m, m_error = two_product(body, z, c)
    m_low = body.let(exact.add(m_error, exact.fma(z, c_low, exact.mul(z_low, c))))
    u, u_error = two_product(body, s, m)
    u_low = body.let(exact.add(u_error, exact.fma(s, m_low, exact.mul(t, m))))
    high, error = fast_two_sum(body, doubled, u)
    return high, body.let(exact.add(error, exact.add(u_low, exact.add(t, t))))


def log_pair(body: Body, f: Expr, g: Expr, k: Expr) -> Pair:
    """k log(2) + log(1 + f + g) as a pair with |low| at most half a last place of high."""
    high, low = log_near_one(body, f, g)
    total, error = fast_two_sum(body, body.let(exact.mul(k, constant(body, LN2_HIGH))), high)
    rest = body.let(exact.add(error, exact.fma(k, constant(body, LN2_LOW), low)))
    return fast_two_sum(body, total, rest)


def exp_reduced(body: Body, h: Expr, rest: Expr) -> tuple[Expr, Expr, Expr]:
    """(high, low, k) with e^(h + rest) = 2^k (1 + high + low), for variables |h| <= 800 (or NaN) and small rest; k is int64."""
    rounder = constant(body, ROUNDER)
    rounded = body.let(exact.fma(h, constant(body, LOG2_E), rounder))
    minus_k = body.let(exact.sub(rounder, rounded))
    r = body.let(exact.fma(minus_k, constant(body, LN2_HIGH), h))
    high, error = two_sum(body, r, body.let(exact.mul(minus_k, constant(body, LN2_LOW))))
    high, low = two_sum(body, high, body.let(exact.add(error, rest)))
    tail = exact.mul(exact.mul(high, high), horner(body, high, EXP_DOUBLE_TAIL))
    low = body.let(exact.add(tail, exact.fma(high, low, low)))
    start = body.bits_const(F64, _bits_of_rounder())
    k = tirx.Sub(body.reinterpret("int64", rounded), body.reinterpret("int64", start))
    return high, low, body.let(k)


def _bits_of_rounder() -> int:
    return ((1023 + 52) << 52) + 2**51


def scale(body: Body, x: Expr, k: Expr) -> Expr:
    """x * 2^a * 2^b with a = floor(k / 2), b = k - a, for an int64 variable |k| <= 2000."""
    half = body.let(tirx.shift_right(k, body.int_const(1, "int64")))
    result = x
    for part in (half, tirx.Sub(k, half)):
        biased = body.let(tirx.Add(part, body.int_const(1023, "int64")))
        power = tirx.shift_left(body.reinterpret("uint64", biased), body.int_const(52, "uint64"))
        result = exact.mul(result, body.reinterpret(F64, body.let(power)))
    return body.let(result)


def exp_of_pair(body: Body, h: Expr, rest: Expr) -> Expr:
    """e^(h + rest), rounded, for variables |h| <= 800 (or NaN) and a small rest."""
    high, low, k = exp_reduced(body, h, rest)
    total, error = fast_two_sum(body, constant(body, 1.0), high)
    return scale(body, body.let(exact.add(total, exact.add(error, low))), k)
