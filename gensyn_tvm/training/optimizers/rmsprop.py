"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op
from gensyn_tvm.training.optimizers.base import ElementwiseOptimizer, Expressions, decaying, squares, towards
from gensyn_tvm.training.settings import is_size


@dataclass(frozen=True)
class RMSprop(ElementwiseOptimizer):
    """``torch.optim.RMSprop``.

    g = gradient + weight_decay * p; v = alpha * v + ((1 - alpha) * g) * g; a = sqrt(v) + eps, or centered:
    m = m + (1 - alpha) * (g - m), a = sqrt(v - m * m) + eps, which is NaN where rounding takes v below m * m, as in torch;
    p = p - (lr * g) / a, or with momentum: buffer = momentum * buffer + g / a, p = p - lr * buffer.
    State: ``<parameter>.square_avg``, ``<parameter>.grad_avg`` if centered, ``<parameter>.momentum`` if there is momentum.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = is_size(self.eps, self.weight_decay, self.momentum)
        self._check(sizes, "eps, weight_decay and momentum must be finite and >= 0")
        self._check(is_size(self.alpha) and self.alpha <= 1, "alpha must be in [0, 1]")

    def slots(self) -> tuple[str, ...]:
        return ("square_avg", *(("grad_avg",) if self.centered else ()), *(("momentum",) if self.momentum else ()))

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        rate = e.cast(shared, dtype_of(p))
        g = decaying(e, p, g, weight_decay)
        variance = squares(e, state["square_avg"], g, self.alpha)
        after = {"square_avg": variance}
        if self.centered:
            mean = after["grad_avg"] = towards(e, state["grad_avg"], g, 1.0 - self.alpha)
            variance = e.sub(variance, e.mul(mean, mean))
        deviation = e.add(e(op.sqrt(variance)), self.eps)
        if not self.momentum:
            return e.sub(p, e.div(e.mul(g, rate), deviation)), after
        buffer = after["momentum"] = e.add(e.mul(state["momentum"], self.momentum), e.div(g, deviation))
        return e.sub(p, e.mul(buffer, rate)), after
