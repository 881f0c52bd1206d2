"""What the bodies of the elementary functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.hard import HARD
from gensyn_tvm.targets.body import Body

Expr = Any

F64 = "float64"
#: Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits of the sum.
ROUNDER = 1.5 * 2.0**52
ONE_BITS = 1023 << 52
SIGN_BIT = 0x80000000
INFINITY = float("inf")
#: Compares as zero does and disappears in sums, which +0 does not.
MINUS_ZERO = -0.0
QUIET_NAN = 0x7FC00000
LOG2_E = float.fromhex("0x1.71547652b82fep+0")
#: log(2) in two parts; the first has 42 bits, so its product with an exponent is exact.
LN2_HIGH = float.fromhex("0x1.62e42fefa3800p-1")
LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")


def multiply_add(body: Body, a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, with one rounding or two, whichever is fast."""
    return exact.fma(a, b, c) if body.has_fma else exact.add(exact.mul(a, b), c)


def polynomial(body: Body, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme; ``x`` is a variable."""
    result = body.const(coefficients[-1], F64)
    for coefficient in reversed(coefficients[:-1]):
        result = multiply_add(body, result, x, body.const(coefficient, F64))
    return result


def polynomial_in_pairs(body: Body, x: Expr, square: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme in ``square``, the variable x^2, of pairs c + d x: half as many steps that wait for each other."""
    pairs = [body.const(c, F64) for c in coefficients[::2]]
    for k, coefficient in enumerate(coefficients[1::2]):
        pairs[k] = multiply_add(body, body.const(coefficient, F64), x, pairs[k])
    result = pairs[-1]
    for pair in reversed(pairs[:-1]):
        result = multiply_add(body, result, square, pair)
    return result


def clamp(body: Body, x: Expr, low: float, high: float) -> Expr:
    """``x`` (a variable) limited to [low, high]; NaN stays."""
    low_const, high_const = body.const(low), body.const(high)
    raised = body.let(exact.select(exact.lt(x, low_const), low_const, x))
    return body.let(exact.select(exact.lt(high_const, raised), high_const, raised))


def widen(body: Body, x: Expr) -> Expr:
    return body.let(exact.convert(body.let(x), F64))


def with_sign_of(body: Body, x: Expr, result: Expr) -> Expr:
    """``result``, which is +0 or has the sign of ``x``, with that sign also if it is zero."""
    sign = tirx.bitwise_and(body.reinterpret("uint32", x), body.int_const(SIGN_BIT, "uint32"))
    return body.reinterpret("float32", tirx.bitwise_or(body.reinterpret("uint32", result), sign))


def flip_sign(body: Body, x: Expr, result: Expr) -> Expr:
    """The float32 ``result`` with its sign flipped if x is negative (or -0)."""
    sign = tirx.bitwise_and(body.reinterpret("uint32", x), body.int_const(SIGN_BIT, "uint32"))
    return body.reinterpret("float32", tirx.bitwise_xor(body.reinterpret("uint32", result), sign))


def finish(body: Body, name: str, x: Expr, wide: Expr) -> Expr:
    """The last rounding, and the hard inputs put right."""
    result = exact.convert(body.let(wide), "float32")
    if not HARD[name]:
        return result
    bits = body.let(body.reinterpret("uint32", x))
    for pattern, value in HARD[name].items():
        hard = tirx.EQ(bits, body.int_const(pattern, "uint32"))
        result = exact.select(hard, body.bits_const("float32", value), result)
    return result
