"""A hundred training steps of the demonstration's models have one digest: on every target, and on every machine (golden)."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import gensyn_tvm
from gensyn_tvm.canonical import rules
from gensyn_tvm.demo.data import load_digits
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.demo.run import COMPARED_STEPS, INTERPRETED_STEPS, Report, Row, advance, interpreter_row, steps_of
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.training.step import TrainingStep

GOLDEN = json.loads((Path(__file__).parent / "golden" / rules.NUMERICS_VERSION / "training.json").read_text(encoding="utf-8"))
BY_NAME = {m.name: m for m in MODELS}


@functools.cache
def step_of(name: str) -> TrainingStep:
    model = BY_NAME[name]
    return gensyn_tvm.training_step(model.load(64), loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=model.learning_rate))


def state_digest_after(name: str, steps: int, target: str, threads: int, schedule: str | None = None) -> str:
    exe = gensyn_tvm.compile(step_of(name), target, threads=threads, schedule=schedule)
    state, _, _ = advance(exe, exe.init(seed=0), steps_of(BY_NAME[name], load_digits(), steps))
    return state.digest()


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_program_digest(name: str) -> None:
    assert step_of(name).digest == GOLDEN["programs"][name]


@pytest.mark.parametrize("target", supported_levels())
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_hundred_steps_on_every_level(name: str, target: str) -> None:
    assert state_digest_after(name, COMPARED_STEPS, target, threads=2) == GOLDEN["states"][name][str(COMPARED_STEPS)]


@pytest.mark.parametrize(("target", "threads", "schedule"), [("native", 1, "fast"), ("native", 1, "plain")])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_hundred_steps_threads_and_schedules(name: str, target: str, threads: int, schedule: str) -> None:
    digest = state_digest_after(name, COMPARED_STEPS, target, threads, schedule)
    assert digest == GOLDEN["states"][name][str(COMPARED_STEPS)]


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_first_steps_in_the_c_oracle_and_the_interpreter(name: str) -> None:
    expected = GOLDEN["states"][name][str(INTERPRETED_STEPS)]
    assert state_digest_after(name, INTERPRETED_STEPS, "c", threads=1) == expected
    report = Report()
    interpreter_row(BY_NAME[name], step_of(name), load_digits(), report)
    assert report.rows[0].digest == expected


def test_report_fails_on_two_digests_or_low_accuracy() -> None:
    report = Report(accuracy={"CNN": 0.96})
    report.rows = [Row("CNN", "gensyn_tvm", c, "state", 0.0, d) for c, d in (("a", "00"), ("b", "01"))]
    assert report.problems() == ["CNN: 2 digests of state", "CNN: test accuracy 96.00%, required 97%"]
    report.rows[1] = Row("CNN", "PyTorch", "b", "state", 0.0, "01")
    assert report.problems() == ["CNN: test accuracy 96.00%, required 97%"]
