"""Differences between phases of the pipeline."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import rich.console

import gensyn_tvm
from gensyn_tvm import phase_diff
from gensyn_tvm.compiler import source_of
from gensyn_tvm.errors import InputError
from gensyn_tvm.phase_diff import FunctionDiff, as_lines, difference, phase_functions

MODEL = Path(gensyn_tvm.__file__).parent / "demo" / "digits_mlp.onnx"


@pytest.fixture(scope="module")
def program() -> gensyn_tvm.Program:
    return gensyn_tvm.from_onnx(MODEL, shapes={"image": (3, 64)})


def test_functions_are_matched_by_name() -> None:
    before = {"main": "a\nb\nc", "same": "x", "old": "1"}
    after = {"main": "a\nB\nc", "same": "x", "new": "2"}
    assert difference(before, after) == [
        FunctionDiff("main", "changed", ("@@ -1,3 +1,3 @@", " a", "-b", "+B", " c")),
        FunctionDiff("new", "added", ("@@ -0,0 +1 @@", "+2")),
        FunctionDiff("old", "removed", ("@@ -1 +0,0 @@", "-1")),
    ]
    assert [d.name for d in difference(before, after, "new")] == ["new"]
    assert difference(before, after, "same") == []
    with pytest.raises(InputError, match="no function 'nothing' after either phase; expected one of main, new, old, same"):
        difference(before, after, "nothing")


def test_fusion_replaces_kernels(program: gensyn_tvm.Program) -> None:
    found = phase_functions(program, ("legalise", "fuse"))
    lines = as_lines(difference(found["legalise"], found["fuse"]), ("legalise", "fuse"))
    assert lines[0] == "changed: 1 (main)"
    assert lines[1].startswith("added: 3 (fused_matmul")
    assert any(line.startswith("-") and "call_tir(matmul1," in line for line in lines)
    assert any(line.startswith("+") and "call_tir(fused_matmul1_add1" in line for line in lines)
    assert "+++ fuse: add (absent)" in lines


def test_scheduling_changes_kernels_only(program: gensyn_tvm.Program) -> None:
    found = phase_functions(program, ("fuse", "schedule"), "x86-64-v3")
    diffs = difference(found["fuse"], found["schedule"])
    assert {d.change for d in diffs} == {"changed"}
    assert "main" not in [d.name for d in diffs]
    assert any("T.vectorized(" in line for d in diffs for line in d.lines if line.startswith("+"))


def test_phases_before_the_freeze(program: gensyn_tvm.Program) -> None:
    found = phase_functions(program, ("import", "inference", "canonical", "lift"))
    assert "R.permute_dims" in found["import"]["main"]
    assert "transpose(%1; perm=(1, 0))" in found["canonical"]["main"]
    assert list(found) == ["import", "inference", "canonical", "lift"]
    with pytest.raises(InputError, match="no phase 'import'"):
        phase_functions(source_of(program), ("import", "lift"))
    with pytest.raises(InputError, match="unknown phase 'fusion'; expected one of import, inference, canonical, lift"):
        phase_functions(program, ("fusion", "lift"))


@pytest.mark.parametrize("terminal", (True, False))
def test_colours_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = rich.console.Console(file=stream, force_terminal=terminal, color_system="standard" if terminal else None)
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    phase_diff.print_lines(["@@ -1 +1 @@", "-old [bold]", "+new " + "x" * 300, " same"])
    text = stream.getvalue()
    assert ("\x1b[31m-old [bold]\x1b[0m" in text) == terminal
    assert text.replace("\x1b", "").count("\n") == 4
    assert terminal or text.splitlines()[1] == "-old [bold]"


def test_nothing_differs() -> None:
    assert as_lines([], ("fuse", "schedule")) == ["no function differs between fuse and schedule"]
