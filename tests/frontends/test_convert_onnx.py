"""scripts/convert_onnx.py as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import gensyn_tvm

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "convert_onnx.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x @ (w + w)), with a node that nothing needs."""
    w = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3) - 2, "w")
    nodes = [
        oh.make_node("Add", ["w", "w"], ["v"]),
        oh.make_node("MatMul", ["x", "v"], ["z"]),
        oh.make_node("Relu", ["z"], ["y"]),
        oh.make_node("Neg", ["z"], ["unused"]),
    ]
    x, y = (oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", e]) for n, e in (("x", 2), ("y", 3)))
    graph = oh.make_graph(nodes, "small", [x], [y], [w])
    path = tmp_path / "small.onnx"
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_passes_and_program(model: Path, tmp_path: Path) -> None:
    small, program = tmp_path / "out" / "smaller.onnx", tmp_path / "out" / "small.gtvm"
    done = run(
        *(model, "--pass", "fold_constants", "--pass", "eliminate_dead_ends", "--shape", "x=4x2"),
        *("--output", small, "--output", program),
    )
    assert done.returncode == 0, done.stderr
    assert [n.op_type for n in onnx.load(small).graph.node] == ["MatMul", "Relu"]
    x = np.array([[1, 2], [-1, 0.5], [0, 0], [3, -2]], np.float32)
    w = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    assert np.array_equal(gensyn_tvm.load(program)(x), np.maximum(x @ (2 * w), 0))
    assert "largest relative difference" in done.stdout


def test_errors_write_nothing(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "small.gtvm"
    missing = run(model, "--output", program)
    assert missing.returncode == 1 and "shapes" in missing.stderr
    unknown = run(model, "--pass", "polish", "--output", tmp_path / "x.onnx")
    assert unknown.returncode == 1 and "unknown ONNX pass 'polish'" in unknown.stderr
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x07not a model")
    assert run(broken, "--output", program).returncode == 1
    assert run(model, "--output", "model.txt").returncode == 2
    strict = run(model, "--shape", "x=4x2", "--tolerance", "-1", "--output", program)
    assert strict.returncode == 3 and "nothing was written" in strict.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.onnx", "small.onnx"]
