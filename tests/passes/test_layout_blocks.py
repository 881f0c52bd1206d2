"""Images in blocks of channels: which values are kept so, and that no bit depends on it."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.layout import choose_layouts
from gensyn_tvm.passes.layout_blocks import Blocks
from gensyn_tvm.schedules.cpu.tiles import block_tile, block_width, line_block
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.support import NATIVE, Configuration, assert_all_same, outputs
from .test_layout_convolutions import special

pytestmark = pytest.mark.skipif(NATIVE == "c", reason="no vectors")
NO_PADDING = ((0, 0), (0, 0))


class Net:
    """A network under construction; values are numbered as in ``GraphBuilder``."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.b = GraphBuilder("net")
        self.shapes = shapes
        self.values = {n: self.b.add_input(n, "input", TensorType(s, "float32")) for n, s in shapes.items()}

    def conv(self, x: int, w: str, stride: int = 1, padding: Any = NO_PADDING, groups: int = 1, dilation: int = 1) -> int:
        attrs = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "padding": padding, "groups": groups}
        return self.b.emit("conv", x, self.values[w], **attrs)

    def relu(self, x: int) -> int:
        return self.b.emit("maximum", x, self.scalar(0.0))

    def scalar(self, value: float) -> int:
        data = base64.b64encode(np.float32(value).tobytes()).decode()
        return self.b.emit("constant", dtype="float32", shape=(), data=data)

    def finish(self, *results: int) -> Graph:
        for k, r in enumerate(results):
            self.b.add_output(f"y{k}", r)
        return self.b.finish()


def blocks_of(graph: Graph) -> list[str]:
    """The operators whose results are in blocks once layouts are chosen: convolutions by attribute, others by rank."""
    laid_out = choose_layouts(graph, TARGETS[NATIVE])
    found = [n.op for n in laid_out.nodes if n.attrs.get("layout") == "blocks"]
    return found + [n.op for n in laid_out.nodes if n.op not in ("conv", "reshape", "pack") and n.types[0].rank == 5]


def check(net: Net, graph: Graph, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    given = {n: special(rng, s) for n, s in net.shapes.items()}
    (found,) = outputs(graph, given, Configuration(NATIVE, "fast")).values()
    expected = list(interpreter.run(graph, given))
    assert_all_same([f"y{k}" for k in range(len(expected))], found, expected)


def inverted_residual(width: int, inner: int, stride: int, size: int) -> tuple[Net, Graph]:
    """1x1, depthwise 3x3, 1x1 with a bias and a sum of what came in, as MobileNetV2 has them, after a first convolution."""
    net = Net(
        {
            "x": (2, 3, size, size + 3),
            "first": (width, 3, 3, 3),
            "expand": (inner, width, 1, 1),
            "depth": (inner, 1, 3, 3),
            "project": (width, inner, 1, 1),
            "scale": (1, inner, 1, 1),
            "bias": (width, 1, 1),
        }
    )
    x = net.relu(net.conv(net.values["x"], "first", 2, ((1, 1), (0, 2))))
    y = net.b.emit("div", net.conv(x, "expand"), net.values["scale"])
    y = net.b.emit("minimum", net.relu(y), net.scalar(6.0))
    y = net.relu(net.conv(y, "depth", stride, ((1, 1), (1, 1)), groups=inner))
    y = net.b.emit("add", net.conv(y, "project"), net.values["bias"])
    y = net.b.emit("add", x, y) if stride == 1 else y
    return net, net.finish(y)


@pytest.mark.parametrize(
    ("width", "inner", "stride", "size"), [(16, 96, 2, 20), (24, 144, 1, 13), (32, 48, 1, 31), (8, 40, 2, 17), (20, 64, 1, 11)]
)
def test_inverted_residuals_stay_in_blocks(width: int, inner: int, stride: int, size: int) -> None:
    net, graph = inverted_residual(width, inner, stride, size)
    assert blocks_of(graph).count("conv") >= (4 if width % 8 == 0 else 1)
    check(net, graph)


@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_poolings_concatenations_and_sums_stay_in_blocks(op: str) -> None:
    net = Net({"x": (1, 16, 15, 18), "a": (32, 16, 3, 3), "b": (32, 32, 3, 3), "gate": (1, 64, 1, 1), "mask": (15, 1)})
    x = net.conv(net.values["x"], "a", padding=((1, 1), (1, 1)))
    y = net.conv(x, "b", padding=((2, 2), (2, 2)), dilation=2)
    both = net.b.emit("concat", x, y, axis=1)
    both = net.b.emit("mul", net.b.emit("mul", both, net.values["gate"]), net.values["mask"])
    pool: dict[str, Any] = {"kernel": (3, 2), "strides": (2, 2), "dilations": (1, 1), "padding": ((1, 1), (0, 1))}
    pooled = net.b.emit(op, both, **pool, **({"count_include_pad": False} if op == "avg_pool" else {}))
    graph = net.finish(
        pooled, net.b.emit("sum", pooled, axes=(2, 3), keepdims=False), net.b.emit("sum", x, axes=(2, 3), keepdims=True)
    )
    found = blocks_of(graph)
    assert {"conv", "concat", "mul", op, "sum"} <= set(found)
    check(net, graph)


def test_a_convolution_alone_is_left_to_its_own_rule() -> None:
    net = Net({"x": (1, 16, 14, 14), "a": (32, 16, 3, 3)})
    graph = net.finish(net.relu(net.conv(net.values["x"], "a")))
    assert not blocks_of(graph)


def test_a_graph_with_gradients_keeps_its_images() -> None:
    net = Net({"x": (1, 16, 14, 14), "a": (16, 16, 1, 1), "b": (16, 16, 1, 1)})
    y = net.conv(net.conv(net.values["x"], "a"), "b")
    assert Blocks(net.finish(y), TARGETS[NATIVE]).chosen()
    attrs = {"strides": (1, 1), "dilations": (1, 1), "padding": NO_PADDING, "groups": 1, "kernel": (1, 1)}
    net.b.add_output("dw", net.b.emit("conv_backward_weight", net.values["x"], y, **attrs))
    assert not Blocks(net.b.finish(), TARGETS[NATIVE]).chosen()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0])
