"""Losses of two tensors of one shape: squared, absolute, Huber, smooth L1.

Formulas: ``torch.nn.functional`` (PyTorch 2.13). Elements are computed one by one in the order that is written; then the sum
of all elements as in docs/numerics.md, *Reductions*, row-major, and for ``mean`` one division by their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op
from gensyn_tvm.training.losses.base import OutputLoss, check, check_reduction, is_number, like_output, reduced


@dataclass(frozen=True)
class _Regression(OutputLoss):
    """Base: an output of any shape, float32 or float64, and a target of its type."""

    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_reduction(self, self.reduction)

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        return like_output(self, output, target)

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        return reduced(e, self._element(e, e.sub(output, target)), self.reduction)

    def _element(self, e: Emitter, d: Expr) -> Expr:
        raise TypeError(f"{self.name} is abstract")


@dataclass(frozen=True)
class MeanSquaredError(_Regression):
    """``F.mse_loss``: d * d, d = output - target; ``mean`` or ``sum``."""

    name: ClassVar[str] = "mean_squared_error"

    def _element(self, e: Emitter, d: Expr) -> Expr:
        return e.mul(d, d)


@dataclass(frozen=True)
class L1(_Regression):
    """``F.l1_loss``: |d|, d = output - target; gradient 0 at 0; ``mean`` or ``sum``."""

    name: ClassVar[str] = "l1"

    def _element(self, e: Emitter, d: Expr) -> Expr:
        return e(op.abs(d))


@dataclass(frozen=True)
class Huber(_Regression):
    """``F.huber_loss``: z < delta ? (0.5 * z) * z : (z - 0.5 * delta) * delta, z = |output - target|; ``mean`` or ``sum``.

    Attributes:
        delta: where the parabola ends, above 0.
    """

    name: ClassVar[str] = "huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, is_number(self.delta) and self.delta > 0, "delta must be finite and above 0")

    def _element(self, e: Emitter, d: Expr) -> Expr:
        z, near, square = _parabola(e, d, self.delta)
        return e(op.where(near, square, e.mul(e.sub(z, 0.5 * self.delta), self.delta)))


@dataclass(frozen=True)
class SmoothL1(_Regression):
    """``F.smooth_l1_loss``: z < beta ? ((0.5 * z) * z) / beta : z - 0.5 * beta, z = |output - target|; ``mean`` or ``sum``.

    Attributes:
        beta: where the parabola ends, at least 0; 0 is ``L1``.
    """

    name: ClassVar[str] = "smooth_l1"

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, is_number(self.beta, 0), "beta must be finite and at least 0")

    def _element(self, e: Emitter, d: Expr) -> Expr:
        if self.beta == 0:
            return e(op.abs(d))
        z, near, square = _parabola(e, d, self.beta)
        return e(op.where(near, e.div(square, self.beta), e.sub(z, 0.5 * self.beta)))


def _parabola(e: Emitter, d: Expr, border: float) -> tuple[Expr, Expr, Expr]:
    """z = |d|, whether z < border, and (0.5 * z) * z there: elsewhere of 0, so that its gradient is not 0 * infinity."""
    z = e(op.abs(d))
    near = e(op.less(z, number(border, dtype_of(z))))
    inner = e(op.where(near, z, number(0, dtype_of(z))))
    return z, near, e.mul(e.mul(inner, 0.5), inner)
