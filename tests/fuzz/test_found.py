"""What random graphs found, as small as it got: each once failed to compile or to run, or gave other bits."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType

from .check import ORACLE, WAYS, Case, Way, check

Build = Callable[[GraphBuilder], int]


def scalar(b: GraphBuilder, dtype: str, value: int) -> int:
    data = base64.b64encode(np.array(value, dtype).tobytes()).decode()
    return b.emit("constant", dtype=dtype, shape=(), data=data)


def integers_known_in_advance(b: GraphBuilder) -> int:
    """TVM's analyzer gave up on names that became constants."""
    x = b.emit("cast", scalar(b, "int8", -58), dtype="int64")
    return b.emit("sub", x, b.emit("neg", x))


def zeros_known_in_advance(b: GraphBuilder) -> int:
    x = b.emit("sub", scalar(b, "int32", 0), scalar(b, "int32", 0))
    return b.emit("mul", b.emit("abs", x), b.emit("iota", dtype="int32", shape=(3, 16), axis=1))


def difference_with_itself(b: GraphBuilder) -> int:
    """A cancelled uint32 subtraction left 2^32, which is no uint32."""
    x = b.add_input("x", "input", TensorType((2, 16), "uint32"))
    return b.emit("cast", b.emit("sub", x, x), dtype="int8")


def equality_of_booleans(b: GraphBuilder) -> int:
    """LLVM was asked to compare them as floats."""
    x, y = (b.add_input(name, "input", TensorType((33,), "bool")) for name in "xy")
    return b.emit("equal", b.emit("not_equal", x, y), b.emit("not_equal", x, x))


def constant_without_elements(b: GraphBuilder) -> int:
    """TVM could not read it back from the library."""
    x = b.emit("constant", dtype="int64", shape=(7, 0, 2), data="")
    return b.emit("sum", x, axes=(1,), keepdims=False)


def reshape_without_elements(b: GraphBuilder) -> int:
    """The index was divided by the extents, and TVM's search for reshapes indexed past its end."""
    x = b.add_input("x", "input", TensorType((0,), "float32"))
    return b.emit("reshape", x, shape=(1, 0, 1))


def slice_of_a_reshape(b: GraphBuilder) -> int:
    """TVM's iterator maps made another index of it: the only ones here that gave other bits."""
    x = b.add_input("x", "input", TensorType((7, 8, 16), "uint8"))
    y = b.add_input("y", "input", TensorType((1, 7, 8, 16), "uint8"))
    part = b.emit("slice", b.emit("reshape", x, shape=(896,)), starts=(251,), limits=(259,), strides=(1,))
    less = b.emit("less", y, b.emit("reshape", part, shape=(1, 1, 8, 1)))
    return b.emit("slice", b.emit("reshape", less, shape=(896,)), starts=(490,), limits=(506,), strides=(1,))


def bits_of_indices(b: GraphBuilder) -> int:
    """The index was narrowed to 32 bits and then looked at as 64."""
    return b.emit("bitcast", b.emit("iota", dtype="int64", shape=(2, 2, 1), axis=0), dtype="uint64")


def gradient_of_one_column(b: GraphBuilder) -> int:
    """TVM could not tell that what a stride of 2 reads along an axis of extent 1 is there."""
    dy = b.add_input("dy", "input", TensorType((2, 2, 4, 1), "float32"))
    w = b.add_input("w", "input", TensorType((2, 4, 2, 2), "float32"))
    attrs = {"dilations": (1, 1), "groups": 2, "padding": ((1, 0), (0, 1)), "strides": (2, 2)}
    return b.emit("conv_backward_data", dy, w, input_spatial=(7, 1), **attrs)


def product_without_rows(b: GraphBuilder) -> int:
    """TVM took it for a reshape."""
    x = b.add_input("x", "input", TensorType((1, 0, 1), "float32"))
    y = b.add_input("y", "input", TensorType((1, 1, 1, 1), "float32"))
    return b.emit("matmul", b.emit("broadcast_to", x, shape=(1, 1, 0, 1)), y)


def powers_of_scalars(b: GraphBuilder) -> int:
    """NumPy's results without axes are no arrays; the interpreter wrote into them."""
    x, y = (b.add_input(name, "input", TensorType((), "float64")) for name in "xy")
    narrow = b.emit("pow", b.emit("cast", y, dtype="float32"), b.emit("cast", x, dtype="float32"))
    return b.emit("add", b.emit("pow", x, y), b.emit("cast", narrow, dtype="float64"))


FOUND: tuple[Build, ...] = (
    integers_known_in_advance,
    zeros_known_in_advance,
    difference_with_itself,
    equality_of_booleans,
    constant_without_elements,
    reshape_without_elements,
    product_without_rows,
    powers_of_scalars,
    slice_of_a_reshape,
    bits_of_indices,
    gradient_of_one_column,
)


def graph_of(build: Build) -> Graph:
    builder = GraphBuilder(build.__name__)
    builder.add_output("y", build(builder))
    return builder.finish()


@pytest.mark.parametrize("way", (*WAYS, ORACLE), ids=str)
def test_found(way: Way) -> None:
    cases = [Case.of(graph_of(build)) for build in FOUND]
    assert [text for texts in check(cases, way) for text in texts] == []
