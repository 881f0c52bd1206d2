"""Metrics: further outputs of a training step, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of

_TOP = 5


@dataclass(frozen=True)
class Scored:
    """What metrics are computed of.

    Attributes:
        output: the (first) output that the loss reads.
        target: the (first) target.
        loss: the value of the loss.
        ignored: the class whose positions do not count, or None.
    """

    output: Expr
    target: Expr
    loss: Expr
    ignored: int | None = None


def accuracy(e: Emitter, s: Scored) -> Expr:
    """Fraction (float32) of the counted positions (N, …) where the largest entry along axis 1 of the output is at target."""
    best = e.cast(e(op.argmax(s.output, 1, False)), dtype_of(s.target))
    return _fraction(e, s, e(op.equal(best, s.target)))


def top5_accuracy(e: Emitter, s: Scored) -> Expr:
    """Fraction (float32) of the counted positions whose target is among the first 5 of a descending ``argsort`` of axis 1."""
    order = e(canonical("argsort", s.output, axis=1, descending=True))
    first = e(op.strided_slice(order, [1], [0], [min(_TOP, shape_of(s.output)[1])], [1]))
    hits = e(op.equal(e.cast(first, dtype_of(s.target)), e(op.expand_dims(s.target, 1))))
    return _fraction(e, s, e(op.greater(e(op.sum(e.cast(hits, "int32"), 1, False)), number(0, "int32"))))


def _fraction(e: Emitter, s: Scored, hits: Expr) -> Expr:
    """hits / counted positions; NaN if there are none."""
    if s.ignored is None:
        return e(op.mean(e.cast(hits, "float32")))
    counted = e(op.not_equal(s.target, number(s.ignored, dtype_of(s.target))))
    both = e(op.logical_and(hits, counted))
    return e.div(*(e.cast(e(op.sum(e.cast(b, "int64"))), "float32") for b in (both, counted)))


def perplexity(e: Emitter, s: Scored) -> Expr:
    """exp(loss): of a mean cross entropy the perplexity."""
    return e(op.exp(s.loss))


def mean_absolute_error(e: Emitter, s: Scored) -> Expr:
    """mean(|output - target|)"""
    return e(op.mean(e(op.abs(e.sub(s.output, s.target)))))


Metric = Callable[[Emitter, Scored], Expr]

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top5_accuracy": top5_accuracy,
    "perplexity": perplexity,
    "mean_absolute_error": mean_absolute_error,
}


def check_metric(name: str, output: Expr, target: Expr | None) -> None:
    """Check that a metric exists and suits an output and a target (None: the loss has none).

    Raises:
        InvalidProgramError: it does not.
    """
    if name not in METRICS:
        raise InvalidProgramError(describe(f"unknown metric {name!r}", expected=f"one of {', '.join(METRICS)}"))
    if target is None:
        if name != "perplexity":
            raise InvalidProgramError(describe(f"metric {name!r} needs a target", found="a loss without one"))
        return
    shape, found = shape_of(output), f"output {output.ty} and target {target.ty}"
    if name == "mean_absolute_error" and (shape != shape_of(target) or dtype_of(output) != dtype_of(target)):
        raise InvalidProgramError(describe(f"metric {name!r} needs a target like the output", found=found))
    if name in ("accuracy", "top5_accuracy"):
        classes = len(shape) > 1 and dtype_of(target) in ("int32", "int64") and shape_of(target) == [shape[0], *shape[2:]]
        if not classes:
            raise InvalidProgramError(
                describe(
                    f"metric {name!r} needs class indices as the target",
                    found=found,
                    expected="an output (N, C, …) and a target (N, …), int64 or int32",
                    remedy="use metrics=()",
                )
            )
