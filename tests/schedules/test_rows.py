"""Kernels without products: loops over rows and tiles, vectors of any length, reductions along and across memory."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import phases
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.schedules.cpu.stages import Stage, common_axes, stages_of
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.case import array
from ..operators.support import LEVELS, Configuration, assert_all_same, outputs

ODD = (1, 2, 3, 7, 17, 31, 65, 1023)


def reduced(op: str, shape: tuple[int, ...], axes: tuple[int, ...], dtype: str = "float32") -> Graph:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType(shape, dtype))
    b.add_output("y", b.emit(op, x, axes=axes, keepdims=False))
    return b.finish()


def agrees(graph: Graph) -> None:
    """Special values, subnormals, NaN and both zeros among the inputs."""
    rng = np.random.default_rng(7)
    given = {i.name: array(i.type, rng, special=True) for i in graph.inputs}
    expected = interpreter.run(graph, given)
    for level in LEVELS:
        for found in outputs(graph, given, Configuration(level, "fast", (1, 2))).values():
            assert_all_same([f"{o.name} on {level}" for o in graph.outputs], found, expected)


@pytest.mark.parametrize("op", ("sum", "reduce_max", "reduce_min", "argmax"))
@pytest.mark.parametrize(("shape", "axes"), [((9, 197), (1,)), ((197, 9), (0,)), ((67, 131), (0,)), ((3, 1100), (1,))])
def test_reductions_along_and_across_memory(op: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    agrees(reduced(op, shape, axes))


@pytest.mark.parametrize("op", ("sum", "reduce_max"))
def test_reductions_of_pieces_of_memory(op: str) -> None:
    agrees(reduced(op, (3, 5, 7, 9), (0, 2, 3)))


@pytest.mark.parametrize("op", ("reduce_max", "argmin"))
def test_extrema_of_long_vectors_are_cut_into_blocks(op: str) -> None:
    agrees(reduced(op, (70001,), (0,)))
    text = phases(reduced(op, (70001,), (0,)), "x86-64-v3")["schedule"]
    assert "T.parallel(" in text


def test_elementwise_kernels_of_every_length() -> None:
    b = GraphBuilder("program")
    lines = {n: b.add_input(f"x{n}", "input", TensorType((n,), "float32")) for n in ODD}
    tables = {n: b.add_input(f"table{n}", "input", TensorType((5, n), "float32")) for n in ODD}
    for n in ODD:
        b.add_output(f"y{n}", b.emit("exp", lines[n]))
        b.add_output(f"z{n}", b.emit("add", tables[n], lines[n]))
    agrees(b.finish())


@pytest.mark.parametrize(("op", "lanes"), [("sqrt", [4, 8, 16]), ("exp", [4, 8, 16, 32])])
def test_what_is_left_over_takes_narrower_vectors(op: str, lanes: list[int]) -> None:
    """Elementary functions are calculated two vectors side by side."""
    b = GraphBuilder("program")
    b.add_output("y", b.emit(op, b.add_input("x", "input", TensorType((1021,), "float32"))))
    text = phases(b.finish(), "x86-64-v4")["schedule"]
    assert sorted(int(n) for n in re.findall(r"vectorized\(T\.int64\((\d+)\)\)", text)) == lanes


def stages(graph: Graph, style: str = "none") -> list[list[Stage]]:
    seen = []
    run_phases(graph, TARGETS["x86-64"], style, lambda phase, m: seen.append(m) if phase == "legalise" else None)
    return [found for _, f in kernels(seen[0]) if (found := stages_of(f))]


def test_rows_are_common_to_the_stages_of_a_sum() -> None:
    by_roles = {tuple(s.role for s in found): found for found in stages(reduced("sum", (9, 197), (1,)))}
    found = by_roles["lanes", "rest", "tree"]
    assert [axis.extent for axis in common_axes(found)] == [9]


def test_a_full_reduction_has_no_rows() -> None:
    by_roles = {tuple(s.role for s in found): found for found in stages(reduced("sum", (197,), (0,)))}
    assert common_axes(by_roles["lanes", "rest", "tree"]) == []


@pytest.mark.parametrize(("shape", "perm"), [((301, 77), (1, 0)), ((3, 17, 19, 18), (0, 3, 1, 2)), ((33, 9, 40), (2, 1, 0))])
def test_transposition_in_squares(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType(shape, "float32"))
    b.add_output("y", b.emit("transpose", x, perm=perm))
    graph = b.finish()
    assert "for square" in phases(graph, "x86-64")["schedule"] or "square," in phases(graph, "x86-64")["schedule"]
    agrees(graph)


def test_joined_and_padded_rows_take_vectors_where_no_condition_changes() -> None:
    b = GraphBuilder("program")
    x, y = (b.add_input(n, "input", TensorType((5, e), "float32")) for n, e in (("x", 37), ("y", 50)))
    value = b.add_input("value", "input", TensorType((), "float32"))
    joined = b.emit("concat", x, y, x, axis=1)
    b.add_output("joined", joined)
    b.add_output("padded", b.emit("pad", joined, value, padding=((1, 0), (3, 2))))
    graph = b.finish()
    agrees(graph)
    assert "T.vectorized(T.int64(16))" in phases(graph, "x86-64-v4")["schedule"]


def test_sums_along_columns_go_through_whole_lines() -> None:
    """The lanes of a large array are the inner loop, so that what is read lies side by side."""
    graph = reduced("sum", (1100, 131), (0,))
    agrees(graph)
    text = phases(graph, "x86-64-v3")["schedule"]
    assert re.search(r"in T\.grid\(T\.int64\(32\), T\.int64\(32\)", text)  # terms, then lanes


def softmax(shape: tuple[int, ...]) -> Graph:
    b = GraphBuilder("softmax")
    x = b.add_input("x", "input", TensorType(shape, "float32"))
    axes = (len(shape) - 1,)
    e = b.emit("exp", b.emit("sub", x, b.emit("reduce_max", x, axes=axes, keepdims=True)))
    b.add_output("y", b.emit("div", e, b.emit("sum", e, axes=axes, keepdims=True)))
    return b.finish()


@pytest.mark.parametrize(
    ("shape", "together"), [((96, 33), 8), ((3, 25, 130), 5), ((48, 700), 4), ((3, 23, 40), 1), ((64, 3000), 1)]
)
def test_short_rows_go_through_each_step_together(shape: tuple[int, ...], together: int) -> None:
    graph = softmax(shape)
    agrees(graph)
    text = phases(graph, "x86-64-v4")["schedule"]
    assert re.findall(r"for together.* in range\(T\.int64\((\d+)\)\)", text) == [str(together)] * (3 if together > 1 else 0), (
        text
    )
