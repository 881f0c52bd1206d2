"""Requests for panels ahead of their turn: where they are made, and that they change no bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.runtime.executable import State, as_array
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.indices import before_flattening

from ..operators.support import CONFIGURATIONS, LEVELS, NATIVE, assert_all_same

pytestmark = pytest.mark.skipif(not LEVELS, reason="no vectors")


def product(rows: int, terms: int, columns: int) -> Graph:
    """x (rows, 1, terms) times a parameter."""
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((rows, 1, terms), "float32"))
    w = b.add_input("w", "parameter", TensorType((terms, columns), "float32"))
    b.add_output("product", b.emit("matmul", x, w))
    return b.finish()


def requests(graph: Graph) -> int:
    """Prefetches in the text of all kernels."""
    modules: list[Any] = []
    run_phases(graph, TARGETS[NATIVE], "fast", lambda phase, m: modules.append(m) if phase == "schedule" else None)
    return sum(f.script().count("prefetch(") for _, f in kernels(before_flattening()(modules[0])))


@pytest.mark.parametrize(
    ("rows", "columns", "asked"),
    (
        (16, 1000, True),
        (1, 1000, False),  # loads start early
        (16, 64, False),  # stays in a cache
        (128, 1000, False),  # each panel is read many times
    ),
)
def test_panels_that_come_from_memory_are_asked_for(rows: int, columns: int, asked: bool) -> None:
    assert bool(requests(product(rows, 768, columns))) == asked


def test_requests_change_no_bit() -> None:
    """Also near the end of the last panel, beyond which nothing lies."""
    graph = product(12, 600, 1000)
    assert requests(graph)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((12, 1, 600), np.float32), rng.standard_normal((600, 1000), np.float32)
    w[-1, -4:] = [np.inf, -0.0, 1e-45, np.nan]
    expected: list[np.ndarray] = []
    for configuration in (CONFIGURATIONS[-1], *(c for c in CONFIGURATIONS if c.style == "fast")):
        exe = compile(Source(graph, State({"w": w})), configuration.target, schedule=configuration.style)
        for threads in configuration.threads:
            found = [as_array(replace(exe, threads=threads)(x))]
            expected = expected or found
            assert_all_same([str(configuration)], found, expected)
