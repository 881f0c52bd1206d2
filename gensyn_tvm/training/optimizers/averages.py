"""Exponential moving averages of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.training.emit import Emitter, Expr
from gensyn_tvm.training.optimizers.base import Arrays, Expressions, Optimizer, towards
from gensyn_tvm.training.settings import check, is_size, plain

_SUFFIX = ".ema"


@dataclass(frozen=True)
class ExponentialMovingAverage(Optimizer):
    """Another optimizer, and an average of the parameters that it makes (Polyak and Juditsky 1992), to evaluate with.

    ema = ema + (1 - decay) * (p - ema) with p after the update. State: that of ``optimizer``, then ``<parameter>.ema``, which
    starts as the parameter.

    Attributes:
        optimizer: makes the updates; it does not see the averages.
        decay: in [0, 1].
        lr: the default learning rate of ``optimizer``.

    Raises:
        InvalidProgramError: a setting out of its range.
    """

    lr: float = field(init=False, repr=False, compare=False)
    optimizer: Optimizer
    decay: float = 0.999

    def __post_init__(self) -> None:
        name = type(self).__name__
        inner = isinstance(self.optimizer, Optimizer) and not isinstance(self.optimizer, ExponentialMovingAverage)
        check(name, inner, "optimizer must be an optimizer that is no average itself")
        object.__setattr__(self, "decay", plain(self.decay))
        check(name, is_size(self.decay) and self.decay <= 1, "decay must be in [0, 1]")
        object.__setattr__(self, "lr", self.optimizer.lr)

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        averages = {name + _SUFFIX: value.copy() for name, value in parameters.items()}
        return {**self.optimizer.initial_state(parameters), **averages}

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        new, new_state = self.optimizer.update(e, lr, parameters, gradients, state)
        for name, p in new.items():
            e.place = f"average of {name}"
            new_state[name + _SUFFIX] = towards(e, state[name + _SUFFIX], p, 1.0 - self.decay)
        return new, new_state


def averaged(state: Mapping[str, np.ndarray]) -> Arrays:
    """The averages in a training state, by the names of the parameters that they stand for.

    Raises:
        InputError: a state without averages.
    """
    found = {name: state[name + _SUFFIX] for name in state if name + _SUFFIX in state}
    if not found:
        raise InputError(
            describe(
                "the state has no averages of parameters",
                found=", ".join(list(state)[:8]),
                remedy="train with optimizer=ExponentialMovingAverage(…)",
            )
        )
    return found
