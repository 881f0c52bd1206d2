"""A training step that owns its state: each step writes the next parameters and optimizer state over the old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES
from gensyn_tvm.canonical.types import from_carrier, to_carrier
from gensyn_tvm.errors import TrainingError
from gensyn_tvm.runtime.machine import POOL_LOCK, aligned_array

if TYPE_CHECKING:
    from gensyn_tvm.runtime.executable import Batch, Executable, State


class TrainingRun:
    """What ``Executable.start`` gives; called as ``run(batch) -> metrics``.

    The same bits as ``exe(state, batch)``, with one copy of the state instead of two.

    Attributes:
        steps: number of steps taken, those before the run included.
        seed: seed of every random operator.
    """

    def __init__(self, exe: Executable, arrays: dict[str, Any], step: int, seed: int) -> None:
        """``arrays``: a checked state's; each is taken out as soon as it is copied and need not be kept until the end."""
        from gensyn_tvm.runtime.executable import as_array

        graph, plan = exe.graph, exe._machine.plan
        self._exe, self.steps, self.seed = exe, step, seed
        self._broken = False
        self._own: dict[int, np.ndarray] = {}
        self._names: dict[int, str] = {}
        for slot, declared in enumerate(graph.inputs):
            if declared.role in STATE_ROLES:
                self._own[slot] = aligned_array(plan.inputs[slot])
                self._own[slot][...] = to_carrier(as_array(arrays.pop(declared.name)))
                self._names[slot] = declared.name
        slots = {i.name: k for k, i in enumerate(graph.inputs)}
        self._updates = {k: slots[o.name] for k, o in enumerate(graph.outputs) if o.updates}
        # What cannot be written over its old value has a second array, with which it changes places after each step.
        self._other = {k: aligned_array(plan.outputs[k]) for k in self._updates if k not in plan.in_place}

    def __call__(self, batch: Batch, *, learning_rate: float | None = None) -> dict[str, Any]:
        """Take a step; the metrics.

        Raises:
            InputError: arrays that do not fit; the state is as before.
            TrainingError: a step before this one failed half-way.
        """
        if self._broken:
            raise TrainingError("an earlier step of this run failed half-way: its state is lost; start again from a checkpoint")
        exe = self._exe
        given = exe._clocked(self.steps, self.seed, batch, learning_rate)
        with POOL_LOCK:
            machine = exe._machine
            _held = exe._give(given, {}, own=self._own)
            written = {k: self._other.get(k, self._own[slot]) for k, slot in self._updates.items()}
            arrays = machine.outputs([False] * len(machine.plan.outputs), written)
            self._broken = True
            machine.run(exe.threads, arrays)
            self._broken = False
            arrays = [a if k in written or not machine.is_staged(k) else a.copy() for k, a in enumerate(arrays)]
            machine.reset_places()
        for k, other in self._other.items():
            slot = self._updates[k]
            self._own[slot], self._other[k] = other, self._own[slot]
        self.steps += 1
        return exe._metrics(arrays)

    @property
    def state(self) -> State:
        """A copy of the present state, which no later step changes."""
        from gensyn_tvm.runtime.executable import State

        if self._broken:
            raise TrainingError("a step of this run failed half-way: its state is lost")
        types = self._exe._state_types
        arrays = {n: np.array(from_carrier(self._own[k].copy(), types[n]), order="C") for k, n in self._names.items()}
        return State(arrays, self.steps, self.seed)
