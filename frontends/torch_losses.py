"""ATen losses, for models that contain one; their formulas are in docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gensyn_tvm.canonical.types import INTEGERS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.losses import negative_log_likelihood
from gensyn_tvm.frontends.torch_converters import Arguments, Converter, in_float32

#: By ATen's number of a reduction.
_REDUCTIONS = ("none", "mean", "sum")


def _reduced(e: Emitter, x: Expr, reduction: int) -> Expr:
    """The elements, their mean or their sum."""
    if _REDUCTIONS[reduction] == "none" or not rank_of(x):
        return x
    return e((op.mean if _REDUCTIONS[reduction] == "mean" else op.sum)(x, list(range(rank_of(x))), False))


def _likelihood(e: Emitter, log_p: Expr, a: Arguments) -> Expr:
    """The negative log likelihood of scores (C,) or (N, C, …)."""
    target = e.cast(a.target, "int64")
    if rank_of(log_p) == 1:
        log_p, target = e.reshape(log_p, [1, *shape_of(log_p)]), e.reshape(target, [1])
    name = _REDUCTIONS[a.reduction]
    loss = negative_log_likelihood(e, log_p, target, a.weight, ignored=a.ignore_index, reduction=name)
    return e.reshape(loss, a.out_shape)


def convert_nll_loss(e: Emitter, a: Arguments) -> Expr:
    return _likelihood(e, a.self, a)


def convert_nll_loss_forward(e: Emitter, a: Arguments) -> Any:
    """Only the first result can be used."""
    return [_likelihood(e, a.self, a), None]


def convert_cross_entropy(e: Emitter, a: Arguments) -> Expr:
    """The negative log likelihood of log_softmax."""
    if a.label_smoothing or dtype_of(a.target) not in INTEGERS:
        found = f"label_smoothing={a.label_smoothing}, a target of {dtype_of(a.target)}"
        raise e.refuse(found, expected="class indices, no smoothing", remedy="leave the loss to training_step")
    return _likelihood(e, e(nn.log_softmax(a.self, min(1, rank_of(a.self) - 1))), a)


def convert_loss(element: Callable[[Emitter, Expr, Expr, Arguments], Expr]) -> Converter:
    """A loss of elements, reduced."""

    def convert(e: Emitter, a: Arguments) -> Expr:
        dtype = a.out_dtype
        return _reduced(e, element(e, e.cast(a.self, dtype), e.cast(a.target, dtype), a), a.reduction)

    return in_float32(convert)


def _squared(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    difference = e.sub(x, y)
    return e.mul(difference, difference)


def _absolute(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    return e(op.abs(e.sub(x, y)))


def _huber(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    """d < delta ? 0.5 * d * d : delta * (d - 0.5 * delta), d = |x - y|"""
    d = _absolute(e, x, y, a)
    linear = e.mul(e.sub(d, 0.5 * a.delta), a.delta)
    return e.where(e(op.less(d, number(a.delta, dtype_of(d)))), e.mul(e.mul(d, 0.5), d), linear)


def _smooth(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    """d < beta ? 0.5 * d * d / beta : d - 0.5 * beta, d = |x - y|"""
    d = _absolute(e, x, y, a)
    if a.beta == 0:
        return d
    return e.where(e(op.less(d, number(a.beta, dtype_of(d)))), e.div(e.mul(e.mul(d, 0.5), d), a.beta), e.sub(d, 0.5 * a.beta))


def _binary(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    """-(y * log(x) + (1 - y) * log(1 - x)), logarithms at least -100"""
    one, zero = (e.maximum(e(op.log(v)), -100.0) for v in (x, e.sub(1.0, x)))
    loss = e(op.negative(e.add(e.mul(y, one), e.mul(e.sub(1.0, y), zero))))
    return loss if a.weight is None else e.mul(loss, a.weight)


def _binary_logits(e: Emitter, x: Expr, y: Expr, a: Arguments) -> Expr:
    """(1 - y) * x + w * softplus(-x), w = (pos_weight - 1) * y + 1"""
    tail = blocks.softplus(e, e(op.negative(x)), 1.0, math.inf)
    if a.pos_weight is not None:
        tail = e.mul(tail, e.add(e.mul(e.sub(a.pos_weight, 1.0), y), 1.0))
    loss = e.add(e.mul(e.sub(1.0, y), x), tail)
    return loss if a.weight is None else e.mul(loss, a.weight)


LOSSES: dict[str, Converter] = {
    **{f"{name}.default": in_float32(convert_nll_loss_forward) for name in ("nll_loss_forward", "nll_loss2d_forward")},
    **{f"{name}.default": in_float32(convert_nll_loss) for name in ("nll_loss", "nll_loss2d", "nll_loss_nd")},
    "cross_entropy_loss.default": in_float32(convert_cross_entropy),
    "mse_loss.default": convert_loss(_squared),
    "l1_loss.default": convert_loss(_absolute),
    "huber_loss.default": convert_loss(_huber),
    "smooth_l1_loss.default": convert_loss(_smooth),
    "binary_cross_entropy.default": convert_loss(_binary),
    "binary_cross_entropy_with_logits.default": convert_loss(_binary_logits),
}
