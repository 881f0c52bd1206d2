"""Updates of a few odd parameters as programs, and what tests/golden/<version>/optimizers.json records of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.training.emit import Emitter, build_function
from gensyn_tvm.training.losses import relax_type
from gensyn_tvm.training.optimizers import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialMovingAverage,
    Lion,
    Optimizer,
    RMSprop,
)

Arrays = dict[str, np.ndarray]
SHAPES: dict[str, tuple[int, ...]] = {"body.weight": (3, 5), "body.bias": (7,), "norm.weight": (1, 13), "temperature": ()}

#: One dictionary for both dtypes; entries are added and never change.
RECORDED: dict[str, Optimizer] = {
    "sgd": SGD(0.1),
    "sgd momentum": SGD(0.1, 0.9, 0.01),
    "sgd nesterov": SGD(0.1, 0.9, 0.01, True),
    "sgd dampening": SGD(0.1, 0.9, 0.01, dampening=0.3),
    "adam": Adam(0.01, (0.8, 0.99), 1e-6, 0.05),
    "adam amsgrad": Adam(0.01, amsgrad=True),
    "adamw": AdamW(0.01),
    "adamw groups": AdamW(0.01, (0.9, 0.95), no_decay="bias_and_norm", lr_scale={"body.*": 0.3}),
    "adagrad": Adagrad(0.1),
    "adagrad decay": Adagrad(0.1, 0.05, 0.02, 0.3, 1e-6),
    "rmsprop": RMSprop(0.01),
    "rmsprop centered": RMSprop(0.01, 0.9, 1e-6, 0.02, 0.5, True),
    "lion": Lion(0.01, weight_decay=0.1),
    "average": ExponentialMovingAverage(AdamW(0.01), 0.9),
}


def draw(seed: int, dtype: str) -> Arrays:
    """Multiples of 2^-18 in [-2, 2) for each parameter, from SHAKE-256: NumPy may change its random distributions."""
    arrays = {}
    for name, shape in SHAPES.items():
        count = int(np.prod(shape))
        data = np.frombuffer(hashlib.shake_256(f"{name} {seed}".encode()).digest(4 * count), "<u4")
        arrays[name] = ((data % 2**20).astype(np.int64) - 2**19).reshape(shape).astype(dtype) / np.dtype(dtype).type(2**18)
    return arrays


@functools.lru_cache(maxsize=4)
def update_graph(optimizer: Optimizer, dtype: str) -> Graph:
    """(parameters, their gradients, optimizer state, learning rate) → next parameters and state."""
    parameters = draw(0, dtype)
    state = optimizer.initial_state(parameters)
    gradients = {f"{name} gradient": value for name, value in parameters.items()}
    arrays = {**parameters, **gradients, **state, "learning_rate": np.zeros((), np.float32)}
    variables = {n: relax.Var(n, relax_type(TensorType(a.shape, a.dtype.name))) for n, a in arrays.items()}

    def body(e: Emitter) -> list[Any]:
        own = {n: variables[n] for n in parameters}
        new, new_state = optimizer.update(
            e, variables["learning_rate"], own, {n: variables[f"{n} gradient"] for n in own}, {n: variables[n] for n in state}
        )
        return [*(new[n] for n in parameters), *(new_state[n] for n in state)]

    outputs = [(name, True) for name in (*parameters, *state)]
    module = build_function(list(variables.values()), body)
    roles = {**dict.fromkeys(parameters, "parameter"), **dict.fromkeys(state, "optimizer")}
    return freeze(module, name="update", inputs=[(n, roles.get(n, "input")) for n in variables], outputs=outputs)


def advance(optimizer: Optimizer, dtype: str, steps: int, rates: Callable[[int], float] | None = None) -> Arrays:
    """Parameters and state after some steps of gradients that are drawn."""
    state = draw(0, dtype)
    state |= optimizer.initial_state(state)
    for count in range(steps):
        rate = np.array(optimizer.lr if rates is None else rates(count), np.float32)
        gradients = {f"{n} gradient": g for n, g in draw(count + 1, dtype).items()}
        found = run_named(update_graph(optimizer, dtype), {**state, **gradients, "learning_rate": rate})
        state = {name: array for (name, _), array in found.items()}
    return state


def digests() -> dict[str, dict[str, dict[str, str]]]:
    """By name and dtype: digests of the program and of the state after three steps."""
    return {
        name: {
            dtype: {
                "program": serialise.digest(update_graph(optimizer, dtype)),
                "state": state_digest(advance(optimizer, dtype, 3)),
            }
            for dtype in ("float32", "float64")
        }
        for name, optimizer in RECORDED.items()
    }
