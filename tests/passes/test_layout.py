"""Layouts of products: the same bits however operands are stored, packed or exchanged."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.matmul import CHUNK
from gensyn_tvm.passes.layout import choose_layouts
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.indices import before_flattening

from ..operators.support import CONFIGURATIONS, NATIVE, assert_all_same, outputs
from .test_layout_convolutions import special

#: (rows, columns, terms, leading axes): whole tiles, ragged ones, single rows and columns, several chunks.
SHAPES = [
    (128, 96, 768, ()),
    (37, 50, 700, ()),
    (1, 33, 70, ()),
    (33, 1, 600, ()),
    (12, 64, 1100, (2, 3)),
    (64, 12, 40, (3,)),
    (200, 48, 513, ()),  # the last chunk has a single term
    (48, 64, 4608, ()),  # chunk by chunk
    (96, 80, 1024, ()),  # both operands packed
    (1030, 48, 64, ()),
    (1, 40, 1024, ()),  # packed inside where the right operand is stored transposed; two chunks, a part of a vector
    (8, 129, 64, (3,)),
    (61, 53, 64, (2,)),  # whole rows are stored at once
    (8, 1024, 2100, ()),  # read in place chunk by chunk; the last chunk is short
    (5, 1056, 2049, ()),
    (70, 96, 16, ()),  # read in place, rows outside
    (1, 1024, 2048, ()),
    (70, 288, 1100, ()),  # packed a chunk of a panel at a time: two chunks and a short one
    (33, 1024, 700, ()),  # a chunk and a short one
    (21, 160, 1024, (2,)),
]


def product(m: int, n: int, k: int, leading: tuple[int, ...], left: bool, right: bool, role: str = "input") -> Graph:
    """(…, m, k) x (…, k, n), of which either operand may be stored transposed."""
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((*leading, *((k, m) if left else (m, k))), "float32"))
    y = b.add_input("y", role, TensorType((*leading, *((n, k) if right else (k, n))), "float32"))
    rank = len(leading)
    perm = (*range(rank), rank + 1, rank)
    x = b.emit("transpose", x, perm=perm) if left else x
    y = b.emit("transpose", y, perm=perm) if right else y
    b.add_output("product", b.emit("matmul", x, y))
    return b.finish()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stored_either_way_the_bits_are_the_same(shape: tuple[int, int, int, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    m, n, k, leading = shape
    x, y = (rng.standard_normal((*leading, *s), np.float32) for s in ((m, k), (k, n)))
    expected = None
    for left, right in itertools.product((False, True), repeat=2):
        given = {"x": np.swapaxes(x, -1, -2) if left else x, "y": np.swapaxes(y, -1, -2) if right else y}
        given = {name: np.ascontiguousarray(array) for name, array in given.items()}
        graph = product(*shape, left, right)
        # The oracle has no layouts; it is compared once, the others with it.
        for configuration in CONFIGURATIONS if expected is None else [c for c in CONFIGURATIONS if c.style == "fast"]:
            for found in outputs(graph, given, configuration).values():
                expected = found if expected is None else expected
                assert_all_same([f"{configuration} {left} {right}"], found, expected)


def test_a_transposed_operand_is_not_transposed_first() -> None:
    ops = Counter(n.op for n in choose_layouts(product(128, 768, 768, (), False, True), TARGETS[NATIVE]).nodes)
    assert ops["transpose"] == 0 and ops["pack"] == 1 and ops["matmul"] == 1


def test_few_rows_turn_a_transposed_matrix_in_registers() -> None:
    """It is neither packed nor read element by element: each row is read in vectors that are exchanged."""
    graph = product(2, 100, 512, (), False, True)
    (node,) = (n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "matmul")
    assert node.attrs["inside"] and node.attrs["tile"] == 2
    modules: list[Any] = []
    run_phases(graph, TARGETS[NATIVE], "fast", lambda phase, m: modules.append(m) if phase == "schedule" else None)
    lowered = [f for _, f in kernels(before_flattening()(modules[0]))]
    lanes = TARGETS[NATIVE].lanes()
    group = min(lanes, 4)  # elements of 16 bytes: pieces that are put together, if they are no whole vector, and exchanged
    assert sum(f.script().count("T.Shuffle") for f in lowered) == lanes * (int(lanes > group) + int(math.log2(group)))


@pytest.mark.parametrize(("rows", "terms", "chunks"), [(1, 1024, 2), (1, 1536, 1), (1, 3072, 2), (3, 1024, 1)])
def test_squares_are_small_where_their_lines_share_a_set_of_the_cache(rows: int, terms: int, chunks: int) -> None:
    """And a single row takes two chunks of them side by side, so that a chain does not wait for itself."""
    graph, target = product(rows, 100, terms, (), False, True), TARGETS["x86-64-v4"]
    crowded = terms * 4 % 4096 == 0
    (node,) = (n for n in choose_layouts(graph, target).nodes if n.op == "matmul")
    assert node.attrs["panel"] == node.attrs["inside"] == (8 if crowded else 16)
    modules: list[Any] = []
    run_phases(graph, target, "fast", lambda phase, m: modules.append(m) if phase == "schedule" else None)
    text = "".join(f.script() for _, f in kernels(before_flattening()(modules[0])))
    assert text.count("T.Shuffle") == (8 if crowded else 16) * 3
    assert ("T.unroll(T.int64(2))" in text) == (chunks == 2)


@pytest.mark.parametrize(
    ("shape", "hints"),
    (
        ((8, 256, 768, ()), {}),
        ((64, 256, 1024, ()), {}),
        ((16, 256, 2048, ()), {}),  # rows of 1 KiB
        ((16, 1024, 2048, ()), {"by_chunks": 1}),
        ((1, 256, 513, ()), {"by_chunks": 1}),  # a single row
        ((1, 256, 512, ()), {}),
        ((200, 256, 16, ()), {"rows_outside": 1}),
        ((17, 256, 2048, ()), None),
        ((65, 256, 1024, ()), None),
        ((8, 250, 768, ()), None),  # no whole vectors
    ),
    ids=str,
)
def test_what_few_rows_read_is_not_packed(shape: tuple[int, int, int, tuple[int, ...]], hints: dict[str, int] | None) -> None:
    (node,) = (n for n in choose_layouts(product(*shape, False, False), TARGETS[NATIVE]).nodes if n.op == "matmul")
    assert node.attrs["in_place"] == (hints is not None)
    assert hints is None or dict(node.attrs.get("hints", ())) == hints


@pytest.mark.parametrize(
    ("shape", "role", "by_panel"),
    (
        ((64, 4096, 4096, ()), "input", True),
        ((64, 1024, 768, ()), "input", True),  # rows that share lines of the cache
        ((128, 768, 768, ()), "input", True),
        ((128, 768, 768, ()), "parameter", False),
        ((200, 768, 768, ()), "input", False),
        ((128, 100, 768, ()), "input", False),
    ),
    ids=str,
)
def test_panels_that_some_rows_read_are_packed_inside(
    shape: tuple[int, int, int, tuple[int, ...]], role: str, by_panel: bool
) -> None:
    graph = product(*shape, False, False, role)
    nodes = choose_layouts(graph, TARGETS[NATIVE]).nodes
    (node,) = (n for n in nodes if n.op == "matmul")
    assert (node.attrs.get("inside", 0) == CHUNK) == by_panel
    assert not by_panel or not any(n.op == "pack" and n.attrs["columns"][0] == shape[1] for n in nodes)


def test_rows_of_all_samples_count_if_they_read_one_matrix() -> None:
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((40, 16, 64), "float32"))
    y = b.add_input("y", "input", TensorType((64, 256), "float32"))
    b.add_output("product", b.emit("matmul", x, y))
    assert [n.attrs["in_place"] for n in choose_layouts(b.finish(), TARGETS[NATIVE]).nodes if n.op == "matmul"] == [False]


def test_rows_that_no_panels_divide_are_stored_at_once() -> None:
    graph = product(61, 53, 64, (2,), False, False)
    (node,) = (n for n in choose_layouts(graph, TARGETS[NATIVE]).nodes if n.op == "matmul")
    assert node.attrs["transposed"] or node.attrs["streamed"]


def test_a_transposed_value_with_other_readers_stays() -> None:
    b = GraphBuilder("product")
    x, y = (b.add_input(n, "input", TensorType((64, 64), "float32")) for n in "xy")
    t = b.emit("transpose", y, perm=(1, 0))
    b.add_output("product", b.emit("matmul", x, t))
    b.add_output("transposed", t)
    assert [n.op for n in choose_layouts(b.finish(), TARGETS[NATIVE]).nodes].count("transpose") == 1


def test_products_share_what_is_packed_for_both() -> None:
    b = GraphBuilder("product")
    x, z = (b.add_input(n, "input", TensorType((256, 256), "float32")) for n in "xz")
    y = b.add_input("y", "input", TensorType((256, 256), "float32"))
    b.add_output("first", b.emit("matmul", x, y))
    b.add_output("second", b.emit("matmul", z, y))
    assert [n.op for n in choose_layouts(b.finish(), TARGETS[NATIVE]).nodes].count("pack") == 1


def test_packing_a_parameter_does_not_count() -> None:
    """A single row would read a matrix in place, but a parameter is packed once for all runs."""
    for role, packs in (("input", 0), ("parameter", 1)):
        graph = choose_layouts(product(1, 512, 512, (), False, False, role), TARGETS[NATIVE])
        assert [n.op for n in graph.nodes].count("pack") == packs


#: (left leading axes, right leading axes, terms, columns): a single row in each matrix, the right operand for several of them.
SINGLE_ROWS = [
    ((16,), (), 768, 96),
    ((17,), (1,), 600, 50),  # ragged tiles, a short chunk
    ((2, 5), (2, 1), 64, 33),  # the second axis becomes the rows
    ((5, 3), (1, 1), 1100, 48),
    ((3,), (2, 1), 40, 20),  # the right one has more axes
    ((2, 1), (2, 3), 16, 64),  # no axis of the left one is repeated
]


def rows_along_leading(case: tuple[tuple[int, ...], tuple[int, ...], int, int], role: str, stored: bool) -> Graph:
    """(…, 1, k) x (…, k, n) with leading axes that broadcast; ``stored``: the right one lies transposed."""
    left, right, k, n = case
    b = GraphBuilder("single rows")
    x = b.add_input("x", "input", TensorType((*left, 1, k), "float32"))
    y = b.add_input("y", role, TensorType((*right, *((n, k) if stored else (k, n))), "float32"))
    rank = len(right)
    y = b.emit("transpose", y, perm=(*range(rank), rank + 1, rank)) if stored else y
    b.add_output("product", b.emit("add", product := b.emit("matmul", x, y), product))
    return b.finish()


@pytest.mark.parametrize("number", range(len(SINGLE_ROWS)), ids=lambda k: str(SINGLE_ROWS[k]))
def test_single_rows_of_several_matrices_are_rows_of_one(number: int) -> None:
    rng = np.random.default_rng(number)
    left, right, k, n = case = SINGLE_ROWS[number]
    stored = number % 2 == 1
    graph = rows_along_leading(case, "input", stored)
    given = {
        "x": special(rng, (*left, 1, k)),
        "y": special(rng, (*right, *((n, k) if stored else (k, n)))),
    }
    (oracle,) = outputs(graph, given, CONFIGURATIONS[-1]).values()
    for configuration in (c for c in CONFIGURATIONS if c.style == "fast"):
        for found in outputs(graph, given, configuration).values():
            assert_all_same([str(configuration)], found, oracle)


def test_a_register_tile_holds_rows_of_several_matrices() -> None:
    graph = choose_layouts(rows_along_leading(((16,), (), 768, 96), "parameter", True), TARGETS[NATIVE])
    (node,) = (n for n in graph.nodes if n.op == "matmul")
    assert node.attrs["rows_axis"] == -3 and node.attrs["tile"] > 1 and not node.attrs["transposed"]


def test_an_array_that_is_packed_is_seen_as_flat_and_not_computed_so() -> None:
    """A kernel that computed the flat array would have divisions in its indices."""
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((4, 1, 64), "float32"))
    old, new = (b.add_input(n, "input", TensorType((4, k, 64), "float32")) for n, k in (("old", 33), ("new", 1)))
    keys = b.emit("transpose", b.emit("concat", old, new, axis=1), perm=(0, 2, 1))
    b.add_output("scores", b.emit("matmul", x, keys))
    kernels: list[str] = []
    run_phases(b.finish(), TARGETS[NATIVE], "fast", lambda phase, m: kernels.append(m.script()) if phase == "fuse" else None)
    assert "concat_reshape" not in kernels[0] and "def concat" in kernels[0]
