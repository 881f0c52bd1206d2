"""A training step that owns its state: each step writes the next parameters and optimizer state over the old ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType, from_carrier, to_carrier
from gensyn_tvm.errors import TrainingError
from gensyn_tvm.runtime.machine import POOL
from gensyn_tvm.runtime.storage import aligned_array

if TYPE_CHECKING:
    from gensyn_tvm.runtime.batch import Batch
    from gensyn_tvm.runtime.executable import Executable, State


class OwnedState:
    """Arrays of state that nobody else has, and the step that they have come to.

    Attributes:
        steps: number of steps taken, those before the run included.
        seed: seed of every random operator.
        own: the carried arrays by name.
    """

    def __init__(self, types: Mapping[str, TensorType], arrays: dict[str, Any], steps: int, seed: int) -> None:
        """``arrays``: a checked state's; each is taken out as soon as it is copied and need not be kept until the end."""
        from gensyn_tvm.runtime.executable import as_array

        self.steps, self.seed, self._types = steps, seed, types
        self.own: dict[str, np.ndarray] = {}
        self._lost = ""
        for name, t in types.items():
            self.own[name] = aligned_array(TensorType(t.shape, t.carrier))
            self.own[name][...] = to_carrier(as_array(arrays.pop(name)))

    def check(self) -> None:
        """Raise TrainingError if the run is over or a step failed half-way."""
        if self._lost:
            raise TrainingError(self._lost)

    @property
    def state(self) -> State:
        """A copy of the present state, which no later step changes."""
        return self._state({n: np.array(a, order="C") for n, a in self._shown().items()})

    def borrowed(self) -> State:
        """The present state without a copy: its arrays cannot be written to, and each step changes them."""
        arrays = self._shown()
        for a in arrays.values():
            a.flags.writeable = False
        return self._state(arrays)

    def finish(self) -> State:
        """The final state without a copy; the run takes no further step."""
        state = self._state(self._shown())
        self.own, self._lost = {}, "this run is finished: its state was handed out"
        return state

    def _shown(self) -> dict[str, np.ndarray]:
        self.check()
        return {n: from_carrier(a.view(), self._types[n].dtype) for n, a in self.own.items()}

    def _state(self, arrays: Mapping[str, np.ndarray]) -> State:
        from gensyn_tvm.runtime.executable import State

        return State(arrays, self.steps, self.seed)

    def updated(self, update: InPlace, given: Mapping[str, Any]) -> list[np.ndarray]:
        """Run an update; should it fail half-way, nothing may be done with the state any more. Raises as ``InPlace.run``."""

        def begin() -> None:
            self._lost = "an earlier step of this run failed half-way: its state is lost; start again from a checkpoint"

        arrays = update.run(given, begin)
        self._lost = ""
        return arrays


class InPlace:
    """Runs of a program that overwrite the state that it updates."""

    def __init__(self, exe: Executable, own: dict[str, np.ndarray]) -> None:
        """``own``: carried arrays of state by name, which only these runs write to; other programs may read them."""
        plan = exe._machine.plan
        self._exe, self._own = exe, own
        self._updates = {k: o.name for k, o in enumerate(exe.graph.outputs) if o.updates}
        # What cannot be written over its old value has a second array, with which it changes places after each step.
        self._other = {k: aligned_array(plan.outputs[k]) for k in self._updates if k not in plan.in_place}

    def run(self, given: Mapping[str, Any], begin: Any) -> list[np.ndarray]:
        """The outputs as the code writes them.

        Args:
            given: all inputs but the state.
            begin: called before the first array changes.

        Raises:
            InputError: arrays that do not fit.
        """
        exe = self._exe
        with POOL:
            machine = exe._machine
            _held = exe._give(given, {}, own=self._own)
            written = {k: self._other.get(k, self._own[name]) for k, name in self._updates.items()}
            arrays = machine.outputs([False] * len(machine.plan.outputs), written)
            begin()
            machine.run(exe.threads, arrays)
            arrays = [a if k in written or not machine.is_staged(k) else a.copy() for k, a in enumerate(arrays)]
            machine.reset_places()
        for k, other in self._other.items():
            name = self._updates[k]
            self._own[name], self._other[k] = other, self._own[name]
        return arrays


class TrainingRun(OwnedState):
    """What ``Executable.start`` gives; called as ``run(batch) -> metrics``.

    The same bits as ``exe(state, batch)``, with one copy of the state instead of two.
    """

    def __init__(self, exe: Executable, arrays: dict[str, Any], steps: int, seed: int) -> None:
        super().__init__(exe.state_types, arrays, steps, seed)
        self._exe, self._update = exe, InPlace(exe, self.own)

    def __call__(self, batch: Batch, *, learning_rate: float | None = None) -> dict[str, Any]:
        """Take a step; the metrics.

        Raises:
            InputError: arrays that do not fit; the state is as before.
            TrainingError: a step before this one failed half-way, or the run is finished.
        """
        self.check()
        given = self._exe._clocked(self.steps, self.seed, batch, learning_rate)
        arrays = self.updated(self._update, given)
        self.steps += 1
        return self._exe._metrics(arrays)
