"""Lion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op
from gensyn_tvm.training.optimizers.adam import are_betas
from gensyn_tvm.training.optimizers.base import ElementwiseOptimizer, Expressions, scaled
from gensyn_tvm.training.settings import is_size


@dataclass(frozen=True)
class Lion(ElementwiseOptimizer):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2), in the order of its authors' code.

    p = p * (1 - lr * weight_decay); p = p - lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g.
    State: ``<parameter>.exp_avg``.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(is_size(self.weight_decay), "weight_decay must be finite and >= 0")
        self._check(are_betas(self.betas), "two betas in [0, 1) are needed")

    def slots(self) -> tuple[str, ...]:
        return ("exp_avg",)

    def _begin(self, e: Emitter, lr: Expr, scales: Sequence[float], state: Expressions) -> tuple[dict[float, Any], Expressions]:
        rates = {scale: scaled(e, e.cast(lr, "float64"), scale) for scale in scales}
        return {scale: (rate, e.sub(1.0, e.mul(rate, self.weight_decay))) for scale, rate in rates.items()}, {}

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        rate, keep = shared
        m, dtype = state["exp_avg"], dtype_of(p)
        if weight_decay:
            p = e.mul(p, e.cast(keep, dtype))
        direction = e(op.sign(_mixed(e, m, g, self.betas[0])))
        return e.sub(p, e.mul(direction, e.cast(rate, dtype))), {"exp_avg": _mixed(e, m, g, self.betas[1])}


def _mixed(e: Emitter, m: Expr, g: Expr, beta: float) -> Expr:
    """beta * m + (1 - beta) * g"""
    return e.add(e.mul(m, beta), e.mul(g, 1.0 - beta))
