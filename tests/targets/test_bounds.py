"""``maximum`` and ``minimum`` with a constant, which take fewer instructions: bits for every kind of bound."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType

from ..operators.support import CONFIGURATIONS, assert_all_same, outputs

VALUES = [0.0, -0.0, 6.0, -1.5, 1e-45, -1e-45, 3.4028235e38, np.inf, -np.inf, np.nan, 1.0, -1.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bound", VALUES)
def test_bounds(bound: float, dtype: str) -> None:
    x = np.array(VALUES * 3, dtype)
    data = base64.b64encode(np.array(bound, dtype).tobytes()).decode()
    b = GraphBuilder("bounds")
    value, constant = (
        b.add_input("x", "input", TensorType(x.shape, dtype)),
        b.emit("constant", dtype=dtype, shape=(), data=data),
    )
    for op in ("maximum", "minimum"):
        b.add_output(op, b.emit(op, value, constant))
        b.add_output(f"{op} exchanged", b.emit(op, constant, value))
    graph = b.finish()
    expected = list(interpreter.run(graph, {"x": x}))
    for c in CONFIGURATIONS:
        for arrays in outputs(graph, {"x": x}, c).values():
            assert_all_same([f"{c} {o.name}" for o in graph.outputs], arrays, expected)
