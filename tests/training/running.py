"""Training steps run by the interpreter, with states as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.interpreter import run, run_named
from gensyn_tvm.runtime.accumulated import run_accumulated
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.training.accumulation import AccumulatedStep
from gensyn_tvm.training.step import TrainingStep

Arrays = dict[str, np.ndarray]


def initial(step: TrainingStep) -> Arrays:
    """The whole state before the first step."""
    return {**step.parameters, **step.states, **step.optimizer_state}


def advance(step: TrainingStep, state: Arrays, batch: tuple[Any, ...], count: int = 0, seed: int = 3) -> tuple[Arrays, Arrays]:
    """The whole next state and the shown outputs of step ``count``; ``batch`` as NumPy arrays in the order of the inputs."""
    names = [i.name for i in step.graph.inputs if i.role in ("input", "target")]
    clock = {"step": np.array(count), "seed": np.array(seed), "learning_rate": np.array(step.learning_rate, "float32")}
    results = run_named(step.graph, {**state, **dict(zip(names, batch, strict=True)), **clock})
    new = {name: array for (name, updates), array in results.items() if updates}
    return {**state, **new}, {name: array for (name, updates), array in results.items() if not updates}


def advance_one_by_one(
    step: AccumulatedStep, state: Arrays, batches: Any, count: int = 0, seed: int = 3
) -> tuple[Arrays, dict[str, Any]]:
    """``advance`` for the programs of an accumulated step."""

    def interpret(graph: Graph, arrays: Any) -> list[Any]:
        return list(run(graph, {i.name: np.asarray(arrays[i.name]) for i in graph.inputs}))

    graphs = (step.gradient, step.add, step.apply)
    rate = np.float32(step.learning_rate)
    new, shown = run_accumulated(interpret, graphs, State(state, count, seed), batches, step.microbatches, rate)
    return dict(new.arrays), shown


def bits(state: Any) -> dict[str, bytes]:
    """The bits of all arrays."""
    return {name: np.asarray(array).tobytes() for name, array in state.items()}
