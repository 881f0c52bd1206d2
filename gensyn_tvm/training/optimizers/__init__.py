"""Optimizers: frozen descriptions that emit their update as Relax.

The formulas and their order are those of ``torch.optim`` (PyTorch 2.13, ``_single_tensor_*``), with gradients and state in the
parameter's dtype. The learning rate is an input of every step. Bias corrections come from running products of the betas in
float64, kept in the state, so there is no pow. docs/optimizers.md has a table of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gensyn_tvm.training import settings
from gensyn_tvm.training.optimizers.adagrad import Adagrad
from gensyn_tvm.training.optimizers.adam import Adam, AdamW
from gensyn_tvm.training.optimizers.averages import ExponentialMovingAverage, averaged
from gensyn_tvm.training.optimizers.base import Optimizer
from gensyn_tvm.training.optimizers.lion import Lion
from gensyn_tvm.training.optimizers.rmsprop import RMSprop
from gensyn_tvm.training.optimizers.sgd import SGD

#: Optimizers by name, with their default settings.
OPTIMIZERS = {
    "sgd": SGD(1e-2),
    "adam": Adam(),
    "adamw": AdamW(),
    "adagrad": Adagrad(),
    "rmsprop": RMSprop(),
    "lion": Lion(),
}

_KINDS: dict[str, type] = {
    **{name: type(optimizer) for name, optimizer in OPTIMIZERS.items()},
    "exponential_moving_average": ExponentialMovingAverage,
}


def to_dict(optimizer: Optimizer) -> dict[str, Any]:
    """All settings of an optimizer, and ``kind``: numbers, strings and lists, as in TOML and JSON.

    Raises:
        InvalidProgramError: an optimizer of a class of one's own.
    """
    return settings.to_dict(optimizer, _KINDS)


def from_dict(description: Mapping[str, Any]) -> Optimizer:
    """The optimizer that ``to_dict`` describes; settings that are left out have their defaults.

    ``lr_scale`` may be a table of factors by pattern.

    Raises:
        InvalidProgramError: an unknown kind, an unknown or missing setting, a setting out of its range.
    """
    found: Optimizer = settings.from_dict(description, _KINDS, "optimizer")
    return found


__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ExponentialMovingAverage",
    "Lion",
    "Optimizer",
    "RMSprop",
    "averaged",
    "from_dict",
    "to_dict",
]
