"""ONNX's loss operators as compositions; their formulas are in docs/numerics.md."""

from __future__ import annotations

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, optional
from gensyn_tvm.training.losses import class_mask

_REDUCTIONS = ("none", "sum", "mean")


def _picked(e: Emitter, hit: Expr, values: Expr) -> Expr:
    """values (N, C, …) at the class that ``hit`` marks: exact, since -0.0 is what a sum leaves alone."""
    return e(op.sum(e.where(hit, values, -0.0), [1], False))


def negative_log_likelihood(
    e: Emitter, log_p: Expr, target: Expr, weight: Expr | None, *, ignored: int | None, reduction: str
) -> Expr:
    """-log_p[target], weighted and reduced.

    Args:
        log_p: (N, C, d…), float. target: (N, d…), an integer; a class outside [0, C) adds nothing. weight: (C,) or None.
        ignored: the class whose elements have loss and weight 0.
        reduction: ``none``, ``sum``, or ``mean``: the sum of the losses divided by the sum of the weights.

    Raises:
        UnsupportedOperatorError: shapes that do not fit, another reduction.
    """
    shape, dtype = shape_of(log_p), dtype_of(log_p)
    if len(shape) < 2 or dtype not in FLOATS or shape_of(target) != [shape[0], *shape[2:]]:
        found = f"scores {dtype}{shape} with targets {shape_of(target)}"
        raise e.refuse(found, expected="float scores (N, C, d…) and integer targets (N, d…)")
    if reduction not in _REDUCTIONS:
        raise e.refuse(f"reduction {reduction!r}", expected=" or ".join(_REDUCTIONS))
    hit = class_mask(e, target, shape)
    loss = e(op.negative(_picked(e, hit, log_p)))
    factor = None if weight is None else _picked(e, hit, e.reshape(weight, [1, shape[1], *[1] * (len(shape) - 2)]))
    if ignored is not None:
        skipped = e(op.equal(target, number(ignored, dtype_of(target))))
        loss = e.where(skipped, 0.0, loss)
        factor = e.where(skipped, 0.0, number(1.0, dtype) if factor is None else factor)
    if weight is not None:
        loss = e.mul(loss, factor)
    if reduction == "none":
        return loss
    axes = list(range(rank_of(loss)))
    if reduction == "mean" and factor is None:
        return e(op.mean(loss, axes, False))
    total = e(op.sum(loss, axes, False))
    return total if reduction == "sum" else e.div(total, e(op.sum(factor, axes, False)))


def _loss(e: Emitter, log_p: Expr, x: Inputs, a: Attributes) -> Expr:
    weight = optional(x, 2)
    reduction = a.get("reduction", "mean")
    return negative_log_likelihood(e, log_p, x[1], weight, ignored=a.get("ignore_index"), reduction=reduction)


def convert_nll(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return _loss(e, x[0], x, a)


def convert_softmax_cross_entropy(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    log_p = e(nn.log_softmax(x[0], 1))
    return [_loss(e, log_p, x, a), log_p]


LOSSES: dict[str, Converter] = {
    "NegativeLogLikelihoodLoss": convert_nll,
    "SoftmaxCrossEntropyLoss": convert_softmax_cross_entropy,
}
