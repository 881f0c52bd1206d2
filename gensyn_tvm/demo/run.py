"""Runs the demonstration: full training, then the same first steps in every configuration, ours and PyTorch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.compiler import compile
from gensyn_tvm.demo.data import TEST_SAMPLES, Digits, batches, load_digits
from gensyn_tvm.demo.models import MODELS, Model
from gensyn_tvm.errors import GensynError
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.training.optimizers import AdamW
from gensyn_tvm.training.step import TrainingStep, training_step

COMPARED_STEPS = 100
INTERPRETED_STEPS = 3
INFERENCE_BATCH = 60
REQUIRED_ACCURACY = 0.97
THREADS = (1, 2)
_CAPABILITIES = {"default": "x86-64", "avx2": "x86-64-v3", "avx512": "x86-64-v4"}

Progress = Callable[[str], None]
#: Runs a graph on arrays by name; the outputs by (name, whether it updates the state of that name).
RunNamed = Callable[[Mapping[str, np.ndarray]], dict[tuple[str, bool], np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One configuration of the comparison.

    Attributes:
        model: name of the model.
        who: ``gensyn_tvm`` or ``PyTorch``.
        configuration: target or capability, schedule, threads.
        what: what the digest covers.
        seconds: of the steps without compilation.
        digest: SHA-256.
    """

    model: str
    who: str
    configuration: str
    what: str
    seconds: float
    digest: str


@dataclass
class Report:
    """Everything that the demonstration found.

    Attributes:
        accuracy: test accuracy by model.
        losses: loss of each step of the full training by model.
        rows: the comparison.
    """

    accuracy: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def ours(self) -> dict[tuple[str, str], set[str]]:
        """Our distinct digests by model and by what they cover."""
        groups: dict[tuple[str, str], set[str]] = {}
        for row in self.rows:
            if row.who == "gensyn_tvm":
                groups.setdefault((row.model, row.what), set()).add(row.digest)
        return groups

    def problems(self) -> list[str]:
        """Why the demonstration failed; empty if it did not."""
        found = [f"{m}: {len(d)} digests of {what}" for (m, what), d in self.ours().items() if len(d) != 1]
        found += [
            f"{m}: test accuracy {a:.2%}, required {REQUIRED_ACCURACY:.0%}"
            for m, a in self.accuracy.items()
            if a < REQUIRED_ACCURACY
        ]
        return found

    def json(self) -> dict[str, Any]:
        """The report as JSON values."""
        rows = [asdict(r) for r in self.rows]
        return {"accuracy": self.accuracy, "losses": self.losses, "rows": rows, "problems": self.problems()}


