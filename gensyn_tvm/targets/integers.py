"""Integer rows: wrapping arithmetic, division, remainder and shifts that are defined for every operand.

TVM marks integer arithmetic of 32 bits and more as never overflowing, so it is done where it cannot overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.targets.body import Body, call_body

Expr = Any
Lowering = Callable[[Any], Expr]

INT_BITS = {f"{u}int{bits}": bits for bits in (8, 16, 32, 64) for u in ("", "u")}


def _wrap_narrow(operation: Callable[[Expr, Expr], Expr], dtype: str, body: Body, a: Expr, b: Expr) -> Expr:
    wide = body.dtype("int64")
    if dtype == "uint32":  # products of two 32-bit unsigned integers need all 64 bits
        wide = body.dtype("uint64")
        if operation is tirx.Sub:  # the complement of b and 1 on top: nothing that TVM could cancel, leaving 2^32 as a uint32
            inverse = tirx.bitwise_xor(tirx.Cast(wide, b), body.int_const(2**32 - 1, "uint64"))
            return tirx.Cast(body.dtype(dtype), tirx.Add(tirx.Add(tirx.Cast(wide, a), inverse), body.int_const(1, "uint64")))
    return tirx.Cast(body.dtype(dtype), operation(tirx.Cast(wide, a), tirx.Cast(wide, b)))


def _add64(body: Body, a: Expr, b: Expr) -> Expr:
    """a + b modulo 2^64 from halves, for uint64 values bound to names."""
    mask, half = body.int_const(2**32 - 1, "uint64"), body.int_const(32, "uint64")
    low = body.let(tirx.Add(tirx.bitwise_and(a, mask), tirx.bitwise_and(b, mask)))
    high = tirx.Add(tirx.Add(tirx.shift_right(a, half), tirx.shift_right(b, half)), tirx.shift_right(low, half))
    return body.let(tirx.bitwise_or(tirx.shift_left(high, half), tirx.bitwise_and(low, mask)))


def _mul64(body: Body, a: Expr, b: Expr) -> Expr:
    mask, half = body.int_const(2**32 - 1, "uint64"), body.int_const(32, "uint64")
    al, ah = body.let(tirx.bitwise_and(a, mask)), body.let(tirx.shift_right(a, half))
    bl, bh = body.let(tirx.bitwise_and(b, mask)), body.let(tirx.shift_right(b, half))
    cross = tirx.Add(tirx.bitwise_and(tirx.Mul(al, bh), mask), tirx.bitwise_and(tirx.Mul(ah, bl), mask))
    shifted = body.let(tirx.shift_left(tirx.bitwise_and(cross, mask), half))
    return _add64(body, body.let(tirx.Mul(al, bl)), shifted)


def _wrap(name: str) -> Lowering:
    operation = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul}[name]

    def lower(call: Any) -> Expr:
        body, dtype, (a, b) = call_body(call)
        if INT_BITS[dtype] < 64:
            return body.finish(_wrap_narrow(operation, dtype, body, a, b))
        signed = dtype == "int64"
        ua, ub = (body.let(tirx.reinterpret(body.dtype("uint64"), v)) if signed else v for v in (a, b))
        if name == "mul":
            result = _mul64(body, ua, ub)
        elif name == "add":
            result = _add64(body, ua, ub)
        else:
            inverse = body.let(tirx.bitwise_xor(ub, body.int_const(2**64 - 1, "uint64")))
            result = _add64(body, _add64(body, ua, inverse), body.int_const(1, "uint64"))
        return body.finish(tirx.reinterpret(body.dtype("int64"), result) if signed else result)

    return lower


def _limits(dtype: str) -> tuple[int, int]:
    bits = INT_BITS[dtype]
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _int_division(*, remainder: bool) -> Lowering:
    """Truncated division, defined everywhere: x / 0 has all bits set and leaves x; the smallest number / -1 wraps, leaves 0."""

    def lower(call: Any) -> Expr:
        body, dtype, (x, y) = call_body(call)
        by_zero = tirx.EQ(y, body.int_const(0, dtype))
        unsafe = by_zero
        if not dtype.startswith("u"):
            low = body.int_const(_limits(dtype)[0], dtype)
            unsafe = tirx.Or(by_zero, tirx.And(tirx.EQ(x, low), tirx.EQ(y, body.int_const(-1, dtype))))
        divisor = body.let(exact.select(unsafe, body.int_const(1, dtype), y))
        if remainder:
            return body.finish(exact.select(by_zero, x, tirx.Mod(x, divisor)))
        ones = body.int_const(-1 if not dtype.startswith("u") else _limits(dtype)[1], dtype)
        return body.finish(exact.select(by_zero, ones, tirx.Div(x, divisor)))

    return lower


def _shift(*, left: bool) -> Lowering:
    """A shift by the count read as an unsigned number; by the width or more it leaves zeros, or copies of the sign (right)."""

    def lower(call: Any) -> Expr:
        body, dtype, (x, count) = call_body(call)
        bits, signed = INT_BITS[dtype], not dtype.startswith("u")
        unsigned = f"uint{bits}"
        number = body.let(body.reinterpret(unsigned, count)) if signed else count
        too_many = tirx.GE(number, body.int_const(bits, unsigned))
        if left:
            plain = body.let(body.reinterpret(unsigned, x)) if signed else x
            safe = body.let(exact.select(too_many, body.int_const(0, unsigned), number))
            shifted = exact.select(too_many, body.int_const(0, unsigned), tirx.shift_left(plain, safe))
            return body.finish(body.reinterpret(dtype, body.let(shifted)) if signed else shifted)
        if signed:
            safe = body.let(exact.select(too_many, body.int_const(bits - 1, dtype), count))
            return body.finish(tirx.shift_right(x, safe))
        safe = body.let(exact.select(too_many, body.int_const(0, unsigned), number))
        return body.finish(exact.select(too_many, body.int_const(0, unsigned), tirx.shift_right(x, safe)))

    return lower


LOWERINGS: dict[str, Lowering] = {
    "wrap_add": _wrap("add"),
    "wrap_sub": _wrap("sub"),
    "wrap_mul": _wrap("mul"),
    "int_div": _int_division(remainder=False),
    "int_rem": _int_division(remainder=True),
    "shift_left": _shift(left=True),
    "shift_right": _shift(left=False),
}
