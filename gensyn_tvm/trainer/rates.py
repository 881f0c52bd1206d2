"""Learning rates of a run: whatever was given becomes one float32 number for each step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.errors import InputError, describe

#: A number, a function step → number (steps from 0), or one number for each step of the run.
LearningRate = float | Callable[[int], Any] | Sequence[float] | np.ndarray


class Rates:
    """Learning rate of each step, rounded once to float32, with a digest of those used so far.

    Args:
        given: see ``LearningRate``; None means the program's own.
        default: the program's own, if it has any.
        first: the step with which the run begins; the first entry of a table is for it.

    Raises:
        InputError: a table that is no list of numbers.
    """

    def __init__(self, given: LearningRate | None, default: float | None, first: int) -> None:
        self.first = first
        self._function = given if callable(given) else None
        self._table: np.ndarray | None = None
        self._constant: Any = default if given is None else given
        if self._function is None and isinstance(given, Sequence | np.ndarray):
            self._table = np.asarray(given)
            if self._table.ndim != 1 or self._table.dtype.kind not in "fiu":
                found = f"{self._table.dtype}{list(self._table.shape)}"
                raise InputError(describe("these are no learning rates", found=found, expected="one number for each step"))
        self._digest = hashlib.sha256()
        self._count = 0

    def take(self) -> np.float32 | None:
        """The rate of the next step; None if the program reads no learning rate.

        Raises:
            InputError: no finite number, or the table has ended.
        """
        step = self.first + self._count
        if self._table is not None:
            if self._count >= len(self._table):
                expected = f"a rate for step {step}"
                raise InputError(describe("the learning rates end", found=f"{len(self._table)} numbers", expected=expected))
            value = self._table[self._count]
        else:
            value = self._constant if self._function is None else self._function(step)
        if value is None:
            return None
        if not isinstance(value, int | float | np.number) or not abs(float(value)) <= float(np.finfo(np.float32).max):
            raise InputError(
                describe("unusable learning rate", where=f"step {step}", found=repr(value), expected="a finite number")
            )
        rate = np.float32(value)
        self._digest.update(rate.astype("<f4").tobytes())
        self._count += 1
        return rate

    def skip(self, count: int) -> None:
        """Take ``count`` rates, as a run that was stopped did."""
        for _ in range(count):
            self.take()

    def description(self) -> dict[str, Any]:
        """What a checkpoint remembers: first step, how many, SHA-256 (hex) of their little-endian float32 bits."""
        return {"first_step": self.first, "count": self._count, "digest": self._digest.hexdigest()}
