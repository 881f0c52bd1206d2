"""Poolings with stored padding, and vectors of elements that lie a few places apart: the interpreter's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.strides import whole_vectors

from ..operators.support import CONFIGURATIONS, NATIVE, Configuration, assert_all_same, outputs
from .test_layout_convolutions import special

FAST = [c for c in CONFIGURATIONS if c.style == "fast"]

#: Shape, kernel, strides, padding, dilations: lines of several vectors and a rest, borders on every side, every rank.
WINDOWS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]] = [
    ((1, 9, 13, 81), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((2, 3, 12, 77), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((1, 2, 9, 150), (1, 3), (1, 3), ((0, 0), (1, 1)), (1, 1)),
    ((1, 2, 20, 70), (5, 4), (3, 4), ((2, 2), (1, 2)), (1, 1)),
    ((1, 2, 9, 64), (3, 3), (1, 1), ((0, 1), (2, 0)), (2, 3)),
    ((1, 2, 30, 60), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    ((3, 4, 101), (3,), (2,), ((1, 1),), (1,)),
    ((2, 2, 5, 6, 40), (2, 3, 2), (1, 2, 2), ((1, 0), (0, 1), (1, 1)), (1, 1, 1)),
    ((1, 2, 3, 5), (3, 5), (1, 1), ((0, 0), (0, 0)), (1, 1)),
]


def pools(dtype: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """Every window, maximum and average, one graph."""
    b = GraphBuilder("pools")
    rng = np.random.default_rng(7)
    given = {}
    for n, (shape, *_) in enumerate(WINDOWS):
        b.add_input(f"x{n}", "input", TensorType(shape, dtype))
        given[f"x{n}"] = special(rng, shape).astype(dtype)
        few = rng.integers(0, 40, shape)
        given[f"x{n}"][few == 0] = np.nan
        given[f"x{n}"][few == 1] = -np.inf
        given[f"x{n}"] = np.where((few > 20) & (few < 30), rng.choice(np.array([0.0, -0.0], dtype), shape), given[f"x{n}"])
    for n, (_, kernel, strides, padding, dilations) in enumerate(WINDOWS):
        attrs: dict[str, Any] = {"kernel": kernel, "strides": strides, "padding": padding, "dilations": dilations}
        b.add_output(f"max {n}", b.emit("max_pool", n, **attrs))
        b.add_output(f"average {n}", b.emit("avg_pool", n, **attrs, count_include_pad=n % 2 == 0))
    return b.finish(), given


@pytest.mark.parametrize(("configuration", "dtype"), [*((c, "float32") for c in FAST), (FAST[-1], "float64")], ids=str)
def test_poolings_are_the_interpreters(configuration: Configuration, dtype: str) -> None:
    graph, given = pools(dtype)
    expected = interpreter.run(graph, given)
    names = [o.name for o in graph.outputs]
    for found in outputs(graph, given, configuration).values():
        assert_all_same(names, found, expected)


def test_windows_are_read_in_vectors_without_conditions() -> None:
    """Of the 3x3 windows of stride 2 only the first column has conditions."""
    b = GraphBuilder("pool")
    x = b.add_input("x", "input", TensorType((1, 8, 112, 112), "float32"))
    attrs: dict[str, Any] = {"kernel": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1)), "dilations": (1, 1)}
    b.add_output("y", b.emit("max_pool", x, **attrs))
    modules: dict[str, Any] = {}
    run_phases(b.finish(), TARGETS["x86-64-v4"], "fast", modules.__setitem__)
    (kernel,) = (f for _, f in modules["schedule"].functions_items() if isinstance(f, tirx.PrimFunc))
    vectors: list[Any] = []
    tvm_ffi.structural_walk(kernel.body, (tirx.For, lambda s: vectors.append(s) if s.kind == tirx.ForKind.VECTORIZED else None))
    assert len(vectors) >= 6
    (rows,) = [s for s in [kernel.body.block.body] if isinstance(s, tirx.For)]
    assert rows.kind == tirx.ForKind.PARALLEL and int(rows.extent) == 8 * 56


@pytest.mark.parametrize("step", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_slices_with_steps_are_the_interpreters(step: int, dtype: str) -> None:
    """They begin anywhere and end with the array, beyond which nothing may be read."""
    b = GraphBuilder("slices")
    x = b.add_input("x", "input", TensorType((3, 200), dtype))
    for begin in (0, 1, 7):
        count = (200 - begin + step - 1) // step
        b.add_output(f"from {begin}", b.emit("slice", x, starts=(0, begin), limits=(3, 200), strides=(1, step)))
        assert count > 16
    graph = b.finish()
    given = {"x": np.arange(600).reshape(3, 200).astype(dtype)}
    expected = interpreter.run(graph, given)
    for found in outputs(graph, given, Configuration(NATIVE, "fast", (1,))).values():
        assert_all_same([o.name for o in graph.outputs], found, expected)


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_whole_vectors_hold_the_same_elements_and_no_others(step: int, lanes: int) -> None:
    x, y = (tirx.decl_buffer((1000,), "float32", name) for name in "xy")
    start, one = tirx.IntImm("int32", 10), tirx.IntImm("int32", 1)
    load = tirx.BufferLoad(x, [tirx.Ramp(start, tirx.IntImm("int32", step), lanes)])
    store = tirx.BufferStore(y, load, [tirx.Ramp(tirx.IntImm("int32", 0), one, lanes)])
    value = whole_vectors(tirx.PrimFunc([x, y], store)).body.value
    if step not in (2, 3, 4):
        assert not isinstance(value, tirx.Shuffle)
        return
    read: list[int] = []
    for vector in value.vectors:
        (index,) = vector.indices
        base = int(tvm.sym.Analyzer().simplify(index.base))
        assert int(index.stride) == 1
        read += range(base, base + lanes)
    assert [read[int(p)] for p in value.indices] == [10 + k * step for k in range(lanes)]
    assert (min(read), max(read)) == (10, 10 + (lanes - 1) * step)
