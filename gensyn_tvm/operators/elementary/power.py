"""x^y by the algorithm of docs/numerics-float64.md; float32 is calculated in binary64 and rounded once more."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import F64, INFINITY
from gensyn_tvm.operators.elementary.pairs import constant, exp_of_pair, log_pair, split_positive
from gensyn_tvm.targets.body import Body

Expr = Any

_SIGN_BIT64 = -(2**63)
_QUIET_NAN64 = 0x7FF8000000000000
#: With a larger exponent every power but those of 1 is 0 or infinity.
_LARGEST_EXPONENT = 2.0**70
#: e to more than this overflows, to less than its negative is 0, in binary64.
_LARGEST_LOGARITHM = 800.0


def _magnitude(body: Body, a: Expr, y: Expr) -> Expr:
    """a^y for positive finite a and any y that is not NaN: e^(y log(a))."""
    bound, limit = constant(body, _LARGEST_EXPONENT), constant(body, _LARGEST_LOGARITHM)
    raised = body.let(exact.select(exact.lt(y, exact.neg(bound)), exact.neg(bound), y))
    exponent = body.let(exact.select(exact.lt(bound, raised), bound, raised))
    f, k = split_positive(body, a)
    high, low = log_pair(body, f, constant(body, 0.0), k)
    product = body.let(exact.mul(exponent, high))
    error = body.let(exact.fma(exponent, low, exact.fma(exponent, high, exact.neg(product))))
    inside = exact.le(exact.absolute(product), limit)
    outside = exact.select(exact.lt(product, constant(body, 0.0)), exact.neg(limit), limit)
    clamped = body.let(exact.select(inside, product, outside))
    return exp_of_pair(body, clamped, body.let(exact.select(inside, error, constant(body, 0.0))))


def power64(body: Body, x: Expr, y: Expr) -> Expr:
    """x^y for binary64 variables, with the special cases of C's pow."""
    zero, one, infinity = (constant(body, v) for v in (0.0, 1.0, INFINITY))
    nan = body.bits_const(F64, _QUIET_NAN64)
    a = body.let(exact.absolute(x))
    half = body.let(exact.mul(y, constant(body, 0.5)))
    integral = exact.eq(body.let(exact.floor(y)), y)
    odd = tirx.And(integral, exact.ne(body.let(exact.floor(half)), half))
    extreme = tirx.Or(exact.eq(a, zero), exact.eq(a, infinity))
    grows = tirx.EQ(_flag(body, exact.lt(one, a)), _flag(body, exact.lt(zero, y)))
    result = exact.select(extreme, exact.select(grows, infinity, zero), _magnitude(body, a, y))
    sign = tirx.bitwise_and(body.reinterpret("int64", x), body.int_const(_SIGN_BIT64, "int64"))
    flip = exact.select(odd, sign, body.int_const(0, "int64"))
    signed = body.reinterpret(F64, tirx.bitwise_xor(body.reinterpret("int64", body.let(result)), body.let(flip)))
    below_zero = tirx.And(exact.lt(x, zero), exact.lt(a, infinity))
    undefined = tirx.And(below_zero, exact.ne(body.let(exact.floor(y)), y))
    unordered = tirx.Or(exact.ne(x, x), exact.ne(y, y))
    result = exact.select(tirx.Or(undefined, unordered), nan, signed)
    return exact.select(tirx.Or(exact.eq(y, zero), exact.eq(x, one)), one, result)


def _flag(body: Body, condition: Expr) -> Expr:
    """1 or 0 as int32: TVM cannot compare vectors of booleans."""
    return body.let(exact.select(condition, body.int_const(1, "int32"), body.int_const(0, "int32")))


def integer_power(body: Body, x: Expr, y: Expr) -> Expr:
    """x^y modulo 2^width for int32 or int64 variables, by squaring; for y < 0: 1 / x if that is an integer, else 0."""
    element = exact.element_of(exact.dtype_of(x))
    zero, one, minus_one = (body.int_const(v, element) for v in (0, 1, -1))
    result, factor = one, x
    steps = 31 if element == "int32" else 63
    for step in range(steps):
        bit = tirx.bitwise_and(tirx.shift_right(y, body.int_const(step, element)), one)
        result = body.let(exact.select(tirx.EQ(bit, zero), result, exact.wrap_mul(result, factor)))
        if step < steps - 1:
            factor = body.let(exact.wrap_mul(factor, factor))
    odd = tirx.EQ(tirx.bitwise_and(y, one), one)
    of_minus_one = exact.select(odd, minus_one, one)
    inverse = exact.select(tirx.EQ(x, one), one, exact.select(tirx.EQ(x, minus_one), of_minus_one, zero))
    return exact.select(tirx.LT(y, zero), inverse, result)


def power(body: Body, x: Expr, y: Expr) -> Expr:
    """x^y for variables of one dtype: float32, float64, int32 or int64."""
    element = exact.element_of(exact.dtype_of(x))
    if element.startswith("int"):
        return integer_power(body, x, y)
    if element == F64:
        return power64(body, x, y)
    wide = power64(body, body.let(exact.convert(x, F64)), body.let(exact.convert(y, F64)))
    return exact.convert(body.let(wide), "float32")
