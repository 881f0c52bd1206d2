"""Whole programs: serialised text in, outputs in order, inputs checked, values observed."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder, Node, Output
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, InvalidProgramError
from gensyn_tvm.interpreter.registry import OPERATORS

from . import naive

F32 = "float32"


def _program() -> Graph:
    """y = x @ w; w becomes w + x^T y; the loss is the sum of y."""
    b = GraphBuilder("toy")
    x = b.add_input("x", "input", TensorType((2, 3), F32))
    w = b.add_input("w", "parameter", TensorType((3, 4), F32))
    y = b.emit("matmul", x, w)
    gradient = b.emit("matmul", b.emit("transpose", x, perm=(1, 0)), y)
    b.add_output("w", y)
    b.add_output("loss", b.emit("sum", y, axes=(0, 1), keepdims=False))
    b.add_output("w", b.emit("add", w, gradient), updates=True)
    return b.finish()


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"w": naive.awkward(rng, (3, 4), F32, special=0.0), "x": naive.awkward(rng, (2, 3), F32, special=0.0)}


def test_every_operator_of_the_rules_exists() -> None:
    assert set(OPERATORS) == set(rules.RULES)


def test_text_bytes_and_graph_give_the_same_bits() -> None:
    graph, inputs = _program(), _inputs()
    y = naive.matmul(inputs["x"], inputs["w"])
    update = naive.matmul(np.ascontiguousarray(inputs["x"].T), y)
    loss = np.array(naive.in_lanes([float(v) for v in y.ravel()], F32), np.float32)
    expected = [y, loss, np.add(inputs["w"], update)]
    text = serialise.dumps(graph)
    for program in (graph, text, text.encode("ascii")):
        for found, array in zip(interpreter.run(program, inputs), expected, strict=True):
            naive.same_bits(found, array)
    named = interpreter.run_named(text, inputs)
    assert list(named) == [("w", False), ("loss", False), ("w", True)]
    naive.same_bits(named["w", True], expected[2])


def test_observer_sees_every_value_once_with_canonical_nans() -> None:
    b = GraphBuilder("observed")
    x = b.add_input("x", "input", TensorType((2,), F32))
    b.add_output("y", b.emit("neg", b.emit("sqrt", x)))
    graph = b.finish()
    seen: dict[int, np.ndarray] = {}
    negative_nan = np.array([0xFFC12345, 0x40800000], np.uint32).view(np.float32)

    def observe(number: int, array: np.ndarray) -> None:
        assert number not in seen and not array.flags.writeable
        seen[number] = array.copy()

    (y,) = interpreter.evaluate(graph, {"x": negative_nan}, observe)
    assert list(seen) == [0, 1, 2]
    assert [seen[k].view(np.uint32).tolist() for k in seen] == [
        [0x7FC00000, 0x40800000],
        [0x7FC00000, 0x40000000],
        [0x7FC00000, 0xC0000000],
    ]
    naive.same_bits(y, seen[2])


def test_outputs_are_copies() -> None:
    b = GraphBuilder("identity")
    x = b.add_input("x", "input", TensorType((2,), "int32"))
    b.add_output("same", x)
    b.add_output("reshaped", b.emit("reshape", x, shape=(2, 1)))
    given = np.array([1, 2], np.int32)
    for found in interpreter.run(b.finish(), {"x": given}):
        assert not np.shares_memory(found, given)
        assert found.flags.writeable and found.flags.c_contiguous


def test_strided_and_big_endian_inputs() -> None:
    graph, inputs = _program(), _inputs()
    expected = interpreter.run(graph, inputs)
    other = {"x": np.asfortranarray(inputs["x"]), "w": inputs["w"].astype(">f4")}
    for found, array in zip(interpreter.run(graph, other), expected, strict=True):
        naive.same_bits(found, array)


def test_input_errors_name_everything() -> None:
    graph, inputs = _program(), _inputs()
    with pytest.raises(InputError) as caught:
        interpreter.run(graph, {"weight": inputs["w"], "y": inputs["x"]})
    text = str(caught.value)
    assert "the inputs do not fit the program 'toy'" in text
    assert "found: 2 missing: 'x', 'w'; 2 unknown: 'weight', 'y'" in text
    assert "expected: 'x': float32[2, 3], 'w': float32[3, 4]" in text
    with pytest.raises(InputError) as caught:
        interpreter.run(graph, {"x": inputs["x"].astype(np.float64), "w": inputs["w"][:2]})
    text = str(caught.value)
    assert "input 'x' is float64[2, 3], expected float32[2, 3]" in text
    assert "input 'w' is float32[2, 4], expected float32[3, 4]" in text
    with pytest.raises(InputError, match="input 'x' is a list, not a NumPy array"):
        interpreter.run(graph, {"x": [[1.0]], "w": inputs["w"]})  # type: ignore[dict-item]


def test_scalar_inputs_may_be_numpy_scalars() -> None:
    b = GraphBuilder("scalar")
    rate = b.add_input("rate", "learning_rate", TensorType((), F32))
    b.add_output("y", b.emit("add", rate, rate))
    scalar: Any = np.float32(0.5)
    (y,) = interpreter.run(b.finish(), {"rate": scalar})
    naive.same_bits(y, np.array(1.0, np.float32))
    with pytest.raises(InputError, match="input 'rate' is a float, not a NumPy array"):
        interpreter.run(b.finish(), {"rate": 0.5})  # type: ignore[dict-item]


def test_invalid_programs_are_refused() -> None:
    with pytest.raises(InvalidProgramError, match="not valid JSON"):
        interpreter.run("{", {})
    graph = _program()
    wrong = Graph("bad", graph.inputs, (Node("neg", (7,), {}, (TensorType((), F32),)),), (Output("y", 2),))
    with pytest.raises(InvalidProgramError, match="reads a value that is not defined before it"):
        interpreter.run(wrong, _inputs())


def test_no_warnings_on_wild_values(recwarn: pytest.WarningsRecorder) -> None:
    x = np.array([3e38, math.inf, math.nan, 0.0], np.float32)
    for op in ("add", "sub", "mul", "div", "maximum"):
        naive.apply(op, x, x)
    naive.apply("mul", np.array(2**31 - 1, np.int32), np.array(3, np.int32))
    naive.apply("matmul", x.reshape(1, 4), x.reshape(4, 1))
    assert not list(recwarn)


def test_tvm_and_frameworks_are_not_imported() -> None:
    code = "import sys, gensyn_tvm.interpreter; print([m for m in ('tvm', 'torch', 'onnx') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
