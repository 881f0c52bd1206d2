"""Remainders and quotients rounded to integers, for every frontend."""

from __future__ import annotations

from gensyn_tvm.canonical.types import INTEGERS
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, number, op
from gensyn_tvm.training.ops import stop_gradient


def remainder(e: Emitter, x: Expr, y: Expr, *, sign_of_x: bool) -> Expr:
    """x - n * y for an integer n, smaller than y in magnitude; with the sign of x, otherwise that of y.

    Of integers exact. Of floats in float64: x where |x| < |y|, else x - trunc(x / y) * y, brought back between 0 and y; a
    result 0 has the sign of x, or of y. Exact while the quotient has at most 29 bits, for float32.
    """
    if dtype_of(x) not in INTEGERS:
        return _of_floats(e, x, y, sign_of_x=sign_of_x)
    rest = e.canonical("rem", x, y)
    if sign_of_x or dtype_of(x).startswith("u"):
        return rest
    return e.where(_opposite(e, rest, y), e.add(rest, y), rest)


def _opposite(e: Emitter, rest: Expr, y: Expr) -> Expr:
    """Whether an integer remainder is not 0 and has the other sign than y."""
    zero = number(0, dtype_of(rest))
    differs = e(op.not_equal(e(op.less(rest, zero)), e(op.less(y, zero))))
    return e(op.logical_and(differs, e(op.not_equal(rest, zero))))


def _of_floats(e: Emitter, x: Expr, y: Expr, *, sign_of_x: bool) -> Expr:
    dtype = dtype_of(x)
    a, b = e.cast(x, "float64"), e.cast(y, "float64")
    size = e(op.abs(b))
    quotient = e.div(a, b)
    whole = e.where(e(op.less(quotient, number(0, "float64"))), e(op.ceil(quotient)), e(op.floor(quotient)))
    rest = e(op.abs(e.sub(a, e.mul(whole, b))))
    rest = e.where(e(op.less(rest, size)), rest, e.sub(rest, size))
    rest = e.where(e(op.less(e(op.abs(a)), size)), e(op.abs(a)), rest)
    rest = e.where(_negative(e, a), e(op.negative(rest)), rest)
    if not sign_of_x:
        zero = number(0, "float64")
        opposite = e(op.logical_and(e(op.not_equal(e(op.less(rest, zero)), _negative(e, b))), e(op.not_equal(rest, zero))))
        rest = e.where(opposite, e.add(rest, b), rest)
        signed = e.where(_negative(e, b), number(-0.0, "float64"), zero)
        rest = e.where(e(op.equal(rest, zero)), signed, rest)
    return e.cast(rest, dtype)


def _negative(e: Emitter, x: Expr) -> Expr:
    """Whether the sign bit of a float64 is set."""
    return e(op.less(e.canonical("bitcast", e(stop_gradient(x)), dtype="int64"), number(0, "int64")))


def floor_quotient(e: Emitter, x: Expr, y: Expr) -> Expr:
    """The largest integer not above x / y; of floats (x - remainder) / y rounded to the nearest integer, x / 0 as it is."""
    if dtype_of(x) in INTEGERS:
        quotient = e(op.divide(x, y))
        if dtype_of(x).startswith("u"):
            return quotient
        return e.where(_opposite(e, e.canonical("rem", x, y), y), e.sub(quotient, 1), quotient)
    exact = e(op.round(e.div(e.sub(x, remainder(e, x, y, sign_of_x=False)), y)))
    return e.where(e(op.equal(y, number(0, dtype_of(y)))), e.div(x, y), exact)


def trunc_quotient(e: Emitter, x: Expr, y: Expr) -> Expr:
    """x / y without its fraction."""
    if dtype_of(x) in INTEGERS:
        return e(op.divide(x, y))
    return truncated(e, e.div(x, y))


def truncated(e: Emitter, x: Expr) -> Expr:
    """x < 0 ? ceil(x) : floor(x)"""
    return e.where(e(op.less(x, number(0, dtype_of(x)))), e(op.ceil(x)), e(op.floor(x)))
