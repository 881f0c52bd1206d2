"""Images spread out inside of the product that reads them: the interpreter's bits, and no join that is not shown right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.tirx.script.builder import ir as T

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.nest import Kernel, as_written, i64, kernel
from gensyn_tvm.passes.join import joined
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.runtime.plan import Plan
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.support import CONFIGURATIONS, NATIVE, Configuration, assert_all_same, outputs
from .test_layout_convolutions import special

FAST = [c for c in CONFIGURATIONS if c.style == "fast"]

#: Image, kernel, strides, padding, dilations: lines of several vectors and a rest, borders, phases, a sample and several.
DEPTHWISE: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]] = [
    ((1, 5, 13, 81), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((3, 7, 12, 37), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((2, 9, 7, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((1, 130, 21, 40), (5, 4), (1, 2), ((2, 2), (1, 2)), (1, 1)),
    ((2, 3, 20, 33), (3, 2), (2, 1), ((2, 0), (0, 3)), (2, 3)),
    ((2, 11, 101), (3,), (2,), ((1, 1),), (1,)),
]


#: Rows, terms, columns.
PRODUCTS = [(150, 64, 41), (70, 700, 33), (96, 48, 64)]


def network(read_twice: bool = False) -> tuple[Graph, dict[str, np.ndarray]]:
    """A depthwise convolution of each kind, its negative behind it."""
    b = GraphBuilder("depthwise")
    rng = np.random.default_rng(11)
    given: dict[str, np.ndarray] = {}
    places = []
    for n, (shape, window, *_) in enumerate(DEPTHWISE):
        for name, t in ((f"x{n}", shape), (f"w{n}", (shape[1], 1, *window))):
            places.append(b.add_input(name, "input", TensorType(t, "float32")))
            given[name] = special(rng, t)
    for n, (shape, _, strides, padding, dilations) in enumerate(DEPTHWISE):
        attrs: dict[str, Any] = {"strides": strides, "padding": padding, "dilations": dilations, "groups": shape[1]}
        y = b.emit("conv", places[2 * n], places[2 * n + 1], **attrs)
        b.add_output(f"y{n}", b.emit("neg", y))
        if read_twice:
            b.add_output(f"z{n}", b.emit("conv", places[2 * n], b.emit("neg", places[2 * n + 1]), **attrs))
    return b.finish(), given


def assert_interpreters_bits(program: tuple[Graph, dict[str, np.ndarray]], configuration: Configuration) -> None:
    graph, given = program
    for found in outputs(graph, given, configuration).values():
        assert_all_same([o.name for o in graph.outputs], found, interpreter.run(graph, given))


def kernels_of(graph: Graph) -> list[str]:
    plan: Plan = run_phases(graph, TARGETS[NATIVE], "fast").plan
    return [s.kernel for s in plan.steps]


def test_images_are_spread_out_by_their_only_reader() -> None:
    names = kernels_of(network()[0])
    assert len(names) == len(DEPTHWISE) and all("_with_image" in name for name in names)


def test_an_image_with_two_readers_stays_as_it_is() -> None:
    names = kernels_of(network(read_twice=True)[0])
    assert sum(name.startswith("image") for name in names) == len(DEPTHWISE)
    assert not any("_with_image" in name for name in names)


@pytest.mark.parametrize("configuration", FAST, ids=str)
def test_joined_kernels_give_the_interpreters_bits(configuration: Configuration) -> None:
    assert_interpreters_bits(network(), configuration)


def products() -> tuple[Graph, dict[str, np.ndarray]]:
    """Products of many matrices, whose right operands are packed: ragged columns, two chunks, transposed."""
    b = GraphBuilder("products")
    rng = np.random.default_rng(12)
    given = {}
    for n, (rows, terms, columns) in enumerate(PRODUCTS):
        for name, t in ((f"a{n}", (11, rows, terms)), (f"b{n}", (11, columns, terms))):
            b.add_input(name, "input", TensorType(t, "float32"))
            given[name] = special(rng, t)
    for n in range(len(PRODUCTS)):
        right = b.emit("transpose", 2 * n + 1, perm=(0, 2, 1))
        b.add_output(f"y{n}", b.emit("neg", b.emit("matmul", 2 * n, right)))
    return b.finish(), given


def test_packed_operands_are_packed_by_their_only_reader() -> None:
    names = kernels_of(products()[0])
    assert sum("_with_pack" in name for name in names) >= 2


@pytest.mark.parametrize("configuration", FAST, ids=str)
def test_products_that_pack_inside_give_the_interpreters_bits(configuration: Configuration) -> None:
    assert_interpreters_bits(products(), configuration)


CHANNELS, LENGTH = 6, 8


def spread(place: Callable[[Any], Any] = lambda c: c) -> Any:
    """Channels copied one by one, to where ``place`` says."""

    def emit(k: Kernel) -> None:
        with T.parallel(i64(0), i64(CHANNELS)) as c, T.serial(i64(0), i64(LENGTH)) as j:
            T.buffer_store(k.output, k.inputs[0][c, j], [i64(0), place(c), j])

    with kernel("image", [TensorType((CHANNELS, LENGTH), "float32")], TensorType((1, CHANNELS, LENGTH), "float32")) as k:
        emit(k)
    return as_written(k.result())


def reader(tasks: int, channel: Callable[[Any], Any]) -> Any:
    """Tasks that each read an element of the channel that ``channel`` names."""

    def emit(k: Kernel) -> None:
        with T.parallel(i64(0), i64(tasks)) as t:
            T.buffer_store(k.output, k.inputs[0][i64(0), channel(t), t % i64(LENGTH)], [t])

    with kernel("product", [TensorType((1, CHANNELS, LENGTH), "float32")], TensorType((tasks,), "float32")) as k:
        emit(k)
    return as_written(k.result())


@pytest.mark.parametrize(
    ("tasks", "channel", "fits"),
    [
        (2 * CHANNELS, lambda t: t // i64(2), True),
        (CHANNELS, lambda t: t, True),
        (2 * CHANNELS, lambda t: t % i64(CHANNELS), False),
        (CHANNELS, lambda t: (t + i64(1)) % i64(CHANNELS), False),
        (CHANNELS, lambda t: i64(0), False),
        (CHANNELS + 1, lambda t: t % i64(CHANNELS), False),
        (3 * CHANNELS, lambda t: t // i64(2) % i64(CHANNELS), False),
    ],
)
def test_only_tasks_channel_by_channel_are_joined(tasks: int, channel: Callable[[Any], Any], fits: bool) -> None:
    found = joined(spread(), reader(tasks, channel), 0, 1)
    assert (found is not None) == fits
    if found is not None:
        assert [p.name for p in found.params] == ["x0", "y"]


def test_an_image_whose_channels_are_written_by_others_is_not_joined() -> None:
    assert joined(spread(lambda c: i64(CHANNELS - 1) - c), reader(CHANNELS, lambda t: t), 0, 1) is None
    assert isinstance(joined(spread(), reader(CHANNELS, lambda t: t), 0, 1), tvm.tirx.PrimFunc)
