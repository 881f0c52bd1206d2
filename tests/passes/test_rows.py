"""Row fusion: what goes through the same rows is one kernel, what does not stays apart, and no bit changes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.case import array
from ..operators.support import LEVELS, Configuration, assert_all_same, outputs

F = "float32"


def scalar(b: GraphBuilder, value: float) -> int:
    return b.emit("constant", dtype=F, shape=(), data=base64.b64encode(np.float32(value).tobytes()).decode())


def reduce(b: GraphBuilder, op: str, x: int, *axes: int) -> int:
    return b.emit(op, x, axes=axes, keepdims=True)


def softmax(shape: tuple[int, ...], axis: int) -> Graph:
    """Scaled and masked before, as in attention."""
    b = GraphBuilder("softmax")
    x = b.add_input("x", "input", TensorType(shape, F))
    mask = b.add_input("mask", "input", TensorType(shape[1:], "bool"))
    z = b.emit("where", mask, b.emit("mul", x, scalar(b, 0.125)), scalar(b, -1e30))
    e = b.emit("exp", b.emit("sub", z, reduce(b, "reduce_max", z, axis)))
    b.add_output("y", b.emit("div", e, reduce(b, "sum", e, axis)))
    return b.finish()


def norm(shape: tuple[int, ...], *axes: int) -> Graph:
    """Normalised over axes; the statistics leave the kernel, too."""
    b = GraphBuilder("norm")
    x = b.add_input("x", "input", TensorType(shape, F))
    kept = tuple(1 if k in axes else e for k, e in enumerate(shape))
    gamma = b.add_input("gamma", "input", TensorType(kept, F))
    count = scalar(b, float(np.prod([shape[k] for k in axes])))
    mean = b.emit("div", reduce(b, "sum", x, *axes), count)
    centred = b.emit("sub", x, mean)
    variance = b.emit("div", reduce(b, "sum", b.emit("mul", centred, centred), *axes), count)
    normal = b.emit("div", centred, b.emit("sqrt", b.emit("add", variance, scalar(b, 1e-5))))
    b.add_output("y", b.emit("mul", normal, gamma))
    b.add_output("mean", mean)
    return b.finish()


def moments(shape: tuple[int, ...]) -> Graph:
    """The update of Adam."""
    b = GraphBuilder("moments")
    p, g, m, v = (b.add_input(n, "input", TensorType(shape, F)) for n in "pgmv")
    first = b.emit("add", b.emit("mul", m, scalar(b, 0.9)), b.emit("mul", g, scalar(b, 0.1)))
    second = b.emit("add", b.emit("mul", v, scalar(b, 0.999)), b.emit("mul", b.emit("mul", g, g), scalar(b, 0.001)))
    step = b.emit("div", first, b.emit("add", b.emit("sqrt", second), scalar(b, 1e-8)))
    b.add_output("p'", b.emit("sub", p, b.emit("mul", step, scalar(b, 1e-3))))
    b.add_output("m'", first)
    b.add_output("v'", second)
    return b.finish()


ONE_KERNEL = {
    "softmax": lambda: softmax((12, 16, 67), 2),
    "softmax over channels": lambda: softmax((9, 21, 70), 1),
    "layer norm": lambda: norm((33, 129), 1),
    "batch norm": lambda: norm((8, 12, 5, 7), 0, 2, 3),
    "columns": lambda: norm((37, 67), 0),
    "optimizer": lambda: moments((123, 45)),
}


def fused(graph: Graph) -> list[Any]:
    seen: list[Any] = []
    run_phases(graph, TARGETS["x86-64"], "fast", lambda phase, m: seen.append(m) if phase == "fuse" else None)
    return kernels(seen[0])


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_is_one_kernel_with_the_same_bits(name: str) -> None:
    graph = ONE_KERNEL[name]()
    assert len(fused(graph)) == 1
    rng = np.random.default_rng(3)
    given = {i.name: array(i.type, rng, special=True) for i in graph.inputs}
    expected = interpreter.run(graph, given)
    names = [o.name for o in graph.outputs]
    for level in LEVELS[-2:]:
        for found in outputs(graph, given, Configuration(level, "fast", (1, 2))).values():
            assert_all_same(names, found, expected)


def test_rows_and_columns_stay_apart() -> None:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((300, 400), F))
    y = b.emit("sub", x, reduce(b, "sum", x, 1))
    b.add_output("y", b.emit("sub", y, reduce(b, "sum", y, 0)))
    assert len(fused(b.finish())) == 2


def test_what_is_needed_in_between_is_not_held_back() -> None:
    """The product reads the first kernel and the last reads the product: they cannot be one."""
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((64, 64), F))
    e = b.emit("exp", x)
    p = b.emit("matmul", e, e)
    s = reduce(b, "sum", p, 1)
    b.add_output("y", b.emit("div", e, s))
    names = [gv.name_hint for gv, _ in fused(b.finish())]
    assert not any("exp" in n and "div" in n for n in names)
