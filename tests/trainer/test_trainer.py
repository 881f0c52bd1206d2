"""Runs: the bits of a plain loop, continued to the same bits, and what stops them."""

from __future__ import annotations

import csv
import math
import re
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.errors import CheckpointError, InputError, InvalidProgramError, TrainingError
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.trainer import (
    Checkpoints,
    CsvLog,
    Evaluation,
    TensorBoardLog,
    Trainer,
    checkpoints,
    epoch_order,
    evaluation_graph,
)
from gensyn_tvm.training.step import TrainingStep

Data = dict[str, np.ndarray]


def rate(step: int) -> float:
    return 0.02 / (1 + step)


def plain_loop(exe: Executable, data: Data, steps: int, seed: int) -> tuple[State, list[float]]:
    state, losses = exe.init(seed), []
    for k in range(steps):
        epoch, position = divmod(k, 5)
        chosen = epoch_order(22, seed, epoch)[4 * position : 4 * position + 4]
        state, metrics = exe(state, (data["x"][chosen], data["y"][chosen]), learning_rate=rate(k))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_run_has_the_bits_of_a_plain_loop(exe: Executable, step: TrainingStep, data: Data) -> None:
    state, losses = plain_loop(exe, data, 15, seed=7)
    table = [rate(k) for k in range(15)]
    for trainer in (
        Trainer(exe, seed=7, learning_rate=rate),
        Trainer(exe, seed=7, learning_rate=table),
        Trainer(step, target="x86-64", threads=2, schedule="plain", seed=7, learning_rate=np.array(table, np.float32)),
    ):
        result = trainer.fit(data, epochs=3)
        assert result.losses == losses
        assert (result.state.step, result.state.seed) == (15, 7)
        assert result.state.digest() == state.digest()
    assert Trainer(exe, seed=8, learning_rate=rate).fit(data, epochs=3).state.digest() != state.digest()
    assert Trainer(exe, seed=7, learning_rate=rate).fit(data, epochs=3, shuffle=False).state.digest() != state.digest()
    assert Trainer(exe, seed=7).fit(data, epochs=3).state.digest() != state.digest()


def test_continuing_gives_the_same_bits_whatever_the_moment(exe: Executable, data: Data, tmp_path: Path) -> None:
    expected, losses = plain_loop(exe, data, 13, seed=1)
    for stopped in (1, 5, 12, 13):
        settings: dict[str, Any] = {
            "seed": 1,
            "learning_rate": rate,
            "checkpoints": Checkpoints(tmp_path / str(stopped), every=4, keep=9),
        }
        Trainer(exe, **settings).fit(data, steps=stopped)
        result = Trainer(exe, **settings).fit(data, steps=13, resume=True)
        assert result.state.digest() == expected.digest()
        assert result.losses == losses[stopped:]
    path = checkpoints(tmp_path / "5")[1]
    assert path.name.endswith("5")
    elsewhere = Trainer(exe, seed=1, learning_rate=rate).fit(data, steps=13, resume=path)
    assert elsewhere.state.digest() == expected.digest()


def test_auto_begins_or_continues_and_a_new_run_does_not_mix_with_an_old_one(
    exe: Executable, data: Data, tmp_path: Path
) -> None:
    trainer = Trainer(exe, checkpoints=Checkpoints(tmp_path / "c"))
    with pytest.raises(CheckpointError, match="nothing to continue"):
        trainer.fit(data, steps=2, resume=True)
    assert len(trainer.fit(data, steps=2, resume="auto").losses) == 2
    assert len(trainer.fit(data, steps=5, resume="auto").losses) == 3
    with pytest.raises(CheckpointError, match="there are checkpoints already"):
        trainer.fit(data, steps=2)
    with pytest.raises(CheckpointError, match=r"resume needs checkpoints="):
        Trainer(exe).fit(data, steps=2, resume=True)


