"""Losses of angles. Formulas: ``torch.nn.functional`` (PyTorch 2.13); sums as in docs/numerics.md, *Reductions*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.losses.base import (
    INDICES,
    Loss,
    OutputLoss,
    OutputName,
    TargetTypes,
    check,
    check_reduction,
    fitting,
    is_number,
    like_output,
    pick,
    reduced,
    single,
    type_of,
)

_EPSILON = 1e-12


@dataclass(frozen=True)
class CosineEmbedding(Loss):
    """``F.cosine_embedding_loss`` of two outputs (N, D), float32 or float64, and a target (N,) of 1 (alike) and -1 (unlike).

    cos = sum(x * y) / sqrt((sum(x * x) + 1e-12) * (sum(y * y) + 1e-12)), sums over D. The loss is 1 - cos where target == 1,
    maximum(cos - margin, 0) where target == -1 (gradient 1 at 0), and 0 elsewhere; then the sum of all, for ``mean`` divided
    by N.

    Attributes:
        margin: below which unlike pairs add nothing.
        outputs: x and y by name or position.
        reduction: ``mean`` or ``sum``.
    """

    name: ClassVar[str] = "cosine_embedding"
    margin: float = 0.0
    reduction: str = field(default="mean", kw_only=True)
    outputs: tuple[OutputName, OutputName] = field(default=(0, 1), kw_only=True)

    def __post_init__(self) -> None:
        check(self, is_number(self.margin), "margin must be finite")
        check(self, isinstance(self.outputs, tuple) and len(self.outputs) == 2, "outputs must be two names or positions")
        check_reduction(self, self.reduction)

    def read(self, outputs: Mapping[str, Expr]) -> Sequence[Expr]:
        return [pick(self.name, outputs, which) for which in self.outputs]

    def targets(self, outputs: Mapping[str, Expr], target: TargetTypes) -> dict[str, TensorType]:
        x, y = map(type_of, self.read(outputs))
        if x != y or x.rank != 2 or not x.is_float:
            raise self.refuse(f"{x} and {y}", "two outputs (N, D) of one type, float32 or float64")
        allowed = [TensorType(x.shape[:1], d) for d in (x.dtype, *INDICES)]
        return {"target": fitting(self.name, single(self.name, target), allowed)}

    def emit(self, e: Emitter, outputs: Mapping[str, Expr], targets: Mapping[str, Expr]) -> Expr:
        x, y = self.read(outputs)
        target = targets["target"]
        zero = number(0, dtype_of(x))
        scale = e.mul(*(e.add(e(op.sum(e.mul(v, v), 1, False)), _EPSILON) for v in (x, y)))
        cosine = e.div(e(op.sum(e.mul(x, y), 1, False)), e(op.sqrt(scale)))
        apart = e.sub(cosine, self.margin)
        unlike = e(op.where(e(op.less(apart, zero)), zero, apart))
        losses = e(op.where(e(op.equal(target, number(-1, dtype_of(target)))), unlike, zero))
        losses = e(op.where(e(op.equal(target, number(1, dtype_of(target)))), e.sub(1.0, cosine), losses))
        return reduced(e, losses, self.reduction)


@dataclass(frozen=True)
class CosineSimilarity(OutputLoss):
    """1 - ``F.cosine_similarity`` of an output (float32 or float64) and a target of its type along an axis.

    n(v) = sqrt(sum(v * v)) along the axis, ``eps`` where sum(v * v) < eps * eps; the loss is 1 - sum((x / n(x)) * (y / n(y)));
    then the sum of all, for ``mean`` divided by their number. Where n is ``eps`` it has no gradient (in PyTorch that of the
    norm).

    Attributes:
        axis: the axis of a vector's components; negative ones count from the end.
        eps: the least norm.
        reduction: ``mean`` or ``sum``.
    """

    name: ClassVar[str] = "cosine_similarity"
    axis: int = 1
    eps: float = 1e-8
    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check(self, isinstance(self.axis, int), "axis must be an integer")
        check(
            self,
            is_number(self.eps) and self.eps >= 1e-18,
            "eps must be finite and at least 1e-18, so that its square is a number",
        )
        check_reduction(self, self.reduction)

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        if not -len(shape_of(output)) <= self.axis < len(shape_of(output)):
            raise self.refuse(str(type_of(output)), f"an output that has axis {self.axis}")
        return like_output(self, output, target)

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        x, y = (e.div(v, self._norm(e, v)) for v in (output, target))
        cosine = e(op.sum(e.mul(x, y), self.axis % len(shape_of(output)), False))
        return reduced(e, e.sub(1.0, cosine), self.reduction)

    def _norm(self, e: Emitter, v: Expr) -> Expr:
        square = e(op.sum(e.mul(v, v), self.axis % len(shape_of(v)), True))
        small = e(op.less(square, number(self.eps * self.eps, dtype_of(v))))
        # The root is taken of 1 where it is not used: at 0 its slope is infinite.
        root = e(op.sqrt(e(op.where(small, number(1, dtype_of(v)), square))))
        return e(op.where(small, number(self.eps, dtype_of(v)), root))
