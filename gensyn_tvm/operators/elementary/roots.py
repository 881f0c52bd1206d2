"""The reciprocal square root and the cube root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary.basics import F64, INFINITY, MINUS_ZERO, clamp, finish, widen, with_sign_of
from gensyn_tvm.targets.body import Body

Expr = Any

#: High word of 2^(1023 - 1023 / 3), less what makes the first guess of the cube root good to 5 bits (W. Kahan, "Computing a
#: real cube root", 1991).
_CUBE_ROOT_OFFSET = 715094163


def rsqrt(body: Body, x: Expr) -> Expr:
    """1 / sqrt(x) with two roundings in binary64."""
    root = exact.sqrt(widen(body, x))
    return finish(body, "rsqrt", x, exact.div(body.const(1.0, F64), body.let(root)))


def cbrt(body: Body, x: Expr) -> Expr:
    """Cube root: a third of the exponent and fraction as a guess, then Halley's steps t (t^3 + 2 d) / (2 t^3 + d)."""
    magnitude = body.let(exact.absolute(x))
    d = widen(body, clamp(body, magnitude, 2.0**-149, float.fromhex("0x1.fffffep+127")))
    high = body.let(tirx.shift_right(body.reinterpret("uint64", d), body.int_const(32, "uint64")))
    third = tirx.shift_right(tirx.Mul(high, body.int_const(0xAAAAAAAB, "uint64")), body.int_const(33, "uint64"))
    guess = tirx.shift_left(tirx.Add(third, body.int_const(_CUBE_ROOT_OFFSET, "uint64")), body.int_const(32, "uint64"))
    t = body.let(body.reinterpret(F64, body.let(guess)))
    doubled = body.let(exact.add(d, d))
    for _ in range(3):
        cube = body.let(exact.mul(exact.mul(t, t), t))
        quotient = exact.div(exact.add(cube, doubled), exact.add(exact.add(cube, cube), d))
        t = body.let(exact.mul(t, body.let(quotient)))
    root = body.let(finish(body, "cbrt", magnitude, t))
    inside = exact.lt(magnitude, body.const(INFINITY))
    result = exact.select(exact.eq(magnitude, body.const(MINUS_ZERO)), magnitude, exact.select(inside, root, magnitude))
    return with_sign_of(body, x, body.let(result))


#: Each takes the body and a float32 variable (any lanes) and returns the float32 result.
BODIES: dict[str, Callable[[Body, Expr], Expr]] = {"rsqrt": rsqrt, "cbrt": cbrt}
