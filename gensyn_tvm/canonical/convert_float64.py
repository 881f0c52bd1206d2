"""Exponential and logarithm of float64 as canonical operators; of float32 they are operators themselves."""

from __future__ import annotations

import math

from gensyn_tvm.canonical.convert_context import Context

_FRACTION_BITS = 52
_BIAS = 1023
#: What a subnormal is multiplied by before its exponent is read.
_SCALE_BITS = 54


def exp(ctx: Context, x: int) -> int:
    """pow(e, x) with e rounded to float64: the relative error is below (1 + |x|) 2^-52."""
    if ctx.type(x).dtype != "float64":
        return ctx.emit("exp", x)
    return ctx.emit("pow", ctx.number(math.e, x), x)


def log(ctx: Context, x: int) -> int:
    """x = m 2^k with 1 <= m < 2; y = log of float32(m), corrected once by Halley's step with E = exp(y):
    y + 2 (m - E) / (m + E) + k ln 2. The absolute error is a few units of 2^-52 max(1, |k|)."""
    if ctx.type(x).dtype != "float64":
        return ctx.emit("log", x)
    small = ctx.emit("less", x, ctx.number(2.0**-1022, x))
    scaled = ctx.where(small, ctx.mul(x, ctx.number(2.0**_SCALE_BITS, x)), x)
    bits = ctx.emit("bitcast", scaled, dtype="int64")
    k = ctx.sub(ctx.emit("shift_right", bits, ctx.scalar(_FRACTION_BITS, "int64")), ctx.scalar(_BIAS, "int64"))
    k = ctx.sub(k, ctx.where(small, ctx.scalar(_SCALE_BITS, "int64"), ctx.scalar(0, "int64")))
    fraction = ctx.emit("bit_and", bits, ctx.scalar(2**_FRACTION_BITS - 1, "int64"))
    m = ctx.emit("bitcast", ctx.emit("bit_or", fraction, ctx.scalar(_BIAS << _FRACTION_BITS, "int64")), dtype="float64")
    first = ctx.cast(ctx.emit("log", ctx.cast(m, "float32")), "float64")
    power = exp(ctx, first)
    step = ctx.div(ctx.mul(ctx.sub(m, power), ctx.number(2.0, x)), ctx.add(m, power))
    y = ctx.add(ctx.add(first, step), ctx.mul(ctx.cast(k, "float64"), ctx.number(math.log(2.0), x)))
    zero, infinity = ctx.number(0.0, x), ctx.number(math.inf, x)
    y = ctx.where(ctx.emit("equal", x, infinity), x, y)
    y = ctx.where(ctx.emit("equal", x, zero), ctx.number(-math.inf, x), y)
    return ctx.where(ctx.emit("greater_equal", x, zero), y, ctx.number(math.nan, x))
