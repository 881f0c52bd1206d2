"""Small Relax functions, frozen and run by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.training.emit import Emitter, build_function

Body = Callable[..., Any]


def variables(arrays: Sequence[np.ndarray]) -> list[Any]:
    """A Relax variable x0, x1, … for each array."""
    return [relax.Var(f"x{k}", relax.TensorType(list(a.shape), str(a.dtype))) for k, a in enumerate(arrays)]


def frozen(body: Body, *arrays: np.ndarray, place: str = "here") -> Graph:
    """The canonical graph of ``body`` (Relax expressions → an expression or a tuple of them)."""
    parameters = variables(arrays)

    def write(e: Emitter) -> Sequence[Any]:
        e.place = place
        result = body(*parameters)
        return [e(r) for r in result] if isinstance(result, tuple) else [e(result)]

    module = build_function(parameters, write)
    count = len(module["main"].body.body.fields)
    inputs = [(p.name, "input") for p in parameters]
    return freeze(module, name="test", inputs=inputs, outputs=[(f"y{k}", False) for k in range(count)])


def evaluate(body: Body, *arrays: np.ndarray) -> list[np.ndarray]:
    """What the interpreter computes for the frozen ``body``."""
    graph = frozen(body, *arrays)
    return interpreter.run(graph, {f"x{k}": a for k, a in enumerate(arrays)})
