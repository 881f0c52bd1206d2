"""Layouts of convolutions and their gradients: the same bits with channels or positions in vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError
from gensyn_tvm.operators.products.image import wide_grid
from gensyn_tvm.passes import layout_convolutions
from gensyn_tvm.passes.layout import choose_layouts
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.support import CONFIGURATIONS, NATIVE, Configuration, assert_all_same, outputs

#: x, w, strides, padding, dilations, groups.
GEOMETRIES: list[tuple[Any, ...]] = [
    ((2, 8, 12, 14), (16, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((1, 3, 30, 30), (20, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    ((2, 64, 7, 7), (32, 64, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 12, 15, 15), (12, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 12),
    ((1, 8, 9, 9), (8, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (2, 2), 2),
    ((1, 8, 33), (12, 8, 5), (3,), ((2, 1),), (1,), 1),
    ((1, 4, 5, 6, 7), (8, 4, 2, 3, 2), (1, 2, 1), ((1, 1), (0, 0), (1, 1)), (1, 1, 1), 1),
    ((1, 8, 10, 10), (8, 8, 1, 1), (3, 3), ((0, 0), (0, 0)), (1, 1), 1),
    ((1, 6, 19, 19), (6, 1, 3, 3), (4, 4), ((0, 2), (1, 0)), (3, 3), 6),
    ((1, 5, 3, 150), (5, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    ((2, 4, 41), (4, 1, 4), (1,), ((3, 0),), (1,), 4),
    ((1, 3, 4, 5, 9), (3, 1, 2, 3, 3), (1, 2, 2), ((0, 1), (1, 1), (1, 1)), (2, 1, 1), 3),
    ((1, 3, 11, 64), (20, 3, 3, 5), (1, 2), ((1, 1), (2, 1)), (1, 1), 1),
    ((2, 6, 4, 50), (10, 3, 3, 3), (2, 1), ((1, 0), (1, 1)), (1, 2), 2),
    ((1, 200, 6, 6), (33, 200, 2, 2), (2, 1), ((0, 0), (1, 1)), (1, 1), 1),
    # Its input gradient has a phase that reads an image without padding, with channels in vectors.
    ((4, 16, 28, 28), (32, 16, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
]
OPERATORS = ("conv", "conv_backward_data", "conv_backward_weight")


def graph_of(op: str, geometry: tuple[Any, ...]) -> tuple[Graph, list[tuple[int, ...]]]:
    x, w, strides, padding, dilations, groups = geometry
    attrs = {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups}
    axes = zip(x[2:], w[2:], strides, dilations, padding, strict=True)
    out = tuple((e + lo + hi - (k - 1) * d - 1) // s + 1 for e, k, s, d, (lo, hi) in axes)
    dy = (x[0], w[0], *out)
    shapes, extra = {
        "conv": ([x, w], {}),
        "conv_backward_data": ([dy, w], {"input_spatial": x[2:]}),
        "conv_backward_weight": ([x, dy], {"kernel": w[2:]}),
    }[op]
    b = GraphBuilder(op)
    values = [b.add_input(f"x{k}", "input", TensorType(s, "float32")) for k, s in enumerate(shapes)]
    b.add_output("y", b.emit(op, *values, **attrs, **extra))
    return b.finish(), shapes


def special(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal values, among them zeros of both signs, subnormals and an infinity."""
    array = rng.standard_normal(shape, np.float32)
    places = rng.integers(0, array.size, 5)
    array.reshape(-1)[places] = [0.0, -0.0, 1e-40, -1e-45, np.inf]
    return array


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_bits_do_not_depend_on_the_layout(op: str, geometry: tuple[Any, ...]) -> None:
    graph, shapes = graph_of(op, geometry)
    rng = np.random.default_rng(0)
    given = {f"x{k}": special(rng, s) for k, s in enumerate(shapes)}
    found = [(str(c), o) for c in CONFIGURATIONS for o in outputs(graph, given, c).values()]
    for name, arrays in found[1:]:
        assert_all_same([name], arrays, found[0][1])