def test_checkpoints_of_other_runs_are_refused(exe: Executable, program: Program, data: Data, tmp_path: Path) -> None:
    where = Checkpoints(tmp_path)
    Trainer(exe, seed=1, learning_rate=rate, checkpoints=where).fit(data, steps=6)
    other = gensyn_tvm.compile(gensyn_tvm.training_step(program, optimizer=gensyn_tvm.SGD(0.02)), threads=1)
    cases: list[tuple[Executable, dict[str, Any], Data, dict[str, Any], str]] = [
        (other, {}, data, {}, f"program {exe.digest}"),
        (exe, {"seed": 2}, data, {}, "seed 1"),
        (exe, {"learning_rate": 0.02}, data, {}, "learning rates"),
        (exe, {}, {**data, "y": data["y"] * 0}, {}, "data"),
        (exe, {}, {n: a[:21] for n, a in data.items()}, {}, "'samples': 22"),
        (exe, {}, data, {"shuffle": False}, "'shuffle': True"),
    ]
    for executable, settings, samples, options, message in cases:
        trainer = Trainer(executable, **{"seed": 1, "learning_rate": rate, "checkpoints": where, **settings})
        with pytest.raises(CheckpointError, match=f"of another run\n  in: {tmp_path}.*\n  found: .*{message}"):
            trainer.fit(samples, steps=8, resume=True, **options)


def test_renamed_parameters_are_not_the_same_arrays(exe: Executable, data: Data, tmp_path: Path) -> None:
    first = Trainer(exe, checkpoints=Checkpoints(tmp_path)).fit(data, steps=1)
    renamed = gensyn_tvm.canonical.serialise.dumps(exe.graph).replace('"0.weight"', '"zero.weight"')
    graph = gensyn_tvm.canonical.serialise.loads(renamed)
    arrays = {
        name.replace("0.weight", "zero.weight") if name == "0.weight" else name: a for name, a in first.state.numpy().items()
    }
    other = gensyn_tvm.compile(gensyn_tvm.compiler.Source(graph, State(arrays), exe.learning_rate), threads=1)
    with pytest.raises(CheckpointError, match=r"other arrays: 0\.weight, zero\.weight"):
        Trainer(other, checkpoints=Checkpoints(tmp_path)).fit(data, steps=2, resume=True)


def test_streams_train_and_only_seekable_ones_continue(exe: Executable, data: Data, tmp_path: Path) -> None:
    ready = [(data["x"][4 * k : 4 * k + 4], data["y"][4 * k : 4 * k + 4]) for k in range(5)]

    def settings(name: str) -> dict[str, Any]:
        return {"checkpoints": Checkpoints(tmp_path / name)}

    whole = Trainer(exe).fit(data, steps=8, shuffle=False).state.digest()
    assert Trainer(exe).fit(ready, steps=8).state.digest() == whole
    Trainer(exe, **settings("list")).fit(ready, steps=3)
    assert Trainer(exe, **settings("list")).fit(ready, steps=8, resume=True).state.digest() == whole

    once = Trainer(exe).fit(iter(ready), epochs=1)
    assert (once.state.step, once.state.digest()) == (5, Trainer(exe).fit(ready, epochs=1).state.digest())
    Trainer(exe, **settings("iterator")).fit(iter(ready), steps=3)
    with pytest.raises(CheckpointError, match="cannot be continued"):
        Trainer(exe, **settings("iterator")).fit(iter(ready), steps=8, resume=True)
    nothing: list[Any] = [[], iter(())]
    for empty in nothing:
        with pytest.raises(InputError, match="the data ended before the run\n  found: 0 batches"):
            Trainer(exe).fit(empty, steps=8)
    with pytest.raises(InputError, match="the data ended before the run\n  found: 5 batches\n  expected: 8"):
        Trainer(exe).fit(iter(ready), steps=8)


