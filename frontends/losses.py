"""Losses that a model may contain, for every frontend; their formulas are in docs/numerics.md."""

from __future__ import annotations

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, number, op, rank_of, shape_of
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
