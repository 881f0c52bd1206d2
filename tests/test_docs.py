"""The documents say what is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gensyn_tvm.canonical import rules

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "script",
    [
        "make_operators_doc.py",
        "make_aten_doc.py",
        "make_results_table.py",
        "make_benchmarks_page.py",
        "make_constants_doc.py",
        "make_elementary_doc.py",
        "make_float64_doc.py",
        "make_parity_doc.py",
        "make_memory_page.py",
        "make_gpu_roofline.py",
        "make_profiles_page.py",
        "make_cpu_limits_page.py",
    ],
)
def test_generated_text_is_up_to_date(script: str) -> None:
    command = [sys.executable, f"scripts/{script}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _entries(text: str) -> list[str]:
    """Paragraphs and table rows."""
    blocks = (block.split("\n|") if block.startswith("|") else [block] for block in re.split(r"\n\n+", text))
    return [entry for block in blocks for entry in block]


@pytest.mark.parametrize("op", rules.RULES)
def test_specification_has_an_entry_for_every_operator(op: str) -> None:
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    entries = [entry for entry in _entries(text) if f"`{op}`" in entry]
    assert entries, f"docs/numerics.md does not say what {op} computes"
    # In one of its entries, all attributes: the one that defines it.
    assert any(all(f"`{a}`" in entry for a in rules.ATTRIBUTES[op]) for entry in entries), sorted(rules.ATTRIBUTES[op])


def test_specification_has_the_version_of_the_code() -> None:
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# The numerics specification, version {rules.NUMERICS_VERSION}"


def test_layout_names_every_folder() -> None:
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    folders = [p.name for p in (ROOT / "gensyn_tvm").iterdir() if p.is_dir() and not p.name.startswith("__")]
    assert not [f for f in folders if f"{f}/" not in text]
