"""Functions made of exponentials, and erf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import (
    F64,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ONE_BITS,
    ROUNDER,
    clamp,
    finish,
    multiply_add,
    polynomial,
    polynomial_in_pairs,
    widen,
    with_sign_of,
)
from gensyn_tvm.operators.elementary.coefficients import (
    ERF_CENTRE,
    ERF_RATIO,
    ERFC_CENTRE,
    ERFC_SCALED,
    EXP2_TAIL,
    EXP_EVEN,
    EXP_ODD,
    EXP_TAIL,
)
from gensyn_tvm.targets.body import Body

Expr = Any


def reduce_exponent(body: Body, d: Expr) -> tuple[Expr, Expr]:
    """(r, k) with d = k log(2) + r, |r| <= log(2) / 2: r is a binary64 variable, k the int64 k * 2^52 (0 for NaN)."""
    rounder = body.const(ROUNDER, F64)
    rounded = body.let(multiply_add(body, d, body.const(LOG2_E, F64), rounder))
    k = body.let(exact.sub(rounded, rounder))
    r = multiply_add(body, k, body.const(-LN2_HIGH, F64), d)
    r = body.let(multiply_add(body, k, body.const(-LN2_LOW, F64), r))
    shifted = tirx.shift_left(body.reinterpret("uint64", rounded), body.int_const(52, "uint64"))
    return r, body.reinterpret("int64", shifted)


def _expm1_reduced(body: Body, r: Expr) -> Expr:
    """e^r - 1 for a binary64 variable |r| <= log(2) / 2."""
    square = body.let(exact.mul(r, r))
    return multiply_add(body, square, polynomial_in_pairs(body, r, square, EXP_TAIL), r)


def exp_wide(body: Body, d: Expr) -> Expr:
    """e^d for a binary64 variable d with |d| < 700, or NaN."""
    r, k = reduce_exponent(body, d)
    power = exact.add(_expm1_reduced(body, r), body.const(1.0, F64))
    return body.reinterpret(F64, tirx.Add(body.reinterpret("int64", power), k))


def expm1_wide(body: Body, d: Expr) -> Expr:
    """e^d - 1 with a small relative error for a binary64 variable d with |d| < 700, or NaN; -0 gives +0."""
    r, k = reduce_exponent(body, d)
    power = _expm1_reduced(body, r)
    scale = body.let(body.reinterpret(F64, tirx.Add(k, body.int_const(ONE_BITS, "int64"))))
    return multiply_add(body, power, scale, exact.sub(scale, body.const(1.0, F64)))


def exp(body: Body, x: Expr) -> Expr:
    """e^x. Beyond the clamps the result is 0 or infinity by the last rounding."""
    d = widen(body, clamp(body, x, -105.0, 90.0))
    return finish(body, "exp", x, exp_wide(body, d))


def expm1(body: Body, x: Expr) -> Expr:
    """e^x - 1."""
    d = widen(body, clamp(body, x, -30.0, 90.0))
    return with_sign_of(body, x, finish(body, "expm1", x, expm1_wide(body, d)))


def exp2(body: Body, x: Expr) -> Expr:
    """2^x. Beyond the clamps the result is 0 or infinity by the last rounding."""
    d = widen(body, clamp(body, x, -152.0, 130.0))
    rounder = body.const(ROUNDER, F64)
    rounded = body.let(exact.add(d, rounder))
    r = body.let(exact.sub(d, exact.sub(rounded, rounder)))
    power = polynomial(body, r, (1.0, *EXP2_TAIL))
    k = tirx.shift_left(body.reinterpret("uint64", rounded), body.int_const(52, "uint64"))
    wide = tirx.Add(body.reinterpret("int64", power), body.reinterpret("int64", k))
    return finish(body, "exp2", x, body.reinterpret(F64, wide))


def tanh(body: Body, x: Expr) -> Expr:
    """tanh(x) = e / (e + 2) with e = e^(2x) - 1. From 9.02 on the result rounds to 1."""
    d = widen(body, clamp(body, x, -10.0, 10.0))
    e = body.let(expm1_wide(body, body.let(exact.add(d, d))))
    quotient = exact.div(e, exact.add(e, body.const(2.0, F64)))
    return with_sign_of(body, x, finish(body, "tanh", x, quotient))


def _sigmoid_near_zero(body: Body, x: Expr) -> Expr:
    """Sigmoid for |x| < 2^-14: 1/2 + x/4 - x^3/48.

    For many x the first two terms are the middle between two floats and the third is far below the last bit of binary64.
    A factor a little below 1/4 leads to the right side of the middle, and over no other one.
    """
    if body.has_fma:
        return exact.fma(x, body.const(0.25 - 2.0**-26), body.const(0.5))
    d = widen(body, x)
    product = exact.mul(d, body.const(0.25 - 2.0**-26, F64))
    return exact.convert(body.let(exact.add(product, body.const(0.5, F64))), "float32")


def sigmoid(body: Body, x: Expr) -> Expr:
    """1 / (1 + e^-x) with e^r = (p + q) / (p - q), p even and q odd: the division is needed anyway."""
    d = widen(body, exact.neg(clamp(body, x, -105.0, 90.0)))
    r, k = reduce_exponent(body, d)
    z = body.let(exact.mul(r, r))
    even = body.let(polynomial(body, z, EXP_EVEN))
    odd = body.let(exact.mul(r, polynomial(body, z, EXP_ODD)))
    denominator = body.let(exact.sub(even, odd))
    scaled = body.reinterpret(F64, tirx.Add(body.reinterpret("int64", exact.add(even, odd)), k))
    result = finish(body, "sigmoid", x, body.let(exact.div(denominator, exact.add(scaled, denominator))))
    near_zero = exact.lt(exact.absolute(x), body.const(2.0**-14))
    return exact.select(near_zero, _sigmoid_near_zero(body, x), result)


def erf(body: Body, x: Expr) -> Expr:
    """Error function. From 3.9192059 on the result rounds to 1."""
    return finish(body, "erf", x, _erf_wide(body, clamp(body, x, -3.92, 3.92)))


def _erf_wide(body: Body, x: Expr) -> Expr:
    """x times a polynomial in x^2, for |x| <= 3.92."""
    d = widen(body, x)
    t = body.let(multiply_add(body, d, d, body.const(-ERF_CENTRE, F64)))
    return exact.mul(d, polynomial_in_pairs(body, t, body.let(exact.mul(t, t)), ERF_RATIO))


def erfc(body: Body, x: Expr) -> Expr:
    """1 - erf(x) below 1/2; above, e^-(x^2) times a polynomial in (x - c) / (x + c). From 10.06 on the result rounds to 0."""
    one = body.const(1.0, F64)
    low = body.let(exact.sub(one, body.let(_erf_wide(body, clamp(body, x, -3.92, 0.5)))))
    d = widen(body, clamp(body, x, 0.5, 10.07))
    centre = body.const(ERFC_CENTRE, F64)
    t = body.let(exact.div(body.let(exact.sub(d, centre)), body.let(exact.add(d, centre))))
    power = exp_wide(body, body.let(exact.neg(body.let(exact.mul(d, d)))))
    high = body.let(exact.mul(body.let(power), polynomial(body, t, ERFC_SCALED)))
    return finish(body, "erfc", x, exact.select(exact.lt(x, body.const(0.5)), low, high))


def sinh(body: Body, x: Expr) -> Expr:
    """(e + e / (e + 1)) / 2 with e = e^|x| - 1. Beyond the clamp the result is infinity by the last rounding."""
    magnitude = body.let(exact.absolute(x))
    e = body.let(expm1_wide(body, widen(body, clamp(body, magnitude, 0.0, 90.0))))
    doubled = exact.add(e, exact.div(e, exact.add(e, body.const(1.0, F64))))
    result = finish(body, "sinh", magnitude, exact.mul(doubled, body.const(0.5, F64)))
    return with_sign_of(body, x, result)


def cosh(body: Body, x: Expr) -> Expr:
    """(e + 1 / e) / 2 with e = e^|x|. Beyond the clamp the result is infinity by the last rounding."""
    magnitude = body.let(exact.absolute(x))
    e = body.let(exp_wide(body, widen(body, clamp(body, magnitude, 0.0, 90.0))))
    doubled = exact.add(e, exact.div(body.const(1.0, F64), e))
    return finish(body, "cosh", magnitude, exact.mul(doubled, body.const(0.5, F64)))


BODIES: dict[str, Callable[[Body, Expr], Expr]] = {
    "exp": exp,
    "expm1": expm1,
    "exp2": exp2,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
    "erfc": erfc,
    "sinh": sinh,
    "cosh": cosh,
}
