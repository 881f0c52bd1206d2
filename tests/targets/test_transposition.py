"""Squares that are turned in registers: exchanges of all sizes, and which loops are squares."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.nest import i64, kernel, load
from gensyn_tvm.operators.products.packing import transposed_block
from gensyn_tvm.targets.indices import before_flattening
from gensyn_tvm.targets.transposition import turn

from ..operators.support import CONFIGURATIONS, assert_all_same, outputs


@pytest.mark.parametrize(("size", "itemsize"), [*itertools.product((2, 4, 8, 16), (1, 2, 4, 8))])
def test_exchanges_turn_a_square(size: int, itemsize: int) -> None:
    elements: dict[Any, list[tuple[int, int]]] = {}

    def read(row: int, first: int, count: int) -> Any:
        name = tirx.Var("piece", f"float32x{count}")
        elements[name] = [(row, first + c) for c in range(count)]
        return name

    def bind(value: Any) -> Any:
        if value in elements:
            return value
        both = [e for v in value.vectors for e in elements[v]]
        name = tirx.Var("found", value.ty)
        elements[name] = [both[int(i)] for i in value.indices]
        return name

    columns = transposed_block(read, size, itemsize, bind)
    assert [elements[c] for c in columns] == [[(k, c) for k in range(size)] for c in range(size)]


def _copy(read: str, lanes: int = 8) -> Any:
    """Copies of squares of x into a buffer of the kernel's own, and of that to the output."""
    t = TensorType((lanes, 2 * lanes), "float32")
    with kernel("copy", [t], TensorType((lanes, lanes), "float32")) as k:
        x, own = k.inputs[0], k.scratch([lanes, lanes], "float32")
        place = {
            "transposed": lambda r, c: [c, r],
            "shifted": lambda r, c: [c, r + i64(3)],
            "straight": lambda r, c: [r, c],
            "strided": lambda r, c: [c, r * i64(2)],
            "skewed": lambda r, c: [c, r + c],
        }[read]
        with T.serial(i64(0), i64(lanes)) as r, T.vectorized(i64(0), i64(lanes)) as c:
            T.buffer_store(own, load(x, place(r, c)), [r, c])
        with T.serial(i64(0), i64(lanes)) as r, T.serial(i64(0), i64(lanes)) as c:
            T.buffer_store(k.output, load(own, [r, c]), [r, c])
    return k.result()


@pytest.mark.parametrize(
    ("read", "turned"), (("transposed", 1), ("shifted", 1), ("straight", 0), ("strided", 0), ("skewed", 0))
)
def test_only_loops_that_read_neighbours_where_they_write_columns_are_turned(read: str, turned: int) -> None:
    module = before_flattening()(tvm.IRModule({"copy": _copy(read)}))
    text = turn(module["copy"]).script()
    assert text.count("T.Shuffle") == turned * 8 * 3 and ("T.vectorized" in text) == (not turned)


@pytest.mark.parametrize(
    ("dtype", "rows", "terms"),
    # Whole chunks of 512 terms: one row takes two of them side by side where its vectors are short, as in rows 4 KiB apart.
    [*itertools.product(("float32", "float64"), (3,), (64,)), *itertools.product(("float32",), (1, 3), (1024, 1536, 2048))],
)
def test_a_product_that_turns_its_operand_has_the_same_bits(dtype: str, rows: int, terms: int) -> None:
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((2, rows, terms), dtype))
    y = b.add_input("y", "input", TensorType((2, 21, terms), dtype))
    b.add_output("product", b.emit("matmul", x, b.emit("transpose", y, perm=(0, 2, 1))))
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((2, n, terms)).astype(dtype) for name, n in (("x", rows), ("y", 21))}
    given["y"][0, 20, :5] = [0.0, -0.0, np.inf, np.nan, 1e-45]
    given["y"][1, 7, -2:] = [3e38, 3e38]
    graph = b.finish()
    (oracle,) = outputs(graph, given, CONFIGURATIONS[-1]).values()
    for configuration in (c for c in CONFIGURATIONS if c.style == "fast"):
        for found in outputs(graph, given, configuration).values():
            assert_all_same([str(configuration)], found, oracle)
