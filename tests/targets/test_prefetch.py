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
from gensyn_tvm.targets.cpu import TARGETS, CpuTarget
from gensyn_tvm.targets.indices import before_flattening

from ..operators.support import CONFIGURATIONS, LEVELS, NATIVE, assert_all_same

pytestmark = pytest.mark.skipif(not LEVELS, reason="no vectors")


def product(rows: int, terms: int, columns: int, role: str = "parameter") -> Graph:
    """x (rows, 1, terms) times a parameter, which is packed, or an input, which is not."""
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((rows, 1, terms), "float32"))
    w = b.add_input("w", role, TensorType((terms, columns), "float32"))
    b.add_output("product", b.emit("matmul", x, w))
    return b.finish()


def requested(graph: Graph, target: CpuTarget = TARGETS[NATIVE]) -> list[str]:
    """The lines with prefetches in the text of all kernels."""
    modules: list[Any] = []
    run_phases(graph, target, "fast", lambda phase, m: modules.append(m) if phase == "schedule" else None)
    texts = [f.script() for _, f in kernels(before_flattening()(modules[0]))]
    return [line for text in texts for line in text.splitlines() if "prefetch(" in line]


def requests(graph: Graph) -> int:
    """Prefetches in the text of all kernels."""
    return len(requested(graph))


@pytest.mark.parametrize(
    ("rows", "columns", "asked"),
    (
        (16, 1000, True),
        (1, 1000, False),  # loads start early
        (16, 64, False),  # stays in a cache
    ),
)
def test_panels_that_come_from_memory_are_asked_for(rows: int, columns: int, asked: bool) -> None:
    assert bool(requests(product(rows, 768, columns))) == asked


@pytest.mark.parametrize(
    ("columns", "asked"),
    (
        (1024, True),
        (768, False),  # the next row lies in the same page
    ),
)
def test_rows_of_a_matrix_in_place_that_lie_in_other_pages_are_asked_for(columns: int, asked: bool) -> None:
    assert bool(requests(product(8, 1000, columns, "input"))) == asked


@pytest.mark.parametrize(("columns", "role"), ((1000, "parameter"), (1024, "input")))
def test_requests_change_no_bit(columns: int, role: str) -> None:
    """Also near the end of the last panel or row, beyond which nothing lies."""
    graph = product(12, 600, columns, role)
    assert requests(graph)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((12, 1, 600), np.float32), rng.standard_normal((600, columns), np.float32)
    w[-1, -4:] = [np.inf, -0.0, 1e-45, np.nan]
    expected: list[np.ndarray] = []
    for configuration in (CONFIGURATIONS[-1], *(c for c in CONFIGURATIONS if c.style == "fast")):
        state, inputs = ({"w": w}, (x,)) if role == "parameter" else ({}, (x, w))
        exe = compile(Source(graph, State(state)), configuration.target, schedule=configuration.style)
        for threads in configuration.threads:
            found = [as_array(replace(exe, threads=threads)(*inputs))]
            expected = expected or found
            assert_all_same([str(configuration)], found, expected)
