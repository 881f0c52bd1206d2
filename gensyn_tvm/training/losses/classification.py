"""Losses of classes: cross entropy, negative log likelihood, binary cross entropy, Kullback-Leibler divergence.

Formulas: ``torch.nn.functional`` (PyTorch 2.13). Every sum is that of docs/numerics.md, *Reductions*, over the axes that are
named, elements row-major; everything else is element by element in the order that is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.losses.base import (
    INDICES,
    OutputLoss,
    check,
    check_reduction,
    constant,
    constants,
    fitting,
    is_number,
    like_output,
    reduced,
    type_of,
)


def class_mask(e: Emitter, target: Expr, shape: list[int]) -> Expr:
    """Where the class index along axis 1 of ``shape`` equals ``target`` (N, …)."""
    classes = e(op.arange(0, shape[1], 1, dtype_of(target)))
    beside = e(op.reshape(classes, [1, shape[1], *[1] * (len(shape) - 2)]))
    return e(op.equal(e(op.expand_dims(target, 1)), beside))


@dataclass(frozen=True)
class _OfClasses(OutputLoss):
    """Base of losses of an output (N, C, …) and class indices (N, …)."""

    weight: Any = None
    ignore_index: int | None = None
    reduction: str = "mean"
    _expected: ClassVar[str] = ""
    _remedy: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", constants(self, "weight", self.weight))
        check(self, self.weight is None or np.ndim(self.weight) == 1, "weight must be one number for each class")
        index = self.ignore_index
        check(self, index is None or (isinstance(index, int) and abs(index) < 2**31), "ignore_index must be an integer")
        check_reduction(self, self.reduction)

    @property
    def ignored(self) -> int | None:
        return self.ignore_index

    def default_metrics(self, targets: Mapping[str, TensorType]) -> tuple[str, ...]:
        return () if targets["target"].is_float else ("accuracy",)

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        return fitting(self.name, target, self._index_types(output))

    def _index_types(self, output: Expr) -> list[TensorType]:
        found = type_of(output)
        if found.rank < 2 or not found.is_float:
            raise self.refuse(str(found), self._expected, self._remedy)
        if self.weight is not None and len(self.weight) != found.shape[1]:
            raise self.refuse(f"{found} beside {len(self.weight)} class weights", f"{len(self.weight)} classes along axis 1")
        return [TensorType((found.shape[0], *found.shape[2:]), d) for d in INDICES]

    def _beside(self, e: Emitter, log_p: Expr) -> Expr:
        """The class weights as (1, C, 1, …)."""
        shape = shape_of(log_p)
        return e(op.reshape(constant(self.weight, log_p), [1, shape[1], *[1] * (len(shape) - 2)]))

    def _likelihood(self, e: Emitter, log_p: Expr, target: Expr) -> tuple[Expr, _Counted]:
        """The reduced negative log likelihood, and what counts."""
        zero = number(0, dtype_of(log_p))
        hit = class_mask(e, target, shape_of(log_p))
        loss = e(op.negative(e(op.sum(e(op.where(hit, log_p, zero)), 1, False))))
        ignored = None if self.ignore_index is None else e(op.equal(target, number(self.ignore_index, dtype_of(target))))
        factor = None
        if self.weight is not None:
            factor = e(op.sum(e(op.where(hit, self._beside(e, log_p), zero)), 1, False))
        counted = _Counted(ignored, factor)
        loss = counted.without(e, loss)
        if factor is not None:
            loss = e.mul(loss, factor)
        return counted.reduced(e, loss, self.reduction), counted


@dataclass(frozen=True)
class _Counted:
    """Which positions (N, …) count, and how much: ``ignored`` (bool) and ``factor`` (the weights of their classes) or None."""

    ignored: Expr | None
    factor: Expr | None

    def without(self, e: Emitter, x: Expr) -> Expr:
        """x, and 0 where it is ignored."""
        return x if self.ignored is None else e(op.where(self.ignored, number(0, dtype_of(x)), x))

    def reduced(self, e: Emitter, losses: Expr, reduction: str) -> Expr:
        """sum(losses); for the mean divided by the number of counted positions, or by the sum of their weights."""
        if reduction == "mean" and self.ignored is None and self.factor is None:
            return e(op.mean(losses))
        total = e(op.sum(losses))
        return total if reduction == "sum" else e.div(total, self._weight(e, dtype_of(losses)))

    def _weight(self, e: Emitter, dtype: str) -> Expr:
        if self.factor is not None:
            return e(op.sum(self.without(e, self.factor)))
        return e.cast(e(op.sum(e.cast(e(op.logical_not(self.ignored)), "int64"))), dtype)


@dataclass(frozen=True)
class NLL(_OfClasses):
    """``F.nll_loss``: negative log likelihood of log-probabilities (N, C, …), float32 or float64.

    l = -(sum over classes of (class == target ? log_p : 0)); w the same way from ``weight``, without the sign; both are 0 where
    target == ignore_index. ``sum``: sum(l * w). ``mean``: sum(l * w) / sum(w), without weights sum(l) / the number of positions
    that count; NaN if none does, as in PyTorch. An index outside [0, C) adds 0 (PyTorch refuses it) and counts, with weight 0.

    Attributes:
        weight: one number for each class (a sequence, an array), or None.
        ignore_index: the class whose positions do not count; None (the default; PyTorch's is -100) counts all.
        reduction: ``mean`` or ``sum``.
    """

    name: ClassVar[str] = "nll"
    _expected: ClassVar[str] = "float32 or float64 log-probabilities (N, classes, …)"
    _remedy: ClassVar[str] = "return log_softmax of a batch, or use CrossEntropy"

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        return self._likelihood(e, output, target)[0]


@dataclass(frozen=True)
class CrossEntropy(_OfClasses):
    """``F.cross_entropy`` of logits (N, C, …), float32 or float64, with class indices or with probabilities of classes.

    log_p = (x - max(x)) - log(sum(exp(x - max(x)))) over the classes. Class indices (N, …), int64 or int32: ``NLL`` of log_p;
    with label smoothing s: NLL * (1 - s) + S * (s / C), where S reduces -(sum over classes of log_p * weight) (without weights
    of log_p; 0 where ignored) with the divisor of NLL. Probabilities, of the logits' type: t = target * (1 - s) + s / C
    (without smoothing the target); -(sum of all (log_p * t) * weight), for ``mean`` divided by the number of positions (N, …),
    whatever the weights.

    Attributes:
        weight, ignore_index, reduction: as for ``NLL``. ``ignore_index`` needs class indices.
        label_smoothing: in [0, 1].
    """

    name: ClassVar[str] = "cross_entropy"
    _expected: ClassVar[str] = "float32 or float64 logits (N, classes, …)"
    _remedy: ClassVar[str] = "return the logits of a batch, without softmax"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, is_number(self.label_smoothing, 0) and self.label_smoothing <= 1, "label_smoothing must be in [0, 1]")

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        indices = self._index_types(output)
        found = fitting(self.name, target, [*indices, type_of(output)])
        check(self, self.ignore_index is None or not found.is_float, "ignore_index needs class indices as the target")
        return found

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        log_p = e(op.nn.log_softmax(output, 1))
        if dtype_of(target) in FLOATS:
            return self._of_probabilities(e, log_p, target)
        loss, counted = self._likelihood(e, log_p, target)
        if not self.label_smoothing:
            return loss
        weighted = log_p if self.weight is None else e.mul(log_p, self._beside(e, log_p))
        spread = counted.without(e, e(op.negative(e(op.sum(weighted, 1, False)))))
        smooth = e.mul(counted.reduced(e, spread, self.reduction), self.label_smoothing / shape_of(log_p)[1])
        return e.add(e.mul(loss, 1 - self.label_smoothing), smooth)

    def _of_probabilities(self, e: Emitter, log_p: Expr, target: Expr) -> Expr:
        shape = shape_of(log_p)
        if self.label_smoothing:
            target = e.add(e.mul(target, 1 - self.label_smoothing), self.label_smoothing / shape[1])
        product = e.mul(log_p, target)
        if self.weight is not None:
            product = e.mul(product, self._beside(e, log_p))
        total = e(op.negative(e(op.sum(product))))
        return total if self.reduction == "sum" else e.div(total, float(math.prod(shape) // shape[1]))


@dataclass(frozen=True)
class BinaryCrossEntropyWithLogits(OutputLoss):
    """``F.binary_cross_entropy_with_logits`` of logits, float32 of any shape, and targets of their type, usually in [0, 1].

    (1 - t) * x + softplus(-x) * ((pos_weight - 1) * t + 1), then * weight; without ``pos_weight`` and ``weight`` their factors
    are left out. softplus(z) = maximum(z, 0) + log1p(exp(-|z|)), and z itself above 20. Then the sum of all elements, for
    ``mean`` divided by their number.

    Attributes:
        weight, pos_weight: numbers that broadcast to the output's shape, or None.
        reduction: ``mean`` or ``sum``.
    """

    name: ClassVar[str] = "binary_cross_entropy_with_logits"
    weight: Any = None
    pos_weight: Any = None
    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        for setting in ("weight", "pos_weight"):
            object.__setattr__(self, setting, constants(self, setting, getattr(self, setting)))
        check_reduction(self, self.reduction)

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        found = like_output(self, output, target, ("float32",))
        for setting in ("weight", "pos_weight"):
            value = getattr(self, setting)
            shape = np.shape(value) if value is not None else ()
            if len(shape) > found.rank or any(a not in (1, b) for a, b in zip(shape[::-1], found.shape[::-1], strict=False)):
                raise self.refuse(
                    f"{type_of(output)} beside a {setting} {list(shape)}", f"a {setting} that broadcasts to the output"
                )
        return found

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        tail = e(op.nn.softplus(e(op.negative(output))))
        if self.pos_weight is not None:
            above = constant(np.array(self.pos_weight) - 1.0, output)
            tail = e.mul(tail, e.add(e.mul(above, target), 1.0))
        loss = e.add(e.mul(e.sub(1.0, target), output), tail)
        if self.weight is not None:
            loss = e.mul(loss, constant(self.weight, output))
        return reduced(e, loss, self.reduction)


@dataclass(frozen=True)
class KLDivergence(OutputLoss):
    """``F.kl_div`` of log-probabilities of any shape, float32 or float64, and probabilities of their type.

    (t == 0 ? 0 : t * log(t)) - t * x; with ``log_target``: exp(t) * (t - x). Then the sum of all elements; for ``mean`` divided
    by their number, for ``batchmean`` by the first extent.

    Attributes:
        log_target: whether the target holds logarithms.
        reduction: ``mean`` (PyTorch's default), ``batchmean`` (the divergence of a batch's mean), or ``sum``.
    """

    name: ClassVar[str] = "kl_divergence"
    log_target: bool = False
    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_reduction(self, self.reduction, ("mean", "batchmean", "sum"))

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        if self.reduction == "batchmean" and not shape_of(output):
            raise self.refuse(str(type_of(output)), "a batch (N, …) for reduction='batchmean'")
        return like_output(self, output, target)

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        if self.log_target:
            loss = e.mul(e(op.exp(target)), e.sub(target, output))
        else:
            zero = number(0, dtype_of(target))
            entropy = e(op.where(e(op.equal(target, zero)), zero, e.mul(target, e(op.log(target)))))
            loss = e.sub(entropy, e.mul(target, output))
        if self.reduction != "batchmean":
            return reduced(e, loss, self.reduction)
        return e.div(e(op.sum(loss)), float(shape_of(output)[0]))
