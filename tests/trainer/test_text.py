"""The recorded run of benchmarks/train_text.py, and the parts of it that need no run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_text.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("train_text", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recorded_run_is_whole_and_in_order(script: Any) -> None:
    result = json.loads(script.RESULT.read_text(encoding="utf-8"))
    assert script.problems(result) == []
    assert (result["in_one_go"]["steps"], len(result["killed_at_steps"])) == (script.STEPS, 3)
    broken = {**result, "killed_and_continued": {"digest": "0", "same_log": False}}
    assert script.problems(broken) == ["the digests differ", "the logs differ"]
    result["in_one_go"]["held_out"][-1]["loss"] = 9.0
    assert script.problems(result) == [f"held-out loss 9.0000, required below {script.REQUIRED_LOSS}"]


def test_the_text_and_the_model_are_the_same_each_time(script: Any) -> None:
    train, test = script.read_text(script.standard_library())
    assert train.dtype == test.dtype == np.uint8
    assert len(train) > 15 * len(test) > 10**5
    first, second = (dict(script.build_model().named_parameters()) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    assert float(first["tokens.weight"].detach().abs().max()) <= 1 / 8
