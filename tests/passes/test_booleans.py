"""Booleans between the stages of a kernel."""

from __future__ import annotations

import numpy as np

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile, phases


def _graph() -> Graph:
    """A condition that is too long to be repeated in the selection that uses it."""
    b = GraphBuilder("booleans")
    x, y = (b.add_input(n, "input", TensorType((6,), "float64")) for n in "xy")
    quotient = b.emit("div", x, y)
    whole = b.emit("where", b.emit("less", quotient, y), b.emit("ceil", quotient), b.emit("floor", quotient))
    rest = b.emit("abs", b.emit("sub", x, b.emit("mul", whole, y)))
    size = b.emit("abs", y)
    b.add_output("z", b.emit("where", b.emit("less", rest, size), rest, b.emit("sub", rest, size)))
    return b.finish()


def test_kept_as_bytes() -> None:
    graph = _graph()
    assert 'sblock_alloc_buffer((T.int64(6),), "bool")' not in phases(graph)["lower"]
    rng = np.random.default_rng(5)
    inputs = {n: rng.standard_normal(6) * 4 for n in "xy"}
    assert compile(graph)(**inputs).tobytes() == interpreter.run(graph, inputs)[0].tobytes()
