"""``gensyn-tvm trace`` and ``gensyn-tvm inspect --diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import source_of
from gensyn_tvm.interpreter.registry import OPERATORS
from gensyn_tvm.runtime.packaging import save_source

MODEL = Path(gensyn_tvm.__file__).parent / "demo" / "digits_mlp.onnx"
ONNX = (str(MODEL), "--batch", "3")


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training step as a file."""
    path = tmp_path_factory.mktemp("trace") / "step.gtvm"
    program = gensyn_tvm.from_onnx(MODEL, shapes={"image": (3, 64)})
    save_source(path, source_of(gensyn_tvm.training_step(program, optimizer="sgd")))
    return path


def test_runs_that_agree(capsys: pytest.CaptureFixture[str], step: Path, tmp_path: Path) -> None:
    text = call(capsys, "trace", *ONNX, "--target", "native:plain:1")
    assert "drawn from seed 0" in text
    assert "all 14 values agree in every bit between native:plain:1 and interpreter" in text
    np.savez(tmp_path / "batch.npz", x=np.ones((3, 64), np.float32), y=np.array([0, 3, 9]))
    text = call(capsys, "trace", step, "--inputs", tmp_path / "batch.npz", "--against", "native::2", "--segment", 20)
    assert "drawn" not in text
    assert "agree in every bit between native and native::2" in text


def test_runs_that_differ(capsys: pytest.CaptureFixture[str], step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OPERATORS["exp"]
    monkeypatch.setitem(OPERATORS, "exp", lambda *a: np.nextafter(real(*a), np.float32(9)))
    text = call(capsys, "trace", step, "--target", "c", code=1)
    assert "│ loss" in text
    assert "exp at loss: float32[3, 10], 30 elements differ, first at [0, 0]: " in text
    assert "1 ulp apart; its inputs are equal" in text
    found = json.loads(call(capsys, "trace", step, "--target", "c", "--json", code=1))
    assert (found["clean"], found["drawn_from_seed"]) == (False, 0)
    first: dict[str, Any] = found["differences"][0]
    assert (first["operator"], first["place"], first["culprit"], first["ulps"]) == ("exp", "loss", True, 1)
    assert "fc1.weight" in found["outputs"]
    call(capsys, "trace", step, "--target", "c", "--tolerance", 1e-5)


def test_nonfinite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    x = np.ones((3, 64), np.float32)
    np.savez(tmp_path / "fine.npz", x=x)
    assert "no operator makes NaN" in call(capsys, "trace", *ONNX, "--inputs", tmp_path / "fine.npz", "--nonfinite")
    x[1] = 3e38
    np.savez(tmp_path / "large.npz", x=x)
    text = call(capsys, "trace", *ONNX, "--inputs", tmp_path / "large.npz", "--nonfinite", code=1)
    assert "matmul at fc1: float32[3, 256] holds" in text
    assert "of %0, input 'image' [1, :]: 3" in text
    found = json.loads(call(capsys, "trace", *ONNX, "--inputs", tmp_path / "large.npz", "--nonfinite", "--json", code=1))
    assert found["nonfinite"][0]["operator"] == "matmul"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "z80"), "unknown target 'z80'"),
        (("--against", "native:fast:x"), "no way to run a program"),
        (("--segment", "0"), "at least 1"),
        (("--tolerance", "-1"), "no tolerance"),
        (("--inputs", "absent.npz"), "arrays cannot be read"),
    ],
)
def test_errors_are_exit_code_1(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert message in call(capsys, "trace", *ONNX, *arguments, code=1)


def test_diff(capsys: pytest.CaptureFixture[str], step: Path) -> None:
    text = call(capsys, "inspect", *ONNX, "--diff", "legalise", "fuse")
    assert "+++ fuse: add (absent)" in text.splitlines()
    assert "\x1b" not in text
    one = call(capsys, "inspect", *ONNX, "--diff", "legalise", "fuse", "--kernel", "main")
    assert one.splitlines()[0] == "changed: 1 (main)"
    found = json.loads(call(capsys, "inspect", *ONNX, "--diff", "import", "canonical", "--json"))
    assert [f["name"] for f in found["functions"]] == ["main"]
    assert "expected one of import, inference" in call(capsys, "inspect", *ONNX, "--diff", "legalise", "code", code=1)
    assert "no phase 'import'" in call(capsys, "inspect", step, "--diff", "import", "lift", code=1)
    assert "--kernel needs --diff" in call(capsys, "inspect", *ONNX, "--kernel", "main", code=1)
