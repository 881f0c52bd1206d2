"""Requests for the next panel while one is in use: where they are made, and that they change no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.runtime.executable import State, as_array
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.support import CONFIGURATIONS, LEVELS, NATIVE, assert_all_same
from .test_prefetch import product, requested, requests

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


@pytest.mark.parametrize("ways", (8, 12))
def test_near_terms_are_asked_for_where_the_first_cache_has_many_ways(ways: int) -> None:
    """The next terms of a panel that the second-level cache holds, which each pass reads again."""
    target = replace(TARGETS[NATIVE], ways=ways)
    near = [line for line in requested(product(256, 520, 240), target) if ", 0, 3, 1)" in line]
    assert bool(near) == (ways == 12 and target.lanes() == 16)


@pytest.mark.parametrize("rows", (100, 256))
def test_the_ways_of_a_cache_change_no_bit(rows: int) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((rows, 1, 520), np.float32), rng.standard_normal((520, 240), np.float32)
    found = [
        as_array(compile(Source(product(rows, 520, 240), State({"w": w})), replace(TARGETS[NATIVE], ways=ways), threads=1)(x))
        for ways in (8, 12)
    ]
    assert_all_same(["8 or 12"], [found[0]], [found[1]])