def steps_of(model: Model, data: Digits, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches in the model's shape."""
    for x, y in batches(data, count):
        yield np.ascontiguousarray(x.reshape(-1, *model.shape)), y


def advance(exe: Executable, state: State, steps: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[State, list[float], float]:
    """Run steps; the last state, the losses, and the seconds."""
    losses = []
    start = time.perf_counter()
    for batch in steps:
        state, metrics = exe(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses, time.perf_counter() - start


def evaluate(model: Model, state: State, data: Digits, batch: int) -> tuple[float, np.ndarray, float]:
    """Test accuracy and logits of the inference program with the trained state, in batches of ``batch``."""
    exe = compile(model.load(batch))
    arrays = {name: state[name] for name in exe.state}
    start = time.perf_counter()
    logits = []
    for k in range(0, TEST_SAMPLES, batch):
        x = np.ascontiguousarray(data.test_x[k : k + batch].reshape(-1, *model.shape))
        (name,) = (i.name for i in exe.graph.inputs if i.role == "input")
        logits.append(exe.run({name: x}, arrays)[0].numpy())
    seconds = time.perf_counter() - start
    result = np.concatenate(logits)
    return float((result.argmax(axis=1) == data.test_y).mean()), result, seconds


def full_training(model: Model, step: TrainingStep, data: Digits, report: Report) -> None:
    """Train to the end, then the test set in batches of 60 and of 30."""
    exe = compile(step)
    state, losses, _ = advance(exe, exe.init(seed=0), steps_of(model, data, model.steps))
    report.losses[model.name] = losses
    for batch in (INFERENCE_BATCH, INFERENCE_BATCH // 2):
        accuracy, logits, seconds = evaluate(model, state, data, batch)
        report.accuracy[model.name] = accuracy
        what = f"logits of {TEST_SAMPLES} test images"
        report.rows.append(Row(model.name, "gensyn_tvm", f"inference, batch {batch}", what, seconds, array_digest(logits)))


def compiled_rows(model: Model, step: TrainingStep, data: Digits, report: Report, progress: Progress) -> None:
    """The first 100 steps on every target with every number of threads, and after 3 steps for the interpreter."""
    for target in (*supported_levels(), "native", "c"):
        progress(f"{model.name}: compile for {target}")
        exe = compile(step, target)
        for threads in (1,) if target == "c" else THREADS:
            progress(f"{model.name}: {target}, {threads} thread{'s' if threads > 1 else ''}")
            runner = Executable.from_library(
                exe.graph,
                exe.state,
                exe.library,
                target=exe.target,
                schedule=exe.schedule,
                threads=threads,
                learning_rate=exe.learning_rate,
            )
            early, _, before = advance(runner, runner.init(seed=0), steps_of(model, data, INTERPRETED_STEPS))
            remaining = list(steps_of(model, data, COMPARED_STEPS))[INTERPRETED_STEPS:]
            state, _, after = advance(runner, early, iter(remaining))
            label = "C oracle (gcc -O0, unscheduled)" if target == "c" else f"{target}, threads {threads}"
            what = f"state after {COMPARED_STEPS} steps"
            report.rows.append(Row(model.name, "gensyn_tvm", label, what, before + after, state.digest()))
            if target in ("native", "c") and threads == 1:
                what = f"state after {INTERPRETED_STEPS} steps"
                report.rows.append(Row(model.name, "gensyn_tvm", label, what, before, early.digest()))


def first_steps(model: Model, step: TrainingStep, data: Digits, run: RunNamed) -> State:
    """The state after a few steps by an executor of the step's graph."""
    graph = step.graph
    state: dict[str, np.ndarray] = {**step.parameters, **step.states, **step.optimizer_state}
    batch_names = [i.name for i in graph.inputs if i.role in ("input", "target")]
    control = {i.name: i.role for i in graph.inputs if i.role in ("seed", "step", "learning_rate")}
    for k, batch in enumerate(steps_of(model, data, INTERPRETED_STEPS)):
        values = {"seed": np.int64(0), "step": np.int64(k), "learning_rate": np.float32(step.learning_rate)}
        given = {
            **state,
            **dict(zip(batch_names, batch, strict=True)),
            **{n: np.asarray(values[r]) for n, r in control.items()},
        }
        state.update({name: value for (name, updates), value in run(given).items() if updates})
    return State(state)


def interpreter_row(model: Model, step: TrainingStep, data: Digits, report: Report) -> None:
    """A few steps by the NumPy interpreter, which shares no code with the compiler."""
    start = time.perf_counter()
    state = first_steps(model, step, data, partial(run_named, step.graph))
    seconds = time.perf_counter() - start
    what = f"state after {INTERPRETED_STEPS} steps"
    report.rows.append(Row(model.name, "gensyn_tvm", "NumPy interpreter", what, seconds, state.digest()))


def peer_rows(report: Report, progress: Progress) -> None:
    """PyTorch with every instruction set that it offers here and every number of threads."""
    levels = supported_levels()
    what = f"state after {COMPARED_STEPS} steps"
    for capability, level in _CAPABILITIES.items():
        if level not in levels:
            continue
        for threads in THREADS:
            progress(f"PyTorch: {capability}, {threads} thread{'s' if threads > 1 else ''}")
            command = [sys.executable, "-m", "gensyn_tvm.demo.peer", str(threads), str(COMPARED_STEPS)]
            environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise GensynError(f"the PyTorch process failed:\n{done.stderr[-2000:]}")
            for name, result in json.loads(done.stdout.splitlines()[-1])["models"].items():
                label = f"{capability}, threads {threads}"
                report.rows.append(Row(name, "PyTorch", label, what, result["seconds"], result["digest"]))


def run(progress: Progress, finished: Callable[[str], None]) -> Report:
    """The whole demonstration; ``progress`` hears what is being done, ``finished`` of each completed part."""
    report = Report()
    data = load_digits()
    for model in MODELS:
        progress(f"{model.name}: import and build the training step")
        step = training_step(model.load(64), loss="cross_entropy", optimizer=AdamW(lr=model.learning_rate))
        progress(f"{model.name}: train {model.steps} steps")
        full_training(model, step, data, report)
        finished(f"{model.name} trained")
        compiled_rows(model, step, data, report, progress)
        finished(f"{model.name} compared")
        progress(f"{model.name}: NumPy interpreter")
        interpreter_row(model, step, data, report)
        finished(f"{model.name} interpreted")
    peer_rows(report, progress)
    finished("PyTorch compared")
    return report


#: How often ``run`` calls ``finished``.
PARTS = 3 * len(MODELS) + 1


def write_json(report: Report, path: Path) -> None:
    """Write the report; atomic."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report.json(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