# ---- what stops a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.astype(np.float64)}, r"is float64\[4, 5\], expected float32\[4, 5\]"),
        ({"x": lambda x: x[:, :4]}, r"is float32\[4, 4\], expected float32\[4, 5\]"),
        ({"y": lambda y: y.astype(np.int32)}, r"target 'target' is int32\[4\], expected int64\[4\]"),
        ({"y": lambda y: y[:, None]}, r"is int64\[4, 1\], expected int64\[4\]"),
    ],
)
def test_batches_that_do_not_fit_are_named(exe: Executable, data: Data, change: dict[str, Callable], message: str) -> None:
    changed = {name: change.get(name, np.asarray)(array) for name, array in data.items()}
    with pytest.raises(InputError, match=rf"^batch 0 \(epoch 0\): .*\n.*{message}"):
        Trainer(exe).fit(changed, steps=2)
    ready = [(data["x"][:4], data["y"][:4]), (changed["x"][:4], changed["y"][:4])]
    with pytest.raises(InputError, match=rf"^batch 1 \(epoch 0\): .*\n.*{message}"):
        Trainer(exe).fit(ready, steps=2)
    with pytest.raises(InputError, match=r"unknown input 'z'"):
        Trainer(exe).fit({**data, "z": data["x"]}, steps=2)
    with pytest.raises(InputError, match=r"missing target 'target'"):
        Trainer(exe).fit({"x": data["x"]}, steps=2)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(exe: Executable, data: Data, tmp_path: Path) -> None:
    x = data["x"].copy()
    x[9] = np.nan
    trainer = Trainer(exe, checkpoints=Checkpoints(tmp_path, every=1))
    message = r"the loss is nan\n  in: step 3, epoch 0, batch 2\n  found: .* before, learning rate 0\.02\n(.*\n)*.*step-0{11}2"
    with pytest.raises(TrainingError, match=message):
        trainer.fit({**data, "x": x}, steps=5, shuffle=False)
    assert [int(p.name[-12:]) for p in checkpoints(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {}, "give steps= or epochs="),
        ({}, {"steps": 1, "epochs": 1}, "give steps= or epochs="),
        ({}, {"steps": 0}, "steps=0"),
        ({}, {"epochs": 1.5}, r"epochs=1\.5"),
        ({"log_every": 0}, {"steps": 1}, "log_every=0"),
        ({"checkpoints": Checkpoints("c", keep=0)}, {"steps": 1}, r"Checkpoints\.keep=0"),
        ({"checkpoints": Checkpoints("c", every=-1)}, {"steps": 1}, r"Checkpoints\.every=-1"),
        ({"seed": 2**63}, {"steps": 1}, "seed=9223372036854775808"),
        ({"threads": 2}, {"steps": 1}, "not compiled yet"),
        ({"learning_rate": [0.1]}, {"steps": 2}, "rates end\n  found: 1 numbers\n  expected: a rate for step 1"),
        (
            {"learning_rate": lambda k: math.inf if k else 0.1},
            {"steps": 2},
            "unusable learning rate\n  in: step 1\n  found: inf",
        ),
        ({"learning_rate": lambda k: "a"}, {"steps": 2}, "unusable learning rate\n  in: step 0\n  found: 'a'"),
        ({"learning_rate": [[0.1]]}, {"steps": 2}, "these are no learning rates"),
    ],
)
def test_unusable_settings_are_refused(
    exe: Executable, data: Data, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Trainer(exe, **settings).fit(data, **options)


def test_only_training_steps_are_trained(program: Program) -> None:
    with pytest.raises(InputError, match="this is no training step"):
        Trainer(program)  # type: ignore[arg-type]
    with pytest.raises(InvalidProgramError, match="this cannot be compiled"):
        Trainer("model.onnx")  # type: ignore[arg-type]


def test_one_run_at_a_time_in_a_folder(exe: Executable, data: Data, tmp_path: Path) -> None:
    inside: list[str] = []

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with pytest.raises(CheckpointError) as raised:
            Trainer(exe, checkpoints=Checkpoints(tmp_path)).fit(data, steps=1)
        inside.append(str(raised.value))
        yield data["x"][:4], data["y"][:4]

    Trainer(exe, checkpoints=Checkpoints(tmp_path)).fit(batches(), steps=1)
    assert inside[0].startswith("another run writes its checkpoints here")


def test_a_run_that_takes_the_initial_state_over(step: TrainingStep, program: Program, data: Data, tmp_path: Path) -> None:
    """Nothing of it stays: the state is in memory once, evaluations and checkpoints included."""
    settings: dict[str, Any] = {"evaluation": Evaluation(evaluation_graph(program), data, every=2)}
    expected = Trainer(step, threads=1, **settings).fit(data, steps=4)
    trainer = Trainer(step, threads=1, checkpoints=Checkpoints(tmp_path, every=2), **settings)
    known = [weakref.ref(a) for a in trainer.executable.state.arrays.values()]
    result = trainer.fit(data, steps=4, release=True)
    assert [r() for r in known] == [None] * len(known)
    assert (result.state.digest(), result.evaluations) == (expected.state.digest(), expected.evaluations)
    with pytest.raises(InputError, match="release=True"):
        Trainer(trainer.executable).fit(data, steps=1)
    assert Trainer(trainer.executable).fit(data, steps=1, state=result.state).state.step == 5
    assert trainer.fit(data, steps=6, resume=True).state.step == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_and_save(exe: Executable, data: Data, tmp_path: Path, number: signal.Signals) -> None:
    expected = Trainer(exe).fit(data, steps=9).state.digest()
    before = signal.getsignal(number)

    def signalled() -> float:
        signal.raise_signal(number)
        return 0.02

    trainer = Trainer(exe, checkpoints=Checkpoints(tmp_path), learning_rate=lambda k: 0.02 if k != 4 else signalled())
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as raised:
        trainer.fit(data, steps=9)
    assert str(raised.value) == (
        f"stopped after step 5; saved as {checkpoints(tmp_path)[-1]}" if number == signal.SIGINT else "143"
    )
    assert signal.getsignal(number) is before
    assert Trainer(exe, checkpoints=Checkpoints(tmp_path)).fit(data, steps=9, resume=True).state.digest() == expected


def test_other_threads_train_too(exe: Executable, data: Data) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(Trainer(exe).fit(data, steps=2).state.digest()))
    thread.start()
    thread.join()
    assert found == [Trainer(exe).fit(data, steps=2).state.digest()]


