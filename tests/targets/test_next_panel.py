"""Requests for the next panel while one is in use: where they are made, and that they change no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.runtime.executable import State, as_array

from ..operators.support import CONFIGURATIONS, LEVELS, assert_all_same
from .test_prefetch import product, requests

pytestmark = pytest.mark.skipif(not LEVELS, reason="no vectors")


def convolutions(size: int, channels: int) -> Graph:
    """Two in blocks of channels, with parameters."""
    b = GraphBuilder("convolutions")
    y = b.add_input("x", "input", TensorType((1, 32, size, size), "float32"))
    weights = [
        b.add_input(f"w{k}", "parameter", TensorType((channels, c, 3, 3), "float32")) for k, c in ((0, 32), (1, channels))
    ]
    for w in weights:
        y = b.emit("conv", y, w, strides=(1, 1), padding=((1, 1), (1, 1)), dilations=(1, 1), groups=1)
    b.add_output("y", y)
    return b.finish()


@pytest.mark.parametrize(
    ("rows", "terms", "columns", "asked"),
    (
        (128, 768, 768, True),
        (100, 768, 1000, True),  # neither rows nor columns in whole tiles
        (128, 768, 48, False),  # a panel or two
        (128, 64, 200, False),  # stays in a cache
    ),
)
def test_the_next_panel_is_asked_for(rows: int, terms: int, columns: int, asked: bool) -> None:
    assert bool(requests(product(rows, terms, columns))) == asked


@pytest.mark.parametrize(("size", "asked"), ((7, True), (28, False)))
def test_weights_are_asked_for_if_they_are_not_read_too_often(size: int, asked: bool) -> None:
    assert bool(requests(convolutions(size, 96))) == asked


@pytest.mark.parametrize(("rows", "columns"), ((100, 200), (50, 160)))
def test_requests_change_no_bit(rows: int, columns: int) -> None:
    """Also in the last panel, beyond which nothing lies, and with terms in no whole groups."""
    terms = 803
    graph = product(rows, terms, columns)
    assert requests(graph)
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((rows, 1, terms), np.float32), rng.standard_normal((terms, columns), np.float32)
    w[-1, -4:] = [np.inf, -0.0, 1e-45, np.nan]
    expected: list[np.ndarray] = []
    for configuration in (CONFIGURATIONS[-1], *(c for c in CONFIGURATIONS if c.style == "fast")):
        exe = compile(Source(graph, State({"w": w})), configuration.target, schedule=configuration.style)
        for threads in configuration.threads:
            found = [as_array(replace(exe, threads=threads)(x))]
            expected = expected or found
            assert_all_same([str(configuration)], found, expected)
