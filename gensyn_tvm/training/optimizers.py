"""Optimizers: frozen descriptions that emit their update as Relax.

The formulas and their order are those of ``torch.optim`` (PyTorch 2.13, ``_single_tensor_sgd``, ``_single_tensor_adam``), with
gradients and state in the parameter's dtype. The learning rate is an input of every step. Bias corrections come from
running products of the betas in float64, kept in the state, so there is no pow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm.relax import const

from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op

Arrays = dict[str, np.ndarray]
Expressions = dict[str, Expr]


def _check(name: str, condition: bool, what: str) -> None:
    if not condition:
        raise InvalidProgramError(f"{name}: {what}")


def _sizes(*values: float) -> bool:
    return all(isinstance(v, int | float | np.number) and 0 <= v < float("inf") for v in values)


def _zeros(parameters: Mapping[str, np.ndarray], suffix: str) -> Arrays:
    return {f"{name}.{suffix}": np.zeros_like(value) for name, value in parameters.items()}


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers.

    Attributes:
        lr: default learning rate.

    Raises:
        InvalidProgramError: a setting out of its range.
    """

    lr: float

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        """Initial state by name, in the order in which a training step declares it."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        """Next parameters and next state by name; ``lr`` is a float32 scalar."""
        raise TypeError(f"{type(self).__name__} is abstract")


@dataclass(frozen=True)
class SGD(Optimizer):
    """``torch.optim.SGD``.

    g = gradient + weight_decay * p; with momentum m: buffer = m * buffer + g, and g = buffer, or with Nesterov
    g = g + m * buffer; p = p - lr * g. State: ``<parameter>.momentum`` if there is momentum.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check("SGD", _sizes(self.lr, self.momentum, self.weight_decay), "lr, momentum, weight_decay must be finite and >= 0")
        _check("SGD", not self.nesterov or self.momentum > 0, "nesterov needs momentum > 0")

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        return _zeros(parameters, "momentum") if self.momentum else {}

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        new, new_state = {}, {}
        for name, p in parameters.items():
            e.place = f"SGD of {name}"
            g = gradients[name]
            if self.weight_decay:
                g = e.add(g, e.mul(p, self.weight_decay))
            if self.momentum:
                buffer = e.add(e.mul(state[f"{name}.momentum"], self.momentum), g)
                new_state[f"{name}.momentum"] = buffer
                g = e.add(g, e.mul(buffer, self.momentum)) if self.nesterov else buffer
            new[name] = e.sub(p, e.mul(g, e.cast(lr, dtype_of(p))))
        return new, new_state


@dataclass(frozen=True)
class Adam(Optimizer):
    """``torch.optim.Adam``: weight decay is added to the gradient.

    m = m + (1 - beta1) * (g - m); v = beta2 * v + ((1 - beta2) * g) * g;
    p = p - (lr / (1 - beta1^t)) * (m / (sqrt(v) / sqrt(1 - beta2^t) + eps)).
    State: ``<parameter>.exp_avg``, ``<parameter>.exp_avg_sq``, ``optimizer.beta1_power``, ``optimizer.beta2_power``.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    _decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        _check(name, _sizes(self.lr, self.eps, self.weight_decay), "lr, eps, weight_decay must be finite and >= 0")
        _check(name, len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two betas in [0, 1) are needed")

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        one = {f"optimizer.beta{k}_power": np.array(1.0, dtype=np.float64) for k in (1, 2)}
        return {**_zeros(parameters, "exp_avg"), **_zeros(parameters, "exp_avg_sq"), **one}

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        name = e.place = type(self).__name__
        new, new_state = {}, {}
        corrections = []
        for k, beta in enumerate(self.betas, 1):
            power = e(op.multiply(state[f"optimizer.beta{k}_power"], const(np.float64(beta), "float64")))
            new_state[f"optimizer.beta{k}_power"] = power
            corrections.append(e.sub(1.0, power))
        lr64 = e.cast(lr, "float64")
        step_size = e.div(lr64, corrections[0])
        root = e(op.sqrt(corrections[1]))
        keep = e.sub(1.0, e.mul(lr64, self.weight_decay))
        for parameter, p in parameters.items():
            e.place = f"{name} of {parameter}"
            dtype = dtype_of(p)
            g = gradients[parameter]
            if self.weight_decay and self._decoupled:
                p = e.mul(p, e.cast(keep, dtype))
            elif self.weight_decay:
                g = e.add(g, e.mul(p, self.weight_decay))
            m, v = self._moments(e, g, state[f"{parameter}.exp_avg"], state[f"{parameter}.exp_avg_sq"])
            denominator = e.add(e.div(e(op.sqrt(v)), e.cast(root, dtype)), self.eps)
            new[parameter] = e.sub(p, e.mul(e.div(m, denominator), e.cast(step_size, dtype)))
            new_state[f"{parameter}.exp_avg"], new_state[f"{parameter}.exp_avg_sq"] = m, v
        return new, new_state

    def _moments(self, e: Emitter, g: Expr, m: Expr, v: Expr) -> tuple[Expr, Expr]:
        beta1, beta2 = self.betas
        m = e.add(m, e.mul(e.sub(g, m), 1.0 - beta1))
        return m, e.add(e.mul(v, beta2), e.mul(e.mul(g, 1.0 - beta2), g))


@dataclass(frozen=True)
class AdamW(Adam):
    """``torch.optim.AdamW``: like ``Adam``, but first p = p * (1 - lr * weight_decay), and the gradient stays as it is."""

    weight_decay: float = 1e-2
    _decoupled: ClassVar[bool] = True


#: Optimizers by name, with their default settings.
OPTIMIZERS = {"sgd": SGD(1e-2), "adam": Adam(), "adamw": AdamW()}