# ---- SIGKILL --------------------------------------------------------------------------------------------------------

#: Trains 12 steps with a checkpoint after each, and is killed at its n-th call that touches the disk.
CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
import gensyn_tvm
from gensyn_tvm.trainer import Checkpoints, CsvLog, Trainer

saved, folder, left = Path(sys.argv[1]), Path(sys.argv[2]), [int(sys.argv[3])]
def deadly(function):
    def call(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
with np.load(saved / "data.npz") as arrays:
    data = dict(arrays)
exe = gensyn_tvm.load(saved / "step.gtvm", threads=1)
trainer = Trainer(exe, checkpoints=Checkpoints(folder, every=1, keep=2), logs=[CsvLog(folder.with_suffix(".csv"))])
for name in ("fsync", "rename"):
    setattr(os, name, deadly(getattr(os, name)))
print(trainer.fit(data, steps=12, resume="auto").state.digest())
"""


def without_seconds(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def test_killed_while_saving_and_continued_gives_the_same_bits(
    saved: Path, exe: Executable, data: Data, tmp_path: Path
) -> None:
    expected = Trainer(exe, logs=[CsvLog(tmp_path / "whole.csv")]).fit(data, steps=12).state.digest()
    # Four calls of the log's beginning, then five or six for each checkpoint.
    for kill_at, code in ((12, -9), (24, -9), (0, 0)):
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(saved), str(tmp_path / "c"), str(kill_at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stderr
    assert done.stdout.strip() == expected
    assert without_seconds(tmp_path / "c.csv") == without_seconds(tmp_path / "whole.csv")


# ---- evaluation and logs --------------------------------------------------------------------------------------------


def test_evaluation_is_the_mean_over_batches_in_inference_mode(
    exe: Executable, evaluated: Executable, program: Program, data: Data
) -> None:
    graph = evaluated.graph
    result = Trainer(exe, evaluation=Evaluation(evaluated, data, every=4)).fit(data, steps=10)
    assert [step for step, _ in result.evaluations] == [4, 8, 10]
    state = {n: a for n, a in result.state.numpy().items() if n in program.parameters or n in program.states}
    (name,) = program.inputs
    sums = np.zeros(2)
    for k in range(5):
        batch = {name: data["x"][4 * k : 4 * k + 4], "target": data["y"][4 * k : 4 * k + 4]}
        outputs = run_named(graph, {**state, **batch})
        sums += [outputs["loss", False], outputs["accuracy", False]]
    assert result.evaluations[-1][1] == {"loss": sums[0] / 5, "accuracy": sums[1] / 5}

    def own(outputs: Any, batch: Any) -> dict[str, float]:
        (logits,) = outputs.values()
        return {"hits": int((logits.argmax(axis=1) == batch["target"]).sum())}

    measured = Trainer(exe, evaluation=Evaluation(program, data, every=99, metrics=own)).fit(data, steps=10)
    assert measured.evaluations == [(10, {"hits": sums[1] / 5 * 4})]
    assert measured.best == {"step": 10, "name": "hits", "value": (sums[1] / 5 * 4).hex()}
    with pytest.raises(InputError, match="an evaluated output is no scalar"):
        Trainer(exe, evaluation=Evaluation(program, data, every=1)).fit(data, steps=1)


def test_the_best_checkpoint_stays(exe: Executable, evaluated: Executable, data: Data, tmp_path: Path) -> None:
    # With a huge learning rate from step 4 on, nothing after it can be best.
    evaluation = Evaluation(evaluated, data, every=2)
    trainer = Trainer(
        exe,
        evaluation=evaluation,
        checkpoints=Checkpoints(tmp_path, every=3, keep=1),
        learning_rate=lambda k: 0.02 if k < 4 else 9.0,
    )
    result = trainer.fit(data, steps=12)
    values = dict(result.evaluations)
    best = min(values, key=lambda s: values[s]["loss"])
    assert best == 4
    assert result.best == {"step": 4, "name": "loss", "value": values[4]["loss"].hex()}
    assert [int(p.name[-12:]) for p in checkpoints(tmp_path)] == [4, 12]
    largest = Evaluation(evaluated, data, every=2, best="accuracy", larger_is_better=True)
    result = Trainer(exe, evaluation=largest).fit(data, steps=6)
    assert float.fromhex(result.best["value"]) == max(numbers["accuracy"] for _, numbers in result.evaluations)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, s, d: Evaluation(p, d, every=0), "every=0"),
        (lambda p, s, d: Evaluation(s, d, every=1), "a training step"),
        (lambda p, s, d: Evaluation(s, d, every=1, metrics=lambda o, b: {}), "a training step"),
        (lambda p, s, d: Evaluation(p, [], every=1), "give no batch"),
        (
            lambda p, s, d: Evaluation(p, d, every=1, best="f1"),
            "is called 'f1'\n  found: loss, accuracy",
        ),
    ],
)
def test_unusable_evaluations_are_refused(
    exe: Executable, evaluated: Executable, data: Data, make: Callable, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Trainer(exe, evaluation=make(evaluated, exe, data)).fit(data, steps=1)


@pytest.mark.parametrize("options", [{"loss": "hinge"}, {"metrics": ("f1",)}])
def test_unknown_losses_and_metrics_cannot_be_evaluated(program: Program, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProgramError, match="unknown loss 'hinge'" if "loss" in options else "unknown metric 'f1'"):
        evaluation_graph(program, **options)


def test_a_continued_log_is_that_of_one_run(exe: Executable, evaluated: Executable, data: Data, tmp_path: Path) -> None:
    def trainer(name: str) -> Trainer:
        evaluation = Evaluation(evaluated, data, every=4)
        logs = [CsvLog(tmp_path / f"{name}.csv")]
        return Trainer(exe, logs=logs, evaluation=evaluation, checkpoints=Checkpoints(tmp_path / name, every=4, keep=9))

    whole = trainer("whole").fit(data, steps=12)
    trainer("part").fit(data, steps=8)
    resumed = trainer("part")
    last = checkpoints(tmp_path / "part")[-1]
    (last / "state.safetensors").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="found: 0 bytes"):
        resumed.fit(data, steps=12, resume=True)
    rows = without_seconds(tmp_path / "part.csv")
    assert rows == without_seconds(tmp_path / "whole.csv")
    assert [np.float32(row["loss"]) for row in rows] == [np.float32(v) for v in whole.losses]
    assert [row["step"] for row in rows if row["evaluation/loss"]] == ["4", "8", "12"]
    (tmp_path / "whole.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=re.escape("columns ['a', 'b']")):
        trainer("whole").fit(data, steps=13, resume=True)


def test_logs_have_every_nth_step_and_the_last(exe: Executable, data: Data, tmp_path: Path) -> None:
    Trainer(exe, logs=[CsvLog(tmp_path / "l.csv")], log_every=4).fit(data, steps=10)
    assert [row["step"] for row in without_seconds(tmp_path / "l.csv")] == ["4", "8", "10"]


def test_tensorboard_events(exe: Executable, data: Data, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (what writes them)

    result = Trainer(exe, logs=[TensorBoardLog(tmp_path)]).fit(data, steps=3)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data_bytes, losses = path.read_bytes(), []
    while data_bytes:
        size = int.from_bytes(data_bytes[:8], "little")
        event = Event.FromString(data_bytes[12 : 12 + size])
        losses += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "loss"]
        data_bytes = data_bytes[16 + size :]
    assert losses == [(k + 1, pytest.approx(v, rel=1e-6)) for k, v in enumerate(result.losses)]


def test_tensorboard_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"needs the package tensorboardX(.*\n)*.*gensyn_tvm\[train\]"):
        TensorBoardLog(tmp_path)
