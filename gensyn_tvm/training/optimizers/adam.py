"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op
from gensyn_tvm.training.optimizers.base import (
    Arrays,
    ElementwiseOptimizer,
    Expressions,
    decaying,
    scaled,
    squares,
    towards,
)
from gensyn_tvm.training.settings import is_size


def are_betas(betas: Any) -> bool:
    """Two numbers in [0, 1)."""
    return isinstance(betas, tuple) and len(betas) == 2 and is_size(*betas) and max(betas) < 1


@dataclass(frozen=True)
class Adam(ElementwiseOptimizer):
    """``torch.optim.Adam``: weight decay is added to the gradient.

    m = m + (1 - beta1) * (g - m); v = beta2 * v + ((1 - beta2) * g) * g; with amsgrad w = max(w, v), otherwise w = v;
    p = p - (lr / (1 - beta1^t)) * (m / (sqrt(w) / sqrt(1 - beta2^t) + eps)).
    State: ``<parameter>.exp_avg``, ``<parameter>.exp_avg_sq``, with amsgrad ``<parameter>.max_exp_avg_sq``, and
    ``optimizer.beta1_power``, ``optimizer.beta2_power``: beta^t as running products in float64.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = field(default=False, kw_only=True)
    _decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(is_size(self.eps, self.weight_decay), "eps and weight_decay must be finite and >= 0")
        self._check(are_betas(self.betas), "two betas in [0, 1) are needed")

    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg", "exp_avg_sq")

    def scalars(self) -> Arrays:
        return {f"optimizer.beta{k}_power": np.array(1.0, dtype=np.float64) for k in (1, 2)}

    def _begin(self, e: Emitter, lr: Expr, scales: Sequence[float], state: Expressions) -> tuple[dict[float, Any], Expressions]:
        powers, corrections = {}, []
        for k, beta in enumerate(self.betas, 1):
            name = f"optimizer.beta{k}_power"
            powers[name] = e.mul(state[name], float(beta))
            corrections.append(e.sub(1.0, powers[name]))
        lr64 = e.cast(lr, "float64")
        rates = {scale: scaled(e, lr64, scale) for scale in scales}
        sizes = {scale: e.div(rate, corrections[0]) for scale, rate in rates.items()}
        root = e(op.sqrt(corrections[1]))
        kept = {scale: e.sub(1.0, e.mul(rate, self.weight_decay)) for scale, rate in rates.items()} if self._decoupled else {}
        return {scale: (sizes[scale], root, kept.get(scale)) for scale in scales}, powers

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        size, root, keep = shared
        dtype = dtype_of(p)
        if not self._decoupled:
            g = decaying(e, p, g, weight_decay)
        elif weight_decay:
            p = e.mul(p, e.cast(keep, dtype))
        beta1, beta2 = self.betas
        m = towards(e, state["exp_avg"], g, 1.0 - beta1)
        v = squares(e, state["exp_avg_sq"], g, beta2)
        after = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = after["max_exp_avg_sq"] = e(op.maximum(state["max_exp_avg_sq"], v))
        denominator = e.add(e.div(e(op.sqrt(v)), e.cast(root, dtype)), self.eps)
        return e.sub(p, e.mul(e.div(m, denominator), e.cast(size, dtype))), after


@dataclass(frozen=True)
class AdamW(Adam):
    """``torch.optim.AdamW``: like ``Adam``, but first p = p * (1 - lr * weight_decay), and the gradient stays as it is."""

    weight_decay: float = 1e-2
    _decoupled: ClassVar[bool] = True
