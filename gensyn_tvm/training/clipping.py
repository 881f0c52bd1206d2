"""Clipping of gradients, and norms over many tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op
from gensyn_tvm.training.settings import is_number

Expressions = dict[str, Expr]


def _check_positive(name: str, value: Any) -> None:
    if not is_number(value) or value <= 0:
        raise InvalidProgramError(describe(f"{name} cannot clip", found=repr(value), expected="a finite number above 0"))


@dataclass(frozen=True)
class ClipNorm:
    """``torch.nn.utils.clip_grad_norm_`` with the 2-norm: every gradient * min(1, max_norm / (norm + 1e-6)).

    ``norm`` is ``global_norm`` of all gradients; if it is NaN, so is every clipped gradient.

    Raises:
        InvalidProgramError: ``max_norm`` is no finite number above 0.
    """

    max_norm: float

    def __post_init__(self) -> None:
        _check_positive("ClipNorm", self.max_norm)

    def emit(self, e: Emitter, gradients: Mapping[str, Expr], norm: Expr) -> Expressions:
        """The clipped gradients; ``norm`` is their global norm."""
        e.place = "gradient clipping"
        ratio = e.div(float(self.max_norm), e.add(norm, 1e-6))
        coefficient = e(op.minimum(ratio, number(1, dtype_of(ratio))))
        return {name: e.mul(g, e.cast(coefficient, dtype_of(g))) for name, g in gradients.items()}


@dataclass(frozen=True)
class ClipValue:
    """``torch.nn.utils.clip_grad_value_``: every element is limited to [-limit, limit]; NaNs stay.

    Raises:
        InvalidProgramError: ``limit`` is no finite number above 0.
    """

    limit: float

    def __post_init__(self) -> None:
        _check_positive("ClipValue", self.limit)

    def emit(self, e: Emitter, gradients: Mapping[str, Expr], norm: Expr) -> Expressions:
        """The clipped gradients: minimum(maximum(g, -limit), limit)."""
        e.place = "gradient clipping"
        low, high = -float(self.limit), float(self.limit)
        return {
            name: e(op.minimum(e(op.maximum(g, number(low, dtype_of(g)))), number(high, dtype_of(g))))
            for name, g in gradients.items()
        }


Clip = ClipNorm | ClipValue


def global_norm(e: Emitter, tensors: Mapping[str, Expr]) -> Expr:
    """sqrt of the sum, in the order of the mapping, of each tensor's sum of squares: a float32 scalar.

    float64 if one of the tensors is float64; then everything is computed in float64.
    """
    dtype = "float64" if any(dtype_of(t) == "float64" for t in tensors.values()) else "float32"
    total: Expr = None
    for tensor in tensors.values():
        x = e.cast(tensor, dtype)
        squares = e(op.sum(e.mul(x, x)))
        total = squares if total is None else e.add(total, squares)
    return e(op.sqrt(total))
