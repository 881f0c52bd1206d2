"""What lifting adds and keeps: canonical NaNs at the outputs, constants by their bits."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.lift import ENTRY, lift

from ..operators.support import CONFIGURATIONS, Configuration, assert_all_same, outputs, raw_bits

NANS32 = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFF812345, 0x7F800000, 0x80000000], np.uint32)
NANS64 = np.array(
    [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x7FF0000000000000], np.uint64
)


def constant(b: GraphBuilder, array: np.ndarray) -> int:
    data = base64.b64encode(array.tobytes()).decode()
    return b.emit("constant", dtype=array.dtype.name, shape=array.shape, data=data)


CONSTANTS: dict[str, np.ndarray] = {
    "plus zero": np.full((3,), 0.0, np.float32),
    "minus zero": np.full((3,), -0.0, np.float32),
    "plus zero, wide": np.full((3,), 0.0, np.float64),
    "minus zero, wide": np.full((3,), -0.0, np.float64),
    "zeros": np.array([0.0, 0.0, -0.0], np.float32),
    "other zeros": np.array([0.0, -0.0, 0.0], np.float32),
    "all zeros of one sign but one": np.array([-0.0, 0.0, 0.0], np.float32),
    "smallest": np.full((3,), 1, np.uint32).view(np.float32),
    "smallest negative": np.full((3,), 0x80000001, np.uint32).view(np.float32),
    "third": np.full((2, 2), 1 / 3, np.float32),
    "third, wide": np.full((2, 2), 1 / 3, np.float64),
    "infinite": np.full((2,), -np.inf, np.float32),
    "NaN with a payload": np.full((3,), 0x7F812345, np.uint32).view(np.float32),
    "NaNs": NANS32.view(np.float32),
    "smallest, wide": np.full((2,), 5e-324),
    "largest integer": np.full((2,), 2**63 - 1, np.int64),
    "smallest integer": np.full((2,), -(2**63), np.int64),
    "integers": np.array([-(2**63), 2**63 - 1, -1], np.int64),
    "unsigned": np.full((2,), 2**32 - 1, np.uint32),
    "bytes": np.array([0, 255, 7], np.uint8),
    "truth": np.array([True, False], np.bool_),
    "scalar": np.array(-0.0, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_constants_keep_their_bits(configuration: Configuration) -> None:
    """Alone, where an output's NaNs become canonical, and through an operator that shows the sign of a zero."""
    b = GraphBuilder("constants")
    for name, array in CONSTANTS.items():
        value = constant(b, array)
        b.add_output(name, value)
        if array.dtype == np.float32:
            b.add_output(f"1 / {name}", b.emit("div", constant(b, np.float32(1.0)), value))
            b.add_output(f"{name} + -0", b.emit("add", value, constant(b, np.float32(-0.0))))
            b.add_output(f"{name} + 0", b.emit("add", value, constant(b, np.float32(0.0))))
    graph = b.finish()
    expected = interpreter.run(graph, {})
    names = [o.name for o in graph.outputs]
    for found in outputs(graph, {}, configuration).values():
        assert_all_same(names, found, expected)
        for name, array in zip(names, found, strict=True):
            if name in CONSTANTS and "NaN" not in name:
                assert array.tobytes() == CONSTANTS[name].tobytes(), name


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_no_payload_leaves_a_program(configuration: Configuration) -> None:
    b = GraphBuilder("payloads")
    given: dict[str, np.ndarray] = {
        "x": NANS32.view(np.float32),
        "d": NANS64.view(np.float64),
        "i": np.arange(3, dtype=np.int64),
    }
    x, d, i = (b.add_input(n, "input", TensorType(a.shape, a.dtype.name)) for n, a in given.items())
    values = {
        "itself": x,
        "wide": d,
        "integers": i,
        "negated": b.emit("neg", x),
        "magnitude": b.emit("abs", x),
        "moved": b.emit("transpose", b.emit("reshape", x, shape=(7, 1)), perm=(1, 0)),
        "widened": b.emit("cast", x, dtype="float64"),
        "narrowed": b.emit("cast", d, dtype="float32"),
        "larger": b.emit("maximum", x, b.emit("neg", x)),
        "total": b.emit("sum", x, axes=(0,), keepdims=False),
        "root": b.emit("sqrt", b.emit("neg", x)),
        "chosen": b.emit("where", b.emit("is_nan", x), x, b.emit("neg", x)),
    }
    for name, value in values.items():
        b.add_output(name, value)
    graph = b.finish()
    for found in outputs(graph, given, configuration).values():
        assert_all_same(list(values), found, interpreter.run(graph, given))
        for array in found:
            if array.dtype.kind == "f":
                quiet = {4: 0x7FC00000, 8: 0x7FF8000000000000}[array.dtype.itemsize]
                assert set(raw_bits(array)[np.isnan(array)].reshape(-1).tolist()) <= {quiet}


def test_lifted_module_has_one_call_for_each_node_and_float_output() -> None:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((3,), "float32"))
    b.source = "model.act"
    y = b.emit("tanh", x)
    b.add_output("y", y)
    b.add_output("is", b.emit("is_nan", y))
    text = lift(b.finish()).script(show_meta=False)
    assert text.count("gensyn.canonical.") == 3
    assert text.count("gensyn.canonical.canonical_nan") == 1
    assert f"def {ENTRY}(" in text
    assert "model.act" in text
