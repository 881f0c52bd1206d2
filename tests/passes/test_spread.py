"""Results stored between the zeros that the next convolution reads: the interpreter's bits, and no place that is not shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.nest import GRID, as_written, i64, kernel, load
from gensyn_tvm.passes.spread import stored_into

from ..operators.support import CONFIGURATIONS, Configuration
from .test_join import assert_interpreters_bits, kernels_of
from .test_layout_convolutions import special

FAST = [c for c in CONFIGURATIONS if c.style == "fast"]
Program = tuple[Graph, dict[str, np.ndarray]]

#: Channels of the images, size, window, padding, groups of the second of two convolutions.
CHAINS: list[tuple[int, tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...], bool]] = [
    (48, (13, 14), (3, 3), ((1, 1), (1, 1)), False),
    (32, (9, 21), (3, 3), ((1, 1), (1, 1)), True),
    (16, (12, 7), (2, 5), ((0, 1), (3, 2)), True),
    (20, (10, 11), (3, 3), ((2, 0), (0, 2)), False),  # in no blocks of channels
    (64, (37,), (3,), ((1, 1),), True),
    (32, (5, 6, 8), (3, 2, 3), ((1, 1), (0, 1), (1, 0)), False),
]


def chains(strides: int = 1, read_twice: bool = False) -> Program:
    """For each chain a convolution of single positions, its negative, and the second convolution."""
    b = GraphBuilder("chains")
    rng = np.random.default_rng(5)
    given: dict[str, np.ndarray] = {}
    places = []
    for n, (channels, size, window, _, depthwise) in enumerate(CHAINS):
        ones = (1,) * len(size)
        for name, t in (
            (f"x{n}", (2, 16, *size)),
            (f"v{n}", (channels, 16, *ones)),
            (f"w{n}", (channels, 1 if depthwise else channels, *window)),
        ):
            places.append(b.add_input(name, "input", TensorType(t, "float32")))
            given[name] = special(rng, t)
    for n, (channels, size, _, padding, depthwise) in enumerate(CHAINS):
        x, v, w = places[3 * n : 3 * n + 3]
        rank = len(size)
        common: dict[str, Any] = {"dilations": (1,) * rank}
        y = b.emit("conv", x, v, strides=(1,) * rank, padding=((0, 0),) * rank, groups=1, **common)
        y = b.emit("neg", y)
        groups = channels if depthwise else 1
        b.add_output(f"y{n}", b.emit("conv", y, w, strides=(strides,) * rank, padding=padding, groups=groups, **common))
        if read_twice:
            b.add_output(f"z{n}", b.emit("neg", y))
    return b.finish(), given


def test_images_are_stored_with_their_zeros() -> None:
    assert sum("_into_image" in name for name in kernels_of(chains()[0])) == len(CHAINS)


def test_images_in_phases_are_copied() -> None:
    """Positions in vectors, two apart: the elements between them are kept elsewhere."""
    assert sum("_into_image" in name for name in kernels_of(chains(2)[0])) == len(CHAINS) - 1


def test_a_result_that_others_read_is_copied() -> None:
    assert not any("_into_image" in name for name in kernels_of(chains(read_twice=True)[0]))


@pytest.mark.parametrize("strides", (1, 2))
@pytest.mark.parametrize("configuration", FAST, ids=str)
def test_stored_between_zeros_the_bits_are_the_interpreters(configuration: Configuration, strides: int) -> None:
    assert_interpreters_bits(chains(strides), configuration)


SHAPE, BEFORE, EXTENTS = (2, 3, 4, 5), (1, 2), (6, 8)


def maker(shape: tuple[int, ...]) -> Any:
    """Negates an array."""
    t = TensorType(shape, "float32")
    with kernel("maker", [t], t) as k:
        k.stage("map", k.output, shape, lambda index: -load(k.inputs[0], index))
    return k.result()


def copy(place: Callable[[Any, Any], Any], grid: tuple[int, ...] | None = (*BEFORE, *EXTENTS)) -> Any:
    """Puts elements where ``place(line, column)`` says, and zeros in the first line."""
    length = EXTENTS[0] * EXTENTS[1]
    types = [TensorType(SHAPE, "float32")], TensorType((2, 3, length), "float32")
    with kernel("image", *types) as k, T.serial(i64(0), i64(6)) as c:
        channel = [c // i64(3), c % i64(3)]
        with T.serial(i64(0), i64(EXTENTS[1])) as j:
            T.buffer_store(k.output, T.float32(0), [*channel, j])
        with T.serial(i64(0), i64(4)) as line, T.serial(i64(0), i64(5)) as j:
            T.buffer_store(k.output, load(k.inputs[0], [*channel, line, j]), [*channel, place(line, j)])
    found = as_written(k.result())
    return found if grid is None else found.with_attr(GRID, list(grid))


def right(line: Any, column: Any) -> Any:
    return (line + i64(1)) * i64(8) + column + i64(2)


@pytest.mark.parametrize("shape", (SHAPE, (2, 3, 4, 5, 1), (2, 3, 2, 2, 5), (1, 2, 3, 4, 5), (6, 4, 5), (2, 3, 20)), ids=str)
def test_a_copy_whose_places_are_shown_is_left_out(shape: tuple[int, ...]) -> None:
    """Only if each axis of the image is whole axes of what is stored."""
    found = stored_into(maker(shape), copy(right))
    fits = shape not in ((6, 4, 5), (2, 3, 20))
    assert (found is not None) == fits
    if found is not None:
        assert [int(e) for e in found.params[-1].shape] == [2, 3, 48]


@pytest.mark.parametrize(
    ("place", "grid"),
    (
        (lambda line, column: (line + i64(1)) * i64(8) + column + i64(1), (*BEFORE, *EXTENTS)),
        (lambda line, column: (line + i64(1)) * i64(7) + column + i64(2), (*BEFORE, *EXTENTS)),
        (lambda line, column: (i64(4) - line) * i64(8) + column + i64(2), (*BEFORE, *EXTENTS)),
        (lambda line, column: tmod(line, column), (*BEFORE, *EXTENTS)),
        (right, (*BEFORE, 7, 9)),
        (right, None),
    ),
)
def test_a_copy_whose_places_are_others_stays(place: Callable[[Any, Any], Any], grid: tuple[int, ...] | None) -> None:
    assert stored_into(maker(SHAPE), copy(place, grid)) is None


@pytest.mark.parametrize(("stride", "fits"), ((1, True), (2, False)))
def test_vectors_are_shown_to_lie_side_by_side(stride: int, fits: bool) -> None:
    """One vector of two elements at the right place, whose second one is read from the next column or from one further on."""
    types = [TensorType(SHAPE, "float32")], TensorType((2, 3, EXTENTS[0] * EXTENTS[1]), "float32")
    with kernel("image", *types) as k, T.serial(i64(0), i64(6)) as c, T.serial(i64(0), i64(4)) as line:
        channel = [c // i64(3), c % i64(3)]
        value = load(k.inputs[0], [*channel, line, tirx.Ramp(i64(0), i64(stride), 2)])
        T.buffer_store(k.output, value, [*channel, tirx.Ramp(right(line, i64(0)), i64(1), 2)])
    found = stored_into(maker(SHAPE), as_written(k.result()).with_attr(GRID, [*BEFORE, *EXTENTS]))
    assert (found is not None) == fits


def tmod(line: Any, column: Any) -> Any:
    """Right but for the last column."""
    return (line + i64(1)) * i64(8) + column % i64(4) + i64(2)
