"""Schedules of the learning rate, as exact tables: the same float32 for a step on every machine.

The settings are the real numbers that they are as binary64. Values are computed as fractions; only cosines and powers are
rounded before, to 256 bits (``gensyn_tvm.training.rationals``). The last operation rounds to the nearest float32, once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.training import settings
from gensyn_tvm.training.rationals import cos_pi, float32, power
from gensyn_tvm.training.settings import check, is_count, is_size, plain


@dataclass(frozen=True)
class LearningRate:
    """Base of the schedules: a function of the step, counted from 0.

    Raises:
        InvalidProgramError: a setting out of its range.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        self._check_settings()

    def _check_settings(self) -> None:
        raise TypeError(f"{type(self).__name__} is abstract")

    def _check(self, condition: bool, what: str) -> None:
        check(type(self).__name__, condition, what)

    def exact(self, step: int) -> Fraction:
        """The value before it is rounded."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def __call__(self, step: int) -> np.float32:
        """The learning rate of a step.

        Raises:
            InputError: not a step, or a rate beyond the largest float32.
        """
        if not is_count(step):
            raise InputError(f"step={step!r}; expected an integer >= 0")
        return float32(self.exact(int(step)))

    def table(self, steps: int) -> np.ndarray:
        """The learning rates of the first ``steps`` steps, float32[steps].

        Raises:
            InputError: as for one step.
        """
        if not is_count(steps):
            raise InputError(f"steps={steps!r}; expected an integer >= 0")
        return np.array([self(step) for step in range(steps)], dtype=np.float32)

    def digest(self, steps: int) -> str:
        """SHA-256 (hex) of the table, as ``gensyn_tvm.evidence.digests.array_digest``."""
        return array_digest(self.table(steps))


def _blend(start: Fraction | float, end: Fraction | float, part: Fraction) -> Fraction:
    """start + (end - start) * part"""
    return Fraction(start) + (Fraction(end) - Fraction(start)) * part


def _cosine(start: Fraction | float, end: Fraction | float, part: Fraction) -> Fraction:
    """end + (start - end) * (1 + cos(pi * part)) / 2"""
    return _blend(end, start, (1 + cos_pi(part)) / 2)


@dataclass(frozen=True)
class Constant(LearningRate):
    """lr"""

    lr: float

    def _check_settings(self) -> None:
        self._check(is_size(self.lr), "lr must be finite and >= 0")

    def exact(self, step: int) -> Fraction:
        return Fraction(self.lr)


@dataclass(frozen=True)
class Linear(LearningRate):
    """start + (end - start) * step / steps, from then on end (``torch.optim.lr_scheduler.LinearLR``)."""

    start: float
    end: float
    steps: int

    def _check_settings(self) -> None:
        self._check(is_size(self.start, self.end), "start and end must be finite and >= 0")
        self._check(is_count(self.steps, 1), "steps must be an integer >= 1")

    def exact(self, step: int) -> Fraction:
        return _blend(self.start, self.end, Fraction(min(step, self.steps), self.steps))


@dataclass(frozen=True)
class _Decay(LearningRate):
    """From ``lr`` to ``end`` in ``steps`` steps, from then on ``end``."""

    lr: float
    steps: int
    end: float = 0.0

    def _check_settings(self) -> None:
        self._check(is_size(self.lr, self.end), "lr and end must be finite and >= 0")
        self._check(is_count(self.steps, 1), "steps must be an integer >= 1")


@dataclass(frozen=True)
class Cosine(_Decay):
    """end + (lr - end) * (1 + cos(pi * step / steps)) / 2, from ``steps`` on end (``CosineAnnealingLR``)."""

    def exact(self, step: int) -> Fraction:
        return _cosine(self.lr, self.end, Fraction(min(step, self.steps), self.steps))


@dataclass(frozen=True)
class Polynomial(_Decay):
    """end + (lr - end) * (1 - step / steps)^power, from ``steps`` on end (``PolynomialLR``)."""

    power: float = 1.0

    def _check_settings(self) -> None:
        super()._check_settings()
        self._check(is_size(self.power) and self.power > 0, "power must be finite and > 0")

    def exact(self, step: int) -> Fraction:
        return _blend(self.end, self.lr, power(1 - Fraction(min(step, self.steps), self.steps), Fraction(self.power)))


@dataclass(frozen=True)
class Exponential(LearningRate):
    """lr * factor^step (``ExponentialLR``)."""

    lr: float
    factor: float

    def _check_settings(self) -> None:
        self._check(is_size(self.lr, self.factor), "lr and factor must be finite and >= 0")

    def exact(self, step: int) -> Fraction:
        return Fraction(self.lr) * power(Fraction(self.factor), Fraction(step))


@dataclass(frozen=True)
class Step(LearningRate):
    """lr * factor^floor(step / every) (``StepLR``)."""

    lr: float
    every: int
    factor: float = 0.1

    def _check_settings(self) -> None:
        self._check(is_size(self.lr, self.factor), "lr and factor must be finite and >= 0")
        self._check(is_count(self.every, 1), "every must be an integer >= 1")

    def exact(self, step: int) -> Fraction:
        return Fraction(self.lr) * power(Fraction(self.factor), Fraction(step // self.every))


@dataclass(frozen=True)
class InverseSquareRoot(LearningRate):
    """lr * sqrt(timescale / (timescale + step)).

    After a warm-up of ``timescale`` steps this is lr * sqrt(timescale / step) of the whole run (Vaswani et al. 2017).
    """

    lr: float
    timescale: int

    def _check_settings(self) -> None:
        self._check(is_size(self.lr), "lr must be finite and >= 0")
        self._check(is_count(self.timescale, 1), "timescale must be an integer >= 1")

    def exact(self, step: int) -> Fraction:
        return Fraction(self.lr) * power(Fraction(self.timescale, self.timescale + step), Fraction(1, 2))


@dataclass(frozen=True)
class OneCycle(LearningRate):
    """``OneCycleLR``: from lr / divisor up to lr, then down to lr / (divisor * final_divisor) at the last of ``steps`` steps.

    The rate turns at step ``rise`` * steps - 1, which need not be whole; ``anneal`` is ``cosine`` or ``linear``.
    """

    lr: float
    steps: int
    rise: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4
    anneal: str = "cosine"

    def _check_settings(self) -> None:
        self._check(is_size(self.lr), "lr must be finite and >= 0")
        self._check(is_count(self.steps, 2), "steps must be an integer >= 2")
        self._check(is_size(self.rise) and self.rise < 1 and self.rise * self.steps > 1, "rise must be in (1 / steps, 1)")
        sizes = is_size(self.divisor, self.final_divisor) and min(self.divisor, self.final_divisor) > 0
        self._check(sizes, "divisor and final_divisor must be finite and > 0")
        self._check(self.anneal in ("cosine", "linear"), "anneal must be 'cosine' or 'linear'")

    def exact(self, step: int) -> Fraction:
        top = Fraction(self.lr)
        first = top / Fraction(self.divisor)
        last = first / Fraction(self.final_divisor)
        turn, stop = Fraction(self.rise) * self.steps - 1, self.steps - 1
        anneal = _cosine if self.anneal == "cosine" else _blend
        if step <= turn:
            return anneal(first, top, step / turn)
        return anneal(top, last, (min(step, stop) - turn) / (stop - turn))


@dataclass(frozen=True)
class Piecewise(LearningRate):
    """values[k] from step boundaries[k - 1] on, before boundaries[k]."""

    boundaries: Sequence[int]
    values: Sequence[float]

    def _check_settings(self) -> None:
        self._check(_ascending(self.boundaries), "boundaries must be ascending integers >= 1")
        self._check(isinstance(self.values, tuple) and is_size(*self.values), "values must be finite and >= 0")
        self._check(len(self.values) == len(self.boundaries) + 1, "there must be one value more than boundaries")

    def exact(self, step: int) -> Fraction:
        return Fraction(self.values[sum(step >= b for b in self.boundaries)])


@dataclass(frozen=True)
class Sequential(LearningRate):
    """schedules[k] from step boundaries[k - 1] on, before boundaries[k], with its own steps from 0 on (``SequentialLR``)."""

    schedules: Sequence[LearningRate]
    boundaries: Sequence[int]

    def _check_settings(self) -> None:
        self._check(_ascending(self.boundaries), "boundaries must be ascending integers >= 1")
        parts = isinstance(self.schedules, tuple) and all(isinstance(s, LearningRate) for s in self.schedules)
        self._check(parts, "schedules must be learning-rate schedules")
        self._check(len(self.schedules) == len(self.boundaries) + 1, "there must be one schedule more than boundaries")

    def exact(self, step: int) -> Fraction:
        number = sum(step >= b for b in self.boundaries)
        return self.schedules[number].exact(step - (0, *self.boundaries)[number])


@dataclass(frozen=True)
class Warmup(LearningRate):
    """``steps`` steps of start + (first - start) * step / steps, first being what ``then`` begins with; then ``then``."""

    steps: int
    then: LearningRate
    start: float = 0.0

    def _check_settings(self) -> None:
        self._check(is_count(self.steps), "steps must be an integer >= 0")
        self._check(isinstance(self.then, LearningRate), "then must be a learning-rate schedule")
        self._check(is_size(self.start), "start must be finite and >= 0")

    def exact(self, step: int) -> Fraction:
        if step < self.steps:
            return _blend(self.start, self.then.exact(0), Fraction(step, self.steps))
        return self.then.exact(step - self.steps)


def _ascending(boundaries: Any) -> bool:
    whole = isinstance(boundaries, tuple) and all(is_count(b, 1) for b in boundaries)
    return whole and all(a < b for a, b in pairwise(boundaries))


#: Schedules by name.
SCHEDULES: dict[str, type[LearningRate]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "exponential": Exponential,
    "step": Step,
    "inverse_square_root": InverseSquareRoot,
    "one_cycle": OneCycle,
    "piecewise": Piecewise,
    "sequential": Sequential,
    "warmup": Warmup,
}


def to_dict(schedule: LearningRate) -> dict[str, Any]:
    """All settings of a schedule, and ``kind``: numbers, strings, lists and dictionaries, as in TOML and JSON.

    Raises:
        InvalidProgramError: a schedule of a class of one's own.
    """
    return settings.to_dict(schedule, SCHEDULES)


def from_dict(description: Mapping[str, Any]) -> LearningRate:
    """The schedule that ``to_dict`` describes; settings that are left out have their defaults.

    Raises:
        InvalidProgramError: an unknown kind, an unknown or missing setting, a setting out of its range.
    """
    found: LearningRate = settings.from_dict(description, SCHEDULES, "learning-rate schedule")
    return found


def to_json(schedule: LearningRate) -> str:
    """``to_dict`` as JSON; the same text for equal schedules.

    Raises:
        InvalidProgramError: as ``to_dict``.
    """
    return json.dumps(to_dict(schedule))


def from_json(text: str) -> LearningRate:
    """The schedule that ``to_json`` wrote.

    Raises:
        InvalidProgramError: as ``from_dict``.
        json.JSONDecodeError: no JSON.
    """
    return from_dict(json.loads(text))
