"""Operators with large bodies, one inside of another: compiled in seconds, and the same bits.

TVM's code generator substitutes what bodies bind; without a limit on inlining softplus once compiled forever.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile

from .case import array
from .support import NATIVE

Chain = Callable[[GraphBuilder, int, int], int]


def softplus(b: GraphBuilder, x: int, y: int) -> int:
    return b.emit("log", b.emit("add", b.emit("exp", b.emit("neg", b.emit("abs", x))), b.emit("exp", y)))


def mish(b: GraphBuilder, x: int, y: int) -> int:
    return b.emit("mul", x, b.emit("tanh", b.emit("log1p", b.emit("exp", x))))


def mixed(b: GraphBuilder, x: int, y: int) -> int:
    for _ in range(4):
        x = b.emit("maximum", b.emit("floor", b.emit("mul", x, y)), b.emit("abs", x))
    return x


def repeated(op: str, times: int) -> Chain:
    def chain(b: GraphBuilder, x: int, y: int) -> int:
        for _ in range(times):
            x = b.emit(op, x, y) if op in ("maximum", "mul", "add") else b.emit(op, x)
        return x

    return chain


CHAINS: dict[str, tuple[Chain, str]] = {
    "softplus": (softplus, "float32"),
    "mish": (mish, "float32"),
    "mixed": (mixed, "float32"),
    "floor": (repeated("floor", 8), "float32"),
    "maximum": (repeated("maximum", 8), "float32"),
    "exp": (repeated("exp", 4), "float32"),
    "wrapping products": (repeated("mul", 5), "int64"),
}


@pytest.mark.parametrize("schedule", ("fast", "plain"))
@pytest.mark.parametrize("name", sorted(CHAINS))
def test_chains(name: str, schedule: str) -> None:
    chain, dtype = CHAINS[name]
    t = TensorType((97,), dtype)
    b = GraphBuilder(name)
    x, y = (b.add_input(n, "input", t) for n in "xy")
    b.add_output("result", chain(b, x, y))
    graph = b.finish()
    rng = np.random.default_rng(5)
    given = {n: array(t, rng, special=True) for n in "xy"}
    (found,) = compile(graph, NATIVE, schedule=schedule).run(given, {})
    (expected,) = interpreter.run(graph, given)
    assert found.numpy().tobytes() == expected.tobytes()
