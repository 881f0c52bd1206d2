"""What optimizers have in common: state by name, decay masks, learning rates of groups of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, number, op, shape_of
from gensyn_tvm.training.optimizers.groups import Scales, check_patterns, decayed, scale_of
from gensyn_tvm.training.settings import check, is_size, plain

Arrays = dict[str, np.ndarray]
Expressions = dict[str, Expr]

#: Number of updates so far: an int64 scalar in the state of the optimizers that need it.
COUNT = "optimizer.step"


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers: frozen descriptions that emit their update as Relax.

    Attributes:
        lr: default learning rate.
    """

    lr: float

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        """Initial state by name, in the order in which a training step declares it.

        Raises:
            InvalidProgramError: a parameter that is neither float32 nor float64, a pattern that matches no parameter.
        """
        raise TypeError(f"{type(self).__name__} is abstract")

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        """Next parameters and next state by name; ``lr`` is a float32 scalar."""
        raise TypeError(f"{type(self).__name__} is abstract")


@dataclass(frozen=True)
class ElementwiseOptimizer(Optimizer):
    """Base of the optimizers that update every element of a parameter from that element's gradient and state.

    Attributes:
        lr: default learning rate.
        no_decay: parameters without weight decay: patterns of names (``fnmatch``), or ``bias_and_norm`` for all of rank < 2.
        lr_scale: factors of the learning rate by pattern, a dictionary or pairs; the first pattern that matches holds.

    Raises:
        InvalidProgramError: a setting out of its range.
    """

    no_decay: str | Sequence[str] = field(default=(), kw_only=True)
    lr_scale: Mapping[str, float] | Scales = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        no_decay = (self.no_decay,) if isinstance(self.no_decay, str) else self.no_decay
        scales = tuple(self.lr_scale.items()) if isinstance(self.lr_scale, Mapping) else self.lr_scale
        for name, value in {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "no_decay": no_decay,
            "lr_scale": scales,
        }.items():
            object.__setattr__(self, name, plain(value))
        self._check(is_size(self.lr), "lr must be finite and >= 0")
        check_patterns(type(self).__name__, self.no_decay, self.lr_scale)

    def _check(self, condition: bool, what: str) -> None:
        check(type(self).__name__, condition, what)

    # ---- what each optimizer says about itself --------------------------------------------------------------------------

    def slots(self) -> tuple[str, ...]:
        """The state of each parameter: ``<parameter>.<slot>``, of its shape and dtype."""
        return ()

    def scalars(self) -> Arrays:
        """Initial state that all parameters share."""
        return {}

    def _initial(self, slot: str, parameter: np.ndarray) -> np.ndarray:
        return np.zeros_like(parameter)

    def _begin(self, e: Emitter, lr: Expr, scales: Sequence[float], state: Expressions) -> tuple[dict[float, Any], Expressions]:
        """What ``_step`` reads for each factor of the learning rate, and the next shared state."""
        return {scale: scaled(e, lr, scale) for scale in scales}, {}

    def _step(
        self, e: Emitter, shared: Any, weight_decay: float, p: Expr, g: Expr, state: Expressions
    ) -> tuple[Expr, Expressions]:
        """Next parameter and its next state by slot."""
        raise TypeError(f"{type(self).__name__} is abstract")

    # ---- the whole update -----------------------------------------------------------------------------------------------

    def initial_state(self, parameters: Mapping[str, np.ndarray]) -> Arrays:
        kind = type(self).__name__
        for name, value in parameters.items():
            if value.dtype not in (np.float32, np.float64):
                raise InvalidProgramError(
                    describe(
                        f"{kind} cannot update a parameter of this dtype",
                        where=name,
                        found=str(value.dtype),
                        expected="float32 or float64",
                        remedy="convert the model to float32 before the import, and train it in mixed precision",
                    )
                )
        self._groups({name: value.ndim for name, value in parameters.items()})
        slots = {f"{name}.{slot}": self._initial(slot, value) for slot in self.slots() for name, value in parameters.items()}
        return {**slots, **self.scalars()}

    def update(
        self, e: Emitter, lr: Expr, parameters: Expressions, gradients: Expressions, state: Expressions
    ) -> tuple[Expressions, Expressions]:
        kind = e.place = type(self).__name__
        groups = self._groups({name: len(shape_of(p)) for name, p in parameters.items()})
        shared, new_state = self._begin(e, lr, list(dict.fromkeys(scale for scale, _ in groups.values())), state)
        new = {}
        for name, p in parameters.items():
            e.place = f"{kind} of {name}"
            scale, weight_decay = groups[name]
            own = {slot: state[f"{name}.{slot}"] for slot in self.slots()}
            new[name], after = self._step(e, shared[scale], weight_decay, p, gradients[name], own)
            new_state |= {f"{name}.{slot}": value for slot, value in after.items()}
        return new, new_state

    def _groups(self, ranks: Mapping[str, int]) -> dict[str, tuple[float, float]]:
        """Factor of the learning rate and weight decay of each parameter."""
        kind = type(self).__name__
        decay = decayed(kind, self.no_decay, ranks)
        weight_decay = getattr(self, "weight_decay", 0.0)
        return {n: (s, weight_decay if decay[n] else 0.0) for n, s in scale_of(kind, self.lr_scale, ranks).items()}


# ---- parts of formulas -------------------------------------------------------------------------------------------------


def scaled(e: Emitter, lr: Expr, scale: float) -> Expr:
    """lr * scale, a float64; ``lr`` itself for a scale of 1."""
    return lr if scale == 1 else e.mul(e.cast(lr, "float64"), scale)


def counted(e: Emitter, state: Expressions) -> Expressions:
    """The next number of updates."""
    return {COUNT: e(op.add(state[COUNT], number(1, "int64")))}


def decaying(e: Emitter, p: Expr, g: Expr, weight_decay: float) -> Expr:
    """g + weight_decay * p; g itself without weight decay."""
    return e.add(g, e.mul(p, weight_decay)) if weight_decay else g


def towards(e: Emitter, average: Expr, value: Expr, weight: float) -> Expr:
    """average + weight * (value - average)"""
    return e.add(average, e.mul(e.sub(value, average), weight))


def squares(e: Emitter, average: Expr, g: Expr, beta: float) -> Expr:
    """beta * average + ((1 - beta) * g) * g"""
    return e.add(e.mul(average, beta), e.mul(e.mul(g, 1.0 - beta), g))
