"""Run a training step whose gradients are accumulated, one microbatch after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.canonical.types import TensorType, to_carrier
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.batch import Batch, named_batch, rate_of
from gensyn_tvm.runtime.executable import Executable, State, as_array, scalar_of
from gensyn_tvm.runtime.training_run import InPlace, OwnedState
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
        state: the initial arrays, which the executables share.
        learning_rate: default of each step.
    """

    gradient: Executable
    add: Executable
    apply: Executable
    microbatches: int
    state: State
    learning_rate: float

    def init(self, seed: int = 0) -> State:
        """The state before the first step. Raises InputError for a seed that is no integer of 64 bits, or after ``release``."""
        return State(self.state.arrays, 0, self.gradient.init(seed).seed)

    def start(self, state: State | None = None, *, release: bool = False) -> AccumulatedRun:
        """A training run that owns a copy of the state and updates it in place; as ``Executable.start``."""
        state = self.init() if state is None else state
        for exe in (self.gradient, self.apply):
            exe.check_state(state)
        arrays, step, seed = dict(state.arrays), state.step, state.seed
        del state
        if release:
            self.release()
        return AccumulatedRun(self, arrays, step, seed)

    def release(self) -> None:
        """As ``Executable.release``."""
        for exe in (self.gradient, self.apply):
            exe.release()
        self.state = self.gradient.state

    @property
    def state_types(self) -> Mapping[str, TensorType]:
        """The types of the arrays of a state by name."""
        return {**self.gradient.state_types, **self.apply.state_types}

    def __call__(
        self, state: State, microbatches: Iterable[Batch], *, learning_rate: float | None = None
    ) -> tuple[State, dict[str, float]]:
        """Run one step; the microbatches are taken one after another, so they may come from a generator.

        Raises:
            InputError: another number of microbatches, or arrays that do not fit.
        """
        return self.run_with(self._run, state, microbatches, learning_rate)

    def run_with(
        self, run: Runner, state: State, microbatches: Iterable[Batch], learning_rate: float | None
    ) -> tuple[State, dict[str, Any]]:
        """A step whose graphs ``run`` runs; raises as a call."""
        rate = rate_of(self.apply.graph, self.learning_rate if learning_rate is None else learning_rate)
        graphs = (self.gradient.graph, self.add.graph, self.apply.graph)
        return run_accumulated(run, graphs, state, microbatches, self.microbatches, rate)

    def _run(self, graph: Graph, arrays: Arrays) -> list[Any]:
        exe = next(e for e in (self.gradient, self.add, self.apply) if e.graph is graph)
        return exe.run(_without_states(graph, arrays), arrays)


class AccumulatedRun(OwnedState):
    """What ``AccumulatedExecutable.start`` gives; called as ``run(microbatches) -> metrics``.

    The same bits as ``exe(state, microbatches)``, with one copy of the state instead of two.
    """

    def __init__(self, exe: AccumulatedExecutable, arrays: dict[str, Any], steps: int, seed: int) -> None:
        super().__init__(exe.state_types, arrays, steps, seed)
        self._exe, self._update = exe, InPlace(exe.apply, self.own)
        #: What each microbatch hands to the next is small, and changes for good only with the step.
        self._buffers = frozenset(o.name for o in exe.gradient.graph.outputs if o.updates)

    def __call__(self, microbatches: Iterable[Batch], *, learning_rate: float | None = None) -> dict[str, Any]:
        """Take a step; the metrics. The microbatches are taken one after another, so they may come from a generator.

        Raises:
            InputError: another number of microbatches, or arrays that do not fit; the state is as before.
            TrainingError: a step before this one failed half-way, or the run is finished.
        """
        self.check()
        state, metrics = self._exe.run_with(self._run, self.borrowed(), microbatches, learning_rate)
        for name in self._buffers:
            self.own[name][...] = to_carrier(as_array(state.arrays[name]))
        self.steps += 1
        return metrics

    def _run(self, graph: Graph, arrays: Arrays) -> list[Any]:
        exe, given = self._exe, _without_states(graph, arrays)
        if graph is exe.apply.graph:
            results: list[Any] = list(exe.apply.outputs_of(self.updated(self._update, given)))
            exe.gradient.forget()
            return results
        if graph is exe.add.graph:
            return exe.add.run(given, arrays)
        return exe.gradient.run(given, arrays, own={n: a for n, a in self.own.items() if n not in self._buffers})


def _without_states(graph: Graph, arrays: Arrays) -> dict[str, Any]:
    roles = {i.name: i.role for i in graph.inputs}
    return {n: a for n, a in arrays.items() if roles.get(n) not in STATE_ROLES}


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
