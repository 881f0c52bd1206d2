"""scripts/fuzz_graphs.py: processes that die are recorded, stopped runs continue, mismatches are written down."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph

from ..operators.support import raw_bits
from .check import ORACLE

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_graphs.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("fuzz_graphs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Deadly:
    """A worker that dies of some seeds, and of some others only together."""

    def __init__(self, *fatal: int, together: bool = False) -> None:
        self.fatal = fatal
        self.together = together

    def examine(self, seeds: list[int], number: int, limit: float) -> Any:
        if set(seeds) & set(self.fatal) or (self.together and len(seeds) > 1):
            return "ended with status -11"
        return {
            "operators": {"add": len(seeds)},
            "dtypes": {},
            "outputs": len(seeds),
            "ways": {"a": len(seeds)},
            "findings": [],
        }


def test_a_crash_is_told_apart(script: ModuleType) -> None:
    record = script.examine_bundle(Deadly(5), [4, 5, 6], 0, 1.0)
    (finding,) = record["findings"]
    assert (finding["seeds"], finding["kind"]) == ([5], "crash")
    assert "-11" in finding["text"]
    assert record["operators"] == {"add": 2}


def test_a_crash_of_several_together(script: ModuleType) -> None:
    (finding,) = script.examine_bundle(Deadly(together=True), [1, 2], 0, 1.0)["findings"]
    assert (finding["seeds"], finding["kind"]) == ([1, 2], "crash")


def test_a_worker_that_takes_too_long_or_dies(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "__file__", str(tmp_path / "program.py"))
    (tmp_path / "program.py").write_text("import time\ntime.sleep(100)\n")
    worker = script.Worker(tmp_path)
    assert "longer than" in worker.examine([1], 0, 0.3)
    (tmp_path / "program.py").write_text("import os\ninput()\nos.abort()\n")
    assert worker.examine([1], 0, 60) == "ended with status -6"
    (tmp_path / "program.py").write_text("print('{\"a\": 1}', flush=True)\ninput()\ninput()\n")
    assert worker.examine([1], 0, 60) == {"a": 1}
    worker.stop()


def arguments(folder: Path, count: int) -> argparse.Namespace:
    return argparse.Namespace(
        **{"first": 8, "count": count, "bundle": 2, "workers": 1, "limit": 300.0, "fresh": False},
        **{"failures": folder / "failures", "output": folder / "result.json"},
    )


def test_a_run_continues_and_counts(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    class Fake(Deadly):
        def __init__(self, failures: Path) -> None:
            super().__init__()

        def examine(self, seeds: list[int], number: int, limit: float) -> Any:
            asked.append(seeds)
            return super().examine(seeds, number, limit)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(script, "Worker", Fake)
    assert script.run(arguments(tmp_path, 4)) == 0
    assert script.run(arguments(tmp_path, 7)) == 0
    assert asked == [[8, 9], [10, 11], [12, 13], [14]]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["graphs"], result["seeds"], result["nodes"], result["findings"]) == (7, [8, 14], 7, [])
    assert result["graphs_by_configuration"] == {"a": 7}


def test_a_mismatch_is_written_down_and_replayed(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interpreter.run

    def wrong(program: Graph, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(program, arrays)
        if program.name == "fuzz-12":
            raw_bits(outputs[0]).reshape(-1)[-1] ^= 1
        return outputs

    monkeypatch.setattr(interpreter, "run", wrong)
    monkeypatch.setattr(script, "ways_of", lambda number: (ORACLE,))
    record = script.examine([11, 12], 0, tmp_path)
    (finding,) = record["findings"]
    assert (finding["seeds"], finding["kind"]) == ([12], "mismatch")
    args = argparse.Namespace(replay=tmp_path / "fuzz-12.json", reduce=False)
    assert script.replay(args) == 1
    monkeypatch.setattr(interpreter, "run", run)
    assert script.replay(args) == 0
