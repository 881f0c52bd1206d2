"""Requests for what a tile stores and adds: where they are made, and that they change no bit."""

from __future__ import annotations

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType

from ..operators.support import CONFIGURATIONS, LEVELS, assert_all_same, outputs
from .test_prefetch import requested

pytestmark = pytest.mark.skipif(not LEVELS, reason="no vectors")


def residual(rows: int, terms: int, columns: int) -> Graph:
    """y = r + x w"""
    b = GraphBuilder("residual")
    shapes = {"x": (rows, terms), "w": (terms, columns), "r": (rows, columns)}
    x, w, r = (b.add_input(n, "input", TensorType(s, "float32")) for n, s in shapes.items())
    b.add_output("y", b.emit("add", r, b.emit("matmul", x, w)))
    return b.finish()


def requests(graph: Graph) -> tuple[int, int]:
    """Prefetches for writing and for reading in all kernels."""
    lines = requested(graph)
    return sum(", 1, 3, 1)" in s for s in lines), sum(", 0, 3, 1)" in s for s in lines)


@pytest.mark.parametrize(("rows", "asked"), ((1024, True), (200, False)))
def test_large_results_are_asked_for(rows: int, asked: bool) -> None:
    writes, reads = requests(residual(rows, 200, 768))
    assert bool(writes) == bool(reads) == asked


@pytest.mark.parametrize(("rows", "terms", "columns"), ((1030, 70, 272), (530, 600, 560)))
def test_requests_change_no_bit(rows: int, terms: int, columns: int) -> None:
    """Also near the end of the result, beyond which nothing lies."""
    graph = residual(rows, terms, columns)
    rng = np.random.default_rng(2)
    given = {i.name: rng.standard_normal(i.type.shape, np.float32) for i in graph.inputs}
    given["r"][-1, -4:] = [np.inf, -0.0, 1e-45, np.nan]
    expected = interpreter.run(graph, given)
    for configuration in (c for c in CONFIGURATIONS if c.style == "fast"):
        for found in outputs(graph, given, configuration).values():
            assert_all_same([str(configuration)], found, expected)
