"""No digest that was recorded under a numerics version changes: not in the files, and not in what the code computes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from gensyn_tvm.canonical import rules
from tests.operators import golden

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = sorted(p for p in (ROOT / "tests" / "golden").iterdir() if p.is_dir())
CURRENT = ROOT / "tests" / "golden" / rules.NUMERICS_VERSION
OPERATORS: dict[str, dict[str, dict[str, str]]] = json.loads((CURRENT / "operators.json").read_text(encoding="utf-8"))

_spec = importlib.util.spec_from_file_location("record_golden", ROOT / "scripts" / "record_golden.py")
assert _spec is not None and _spec.loader is not None
recorder: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recorder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_files_are_as_recorded(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "manifest.json"}
    assert found == manifest, (
        "golden digests are not edited: scripts/record_golden.py adds new ones; changed bits are a new version"
    )


def test_every_operator_is_recorded() -> None:
    missing = sorted(set(rules.RULES) - set(OPERATORS))
    assert not missing, f"run python scripts/record_golden.py: it adds {', '.join(missing)}"


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_operator_computes_the_recorded_digests(op: str) -> None:
    cases = {case.name: case for case in golden.recorded_cases() if case.op == op}
    assert set(OPERATORS[op]) <= set(cases), "a recorded case was removed or renamed"
    found = {name: golden.digests_of(cases[name]) for name in OPERATORS[op]}
    assert found == OPERATORS[op]


def test_recording_adds_and_never_changes(tmp_path: Path) -> None:
    first = {"operators.json": {"sum": {"a": {"output": "1"}}}}
    recorder.record("1", first, tmp_path)
    recorder.record("1", {"operators.json": {"sum": {"b": {"output": "2"}}, "new": {"c": {"output": "3"}}}}, tmp_path)
    both = {"sum": {"a": {"output": "1"}, "b": {"output": "2"}}, "new": {"c": {"output": "3"}}}
    assert json.loads((tmp_path / "operators.json").read_text(encoding="utf-8")) == both
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match=r"operators.json: 1 digests of version 1 have changed \(/sum/a/output\)"):
        recorder.record("1", {"operators.json": {"sum": {"a": {"output": "4"}}}}, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    test_files_are_as_recorded(tmp_path)
