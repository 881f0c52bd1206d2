"""Elementwise Relax operators as canonical operators, each decomposition in the order that is written here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical import convert_float64
from gensyn_tvm.canonical.convert_context import Context, Converter, Value

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
MAX_POWER = 64


def _same(op: str) -> Converter:
    """The canonical operator ``op`` of all arguments."""

    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        return ctx.emit(op, *args)

    return convert


def _relu(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x <= 0 ? +0 : x, so NaN stays and -0 becomes +0."""
    zero = ctx.number(0, args[0])
    return ctx.where(ctx.emit("less_equal", args[0], zero), zero, args[0])


def _clip(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """minimum(maximum(x, low), high)"""
    low, high = (getattr(a, "value", a) for a in call.args[1:3])
    raised = ctx.emit("maximum", args[0], ctx.number(low, args[0]))
    return ctx.emit("minimum", raised, ctx.number(high, args[0]))


def _leakyrelu(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x > 0 ? x : x * alpha"""
    (x,) = args
    scaled = ctx.mul(x, ctx.number(float(call.attrs.alpha), x))
    return ctx.where(ctx.emit("greater", x, ctx.number(0, x)), x, scaled)


def _prelu(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x > 0 ? x : x * alpha[channel]"""
    x, alpha = args
    shape = [1] * len(ctx.shape(x))
    if shape:
        shape[int(call.attrs.axis) % len(shape)] = ctx.type(alpha).size
    return ctx.where(ctx.emit("greater", x, ctx.number(0, x)), x, ctx.mul(x, ctx.reshape(alpha, shape)))


def _gelu(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """(x * 0.5) * (1 + erf(x * sqrt(1/2)))"""
    (x,) = args
    cdf = ctx.add(ctx.number(1, x), ctx.emit("erf", ctx.mul(x, ctx.number(_SQRT_HALF, x))))
    return ctx.mul(ctx.mul(x, ctx.number(0.5, x)), cdf)


def _gelu_tanh(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """(x * 0.5) * (1 + tanh((x + ((x * x) * x) * 0.044715) * sqrt(2 / pi)))"""
    (x,) = args
    cube = ctx.mul(ctx.mul(x, x), x)
    inner = ctx.add(x, ctx.mul(cube, ctx.number(0.044715, x)))
    t = ctx.emit("tanh", ctx.mul(inner, ctx.number(_SQRT_2_OVER_PI, x)))
    return ctx.mul(ctx.mul(x, ctx.number(0.5, x)), ctx.add(ctx.number(1, x), t))


def _silu(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x * sigmoid(x)"""
    return ctx.mul(args[0], ctx.emit("sigmoid", args[0]))


def _softplus(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """z > threshold ? x : (maximum(z, 0) + log1p(exp(-|z|))) / beta, with z = x * beta; a beta of 1 is left out"""
    (x,) = args
    beta = None if float(call.attrs.beta) == 1.0 else ctx.number(float(call.attrs.beta), x)
    z = x if beta is None else ctx.mul(x, beta)
    tail = ctx.emit("log1p", ctx.emit("exp", ctx.emit("neg", ctx.emit("abs", z))))
    y = ctx.add(ctx.emit("maximum", z, ctx.number(0, x)), tail)
    y = y if beta is None else ctx.div(y, beta)
    return ctx.where(ctx.emit("greater", z, ctx.number(float(call.attrs.threshold), x)), x, y)


def _rsqrt(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """1 / sqrt(x)"""
    return ctx.div(ctx.number(1, args[0]), ctx.emit("sqrt", args[0]))


def _square(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x * x"""
    return ctx.mul(args[0], args[0])


def _trunc(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """x < 0 ? ceil(x) : floor(x)"""
    (x,) = args
    return ctx.where(ctx.emit("less", x, ctx.number(0, x)), ctx.emit("ceil", x), ctx.emit("floor", x))


def _power(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """Constant exponents: 0.5 → sqrt(x), -0.5 → 1 / sqrt(x), integers by squaring from the lowest bit, negative as 1 / x^n."""
    x, exponent = args
    array = ctx.constant(exponent)
    remedy = "write it with exp and log, or with a constant integer exponent"
    if array is None or array.size != 1:
        raise ctx.refuse("an exponent that is not one constant number", expected="a constant exponent", remedy=remedy)
    value = float(array.reshape(()))
    if abs(value) == 0.5:
        root = ctx.emit("sqrt", x)
        return root if value > 0 else ctx.div(ctx.number(1, x), root)
    if value != int(value) or abs(value) > MAX_POWER:
        expected = f"an integer from -{MAX_POWER} to {MAX_POWER}, 0.5 or -0.5"
        raise ctx.refuse(f"exponent {value}", expected=expected, remedy=remedy)
    result = _integer_power(ctx, x, abs(int(value)))
    return result if value >= 0 else ctx.div(ctx.number(1, x), result)


def _integer_power(ctx: Context, x: int, exponent: int) -> int:
    if exponent == 0:
        return ctx.broadcast(ctx.number(1, x), ctx.shape(x))
    result: int | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else ctx.mul(result, x)
        exponent >>= 1
        if exponent:
            x = ctx.mul(x, x)
    assert result is not None
    return result


def _astype(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return ctx.cast(args[0], str(call.attrs.dtype))


def _is_inf(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return ctx.emit("equal", ctx.emit("abs", args[0]), ctx.number(math.inf, args[0]))


def _is_finite(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return ctx.emit("less", ctx.emit("abs", args[0]), ctx.number(math.inf, args[0]))


CONVERTERS: dict[str, Converter] = {
    "gensyn.stop_gradient": lambda ctx, call, args: args[0],
    "relax.add": _same("add"),
    "relax.subtract": _same("sub"),
    "relax.multiply": _same("mul"),
    "relax.divide": _same("div"),
    "relax.maximum": _same("maximum"),
    "relax.minimum": _same("minimum"),
    "relax.equal": _same("equal"),
    "relax.not_equal": _same("not_equal"),
    "relax.less": _same("less"),
    "relax.less_equal": _same("less_equal"),
    "relax.greater": _same("greater"),
    "relax.greater_equal": _same("greater_equal"),
    "relax.logical_and": _same("logical_and"),
    "relax.logical_or": _same("logical_or"),
    "relax.logical_not": _same("logical_not"),
    "relax.logical_xor": _same("not_equal"),
    "relax.where": _same("where"),
    "relax.negative": _same("neg"),
    "relax.abs": _same("abs"),
    "relax.sqrt": _same("sqrt"),
    "relax.exp": lambda ctx, call, args: convert_float64.exp(ctx, args[0]),
    "relax.log": lambda ctx, call, args: convert_float64.log(ctx, args[0]),
    "relax.tanh": _same("tanh"),
    "relax.sigmoid": _same("sigmoid"),
    "relax.erf": _same("erf"),
    "relax.sinh": _same("sinh"),
    "relax.cosh": _same("cosh"),
    "relax.atan": _same("atan"),
    "relax.sin": _same("sin"),
    "relax.cos": _same("cos"),
    "relax.tan": _same("tan"),
    "relax.asin": _same("asin"),
    "relax.acos": _same("acos"),
    "relax.asinh": _same("asinh"),
    "relax.acosh": _same("acosh"),
    "relax.atanh": _same("atanh"),
    "relax.floor": _same("floor"),
    "relax.ceil": _same("ceil"),
    "relax.round": _same("round"),
    "relax.sign": _same("sign"),
    "relax.isnan": _same("is_nan"),
    "relax.isinf": _is_inf,
    "relax.isfinite": _is_finite,
    "relax.trunc": _trunc,
    "relax.rsqrt": _rsqrt,
    "relax.square": _square,
    "relax.power": _power,
    "relax.clip": _clip,
    "relax.astype": _astype,
    "relax.nn.relu": _relu,
    "relax.nn.leakyrelu": _leakyrelu,
    "relax.nn.prelu": _prelu,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.silu": _silu,
    "relax.nn.softplus": _softplus,
}
