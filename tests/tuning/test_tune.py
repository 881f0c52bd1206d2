"""The tuner: what it tries is valid, gains are kept only if they repeat, and it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import InputError, VerificationError
from gensyn_tvm.passes.layout import product_tasks
from gensyn_tvm.passes.layout_tasks import Read, Task
from gensyn_tvm.runtime.cpu import processor_maker, processor_name
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.schedules import records
from gensyn_tvm.schedules.parameters import MatmulParameters, ProductParameters, parse
from gensyn_tvm.targets.cpu import LEVELS, TARGETS
from gensyn_tvm.tuning import search
from gensyn_tvm.tuning.measure import Effort, Measurer, Refused
from gensyn_tvm.tuning.space import suggest

from ..operators.support import NATIVE

TARGET = TARGETS[NATIVE]
Ratios = Callable[[ProductParameters], list[float]]


def task(op: str, *shapes: tuple[int, ...], axes: tuple[int, ...] = (), fixed: bool = False, **attrs: Any) -> Task:
    reads = [Read(TensorType(s, "float32"), (), False) for s in shapes]
    reads[1] = Read(reads[1].type, axes, fixed)
    return Task(op, attrs, tuple(reads))


GEOMETRY: dict[str, Any] = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
TASKS = [
    task("matmul", (40, 600), (600, 33)),
    task("matmul", (1, 64), (64, 64), fixed=True),
    task("matmul", (2, 12, 30, 64), (2, 12, 50, 64), axes=(0, 1, 3, 2)),
    task("matmul", (4, 8, 16), (16, 32)),
    task("conv", (1, 90, 12, 12), (20, 90, 3, 3), **GEOMETRY),
    task("conv", (2, 16, 9, 9), (16, 1, 3, 3), **{**GEOMETRY, "groups": 16}),
    task("conv_backward_data", (1, 20, 12, 12), (20, 90, 3, 3), input_spatial=(12, 12), **GEOMETRY),
    task("conv_backward_weight", (1, 90, 12, 12), (1, 20, 12, 12), kernel=(3, 3), **GEOMETRY),
    task("conv_backward_weight", (2, 16, 9, 9), (2, 16, 9, 9), kernel=(3, 3), **{**GEOMETRY, "groups": 16}),
]


@pytest.mark.parametrize("one", TASKS, ids=lambda t: t.key())
@pytest.mark.parametrize("level", LEVELS)
def test_everything_tried_is_valid(one: Task, level: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(60):
        found = suggest(study.ask(), one, TARGETS[level])
        assert parse(one.op, found.given(), "") == found
        if found.rows and found.vectors:
            assert found.rows * found.vectors + found.vectors < TARGETS[level].registers
        seen.add(found)
    assert len(seen) > 5


@pytest.mark.parametrize("one", TASKS, ids=lambda t: t.key())
def test_a_task_alone_has_the_key_of_its_record(one: Task) -> None:
    assert set(product_tasks(one.graph(), TARGET)) == {one.key()}


# ---- search ---------------------------------------------------------------------------------------------------------


class Pretended:
    """A measurer whose ratios are known."""

    def __init__(self, ratios: Ratios) -> None:
        self.answer, self.calls = ratios, 0

    def __call__(self, target: str, threads: tuple[int, ...]) -> Pretended:
        return self

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ratios(self, task: Task, parameters: ProductParameters, effort: Effort) -> list[float]:
        self.calls += 1
        return self.answer(parameters)


def settings(folder: Path, trials: int = 12, seconds: float | None = None) -> search.Settings:
    return search.Settings(TARGET, trials, seconds, (1, 2), folder / "journal", folder / f"{NATIVE}.json")


def tune(
    monkeypatch: pytest.MonkeyPatch, ratios: Ratios, given: search.Settings, tasks: tuple[Task, ...] = (TASKS[0],)
) -> search.Outcome:
    monkeypatch.setattr(search, "Measurer", Pretended(ratios))
    return search.tune({t.key(): t for t in tasks}, given, lambda *_: None)


def test_the_best_that_repeats_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path)
    outcome = tune(monkeypatch, lambda p: [1 + 0.01 * (p.rows or 0)] * 2, given)
    kept = records.read(given.library, NATIVE)
    assert kept == outcome.records and set(kept) == {TASKS[0].key()}
    (record,) = kept.values()
    assert isinstance(record.parameters, MatmulParameters)
    assert record.ratio == pytest.approx(1 + 0.01 * (record.parameters.rows or 0))
    assert record.threads == (1, 2) and record.machine == processor_name()
    # It is what builds go by.
    monkeypatch.setenv(records.FOLDER, str(tmp_path))
    assert records.active(NATIVE).parameters[TASKS[0].key()] == record.parameters


@pytest.mark.parametrize("ratios", [[1.02, 1.02], [1.2, 0.97], [0.9, 0.9]], ids=str)
def test_too_small_a_gain_is_not_kept_and_removes_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratios: list[float]
) -> None:
    given = settings(tmp_path, 3)
    old = records.Record(parse("matmul", {"threads_from": 0}, ""), 1.5, (1,), "", "2026-01-31")
    records.merge(given.library, NATIVE, {TASKS[0].key(): old, TASKS[1].key(): old})
    assert tune(monkeypatch, lambda p: ratios, given).records == {}
    assert set(records.read(given.library, NATIVE)) == {TASKS[1].key()}


def test_a_gain_that_does_not_repeat_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ProductParameters] = []

    def ratios(p: ProductParameters) -> list[float]:
        seen.append(p)
        return [1.3 if seen.count(p) == 1 else 1.01] * 2

    assert tune(monkeypatch, ratios, settings(tmp_path, 6)).records == {}


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, 15)
    tried: list[ProductParameters] = []

    def interrupted(p: ProductParameters) -> list[float]:
        if len(tried) == 6:
            raise KeyboardInterrupt
        tried.append(p)
        return [0.9, 0.9]

    with pytest.raises(KeyboardInterrupt):
        tune(monkeypatch, interrupted, given)
    assert len(tried) == 6 and not given.library.exists()

    def rest(p: ProductParameters) -> list[float]:
        tried.append(p)
        return [0.9, 0.9]

    outcome = tune(monkeypatch, rest, given)
    assert outcome.trials == len(tried) - 6 > 0
    assert len(tried) == len(set(tried)) <= 15  # nothing was measured twice
    assert tune(monkeypatch, rest, given).trials == 0


def test_a_line_that_was_cut_off_does_not_spoil_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, 4)
    tune(monkeypatch, lambda p: [0.9, 0.9], given)
    with given.journal.open("ab") as stream:
        stream.write(b'{"op_code": 5, "wor')
    assert tune(monkeypatch, lambda p: [0.9, 0.9], settings(tmp_path, 6)).trials <= 2
    assert tune(monkeypatch, lambda p: [0.9, 0.9], settings(tmp_path, 6)).trials == 0


def test_what_cannot_be_measured_is_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(p: ProductParameters) -> list[float]:
        raise Refused("crashed")

    outcome = tune(monkeypatch, refuse, settings(tmp_path, 4))
    assert outcome.records == {} and outcome.trials > 0 and outcome.unfinished == []


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, 5, seconds=1e-9)
    outcome = tune(monkeypatch, lambda p: [2.0, 2.0], given, (TASKS[0], TASKS[1]))
    assert outcome.unfinished == [TASKS[0].key(), TASKS[1].key()] and not given.library.exists()


def test_without_optuna_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(InputError, match=r"optuna is not installed[\s\S]*gensyn_tvm\[tune\]"):
        search.tune({}, settings(tmp_path), lambda *_: None)


# ---- the process that measures --------------------------------------------------------------------------------------


def test_measuring() -> None:
    effort = Effort(1, 0.001)
    with Measurer(NATIVE, (1, 2)) as measurer:
        found = measurer.ratios(TASKS[0], MatmulParameters(rows=3, vectors=1), effort)
        assert len(found) == 2 and all(0 < r < 1000 for r in found)
        with pytest.raises(Refused, match="does not fit"):
            measurer.ratios(TASKS[0], MatmulParameters(in_place=True), effort)
        child = measurer._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with pytest.raises(Refused, match=r"ended|no answer"):
            measurer.ratios(TASKS[0], MatmulParameters(threads_from=0), effort)
        assert measurer.ratios(TASKS[1], MatmulParameters(in_place=True), effort)
        measurer.limit = 1e-6
        with pytest.raises(Refused, match="no answer"):
            measurer.ratios(TASKS[0], MatmulParameters(threads_from=0), effort)
    assert measurer._child is None


def test_other_bits_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    measurer = Measurer(NATIVE, (1,))
    monkeypatch.setattr(measurer, "_ask", lambda request: {"differs": "with 1 threads"})
    with pytest.raises(VerificationError, match=r"changes bits[\s\S]*matmul float32 40x600 600x33[\s\S]*report it"):
        measurer.ratios(TASKS[0], MatmulParameters(threads_from=0), Effort(1, 0.001))


def test_the_child_compares_integers() -> None:
    import numpy as np

    from gensyn_tvm.tuning.child import _equal, bits

    zeros = np.zeros(3, np.float32)
    assert _equal(bits(zeros), bits([zeros.copy()]))
    assert not _equal(bits(zeros), bits(-zeros))
    nan = np.full(3, np.nan, np.float32)
    assert _equal(bits(nan), bits(nan.copy()))


# ---- command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(records.FOLDER, str(tmp_path / "tuned"))
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((5, 40), "float32"))
    w = b.add_input("w", "parameter", TensorType((40, 24), "float32"))
    b.add_output("y", b.emit("exp", b.emit("matmul", x, w)))
    import numpy as np

    path = tmp_path / "model.gtvm"
    compile(Source(b.finish(), State({"w": np.ones((40, 24), np.float32)})), NATIVE).save(path)
    return path


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", str(model), "--trials", "2", "--threads", "1", "--journal", str(tmp_path / "j"), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["products"] == 1 and 1 <= found["trials"] <= 2 and found["unfinished"] == 0
    assert found["library"] == str(records.library(tmp_path / "tuned", NATIVE, processor_maker()))
    assert len(records.read(Path(found["library"]), NATIVE)) == found["records"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "conv"], "there is nothing to tune"),
        (["--target", "c"], "cannot be tuned here"),
        (["--trials", "0"], "--trials 0; expected more than 0"),
        (["--time", "nan"], "--time nan; expected more than 0"),
        (["--threads", "0"], "--threads 0; expected more than 0"),
        (["--journal", "/proc/nothing/journal"], "the journal cannot be used"),
    ],
)
def test_wrong_options(model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(model), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_foreign_journal_and_no_library(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "journal"
    for text in ("something else\n", "{}\n{", "something", "[]\n"):
        journal.write_text(text)
        assert main(["tune", str(model), "--journal", str(journal), "--trials", "1"]) == 1
        assert "the journal cannot be used" in capsys.readouterr().err
        assert journal.read_text() == text
    monkeypatch.setenv(records.FOLDER, "off")
    assert main(["tune", str(model), "--journal", str(tmp_path / "j")]) == 1
    assert "is off" in capsys.readouterr().err


def test_interrupted_it_says_how_to_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurer, "ratios", interrupt)
    assert main(["tune", str(model), "--journal", str(tmp_path / "j")]) == 130
    assert f"goes on from {tmp_path / 'j'}" in capsys.readouterr().err