#: x, w, strides, padding: one chunk, a chunk and a part of one, a few chunks; output channels in one panel and in several.
PANELS: list[tuple[Any, ...]] = [
    ((4, 20, 7, 7), (64, 20, 3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 33, 5, 6), (96, 33, 1, 1), (1, 1), ((0, 0), (0, 0))),
    ((3, 9, 17, 40), (32, 9, 3, 2), (1, 2), ((1, 1), (0, 1))),
    ((2, 5, 64, 33), (16, 5, 2, 3), (2, 1), ((0, 0), (1, 1))),
]


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
@pytest.mark.parametrize("geometry", PANELS, ids=str)
def test_weight_gradients_of_few_terms_are_stored_in_panels(geometry: tuple[Any, ...]) -> None:
    graph, shapes = graph_of("conv_backward_weight", (*geometry, (1, 1), 1))
    (node,) = [n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "conv_backward_weight"]
    assert node.types[0].shape == (node.attrs["panels"], math.prod(shapes[0][1:2] + geometry[1][2:]), node.attrs["panel"])
    given = {f"x{k}": special(np.random.default_rng(k), s) for k, s in enumerate(shapes)}
    (found,) = outputs(graph, given, Configuration(NATIVE, "fast")).values()
    assert_all_same(["dw"], found, list(interpreter.run(graph, given)))


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
def test_weight_gradients_of_many_terms_or_odd_channels_are_stored_in_place() -> None:
    for x, w in (((8, 8, 64, 64), (32, 8, 3, 3)), ((1, 8, 7, 7), (37, 8, 1, 1))):
        graph, _ = graph_of("conv_backward_weight", (x, w, (1, 1), ((0, 0), (0, 0)), (1, 1), 1))
        (node,) = [n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "conv_backward_weight"]
        assert node.types[0].shape == w


LAYOUTS = {"conv": ("channels", "positions", "lines", "depthwise"), "conv_backward_data": ("channels", "positions", "lines")}


def asking_for(layout: str) -> Callable[..., Any]:
    """In place of ``parameters_of``: a record that chooses the layout."""
    original = layout_convolutions.parameters_of
    return lambda *arguments: replace(original(*arguments), layout=layout)


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
@pytest.mark.parametrize("op", LAYOUTS)
@pytest.mark.parametrize("seed", range(10))
def test_every_layout_of_random_convolutions_has_the_same_bits(op: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever layout the cost model prefers: each is asked for, where the image allows it."""
    rng = np.random.default_rng(seed)
    rank, groups = int(rng.integers(1, 3)), int(rng.choice([1, 1, 2]))
    window, strides, dilations = (tuple(map(int, rng.integers(1, top, rank))) for top in (5, 4, 3))
    padding = tuple((int(lo), int(hi)) for lo, hi in rng.integers(0, 3, (rank, 2)))
    if rng.random() < 0.5:
        padding = tuple(((k - 1) * d // 2,) * 2 for k, d in zip(window, dilations, strict=True))
    spatial = tuple(int(e) + (k - 1) * d for e, k, d in zip(rng.integers(3, 24, rank), window, dilations, strict=True))
    x, w = (2, 8 * groups, *spatial), (int(rng.integers(1, 20)) * groups, 8, *window)
    graph, shapes = graph_of(op, (x, w, strides, padding, dilations, groups))
    given = {f"x{k}": special(rng, s) for k, s in enumerate(shapes)}
    expected = list(interpreter.run(graph, given))
    tried = []
    for layout in LAYOUTS[op]:
        monkeypatch.setattr(layout_convolutions, "parameters_of", asking_for(layout))
        try:
            choose_layouts(graph, TARGETS[NATIVE])
        except InputError as error:
            assert f"layout {layout}" in str(error)
            continue
        tried.append(layout)
        (found,) = outputs(graph, given, Configuration(NATIVE, "fast")).values()
        assert_all_same([layout], found, expected)
    assert "channels" in tried


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
def test_depthwise_convolutions_read_lines_in_vectors() -> None:
    graph, _ = graph_of("conv", ((1, 32, 28, 28), (32, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 32))
    (node,) = [n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "conv"]
    assert node.attrs["layout"] == "depthwise"


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
def test_few_channels_are_read_line_by_line() -> None:
    graph, _ = graph_of("conv", ((1, 3, 224, 224), (64, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1))
    (node,) = [n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "conv"]
    assert node.attrs["layout"] == "lines" and 112 % node.attrs["panel"] == 0


def test_a_grid_keeps_only_the_phases_of_the_window() -> None:
    grid = wide_grid((28, 28), (1, 1), (2, 2), (1, 1), ((0, 0), (0, 0)), (14, 14))
    assert grid.phases == ((0,), (0,)) and grid.extents == (14, 14) and grid.length >= 196
    assert wide_grid((9,), (3,), (2,), (1,), ((1, 1),), (5,)).phases == ((0, 1),)
