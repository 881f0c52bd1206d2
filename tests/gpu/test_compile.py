"""All that a GPU would run compiles for all architectures, and the lint finds nothing: some of it here, the rest is on record.

``make gpu-compile`` makes the record; it is quick where neither sources nor the toolkit have changed. Continuous integration
compiles all of it again and compares (``make gpu-compile-check``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_compile
from benchmarks.gpu_compile import RESULT, differences, items
from benchmarks.gpu_rehearsal import model_case
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.targets.gpu import CUDA
from gensyn_tvm.targets.gpu_lint import lint
from gensyn_tvm.targets.nvcc import ARCHITECTURES, compile_cuda

from ..operators.cases import FAMILIES, bundle
from .test_bits import chosen


def operators() -> Graph:
    """One or two cases of each family."""
    return bundle(chosen())[0]


def step() -> Graph:
    """A training step with AdamW."""
    return model_case("mlp", training=True)[0].graph


@pytest.mark.parametrize(("make", "architectures"), [(operators, ARCHITECTURES), (step, (75, 90))])
def test_machine_code_is_exact(make: object, architectures: tuple[int, ...]) -> None:
    assert callable(make)
    program = device_program(make(), CUDA)
    built = compile_cuda(program.source, architectures)
    assert set(built.cubins) == set(architectures)
    for kernels in built.resources.values():
        assert set(kernels) == set(program.launches)
        assert all(launch.shared == kernels[name].shared for name, launch in program.launches.items())
    assert lint(built) == []


def test_the_record_has_every_family_and_five_models_on_all_architectures() -> None:
    rows = json.loads(RESULT.read_text(encoding="utf-8"))
    assert list(rows) == list(items())
    assert sum(name.startswith("operators: ") for name in rows) == len(FAMILIES)
    assert sum(name.startswith("training step: ") for name in rows) == 5
    for row in rows.values():
        assert row["findings"] == []
        assert list(row["architectures"]) == [f"sm_{a}" for a in ARCHITECTURES]
        assert row["kernels"] > 0


def _row(**other: Any) -> dict[str, Any]:
    row = {
        "key": "a",
        "toolkit": "13.0",
        "program": "p",
        "kernels": 3,
        "bytes": 10,
        "findings": [],
        "architectures": {"sm_90": {}},
    }
    return {**row, **other}


@pytest.mark.parametrize(
    ("recorded", "found", "lines"),
    [
        ({"a": _row()}, {"a": _row()}, []),
        ({}, {"a": _row()}, ["a: not in the record"]),
        ({"a": _row()}, {}, ["a: in the record, but no item any longer"]),
        ({"a": _row(key="b", bytes=9)}, {"a": _row()}, ["a: the record has another key, bytes"]),
        ({"a": _row(toolkit="13.1", bytes=9)}, {"a": _row()}, []),  # another compiler takes other registers and bytes
        ({"a": _row(toolkit="13.1", kernels=9)}, {"a": _row()}, ["a: the record has another kernels"]),
    ],
)
def test_a_record_that_is_out_of_date_is_seen(recorded: Any, found: Any, lines: list[str]) -> None:
    assert differences(recorded, found) == lines


def test_a_check_compiles_again_and_leaves_the_record_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, name = tmp_path / "record.json", "operators: movement"
    text = json.dumps({name: json.loads(RESULT.read_text(encoding="utf-8"))[name] | {"key": "older"}})
    record.write_text(text, encoding="utf-8")
    monkeypatch.setattr(gpu_compile, "RESULT", record)
    monkeypatch.setattr(sys, "argv", ["gpu_compile", "--check", str(tmp_path / "found.json"), "--only", name])
    assert gpu_compile.main() == 1
    shown = capsys.readouterr()
    assert f"{name}: the record has another key" in shown.err
    assert "make gpu-compile" in shown.err
    assert record.read_text(encoding="utf-8") == text
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))[name]["findings"] == []