@pytest.mark.parametrize("op", ["conv", "conv_backward_weight"])
def test_zeros_around_an_image_become_padding(op: str, value: float) -> None:
    net = Net({"x": (2, 4, 9, 11), "w": (8, 4, 3, 3), "dy": (2, 8, 6, 6)})
    padded = net.b.emit("pad", net.values["x"], net.scalar(value), padding=((0, 0), (0, 0), (1, 2), (0, 1)))
    attrs: dict[str, Any] = {"strides": (2, 2), "dilations": (1, 1), "padding": ((0, 1), (1, 0)), "groups": 1}
    operand = "w" if op == "conv" else "dy"
    attrs |= {} if op == "conv" else {"kernel": (3, 3)}
    graph = net.finish(net.b.emit(op, padded, net.values[operand], **attrs))
    left = any(n.op == "pad" for n in choose_layouts(graph, TARGETS[NATIVE]).nodes)
    assert left == (np.signbit(value) or value != 0)
    check(net, graph)


def test_zeros_along_channels_are_no_padding() -> None:
    net = Net({"x": (1, 4, 9, 9), "w": (8, 8, 3, 3)})
    padded = net.b.emit("pad", net.values["x"], net.scalar(0.0), padding=((0, 0), (2, 2), (0, 0), (0, 0)))
    graph = net.finish(net.conv(padded, "w"))
    assert any(n.op == "pad" for n in choose_layouts(graph, TARGETS[NATIVE]).nodes)
    check(net, graph)


def test_tiles_of_blocks_fit_the_registers() -> None:
    for name in ("x86-64", "x86-64-v3", "x86-64-v4"):
        target = TARGETS[name]
        for channels in range(1, 200):
            width = block_width(channels, target)
            assert width == 0 or channels % width == 0
            assert width or channels % target.lanes()
            lanes = target.lanes() if width % target.lanes() == 0 else target.lanes() // 2
            for rows, window in itertools.product((1, 7, 13, 14, 56), (1, 3)) if width else ():
                tile = block_tile(rows, width, target, window)
                assert 1 <= tile <= rows
                # Accumulators, weights, and the elements that neighbouring positions of the window read.
                needed = (tile + 1) * (width // lanes) + (1 if window == 1 else tile + window - 1)
                assert tile == 1 or needed < target.registers


def test_lines_that_stay_in_a_cache_divide_the_image() -> None:
    assert line_block((1, 64, 28, 28), 28, 4, 8, 64 * 1024) == 0
    for lines in (7, 14, 56, 55):
        found = line_block((16, 1024, lines, lines), lines, 4, 8, 256 * 1024)
        assert found > 0
        assert lines % found == 0


def test_weights_pass_by_for_each_block_of_lines_only_if_the_image_is_larger() -> None:
    image, panels = (1, 1024, 14, 14), 64
    assert line_block(image, 14, 4, panels, 256 * 1024) == 7
    assert line_block(image, 14, 4, panels, 32 * 1024 * 1024) == 0
    assert line_block(image, 7, 4, panels, 256 * 1024, steps=4) == 0  # of which a quarter is read
