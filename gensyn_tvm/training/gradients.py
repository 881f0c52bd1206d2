"""Gradients that stock TVM lacks, or has with other conventions than PyTorch, for ``relax.transform.Gradient``.

Each is made of operators that the freeze converts. ``GRADIENTS`` is a literal; importing this module registers it, above
TVM's own level. Conventions at kinks are PyTorch's: relu, abs: 0 at 0; clip: 1 at the limits; maximum, minimum and
max/min reductions share among equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm.ir import GenericConst
from tvm.relax.op.base import register_gradient
from tvm.relax.op.grad import no_grad

from gensyn_tvm.canonical.convert_context import integer
from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.training import shape_gradients as shapes
from gensyn_tvm.training.emit import Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.ops import attrs_of
from gensyn_tvm.training.window_gradients import adaptive_avg_pool, avg_pool, conv, max_pool

Gradient = Callable[[Any, Any, Any, Any], list[Expr]]

#: Above the level of TVM's own registrations (10).
_LEVEL = 50


def _c(value: float, like: Expr) -> Expr:
    return number(value, dtype_of(like))


def _zero(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [no_grad(a) for a in call.args]


# ---- elementwise ----------------------------------------------------------------------------------------------------


def _relu(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    zero = _c(0, x)
    return [op.where(op.less_equal(x, zero), zero, g)]


def _abs(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [op.multiply(g, op.sign(call.args[0]))]


def _clip(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    x, low, high = call.args
    inside = op.logical_and(
        op.greater_equal(x, _c(getattr(low, "value", low), x)), op.less_equal(x, _c(getattr(high, "value", high), x))
    )
    return [op.where(inside, g, _c(0, x)), no_grad(low), no_grad(high)]


def _leakyrelu(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    return [op.where(op.greater(x, _c(0, x)), g, op.multiply(g, _c(float(call.attrs.alpha), x)))]


def _prelu(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    x, alpha = call.args
    beside = [1] * len(shape_of(x))
    beside[int(call.attrs.axis) % len(beside)] = math.prod(shape_of(alpha))
    positive = op.greater(x, _c(0, x))
    dx = op.where(positive, g, op.multiply(g, op.reshape(alpha, beside)))
    dalpha = op.collapse_sum_to(op.where(positive, _c(0, x), op.multiply(g, x)), beside)
    return [dx, op.reshape(dalpha, shape_of(alpha))]


def _gelu(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """g * (Phi(x) + x * phi(x))"""
    (x,) = call.args
    cdf = op.multiply(_c(0.5, x), op.add(_c(1, x), op.erf(op.multiply(x, _c(math.sqrt(0.5), x)))))
    pdf = op.multiply(op.exp(op.multiply(_c(-0.5, x), op.multiply(x, x))), _c(1 / math.sqrt(2 * math.pi), x))
    return [op.multiply(g, op.add(cdf, op.multiply(x, pdf)))]


def _gelu_tanh(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    k = math.sqrt(2 / math.pi)
    square = bb.emit(op.multiply(x, x))
    inner = op.add(x, op.multiply(op.multiply(square, x), _c(0.044715, x)))
    t = bb.emit(op.tanh(op.multiply(inner, _c(k, x))))
    slope = op.multiply(_c(k, x), op.add(_c(1, x), op.multiply(_c(3 * 0.044715, x), square)))
    bell = op.multiply(op.multiply(_c(0.5, x), x), op.multiply(op.subtract(_c(1, x), op.multiply(t, t)), slope))
    return [op.multiply(g, op.add(op.multiply(_c(0.5, x), op.add(_c(1, x), t)), bell))]


def _silu(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """g * (s * (1 + x * (1 - s))), s = sigmoid(x)"""
    (x,) = call.args
    s = bb.emit(op.sigmoid(x))
    one = _c(1, x)
    return [op.multiply(g, op.multiply(s, op.add(one, op.multiply(x, op.subtract(one, s)))))]


def _softplus(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    z = bb.emit(op.multiply(x, _c(float(call.attrs.beta), x)))
    linear = op.greater(z, _c(float(call.attrs.threshold), x))
    return [op.where(linear, g, op.multiply(g, op.sigmoid(z)))]


def _rsqrt(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [op.multiply(g, op.multiply(_c(-0.5, var), op.multiply(var, op.multiply(var, var))))]


def _erf(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    return [op.multiply(g, op.multiply(_c(2 / math.sqrt(math.pi), x), op.exp(op.negative(op.multiply(x, x)))))]


def _cosh(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [op.multiply(g, op.sinh(call.args[0]))]


def _atan(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """g / (1 + x * x)"""
    (x,) = call.args
    return [op.divide(g, op.add(_c(1, x), op.multiply(x, x)))]


def _sinh(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [op.multiply(g, op.cosh(call.args[0]))]


def _square(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    return [op.multiply(g, op.multiply(_c(2, var), call.args[0]))]


def _power(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Constant exponent n: g * (n * x^(n - 1)); for halves g * (n * (y / x))."""
    x, exponent = call.args
    if not isinstance(exponent, GenericConst):
        raise UnsupportedOperatorError(
            "relax.power", where=str(var.name), found="an exponent that is computed", expected="a constant exponent"
        )
    n = float(exponent.value.numpy().reshape(-1)[0])
    slope = op.divide(var, x) if n != int(n) else op.power(x, _c(n - 1, x))
    return [op.multiply(g, op.multiply(_c(n, x), slope)), no_grad(exponent)]


