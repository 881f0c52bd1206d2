"""Reshapes and slices as views of memory."""

from __future__ import annotations

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.passes.views import ALONE, VIEW, keep_views, part_offset
from gensyn_tvm.runtime.plan import Plan
from gensyn_tvm.targets.cpu import resolve_target

from ..operators.support import CONFIGURATIONS, NATIVE, assert_all_same, outputs


def grouped(shape: tuple[int, ...], new: tuple[int, ...]) -> Graph:
    """The sum over the last axis of -x, reshaped, and what is left of it there."""
    b = GraphBuilder("grouped")
    x = b.add_input("x", "input", TensorType(shape, "float32"))
    y = b.emit("reshape", b.emit("neg", x), shape=new)
    total = b.emit("sum", y, axes=(len(new) - 1,), keepdims=True)
    b.add_output("y", b.emit("sub", y, total))
    return b.finish()


@pytest.mark.parametrize(
    ("shape", "new", "alone"),
    [
        ((4, 8, 7, 9), (4, 2, 252), True),
        ((4, 8, 7, 9), (32, 7, 9), False),
        ((6, 10), (6, 10, 1), False),
        ((60,), (6, 10), True),
    ],
)
def test_a_reshape_that_cuts_lines_anew_for_a_reduction_stays_alone(
    shape: tuple[int, ...], new: tuple[int, ...], alone: bool
) -> None:
    module = legalise(lift(keep_views(grouped(shape, new))))
    (kernel,) = [f for _, f in module.functions_items() if VIEW in dict(f.attrs or {})]
    assert (dict(kernel.attrs)[VIEW] == ALONE) is alone


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
def test_views_do_not_change_bits() -> None:
    graph = grouped((4, 8, 7, 9), (4, 2, 252))
    x = np.random.default_rng(1).standard_normal((4, 8, 7, 9), np.float32)
    x.reshape(-1)[[3, 500, 900]] = [1e-42, np.inf, -0.0]
    found = [(str(c), o) for c in CONFIGURATIONS for o in outputs(graph, {"x": x}, c).values()]
    for name, arrays in found[1:]:
        assert_all_same([name], arrays, found[0][1])


@pytest.mark.parametrize(
    ("whole", "part", "starts", "strides", "offset"),
    [
        ((512, 1024), (16, 1024), (16, 0), (1, 1), 65536),
        ((4, 8, 16), (1, 2, 16), (1, 3, 0), (1, 1, 1), 704),
        ((4, 8, 16), (1, 1, 16), (3, 7, 0), (1, 2, 1), 1984),  # a stride of one element is none
        ((64,), (32,), (32,), (1,), 128),
        ((4, 8, 16), (2, 2, 16), (1, 3, 0), (1, 1, 1), None),  # gaps
        ((64,), (32,), (0,), (2,), None),
        ((64,), (32,), (1,), (1,), None),  # not aligned
        ((4, 16), (4, 16), (0, 0), (1, 1), None),  # the whole
        ((4, 16), (0, 16), (4, 0), (1, 1), None),  # nothing
    ],
)
def test_slices_without_gaps(
    whole: tuple[int, ...], part: tuple[int, ...], starts: tuple[int, ...], strides: tuple[int, ...], offset: int | None
) -> None:
    types = (TensorType(whole, "float32"), TensorType(part, "float32"))
    assert part_offset(*types, {"starts": starts, "strides": strides}) == offset


def sliced(shown: str) -> Graph:
    """Products with parts of -x, of an input and of a constant; and as outputs a part of an inner array or of an input."""
    b = GraphBuilder("sliced")
    types = {"x": TensorType((6, 4, 16), "float32"), "w": TensorType((16, 16), "float32"), "z": TensorType((8, 16), "float32")}
    x, w, z = (b.add_input(name, "input", t) for name, t in types.items())
    y = b.emit("cumsum", x, axis=1, exclusive=False, reverse=False)

    def part(value: int, k: int) -> int:
        return b.emit("slice", value, starts=(k, 0, 0), limits=(k + 1, 4, 16), strides=(1, 1, 1))

    for k in (1, 5):
        rows = b.emit("reshape", part(y, k), shape=(4, 16))
        b.add_output(f"product {k}", b.emit("matmul", rows, w))
    b.add_output("of input", b.emit("matmul", b.emit("slice", z, starts=(4, 0), limits=(8, 16), strides=(1, 1)), w))
    if shown == "inner":
        b.add_output("part", part(y, 2))
        b.add_output("reshaped", b.emit("reshape", part(y, 3), shape=(64,)))
    else:
        b.add_output("part", part(x, 2))
    return b.finish()


def plan_of(graph: Graph) -> Plan:
    return run_phases(graph, resolve_target("x86-64-v3"), "fast").plan


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
@pytest.mark.parametrize("shown", ["inner", "input"])
def test_parts_are_read_where_they_are(shown: str) -> None:
    graph = sliced(shown)
    rng = np.random.default_rng(2)
    given = {i.name: rng.standard_normal(i.type.shape, np.float32) for i in graph.inputs}
    given["x"].reshape(-1)[[3, 70, 300]] = [1e-42, np.inf, -0.0]
    found = [(str(c), o) for c in CONFIGURATIONS for o in outputs(graph, given, c).values()]
    expected = interpreter.run(graph, given)
    for name, arrays in found:
        assert_all_same([f"{name} {o.name}" for o in graph.outputs], arrays, expected)
    plan = plan_of(graph)
    assert sum(s.kernel.startswith("slice") for s in plan.steps) <= 2, "only what the caller gets is copied"
    assert any(a.offset == 256 and a.slot == 2 for s in plan.steps for a in s.arguments), "of the input z from its row 4 on"


def test_the_steps_of_a_recurrent_layer_are_not_part_of_their_concatenation() -> None:
    b = GraphBuilder("steps")
    x = b.add_input("x", "input", TensorType((4, 64), "float32"))
    steps = [x]
    for _ in range(6):
        steps.append(b.emit("tanh", steps[-1]))
    b.add_output("y", b.emit("concat", *(b.emit("reshape", s, shape=(1, 4, 64)) for s in steps[1:]), axis=0))
    kernels = [s.kernel for s in plan_of(b.finish()).steps]
    assert "concat" in kernels[-1]
    assert not any("tanh" in k and "concat" in k for k in kernels)
