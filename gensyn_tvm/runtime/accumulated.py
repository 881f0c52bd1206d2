"""Run a training step whose gradients are accumulated, one microbatch after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.executable import Batch, Executable, State, as_array, named_batch, rate_of, scalar_of
from gensyn_tvm.training.pairwise import PairwiseSum

Arrays = Mapping[str, Any]
#: Runs a graph on arrays by name; gives its outputs in order.
Runner = Callable[[Graph, Arrays], list[Any]]


@dataclass
class AccumulatedExecutable:
    """An ``AccumulatedStep`` compiled for one target, called as ``exe(state, microbatches) -> (state, metrics)``.

    Attributes:
        gradient, add, apply: the executables of its three graphs.
        microbatches: how many make a step.
        state: the initial arrays.
        learning_rate: default of each step.
    """

    gradient: Executable
    add: Executable
    apply: Executable
    microbatches: int
    state: State
    learning_rate: float

    def init(self, seed: int = 0) -> State:
        """The state before the first step. Raises InputError for a seed that is no integer of 64 bits."""
        return State(self.state.arrays, 0, self.gradient.init(seed).seed)

    def __call__(
        self, state: State, microbatches: Iterable[Batch], *, learning_rate: float | None = None
    ) -> tuple[State, dict[str, float]]:
        """Run one step; the microbatches are taken one after another, so they may come from a generator.

        Raises:
            InputError: another number of microbatches, or arrays that do not fit.
        """
        rate = rate_of(self.apply.graph, self.learning_rate if learning_rate is None else learning_rate)
        graphs = (self.gradient.graph, self.add.graph, self.apply.graph)
        return run_accumulated(self._run, graphs, state, microbatches, self.microbatches, rate)

    def _run(self, graph: Graph, arrays: Arrays) -> list[Any]:
        exe = next(e for e in (self.gradient, self.add, self.apply) if e.graph is graph)
        roles = {i.name: i.role for i in graph.inputs}
        given = {n: a for n, a in arrays.items() if roles.get(n) not in STATE_ROLES}
        return exe.run(given, arrays)


def run_accumulated(
    run: Runner,
    graphs: tuple[Graph, Graph, Graph],
    state: State,
    microbatches: Iterable[Batch],
    count: int,
    learning_rate: np.float32,
) -> tuple[State, dict[str, Any]]:
    """One step of the (gradient, add, apply) graphs of an ``AccumulatedStep`` with whatever runs graphs.

    Raises:
        InputError: not exactly ``count`` microbatches.
    """
    gradient, add, apply = graphs
    names = [o.name for o in gradient.outputs if not o.updates]

    def added(left: Arrays, right: Arrays) -> Arrays:
        given = {**{f"left.{n}": left[n] for n in names}, **{f"right.{n}": right[n] for n in names}}
        return dict(zip(names, run(add, given), strict=True))

    arrays = dict(state.arrays)
    sums: PairwiseSum[Arrays] = PairwiseSum(added)
    taken = 0
    for taken, batch in enumerate(microbatches, 1):
        if taken > count:
            break
        clock = {"step": np.asarray(_wrapped(state.step * count + taken - 1)), "seed": np.asarray(np.int64(state.seed))}
        given = {**named_batch(gradient, batch), **clock, **_states(gradient, arrays)}
        values, states = _split(gradient, run(gradient, given))
        arrays.update(states)
        sums.push(values)
    if taken != count:
        found = f"more than {count}" if taken > count else str(taken)
        raise InputError(describe("not the microbatches of one step", found=found, expected=f"{count} batches"))
    total = {f"sum.{n}": value for n, value in sums.total().items()}
    given = {**total, "learning_rate": np.asarray(learning_rate), **_states(apply, arrays)}
    shown, states = _split(apply, run(apply, given))
    metrics = {name: scalar_of(as_array(value)) for name, value in shown.items()}
    return State({**arrays, **states}, state.step + 1, state.seed), metrics


def _wrapped(step: int) -> np.int64:
    return np.int64((step + 2**63) % 2**64 - 2**63)


def _states(graph: Graph, arrays: Arrays) -> dict[str, Any]:
    return {i.name: arrays[i.name] for i in graph.inputs if i.role in STATE_ROLES}


def _split(graph: Graph, results: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a graph shows, and the next states."""
    pairs = list(zip(graph.outputs, results, strict=True))
    return {o.name: r for o, r in pairs if not o.updates}, {o.name: r for o, r in pairs if o.updates}