def _extremum(losing: Callable[[Expr, Expr], Expr]) -> Gradient:
    def gradient(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
        x, y = call.args
        shared = bb.emit(op.where(op.equal(x, y), op.multiply(g, _c(0.5, x)), g))
        dx = op.where(losing(x, y), _c(0, x), shared)
        dy = op.where(losing(y, x), _c(0, x), shared)
        return [_collapsed(bb, dx, x), _collapsed(bb, dy, y)]

    return gradient


def _collapsed(bb: Any, g: Expr, like: Expr) -> Expr:
    g = bb.emit(g)
    return g if shape_of(g) == shape_of(like) else op.collapse_sum_to(g, shape_of(like))


def _where(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Operands may be broadcast; TVM's own gradient does not sum over that."""
    condition, x, y = call.args
    dx, dy = op.where(condition, g, _c(0, g)), op.where(condition, _c(0, g), g)
    return [no_grad(condition), _collapsed(bb, dx, x), _collapsed(bb, dy, y)]


def _astype(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    if dtype_of(x) not in FLOATS or dtype_of(var) not in FLOATS:
        return [no_grad(x)]
    return [op.astype(g, dtype_of(x))]


# ---- reductions -----------------------------------------------------------------------------------------------------


def _axes(call: Any, rank: int) -> list[int]:
    axes = call.attrs.axis
    return list(range(rank)) if axes is None else sorted({integer(a) % rank for a in axes})


def _kept(value: Expr, shape: Sequence[int], axes: Sequence[int]) -> Expr:
    """A reduction's result with its reduced axes as 1."""
    return op.reshape(value, [1 if a in axes else n for a, n in enumerate(shape)])


def _extremum_reduction(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    (x,) = call.args
    shape = shape_of(x)
    axes = _axes(call, len(shape))
    hits = bb.emit(op.astype(op.equal(x, _kept(var, shape, axes)), dtype_of(x)))
    share = op.divide(_kept(g, shape, axes), op.sum(hits, axes, True))
    return [op.multiply(hits, share)]


def _variance(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """g * (2 * (x - mean)) / count"""
    (x,) = call.args
    shape = shape_of(x)
    axes = _axes(call, len(shape))
    centred = op.subtract(x, op.mean(x, axes, True))
    doubled = op.multiply(_kept(g, shape, axes), op.multiply(_c(2, x), centred))
    return [op.divide(doubled, _c(math.prod(shape[a] for a in axes), x))]


def _std(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """(g / std) * (x - mean) / count"""
    (x,) = call.args
    shape = shape_of(x)
    axes = _axes(call, len(shape))
    centred = op.subtract(x, op.mean(x, axes, True))
    scaled = op.multiply(_kept(op.divide(g, var), shape, axes), centred)
    return [op.divide(scaled, _c(math.prod(shape[a] for a in axes), x))]


def _layer_norm(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """With y = (x - mean) / s: dx = (g' - mean(g') - y * mean(g' * y)) / s, g' = g * gamma."""
    x, gamma, beta = call.args
    shape = shape_of(x)
    axes = sorted({integer(a) % len(shape) for a in call.attrs.axes})
    rest = [a for a in range(len(shape)) if a not in axes]
    centred = bb.emit(op.subtract(x, op.mean(x, axes, True)))
    variance = op.mean(op.multiply(centred, centred), axes, True)
    s = bb.emit(op.sqrt(op.add(variance, _c(float(call.attrs.epsilon), x))))
    y = bb.emit(op.divide(centred, s))
    scaled = g
    if bool(call.attrs.scale):
        scaled = bb.emit(op.multiply(g, op.reshape(gamma, [n if a in axes else 1 for a, n in enumerate(shape)])))
    along = op.multiply(y, op.mean(op.multiply(scaled, y), axes, True))
    inner = op.subtract(op.subtract(scaled, op.mean(scaled, axes, True)), along)
    dgamma = op.reshape(op.sum(op.multiply(g, y), rest, False) if rest else op.multiply(g, y), shape_of(gamma))
    dbeta = op.reshape(op.sum(g, rest, False) if rest else g, shape_of(beta))
    return [op.divide(inner, s), dgamma, dbeta]


def _batch_normalise(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """With y = (x - mean) / s: dx = (gamma / s) * ((g - dbeta / n) - y * (dgamma / n)), dgamma = sum(g * y), dbeta = sum(g)."""
    x, gamma, beta = call.args
    shape = shape_of(x)
    axes = [0, *range(2, len(shape))]
    beside = [1, shape[1], *[1] * (len(shape) - 2)]
    n = _c(math.prod(shape[a] for a in axes), x)
    centred = bb.emit(op.subtract(x, op.mean(x, axes, True)))
    variance = op.mean(op.multiply(centred, centred), axes, True)
    s = bb.emit(op.sqrt(op.add(variance, _c(float(attrs_of(call)["epsilon"]), x))))
    y = bb.emit(op.divide(centred, s))
    dgamma, dbeta = bb.emit(op.sum(op.multiply(g, y), axes, True)), bb.emit(op.sum(g, axes, True))
    inner = op.subtract(op.subtract(g, op.divide(dbeta, n)), op.multiply(y, op.divide(dgamma, n)))
    dx = op.multiply(op.divide(op.reshape(gamma, beside), s), inner)
    return [dx, op.reshape(dgamma, shape_of(gamma)), op.reshape(dbeta, shape_of(beta))]


GRADIENTS: dict[str, Gradient] = {
    "relax.nn.relu": _relu,
    "relax.abs": _abs,
    "relax.clip": _clip,
    "relax.nn.leakyrelu": _leakyrelu,
    "relax.nn.prelu": _prelu,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.silu": _silu,
    "relax.nn.softplus": _softplus,
    "relax.rsqrt": _rsqrt,
    "relax.erf": _erf,
    "relax.sinh": _sinh,
    "relax.cosh": _cosh,
    "relax.atan": _atan,
    "relax.square": _square,
    "relax.power": _power,
    "relax.maximum": _extremum(op.less),
    "relax.minimum": _extremum(op.greater),
    "relax.astype": _astype,
    "relax.where": _where,
    "relax.squeeze": shapes.reshaped,
    "relax.expand_dims": shapes.reshaped,
    "relax.flatten": shapes.reshaped,
    "relax.nn.batch_flatten": shapes.reshaped,
    "relax.strided_slice": shapes.strided_slice,
    "relax.take": shapes.take,
    "relax.stack": shapes.stack,
    "relax.tile": shapes.repeated(inner=False),
    "relax.repeat": shapes.repeated(inner=True),
    "relax.nn.pad": shapes.pad,
    "relax.tril": shapes.triangle(op.tril),
    "relax.triu": shapes.triangle(op.triu),
    "relax.max": _extremum_reduction,
    "relax.min": _extremum_reduction,
    "relax.variance": _variance,
    "relax.std": _std,
    "relax.nn.layer_norm": _layer_norm,
    "gensyn.batch_normalise": _batch_normalise,
    **{f"relax.nn.conv{n}d": conv for n in (1, 2, 3)},
    **{f"relax.nn.max_pool{n}d": max_pool for n in (1, 2, 3)},
    **{f"relax.nn.avg_pool{n}d": avg_pool for n in (1, 2, 3)},
    **{f"relax.nn.adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2, 3)},
}

#: Operators whose result does not change with their inputs, or only in jumps.
CONSTANT: tuple[str, ...] = (
    *("relax.equal", "relax.not_equal", "relax.less", "relax.less_equal", "relax.greater", "relax.greater_equal"),
    *("relax.logical_and", "relax.logical_or", "relax.logical_not", "relax.logical_xor"),
    *("relax.isnan", "relax.isinf", "relax.isfinite", "relax.floor", "relax.ceil", "relax.round", "relax.trunc", "relax.sign"),
    *("relax.argmax", "relax.argmin", "relax.one_hot", "relax.arange", "relax.eye", "gensyn.random_bits"),
    *("relax.zeros", "relax.ones", "relax.full", "relax.zeros_like", "relax.ones_like", "relax.full_like"),
)

for _name, _gradient in GRADIENTS.items():
    register_gradient(_name, _gradient, _LEVEL)
for _name in CONSTANT:
    register_gradient(_name, _zero, _LEVEL)
