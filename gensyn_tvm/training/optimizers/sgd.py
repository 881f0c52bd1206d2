"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op
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
class SGD(ElementwiseOptimizer):
    """``torch.optim.SGD``.

    g = gradient + weight_decay * p; with momentum m: buffer = m * buffer + (1 - dampening) * g, where the first step has no
    dampening, and g = buffer, or with Nesterov g = g + m * buffer; p = p - lr * g.
    State: ``<parameter>.momentum`` if there is momentum, and ``optimizer.step`` if there is dampening too.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    dampening: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(is_size(self.momentum, self.weight_decay), "momentum and weight_decay must be finite and >= 0")
        self._check(is_size(self.dampening) and self.dampening <= 1, "dampening must be in [0, 1]")
        self._check(not self.nesterov or self.momentum > 0, "nesterov needs momentum > 0")
        self._check(not self.nesterov or not self.dampening, "nesterov needs dampening = 0")

    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def scalars(self) -> Arrays:
        return {COUNT: np.array(0, dtype=np.int64)} if self._damped else {}

    @property
    def _damped(self) -> bool:
        return self.momentum != 0 and self.dampening != 0

    def _begin(self, e: Emitter, lr: Expr, scales: Sequence[float], state: Expressions) -> tuple[dict[float, Any], Expressions]:
        rates = {scale: scaled(e, lr, scale) for scale in scales}
        if not self._damped:
            return {scale: (rate, None) for scale, rate in rates.items()}, {}
        later = e(op.greater(state[COUNT], number(0, "int64")))
        factor = e(op.where(later, number(1.0 - self.dampening, "float64"), number(1.0, "float64")))
        return {scale: (rate, factor) for scale, rate in rates.items()}, counted(e, state)

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        rate, factor = shared
        after = {}
        g = decaying(e, p, g, weight_decay)
        if self.momentum:
            damped = g if factor is None else e.mul(g, e.cast(factor, dtype_of(p)))
            buffer = after["momentum"] = e.add(e.mul(state["momentum"], self.momentum), damped)
            g = e.add(g, e.mul(buffer, self.momentum)) if self.nesterov else buffer
        return e.sub(p, e.mul(g, e.cast(rate, dtype_of(p)))), after
