"""The table of models of four frameworks: what counts as a failure, one row measured, and that page and results agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.frontends.report import RESULT, failures, problems, summary
from benchmarks.frontends.rows import ROWS, TORCH, Row
from scripts import make_frontends_page

GOOD: dict[str, Any] = {
    "model": "m",
    "framework": "torch",
    "source": "torch",
    "imported": True,
    "max_difference": 1e-6,
    "tolerance": 1e-4,
    "trained": True,
    "losses": [1.0, 0.9],
    "loss_difference": 1e-5,
    "loss_tolerance": 1e-3,
    "equal_bits": True,
}


def test_a_good_row_has_no_problems() -> None:
    assert problems(GOOD) == []
    assert problems({k: v for k, v in GOOD.items() if not k.startswith("loss_")}) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reason": "ImportModelError: no"}, "ImportModelError: no"),
        ({"imported": False}, "not imported"),
        ({"max_difference": 2e-4}, "outputs differ by 0.0002"),
        ({"max_difference": float("nan")}, "outputs differ by nan"),
        ({"max_difference": None}, "outputs differ by None"),
        ({"trained": False}, "losses [1.0, 0.9]"),
        ({"loss_difference": float("nan")}, "the losses differ by nan from the framework's"),
        ({"loss_difference": 0.1}, "the losses differ by 0.1 from the framework's"),
        ({"equal_bits": False}, "bits differ between targets"),
    ],
)
def test_problems_of_a_row(change: dict[str, Any], text: str) -> None:
    row = {**GOOD, **change}
    assert problems(row) == [text]
    assert failures([GOOD, row]) == ["torch torch m"]
    assert summary([GOOD, row]) == {"rows": 2, "in_order": 1}


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_table_names_the_models_of_torch() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks.frontends.torch_models import BUILDERS

    assert tuple(BUILDERS) == TORCH


def test_a_row_is_measured() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks.frontends.measure import measure

    found: dict[str, Any] = {}
    measure(Row("torch", "torch", "GraphSAGE"), found)
    assert problems(found) == []
    assert found["losses"][1] < found["losses"][0]


def test_committed_results_are_in_order() -> None:
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["models"]
    assert {(r["framework"], r["source"], r["model"]) for r in rows} <= {(r.framework, r.source, r.model) for r in ROWS}
    assert len(failures(rows)) <= 0.05 * len(rows), failures(rows)


def test_page_and_results_agree() -> None:
    data = json.loads(RESULT.read_text(encoding="utf-8"))
    assert make_frontends_page.PAGE.read_text(encoding="utf-8") == make_frontends_page.page(data)
