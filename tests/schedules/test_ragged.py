"""Vectors along rows that no vector divides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import tirx

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import resolve_target

from ..operators.support import CONFIGURATIONS, NATIVE, assert_all_same, outputs


def product(rows: int, terms: int, columns: int) -> Graph:
    """x w + b."""
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((rows, terms), "float32"))
    w = b.add_input("w", "input", TensorType((terms, columns), "float32"))
    bias = b.add_input("b", "input", TensorType((columns,), "float32"))
    b.add_output("y", b.emit("add", b.emit("matmul", x, w), b.emit("broadcast_to", bias, shape=(rows, columns))))
    return b.finish()


def innermost_loops(graph: Graph, level: str) -> list[tuple[bool, int]]:
    """Of each loop right around a statement that stores the output: whether it is a vector, and its extent."""
    found: list[tuple[bool, int]] = []

    def see(phase: str, module: Any) -> None:
        if phase != "schedule":
            return
        (function,) = (f for name, f in kernels(module) if "matmul" in name.name_hint)

        def visit(loop: Any) -> None:
            store = getattr(getattr(loop.body, "block", None), "body", None)
            if isinstance(store, tirx.BufferStore) and store.buffer.same_as(function.params[-1]):
                found.append((int(loop.kind) == tirx.ForKind.VECTORIZED, int(loop.extent)))

        tvm_ffi.structural_walk(function.body, (tirx.For, visit))

    run_phases(graph, resolve_target(level), "fast", see)
    return found


@pytest.mark.parametrize(("columns", "pieces"), [(129, [16]), (197, [16, 4]), (132, [16, 4]), (77, [16, 8, 4])])
def test_rows_are_stored_in_vectors(columns: int, pieces: list[int]) -> None:
    loops = innermost_loops(product(31, 40, columns), "x86-64-v4")
    assert [extent for vector, extent in loops if vector] == pieces
    assert not [extent for vector, extent in loops if not vector and extent >= 16]


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
@pytest.mark.parametrize("columns", [77, 129, 132, 197])
def test_ragged_rows_have_the_bits_of_the_interpreter(columns: int) -> None:
    graph = product(31, 40, columns)
    rng = np.random.default_rng(columns)
    given = {i.name: rng.standard_normal(i.type.shape, np.float32) for i in graph.inputs}
    given["x"].reshape(-1)[[3, 70, 300]] = [1e-42, np.inf, -0.0]
    given["b"][[0, -1]] = [np.nan, -0.0]
    expected = interpreter.run(graph, given)
    for configuration in CONFIGURATIONS:
        for threads, arrays in outputs(graph, given, configuration).items():
            assert_all_same([f"{configuration}, {threads} threads"], arrays, expected)
