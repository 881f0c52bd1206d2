"""Adagrad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op
from gensyn_tvm.training.optimizers.base import (
    COUNT,
    Arrays,
    ElementwiseOptimizer,
    Expressions,
    counted,
    decaying,
    scaled,
)
from gensyn_tvm.training.settings import is_size


@dataclass(frozen=True)
class Adagrad(ElementwiseOptimizer):
    """``torch.optim.Adagrad``.

    g = gradient + weight_decay * p; s = s + g * g; p = p - (c * g) / (sqrt(s) + eps), c = lr / (1 + t * lr_decay) in float64
    with t the number of updates before this one. State: ``<parameter>.sum``, initially ``initial_accumulator_value``, and
    ``optimizer.step`` if there is a decay of the learning rate.
    """

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = is_size(self.lr_decay, self.weight_decay, self.initial_accumulator_value, self.eps)
        self._check(sizes, "lr_decay, weight_decay, initial_accumulator_value and eps must be finite and >= 0")

    def slots(self) -> tuple[str, ...]:
        return ("sum",)

    def scalars(self) -> Arrays:
        return {COUNT: np.array(0, dtype=np.int64)} if self.lr_decay else {}

    def _initial(self, slot: str, parameter: np.ndarray) -> np.ndarray:
        return np.full_like(parameter, self.initial_accumulator_value)

    def _begin(self, e: Emitter, lr: Expr, scales: Sequence[float], state: Expressions) -> tuple[dict[float, Any], Expressions]:
        rates = {scale: scaled(e, lr, scale) for scale in scales}
        if not self.lr_decay:
            return rates, {}
        divisor = e.add(e.mul(e.cast(state[COUNT], "float64"), self.lr_decay), 1.0)
        return {scale: e.div(e.cast(rate, "float64"), divisor) for scale, rate in rates.items()}, counted(e, state)

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        g = decaying(e, p, g, weight_decay)
        total = e.add(state["sum"], e.mul(g, g))
        step = e.div(e.mul(g, e.cast(shared, dtype_of(p))), e.add(e(op.sqrt(total)), self.eps))
        return e.sub(p, step), {"sum": total}
