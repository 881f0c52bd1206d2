"""A compiled training step as ``Trainer`` uses it, whatever way it takes its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.accumulated import AccumulatedExecutable
from gensyn_tvm.runtime.executable import Executable, State
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

    def init(self, seed: int) -> State:
        """The state before the first step."""
        return self.exe.init(seed)

    def state_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array of the state."""
        return {name: (array.shape, array.dtype.name) for name, array in self.exe.state.numpy().items()}

    def samples(self) -> int:
        """Samples of a batch.

        Raises:
            InputError: the inputs have no common batch size.
        """
        if isinstance(self.exe, AccumulatedExecutable):
            return self.exe.microbatches * batch_size(self.graph)
        return batch_size(self.graph) if self.count is None else self.count * batch_size(self.graph, axis=1)

    def __call__(self, state: State, batch: Any, rate: np.float32 | None) -> tuple[State, dict[str, Any]]:
        """The next state and the metrics of a step.

        Raises:
            InputError: arrays that do not fit.
        """
        named = named_batch(self.graph, batch)
        options: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
        if self.count is None:
            return self.exe(state, named, **options)
        cut = self._cut(named, self.count)
        if isinstance(self.exe, AccumulatedExecutable):
            return self.exe(state, [{n: a[m] for n, a in cut.items()} for m in range(self.count)], **options)
        return self.exe(state, cut, **options)

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
