"""``Trainer``: runs a compiled training step over data, with checkpoints from which a run continues to the same bits."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.errors import CheckpointError, InputError, TrainingError, describe
from gensyn_tvm.runtime.accumulated import AccumulatedExecutable
from gensyn_tvm.runtime.batch import checked_seed
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.trainer.checkpoint import (
    Checkpoint,
    checkpoints,
    latest_checkpoint,
    read_checkpoint,
    remove_old,
    write_checkpoint,
)
from gensyn_tvm.trainer.data import IndexedBatches, StreamBatches, batches_of
from gensyn_tvm.trainer.evaluation import Evaluation, Evaluator
from gensyn_tvm.trainer.logs import Log
from gensyn_tvm.trainer.rates import LearningRate, Rates
from gensyn_tvm.trainer.stepper import Stepper, Steps
from gensyn_tvm.trainer.watch import Stop, folder_lock, progress_bar

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.training.accumulation import AccumulatedStep
    from gensyn_tvm.training.step import TrainingStep


@dataclass(frozen=True)
class Checkpoints:
    """Where and when a run is saved. It is also saved at its end, when it is interrupted, and at each best evaluation.

    Attributes:
        folder: for the checkpoints of one run; made if needed.
        every: steps between two checkpoints; None for none in between.
        keep: how many of the last ones stay, beside the best one.
    """

    folder: str | os.PathLike[str]
    every: int | None = None
    keep: int = 3


@dataclass
class Training:
    """The outcome of a run.

    Attributes:
        state: parameters, buffers and optimizer state after the last step.
        metrics: of the last step.
        losses: of each step since the run began or was continued.
        evaluations: (step, numbers) of each evaluation since then.
        best: step, name and value of the best evaluation; empty without evaluation.
        checkpoint: the last checkpoint.
    """

    state: State
    metrics: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None


class Trainer:
    """Trains a model.

    Args:
        step: what ``training_step`` or ``accumulated_step`` gave, or a compiled one.
        target, threads, schedule: as for ``compile``; for a step that is not compiled yet.
        microbatches: what ``training_step(…, microbatches=n)`` was given; a batch is then n times as many samples.
        seed: of dropout and of the order of the samples.
        learning_rate: a number, a function of the step (from 0), or one number for each step; the optimizer's own if left out.
            Each is rounded to float32 once. A function that calls the C library (``math.cos``) may differ between machines;
            checkpoints hold a digest of the rates.
        checkpoints: where and when to save; nothing is saved without.
        evaluation: what to measure on samples held out.
        logs: ``CsvLog``, ``TensorBoardLog`` or own ones.
        log_every: steps between two lines of the logs.
        progress: show a bar on standard error; by default if somebody is watching.
        optimizer: description of the optimizer for checkpoints.

    Raises:
        InputError: not a training step, a setting out of its range.
        TargetError: see ``compile``.
    """

    def __init__(
        self,
        step: TrainingStep | AccumulatedStep | Source | Executable | AccumulatedExecutable,
        *,
        target: Any = None,
        threads: int | None = None,
        schedule: str | None = None,
        microbatches: int | None = None,
        seed: int = 0,
        learning_rate: LearningRate | None = None,
        checkpoints: Checkpoints | None = None,
        evaluation: Evaluation | None = None,
        logs: Sequence[Log] = (),
        log_every: int = 1,
        progress: bool | None = None,
        optimizer: str = "",
    ) -> None:
        self.executable = _compiled(step, target, threads, schedule)
        self.stepper = Stepper(self.executable, microbatches)
        self.seed = checked_seed(seed)
        self.learning_rate, self.checkpoints, self.logs = learning_rate, checkpoints, tuple(logs)
        self.log_every, self.optimizer = log_every, optimizer
        self.progress = sys.stderr.isatty() if progress is None else progress
        numbers = {"log_every": log_every}
        if checkpoints is not None:
            numbers |= {"Checkpoints.keep": checkpoints.keep, "Checkpoints.every": checkpoints.every or 1}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}; expected at least 1")
        self.evaluator = None
        if evaluation is not None:
            self.evaluator = Evaluator(evaluation, self.stepper, target or "native")

    def fit(
        self,
        data: Any,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        shuffle: bool = True,
        resume: bool | str | os.PathLike[str] = False,
        state: State | None = None,
        release: bool = False,
    ) -> Training:
        """Train. The state is updated in place: it is in memory once, beside the program's initial parameters.

        Args:
            data: arrays by name or in a tuple, ``Arrays``, ``Tokens``, a data set with ``len()`` and ``[i]``, or an iterable of
                ready batches; see ``gensyn_tvm.trainer.data``.
            steps: length of the whole run, with the part before ``resume``.
            epochs: instead: passes over the data.
            shuffle: visit samples in a new order every epoch.
            resume: True continues from the last whole checkpoint of ``checkpoints.folder``; ``"auto"`` does so if there is any
                checkpoint; anything else is the path of a checkpoint.
            state: begin from this state instead of the initial one.
            release: hand the initial state over to the run, so that nothing of it stays in memory. Afterwards ``fit`` needs
                ``state`` or ``resume``, and ``executable.save`` a state.

        Raises:
            InputError: data or batches that do not fit, unusable lengths.
            CheckpointError: nothing to continue, a damaged checkpoint, or one of another program, seed, data or learning rates.
            TrainingError: the loss is not finite.
            KeyboardInterrupt: Ctrl-C; SystemExit after SIGTERM. The run has been saved before, if there are checkpoints.
        """
        for name, value in (("steps", steps), ("epochs", epochs)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}; expected at least 1")
        if (steps is None) == (epochs is None):
            raise InputError("give steps= or epochs=, one of them")
        batches = batches_of(data, self.stepper.samples, self.seed, shuffle)
        with folder_lock(None if self.checkpoints is None else Path(self.checkpoints.folder)):
            run = _Run(self, batches, steps, epochs)
            run.begin(resume, state, release)
            return run.loop()


def _compiled(step: Any, target: Any, threads: int | None, schedule: str | None) -> Executable | AccumulatedExecutable:
    from gensyn_tvm.compiler import compile

    exe: Executable | AccumulatedExecutable
    if not isinstance(step, Executable | AccumulatedExecutable):
        exe = compile(step, target or "native", threads=threads, schedule=schedule)
    elif any(option is not None for option in (target, threads, schedule)):
        raise InputError("target=, threads= and schedule= are for a training step that is not compiled yet")
    else:
        exe = step
    return exe


class _Run:
    """One call of ``fit``."""

    def __init__(
        self,
        trainer: Trainer,
        batches: IndexedBatches | StreamBatches,
        steps: int | None,
        epochs: int | None,
    ) -> None:
        self.trainer, self.exe, self.batches = trainer, trainer.stepper, batches
        self.result = Training(State({}))  # the state comes when the run is over
        self.steps: Steps
        self.rates: Rates
        self.taken = 0
        self.epochs, self.total = epochs, steps if epochs is None else batches.total(epochs)
        self._data: dict[str, Any] = {}
        self._began = time.perf_counter()

    # ---- beginning ----

    @property
    def step(self) -> int:
        """The step that the state has come to."""
        return self.steps.run.steps

    def begin(self, resume: bool | str | os.PathLike[str], state: State | None, release: bool) -> None:
        """Load what is continued, and open the logs."""
        settings = self.trainer.checkpoints
        if settings is None and resume in (True, "auto"):
            raise CheckpointError("resume needs checkpoints=Checkpoints(folder)")
        there = checkpoints(settings.folder) if settings else []
        if settings:
            self._data = self.batches.description()
        self.rates = Rates(self.trainer.learning_rate, self.exe.learning_rate, 0 if state is None else state.step)
        if settings and (resume is True or (resume == "auto" and there)):
            state = self._continued(latest_checkpoint(settings.folder))
        elif not isinstance(resume, bool) and resume != "auto":
            self._data = self.batches.description()
            state = self._continued(read_checkpoint(resume))
        elif settings and there:
            remedy = "resume=True, or another folder"
            raise CheckpointError(
                describe("there are checkpoints already", where=str(settings.folder), found=there[-1].name, remedy=remedy)
            )
        self.steps = self.exe.begin(state, self.trainer.seed, release=release)
        for log in self.trainer.logs:
            log.begin(self.taken and self.step)

    def _continued(self, checkpoint: Checkpoint) -> State:
        manifest = checkpoint.manifest
        _check_program(checkpoint, self.exe)
        numbers = (manifest["data"].get("batches"), *(manifest["learning_rates"].get(k) for k in ("first_step", "count")))
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise _other(checkpoint, f"batches, first step and number of rates {numbers}", "what a Trainer wrote")
        taken, first, count = numbers
        remembered = {key: value for key, value in manifest["data"].items() if key != "batches"}
        _same(checkpoint, "seed", manifest["seed"], self.trainer.seed)
        _same(checkpoint, "data", remembered, self._data)
        self.taken = taken
        self.rates = Rates(self.trainer.learning_rate, self.exe.learning_rate, first)
        self.rates.skip(count)
        _same(checkpoint, "learning rates", manifest["learning_rates"], self.rates.description())
        self.result.best, self.result.checkpoint = dict(manifest["best"]), checkpoint.path
        return checkpoint.state

    # ---- steps ----

    def loop(self) -> Training:
        """All remaining steps."""
        try:
            with Stop() as stop, progress_bar(self.trainer.progress, self.total, self.taken) as report:
                for batch, last in _with_last(self._remaining()):
                    self._step(batch)
                    report(self.taken, self.result.losses[-1])
                    self._after(last)
                    if stop.signal and not last:
                        self.save()
                        stop.leave(self.step, self.result.checkpoint)
                if not self.taken or self.taken < (self.total or 0):
                    found, expected = f"{self.taken} batches", f"{self.total or 'some'}"
                    raise InputError(describe("the data ended before the run", found=found, expected=expected))
        finally:
            for log in self.trainer.logs:
                log.close()
        self.result.state = self.steps.run.finish()
        return self.result

    def _remaining(self) -> Iterator[Any]:
        missing = None if self.total is None else max(self.total - self.taken, 0)
        return islice(self.batches.start(self.taken, self.epochs), missing) if missing != 0 else iter(())

    def _step(self, batch: Any) -> None:
        rate = self.rates.take()
        try:
            metrics = self.steps(batch, rate)
        except InputError as error:
            place = f"batch {self.taken} (epoch {self.batches.epoch_of(self.taken)})"
            raise InputError(f"{place}: {error}") from error
        self.result.metrics = metrics
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            before = (
                f"loss {self.result.losses[-1]:.6g} one step before" if self.result.losses else "the first step of this run"
            )
            saved = self.result.checkpoint or "none"
            raise TrainingError(
                describe(
                    f"the loss is {loss}",
                    where=f"step {self.step}, epoch {self.batches.epoch_of(self.taken)}, batch {self.taken}",
                    found=f"{before}, learning rate {'none' if rate is None else f'{rate:.6g}'}",
                    expected="a finite loss",
                    remedy=f"lower the learning rate, or look at this batch; last checkpoint: {saved}",
                )
            )
        self.taken += 1
        self.result.losses.append(loss)
        self._values = {"epoch": self.batches.epoch_of(self.taken - 1), "learning_rate": rate, **metrics}

    def _after(self, last: bool) -> None:
        """Evaluation, logs and checkpoint of a step."""
        step, settings = self.step, self.trainer.checkpoints
        values: dict[str, Any] = {}
        if self.trainer.evaluator and (last or step % self.trainer.evaluator.evaluation.every == 0):
            values = self._evaluate()
        if values or last or step % self.trainer.log_every == 0:
            seconds = round(time.perf_counter() - self._began, 3)
            shown = {n: v for n, v in {**self._values, **values, "seconds": seconds}.items() if v is not None}
            for log in self.trainer.logs:
                log.write(step, shown)
        is_best = bool(values) and self.result.best.get("step") == step
        if settings and (is_best or last or (settings.every and step % settings.every == 0)):
            self.save()

    def _evaluate(self) -> dict[str, float]:
        evaluator, step = self.trainer.evaluator, self.step
        assert evaluator is not None
        numbers = evaluator.run(self.steps.run.borrowed().arrays)
        self.result.evaluations.append((step, numbers))
        name = evaluator.best_name(numbers)
        best = self.result.best
        # As text, so that JSON keeps the bits and can hold an infinity.
        if math.isfinite(numbers[name]) and (not best or evaluator.is_better(numbers[name], float.fromhex(best["value"]))):
            self.result.best = {"step": step, "name": name, "value": numbers[name].hex()}
        return {f"evaluation/{n}": v for n, v in numbers.items()}

    def save(self) -> None:
        """A checkpoint of the present state, if there are checkpoints and it has none yet."""
        settings = self.trainer.checkpoints
        if settings is None:
            return
        self.result.checkpoint = write_checkpoint(
            Path(settings.folder),
            self.steps.run.borrowed(),
            program=self.exe.digest,
            data={"batches": self.taken, **self._data},
            learning_rates=self.rates.description(),
            optimizer=self.trainer.optimizer,
            best=self.result.best,
        )
        remove_old(Path(settings.folder), settings.keep, self.result.best.get("step"))


def _with_last(items: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item with whether it is the last one."""
    for item in items:
        for following in items:
            yield item, False
            item = following
        yield item, True


# ---- does a checkpoint belong to this run ---------------------------------------------------------------------------


def _other(checkpoint: Checkpoint, found: str, expected: str) -> CheckpointError:
    remedy = "continue with what the run began with, or begin a new run in another folder"
    return CheckpointError(
        describe("the checkpoint is of another run", where=str(checkpoint.path), found=found, expected=expected, remedy=remedy)
    )


def _same(checkpoint: Checkpoint, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise _other(checkpoint, f"{what} {found}", f"{what} {expected}")


def _check_program(checkpoint: Checkpoint, exe: Stepper) -> None:
    _same(checkpoint, "program", checkpoint.manifest["program"], exe.digest)
    wanted = exe.state_types()
    arrays: Mapping[str, np.ndarray] = checkpoint.state.arrays
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    different = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
    if different:
        raise _other(checkpoint, f"other arrays: {', '.join(different[:8])}", "the arrays of the program")
