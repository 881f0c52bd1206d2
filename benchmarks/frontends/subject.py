"""What a row of the table needs of a model: the same for every framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.program import Program

#: Steps of training.
STEPS = 10
#: Of SGD. Batch normalisation over a few samples amplifies rounding errors from step to step, so it gets a smaller one.
LEARNING_RATE, LEARNING_RATE_BATCH_NORM = 1e-2, 1e-3

#: An array of the target and the learning rate → the framework's losses before each of ``STEPS`` steps of SGD.
Train = Callable[[np.ndarray, float], Sequence[float]]


@dataclass(frozen=True)
class Subject:
    """A model with example inputs.

    Attributes:
        program: as the frontend imported it.
        inputs: arrays in the order of the program's inputs.
        reference: the framework's outputs in inference, in the order of the program's outputs.
        train: the framework's training of the same model with the mean squared error of the first output; None where the
            framework trains something else than the program, or nothing.
        rate: the learning rate, where it is not one of the two that most models get.
    """

    program: Program
    inputs: tuple[np.ndarray, ...]
    reference: Callable[[], list[np.ndarray]]
    train: Train | None = None
    rate: float | None = None

    @property
    def learning_rate(self) -> float:
        """Of the training."""
        if self.rate is not None:
            return self.rate
        return LEARNING_RATE_BATCH_NORM if self.program.state_updates else LEARNING_RATE
