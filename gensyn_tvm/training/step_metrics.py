"""What a training step shows beside its loss.

Metrics of a batch are functions of the model's outputs and the targets; over microbatches their mean is taken. Metrics of the
step are known only after the gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, shape_of
from gensyn_tvm.training.losses import METRICS, Scored, check_metric

#: A metric of one's own: the model's outputs, then the targets, as Relax expressions → a float scalar Relax expression.
MetricFunction = Callable[..., Any]
#: Names, or output name → name or function.
Metrics = Sequence[str] | Mapping[str, str | MetricFunction]

#: Metrics of a step. Norms are ``clipping.global_norm``: of the gradients before clipping, and of the parameters before the
#: update. ``loss_scale`` is the scale that the step used; ``skipped`` is 1.0 if the step changed no parameter, else 0.0.
STEP_METRICS = ("gradient_norm", "parameter_norm", "learning_rate", "loss_scale", "skipped")


def chosen_metrics(
    metrics: Metrics, available: Sequence[str], output: Expr, target: Expr | None
) -> dict[str, str | MetricFunction]:
    """Output name → name of a known metric, or a function.

    Args:
        metrics: as ``training_step`` takes them.
        available: the metrics of a step that this one has.
        output: the first output that the loss reads.
        target: the first target.

    Raises:
        InvalidProgramError: an unknown metric, one that does not suit the output, the target or the step, a name that is used
            twice.
    """
    if isinstance(metrics, str):
        raise InvalidProgramError(describe("metrics are given as a sequence of names", found=repr(metrics)))
    listed = list(metrics.items()) if isinstance(metrics, Mapping) else [(name, name) for name in metrics]
    names = [name for name, _ in listed]
    for name, metric in listed:
        if name == "loss" or names.count(name) > 1:
            raise InvalidProgramError(
                describe(f"metric name {name!r} is used twice", expected="other names than loss, once each")
            )
        if isinstance(metric, str) and metric in METRICS:
            check_metric(metric, output, target)
        elif not callable(metric) and metric not in available:
            raise _unknown(metric, available)
    return dict(listed)


def _unknown(metric: Any, available: Sequence[str]) -> InvalidProgramError:
    known = ", ".join([*METRICS, *available])
    if metric in STEP_METRICS:
        remedy = "give precision=MixedPrecision(..., loss_scale=DynamicLossScale()), whose steps can be skipped"
        return InvalidProgramError(describe(f"this step has no metric {metric!r}", expected=f"one of {known}", remedy=remedy))
    expected = f"one of {known}, or a function (outputs…, targets…) → scalar"
    return InvalidProgramError(describe(f"unknown metric {metric!r}", expected=expected))


def of_batch(metrics: Mapping[str, str | MetricFunction]) -> dict[str, str | MetricFunction]:
    """Those metrics that are functions of outputs and targets."""
    return {name: metric for name, metric in metrics.items() if metric not in STEP_METRICS}


def emit_metric(
    e: Emitter, name: str, metric: str | MetricFunction, scored: Scored, outputs: Sequence[Expr], targets: Sequence[Expr]
) -> Expr:
    """The value of a metric of a batch: a known one of what is scored, a function of all outputs and targets.

    Raises:
        InvalidProgramError: a function that gives something else than a float scalar.
    """
    if isinstance(metric, str):
        return METRICS[metric](e, scored)
    value = e(metric(*outputs, *targets))
    check_scalar(value, f"metric {name!r}")
    return value


def check_scalar(value: Expr, what: str) -> None:
    """Check that an expression is a float scalar; ``what`` names it in the error."""
    shape = getattr(value.ty, "shape", None)
    if shape is None or shape_of(value) or dtype_of(value) not in ("float32", "float64"):
        raise InvalidProgramError(
            describe(f"{what} is not a scalar", found=str(value.ty), expected="a float scalar", remedy="take its mean or sum")
        )
