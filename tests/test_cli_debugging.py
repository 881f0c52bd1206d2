"""``gensyn-tvm trace`` and ``gensyn-tvm inspect --diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source
from gensyn_tvm.interpreter.registry import OPERATORS
from gensyn_tvm.runtime.executable import State
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
    """A step of gradient descent on the sum of exp(x·w - target), as a file."""
    b = GraphBuilder("step")
    x = b.add_input("x", "input", TensorType((3, 5), "float32"))
    target = b.add_input("target", "target", TensorType((3,), "float32"))
    w = b.add_input("w", "parameter", TensorType((5,), "float32"))
    rate = b.add_input("learning_rate", "learning_rate", TensorType((), "float32"))
    b.source = "layer"
    y = b.emit("sum", b.emit("mul", x, w), axes=(1,), keepdims=False)
    b.source = "loss"
    error = b.emit("exp", b.emit("sub", y, target))
    b.add_output("loss", b.emit("sum", error, axes=(0,), keepdims=False))
    b.source = "gradient of layer"
    gradient = b.emit("sum", b.emit("mul", b.emit("reshape", error, shape=(3, 1)), x), axes=(0,), keepdims=False)
    b.source = "SGD of w"
    b.add_output("w", b.emit("sub", w, b.emit("mul", rate, gradient)), updates=True)
    path = tmp_path_factory.mktemp("trace") / "step.gtvm"
    save_source(path, Source(b.finish(), State({"w": np.ones(5, np.float32)}, step=3), 0.5))
    return path


def test_runs_that_agree(capsys: pytest.CaptureFixture[str], step: Path, tmp_path: Path) -> None:
    text = call(capsys, "trace", *ONNX, "--target", "native:plain:1")
    assert "drawn from seed 0" in text
    assert "all 14 values agree in every bit between native:plain:1 and interpreter" in text
    np.savez(tmp_path / "batch.npz", x=np.ones((3, 5), np.float32), y=np.ones(3, np.float32))
    text = call(capsys, "trace", step, "--inputs", tmp_path / "batch.npz", "--against", "native::2", "--segment", 6)
    assert "drawn" not in text
    assert "all 10 values agree in every bit between native and native::2" in text


def test_runs_that_differ(capsys: pytest.CaptureFixture[str], step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OPERATORS["exp"]
    monkeypatch.setitem(OPERATORS, "exp", lambda *a: np.nextafter(real(*a), np.float32(9)))
    text = call(capsys, "trace", step, code=1)
    assert "│ loss" in text
    assert "exp at loss: float32[3], 3 elements differ, first at [0]: " in text
    assert "1 ulp apart; its inputs are equal" in text
    assert "a consequence" not in text
    found = json.loads(call(capsys, "trace", step, "--json", code=1))
    assert (found["clean"], found["drawn_from_seed"]) == (False, 0)
    first: dict[str, Any] = found["differences"][0]
    assert (first["operator"], first["place"], first["culprit"], first["ulps"]) == ("exp", "loss", True, 1)
    assert not any(later["culprit"] for later in found["differences"][1:])
    call(capsys, "trace", step, "--tolerance", 1e-5)


def test_nonfinite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    x = np.ones((3, 64), np.float32)
    way = ("--nonfinite", "--target", "interpreter")
    np.savez(tmp_path / "fine.npz", x=x)
    assert "no operator makes NaN" in call(capsys, "trace", *ONNX, "--inputs", tmp_path / "fine.npz", *way)
    x[1] = 3e38
    np.savez(tmp_path / "large.npz", x=x)
    text = call(capsys, "trace", *ONNX, "--inputs", tmp_path / "large.npz", *way, code=1)
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
