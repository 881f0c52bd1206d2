"""The documents say what is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gensyn_tvm.canonical import rules

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("script", ["make_operators_doc.py", "make_results_table.py", "make_constants_doc.py"])
def test_generated_text_is_up_to_date(script: str) -> None:
    command = [sys.executable, f"scripts/{script}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_specification_names_every_operator_and_its_version() -> None:
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert f"version {rules.NUMERICS_VERSION}" in text.splitlines()[0]
    missing = [op for op in rules.RULES if not re.search(rf"\b{op}\b", text)]
    # The six comparisons are written as a range.
    assert set(missing) <= {"not_equal", "less", "less_equal", "greater"}, missing


def test_layout_names_every_folder() -> None:
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    folders = [p.name for p in (ROOT / "gensyn_tvm").iterdir() if p.is_dir() and not p.name.startswith("__")]
    assert not [f for f in folders if f"{f}/" not in text]
