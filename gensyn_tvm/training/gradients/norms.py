"""Gradients of normalisations and deviations of Relax, each as one formula."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.canonical.convert_context import integer
from gensyn_tvm.training.emit import Emitter, Expr, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, kept, like
from gensyn_tvm.training.ops import attrs_of


def _axes(call: Any, rank: int) -> list[int]:
    axes = call.attrs.axis
    return list(range(rank)) if axes is None else sorted({integer(a) % rank for a in axes})


def _variance(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * (2 * (x - mean)) / count"""
    (x,) = call.args
    shape = shape_of(x)
    axes = _axes(call, len(shape))
    centred = op.subtract(x, op.mean(x, axes, True))
    doubled = op.multiply(kept(g, shape, axes), op.multiply(like(2, x), centred))
    return [op.divide(doubled, like(math.prod(shape[a] for a in axes), x))]


def _std(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """(g / std) * (x - mean) / count"""
    (x,) = call.args
    shape = shape_of(x)
    axes = _axes(call, len(shape))
    centred = op.subtract(x, op.mean(x, axes, True))
    scaled = op.multiply(kept(op.divide(g, var), shape, axes), centred)
    return [op.divide(scaled, like(math.prod(shape[a] for a in axes), x))]


def _normalised(e: Emitter, x: Expr, axes: list[int], epsilon: float) -> tuple[Expr, Expr]:
    """y = (x - mean) / s and s = sqrt(variance + epsilon), as the forward pass has them."""
    centred = e(op.subtract(x, op.mean(x, axes, True)))
    variance = op.mean(op.multiply(centred, centred), axes, True)
    s = e(op.sqrt(op.add(variance, like(epsilon, x))))
    return e(op.divide(centred, s)), s


def _through(e: Emitter, g: Expr, y: Expr, s: Expr, axes: list[int]) -> Expr:
    """(g - mean(g) - y * mean(g * y)) / s"""
    along = op.multiply(y, op.mean(op.multiply(g, y), axes, True))
    return op.divide(op.subtract(op.subtract(g, op.mean(g, axes, True)), along), s)


def _affine(e: Emitter, g: Expr, y: Expr, gamma: Expr, beta: Expr, own: list[int]) -> tuple[Expr, Expr]:
    """Gradients of scale and shift, which have the axes ``own`` of y."""
    rest = [a for a in range(len(shape_of(y))) if a not in own]
    dgamma = op.reshape(op.sum(op.multiply(g, y), rest, False) if rest else op.multiply(g, y), shape_of(gamma))
    dbeta = op.reshape(op.sum(g, rest, False) if rest else g, shape_of(beta))
    return dgamma, dbeta


def _scaled(e: Emitter, call: Any, g: Expr, gamma: Expr, own: list[int]) -> Expr:
    """g * gamma, if the call has a scale."""
    if not bool(call.attrs.scale):
        return g
    return e(op.multiply(g, op.reshape(gamma, [n if a in own else 1 for a, n in enumerate(shape_of(g))])))


def _layer_norm(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """With y = (x - mean) / s: dx = (g' - mean(g') - y * mean(g' * y)) / s, g' = g * gamma."""
    x, gamma, beta = call.args
    axes = sorted({integer(a) % len(shape_of(x)) for a in call.attrs.axes})
    y, s = _normalised(e, x, axes, float(call.attrs.epsilon))
    return [_through(e, _scaled(e, call, g, gamma, axes), y, s, axes), *_affine(e, g, y, gamma, beta, axes)]


def _instance_norm(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """As layer normalisation, with a scale for each channel."""
    x, gamma, beta = call.args
    rank = len(shape_of(x))
    axes = sorted({integer(a) % rank for a in call.attrs.axes})
    channel = [integer(call.attrs.channel_axis) % rank]
    y, s = _normalised(e, x, axes, float(call.attrs.epsilon))
    return [_through(e, _scaled(e, call, g, gamma, channel), y, s, axes), *_affine(e, g, y, gamma, beta, channel)]


def _group_norm(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """As layer normalisation over the channels of each group, with a scale for each channel."""
    x, gamma, beta = call.args
    shape, groups = shape_of(x), int(call.attrs.num_groups)
    channel = integer(call.attrs.channel_axis) % len(shape)
    others = [integer(a) % len(shape) for a in call.attrs.axes]
    axes = sorted([*(a if a < channel else a + 1 for a in others if a != channel), channel + 1])
    grouped = [*shape[:channel], groups, shape[channel] // groups, *shape[channel + 1 :]]
    y, s = _normalised(e, e(op.reshape(x, grouped)), axes, float(call.attrs.epsilon))
    scaled = e(op.reshape(_scaled(e, call, g, gamma, [channel]), grouped))
    dx = op.reshape(_through(e, scaled, y, s, axes), shape)
    return [dx, *_affine(e, g, e(op.reshape(y, shape)), gamma, beta, [channel])]


def _rms_norm(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """With y = x / s, s = sqrt(mean(x * x) + epsilon): dx = (g' - y * mean(g' * y)) / s, g' = g * weight."""
    x, weight = call.args
    shape = shape_of(x)
    axes = sorted({integer(a) % len(shape) for a in call.attrs.axes})
    rest = [a for a in range(len(shape)) if a not in axes]
    s = e(op.sqrt(op.add(op.mean(op.multiply(x, x), axes, True), like(float(call.attrs.epsilon), x))))
    y = e(op.divide(x, s))
    scaled = e(op.multiply(g, op.reshape(weight, [n if a in axes else 1 for a, n in enumerate(shape)])))
    dx = op.divide(op.subtract(scaled, op.multiply(y, op.mean(op.multiply(scaled, y), axes, True))), s)
    along = op.multiply(g, y)
    return [dx, op.reshape(op.sum(along, rest, False) if rest else along, shape_of(weight))]


def _batch_normalise(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """With y = (x - mean) / s: dx = (gamma / s) * ((g - dbeta / n) - y * (dgamma / n)), dgamma = sum(g * y), dbeta = sum(g)."""
    x, gamma, beta = call.args
    shape = shape_of(x)
    axes = [0, *range(2, len(shape))]
    beside = [1, shape[1], *[1] * (len(shape) - 2)]
    n = like(math.prod(shape[a] for a in axes), x)
    y, s = _normalised(e, x, axes, float(attrs_of(call)["epsilon"]))
    dgamma, dbeta = e(op.sum(op.multiply(g, y), axes, True)), e(op.sum(g, axes, True))
    inner = op.subtract(op.subtract(g, op.divide(dbeta, n)), op.multiply(y, op.divide(dgamma, n)))
    dx = op.multiply(op.divide(op.reshape(gamma, beside), s), inner)
    return [dx, op.reshape(dgamma, shape_of(gamma)), op.reshape(dbeta, shape_of(beta))]


NORMS: dict[str, Gradient] = {
    "relax.variance": _variance,
    "relax.std": _std,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.rms_norm": _rms_norm,
    "gensyn.batch_normalise": _batch_normalise,
}
