"""Gradients of activations of Relax for which a formula of their own is shorter or more accurate than that of their parts.

relu: 0 at 0; clip: 1 at the limits, as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

from tvm.ir import GenericConst

from gensyn_tvm.canonical.convert_elementwise import MAX_POWER
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.training.emit import Emitter, Expr, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, like


def _relu(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    zero = like(0, x)
    return [op.where(op.less_equal(x, zero), zero, g)]


def _clip(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, low, high = call.args
    inside = op.logical_and(
        op.greater_equal(x, like(getattr(low, "value", low), x)), op.less_equal(x, like(getattr(high, "value", high), x))
    )
    return [op.where(inside, g, like(0, x)), None, None]


def _leakyrelu(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    return [op.where(op.greater(x, like(0, x)), g, op.multiply(g, like(float(call.attrs.alpha), x)))]


def _prelu(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, alpha = call.args
    beside = [1] * len(shape_of(x))
    beside[int(call.attrs.axis) % len(beside)] = math.prod(shape_of(alpha))
    positive = op.greater(x, like(0, x))
    dx = op.where(positive, g, op.multiply(g, op.reshape(alpha, beside)))
    dalpha = op.collapse_sum_to(op.where(positive, like(0, x), op.multiply(g, x)), beside)
    return [dx, op.reshape(dalpha, shape_of(alpha))]


def _gelu(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * (Phi(x) + x * phi(x))"""
    (x,) = call.args
    cdf = op.multiply(like(0.5, x), op.add(like(1, x), op.erf(op.multiply(x, like(math.sqrt(0.5), x)))))
    pdf = op.multiply(op.exp(op.multiply(like(-0.5, x), op.multiply(x, x))), like(1 / math.sqrt(2 * math.pi), x))
    return [op.multiply(g, op.add(cdf, op.multiply(x, pdf)))]


def _gelu_tanh(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    k = math.sqrt(2 / math.pi)
    square = e(op.multiply(x, x))
    inner = op.add(x, op.multiply(op.multiply(square, x), like(0.044715, x)))
    t = e(op.tanh(op.multiply(inner, like(k, x))))
    slope = op.multiply(like(k, x), op.add(like(1, x), op.multiply(like(3 * 0.044715, x), square)))
    bell = op.multiply(op.multiply(like(0.5, x), x), op.multiply(op.subtract(like(1, x), op.multiply(t, t)), slope))
    return [op.multiply(g, op.add(op.multiply(like(0.5, x), op.add(like(1, x), t)), bell))]


def _silu(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * (s * (1 + x * (1 - s))), s = sigmoid(x)"""
    (x,) = call.args
    s = e(op.sigmoid(x))
    one = like(1, x)
    return [op.multiply(g, op.multiply(s, op.add(one, op.multiply(x, op.subtract(one, s)))))]


def _softplus(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    z = e(op.multiply(x, like(float(call.attrs.beta), x)))
    linear = op.greater(z, like(float(call.attrs.threshold), x))
    return [op.where(linear, g, op.multiply(g, op.sigmoid(z)))]


def _rsqrt(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    return [op.multiply(g, op.multiply(like(-0.5, var), op.multiply(var, op.multiply(var, var))))]


def _square(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    return [op.multiply(g, op.multiply(like(2, var), call.args[0]))]


def _power(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """Constant exponent n: g * (n * x^(n - 1)); 0 for n = 0; for halves (g * 0.5) / y and g * (-0.5 * (y / x))."""
    x, exponent = call.args
    if not isinstance(exponent, GenericConst):
        raise UnsupportedOperatorError(
            "relax.power", where=str(var.name), found="an exponent that is computed", expected="a constant exponent"
        )
    n = float(exponent.value.numpy().reshape(-1)[0])
    if n == 0:
        return [op.multiply(g, like(0, x)), None]
    if n == 0.5:
        return [op.divide(op.multiply(g, like(0.5, x)), var), None]
    slope = op.power(x, like(n - 1, x)) if n == int(n) and n > 1 - MAX_POWER else op.divide(var, x)
    return [op.multiply(g, op.multiply(like(n, x), slope)), None]


def _softmax(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """(g - sum(g * y)) * y"""
    axis = call.attrs.axis
    along = op.subtract(g, op.sum(op.multiply(g, var), axis, True))
    return [op.multiply(along, var)]


def _log_softmax(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g - sum(g) * exp(y)"""
    return [op.subtract(g, op.multiply(op.sum(g, call.attrs.axis, True), op.exp(var)))]


def _exp(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * y, whichever way exp is computed: in float64 it is a composition that takes numbers apart into their bits."""
    return [op.multiply(g, var)]


def _log(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g / x"""
    return [op.divide(g, call.args[0])]


ACTIVATIONS: dict[str, Gradient] = {
    "relax.exp": _exp,
    "relax.log": _log,
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.nn.leakyrelu": _leakyrelu,
    "relax.nn.prelu": _prelu,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.silu": _silu,
    "relax.nn.softplus": _softplus,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _log_softmax,
    "relax.rsqrt": _rsqrt,
    "relax.square": _square,
    "relax.power": _power,
}
