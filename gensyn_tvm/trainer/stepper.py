"""A compiled training step as ``Trainer`` uses it, whatever way it takes its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.accumulated import AccumulatedExecutable, AccumulatedRun
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.training_run import TrainingRun
from gensyn_tvm.trainer.batches import batch_size, named_batch


class Stepper:
    """One step from a batch of samples, also for steps that accumulate gradients over microbatches.

    Args:
        exe: a compiled training step; an ``AccumulatedExecutable`` knows its number of microbatches.
        microbatches: the leading extent of the inputs of a ``training_step(…, microbatches=n)``.

    Attributes:
        graph: has the names and types of a batch's arrays.
        digest: names the program, or the three of an accumulated step.
        count: microbatches of a step; None if there are none.

    Raises:
        InputError: not a training step, or one without these microbatches.
    """

    def __init__(self, exe: Executable | AccumulatedExecutable, microbatches: int | None = None) -> None:
        self.exe = exe
        if isinstance(exe, AccumulatedExecutable):
            self.graph: Graph = exe.gradient.graph
            parts = [e.digest for e in (exe.gradient, exe.add, exe.apply)]
            self.digest = hashlib.sha256(f"{' '.join(parts)} {exe.microbatches}".encode("ascii")).hexdigest()
            self.count: int | None = exe.microbatches
            self.threads = exe.gradient.threads
        else:
            self.graph, self.digest, self.count, self.threads = exe.graph, exe.digest, microbatches, exe.threads
        self._check(microbatches)

    def _check(self, microbatches: int | None) -> None:
        exe = self.exe
        if isinstance(exe, Executable) and not exe.is_training_step:
            found = f"inference program {exe.graph.name!r}"
            raise InputError(describe("this is no training step", found=found, expected="what training_step(program, …) gives"))
        leading = {i.type.shape[:1] for i in self.graph.inputs if i.role in ("input", "target")}
        fits = isinstance(exe, AccumulatedExecutable) or leading == {(self.count,)}
        if microbatches is not None and (microbatches != self.count or not fits):
            found = f"{self.count}, inputs with leading extents {sorted(leading)}"
            raise InputError(describe(f"the step has not {microbatches} microbatches", found=found))

    @property
    def learning_rate(self) -> float | None:
        """The program's own learning rate."""
        return self.exe.learning_rate

    def begin(self, state: State | None, seed: int, *, release: bool = False) -> Steps:
        """A run of steps on a copy of the state, by default the initial one.

        Raises:
            InputError: a state that does not fit, or the initial one was released before.
        """
        run = self.exe.start(state, release=release)  # a name for the initial state would keep its arrays
        run.seed = seed
        return Steps(self, run)

    def state_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array of the state."""
        return {name: (t.shape, t.dtype) for name, t in self.exe.state_types.items()}

    def samples(self) -> int:
        """Samples of a batch.

        Raises:
            InputError: the inputs have no common batch size.
        """
        if isinstance(self.exe, AccumulatedExecutable):
            return self.exe.microbatches * batch_size(self.graph)
        return batch_size(self.graph) if self.count is None else self.count * batch_size(self.graph, axis=1)

    def given(self, batch: Any) -> Any:
        """What the program is called with for a batch of samples.

        Raises:
            InputError: it cannot be cut into microbatches.
        """
        named = named_batch(self.graph, batch)
        if self.count is None:
            return named
        cut = self._cut(named, self.count)
        if isinstance(self.exe, AccumulatedExecutable):
            return [{n: a[m] for n, a in cut.items()} for m in range(self.count)]
        return cut

    def _cut(self, named: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
        """Samples (n * b, …) as (n, b, …)."""
        cut = {}
        for name, value in named.items():
            array = np.asarray(value)
            if array.ndim == 0 or len(array) % count:
                found = f"{name!r} is {array.dtype}{list(array.shape)}"
                raise InputError(describe(f"a batch cannot be cut into {count} microbatches", found=found))
            cut[name] = array.reshape(count, len(array) // count, *array.shape[1:])
        return cut


class Steps:
    """Steps that update a state in place.

    Attributes:
        run: the program's own run: its number of steps, and its state.
    """

    def __init__(self, stepper: Stepper, run: TrainingRun | AccumulatedRun) -> None:
        self.stepper, self.run = stepper, run

    def __call__(self, batch: Any, rate: np.float32 | None) -> dict[str, Any]:
        """The metrics of a step.

        Raises:
            InputError: arrays that do not fit; the state is as before.
        """
        return self.run(self.stepper.given(batch), learning_rate=None if rate is None else float(rate))
