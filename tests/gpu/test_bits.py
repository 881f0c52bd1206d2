"""Operators with the GPU's schedules, executed as OpenCL on PoCL, against the interpreter, bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.evidence.samples import sample
from gensyn_tvm.passes import pipeline
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.opencl import OpenClExecutable
from gensyn_tvm.schedules.gpu import rows, sizes, tiles
from gensyn_tvm.targets.gpu import OPENCL

from ..operators.case import Case, array
from ..operators.cases import CASES, FAMILIES, bundle
from ..operators.support import assert_all_same
from .support import DESCENDING, executed

#: One or two cases of each family; ``make gpu-rehearsal`` runs all of them.
NAMES = (
    *("add-float32", "div-float64", "sqrt-float32", "maximum-float32", "round-float64", "where", "logical_and", "mul-int64"),
    *(
        "cast-float32-int64",
        "cast-uint32-float32",
        "cast-float64-float32",
        "cast-float32-float16",
        "cast-float32-float8_e4m3fn",
    ),
    *("exp", "sin", "pow-float32", "rem-int8", "bit_not-uint8", "shift_left-int16", "random_bits", "pad", "concat"),
    *("sum-(3, 33)-(1,)", "sum-(2, 1025)-(1,)", "sum-(33, 3)-(0,)", "reduce_max-float32", "argmin-outer", "constant"),
    *("matmul-(33, 513)-(513, 47)", "matmul-special", "matmul-int32", "cumsum-special", "argsort-(3, 40)-float32-True"),
    *("take-anything", "gather_nd-anything", "scatter_elements-anything", "scatter_nd-special", "suppress-9-2"),
    "conv-(1, 6, 10, 11)-(4, 3, 2, 3)-{'dilations': (2, 1), 'groups': 2, 'strides': (1, 2)}",
    "conv_backward_data-(2, 1, 9, 7)-(5, 1, 3, 3)-{'strides': (2, 2), 'padding': ((1, 0), (2, 1))}",
    "conv_backward_weight-(2, 1, 9, 7)-(5, 1, 3, 3)-{'strides': (2, 2), 'padding': ((1, 0), (2, 1))}",
    "max_pool_backward-(1, 2, 9, 7)-{'kernel': (3, 3), 'strides': (2, 1), 'padding': ((1, 1), (1, 0))}-True",
    "avg_pool-(1, 2, 9, 7)-{'kernel': (3, 3), 'strides': (2, 1), 'padding': ((1, 1), (1, 0))}-True-False",
    *("max_pool_indices-(1, 2, 9, 7)-int8", "pad-bfloat16", "large-sum-inner"),
)


def chosen() -> list[Case]:
    cases = [case for case in CASES if case.name in NAMES]
    assert len(cases) == len(NAMES)
    assert all(any(case in cases for case in family) for family in FAMILIES.values())
    return cases


def test_operators() -> None:
    cases = chosen()
    graph, given = bundle(cases)
    assert device_program(graph, OPENCL).plan.warnings == ()
    assert_all_same([c.name for c in cases], executed(graph, given), interpreter.run(graph, given))


@pytest.mark.parametrize("tile", sizes.TILES, ids=str)
def test_tiles(tile: sizes.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that fit no tile: read one by one, and four at a time along terms, rows and columns."""
    monkeypatch.setattr(sizes, "TILES", (tile,))
    monkeypatch.setattr(sizes, "BLOCKS", 1)
    conv = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    cases = [
        Case("matmul", "matmul", (((2, 67, 530), "float32"), ((530, 70), "float32")), {}),
        Case("vectors", "matmul", (((68, 1100), "float32"), ((1100, 140), "float32")), {}, True),
        Case("one chunk", "matmul", (((132, 36), "float32"), ((2, 36, 20), "float32")), {}, True),
        Case("two chunks", "matmul", (((65, 1024), "float32"), ((1024, 36), "float32")), {}),
        Case("conv", "conv", (((2, 40, 7, 6), "float32"), ((33, 40, 3, 3), "float32")), conv),
        Case(
            "pixels", "conv", (((2, 24, 6, 6), "float32"), ((36, 24, 1, 1), "float32")), {**conv, "padding": ((0, 0), (0, 0))}
        ),
    ]
    graph, given = bundle(cases)
    program = device_program(graph, OPENCL)
    assert program.plan.warnings == ()
    shared = [launch.shared for launch in program.launches.values() if launch.shared]
    least = 4 * (tile.rows + tile.columns) * tile.depth
    assert len(shared) == len(cases)
    assert all(0 <= s - least <= 2 * 4 * 4 * tile.depth for s in shared)
    assert program.source.count("vload4") >= 6
    expected = interpreter.run(graph, given)
    for definitions in ((), DESCENDING):
        found = OpenClExecutable(graph, program, definitions).run(given)
        assert_all_same([c.name for c in cases], found, expected)


@pytest.mark.parametrize(
    ("stage", "order"),
    [([0, 0, 0, 0, 0], [0, 1, 3, 4, 2]), ([0, 0, 1, 1, 0], [0, 1, 3, 4, 2]), ([0, 0, 0, 0, 1], [3, 1, 0, 4, 2])],
)
def test_a_pipeline_that_reads_before_it_has_stored_is_refused(
    stage: list[int], order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_PIPELINE", {"software_pipeline_stage": stage, "software_pipeline_order": order})
    graph, _ = bundle([Case("matmul", "matmul", (((64, 512), "float32"), ((512, 64), "float32")), {})])
    with pytest.raises(ValueError, match=r"cannot be reordered|in a later stage"):
        device_program(graph, OPENCL)


def test_few_tiles_of_many_chunks_are_blocks_for_each_chunk() -> None:
    """Products and weights' gradients with far more terms than results; the last chunk is not whole."""
    conv = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1, "kernel": (3, 3)}
    cases = [
        Case("matmul", "matmul", (((17, 2600), "float32"), ((2600, 33), "float32")), {}),
        Case("special", "matmul", (((2, 16, 1536), "float32"), ((1536, 20), "float32")), {}, True),
        Case("weights", "conv_backward_weight", (((3, 4, 30, 30), "float32"), ((3, 20, 30, 30), "float32")), conv),
    ]
    graph, given = bundle(cases)
    program = device_program(graph, OPENCL)
    assert program.plan.warnings == ()
    grids = [launch.grid for launch in program.launches.values() if launch.shared]
    assert max(z for _, _, z in grids) >= 5
    expected = interpreter.run(graph, given)
    for definitions in ((), DESCENDING):
        found = OpenClExecutable(graph, program, definitions).run(given)
        assert_all_same([c.name for c in cases], found, expected)


def test_rows() -> None:
    """A softmax is one kernel, a warp for each row; with nine elements in a row it is a thread."""
    b = GraphBuilder("softmax")
    shapes = ((96, 700), (70, 9), (66, 45))
    inputs = [b.add_input(f"x{k}", "input", TensorType(shape, "float32")) for k, shape in enumerate(shapes)]
    for k, x in enumerate(inputs):
        top = b.emit("reduce_max", x, axes=(1,), keepdims=True)
        e = b.emit("exp", b.emit("sub", x, top))
        b.add_output(f"y{k}", b.emit("div", e, b.emit("sum", e, axes=(1,), keepdims=True)))
    graph = b.finish()
    rng = np.random.default_rng(0)
    given = {f"x{k}": array(TensorType(shape, "float32"), rng, special=k == 2) for k, shape in enumerate(shapes)}
    program = device_program(graph, OPENCL)
    assert program.plan.warnings == ()
    assert len(program.launches) < len(device_program(graph, OPENCL, "plain").launches) / 3
    assert sum(launch.shared > 0 for launch in program.launches.values()) >= 2
    expected = interpreter.run(graph, given)
    for definitions in ((), DESCENDING):
        found = OpenClExecutable(graph, program, definitions).run(given)
        assert_all_same([o.name for o in graph.outputs], found, expected)


def test_few_long_rows_are_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    b = GraphBuilder("normalised")
    x = b.add_input("x", "input", TensorType((65, 4100), "float32"))
    centred = b.emit("sub", x, b.emit("sum", x, axes=(1,), keepdims=True))
    b.add_output("y", b.emit("sum", b.emit("mul", centred, centred), axes=(1,), keepdims=True))
    graph = b.finish()
    given = {"x": array(graph.inputs[0].type, np.random.default_rng(0), special=False)}
    expected = interpreter.run(graph, given)
    threads = []
    for longest in (rows._LONG, 2**30):
        monkeypatch.setattr(rows, "_LONG", longest)
        program = device_program(graph, OPENCL)
        assert_all_same(["y"], OpenClExecutable(graph, program).run(given), expected)
        threads.append(sum(math.prod((*launch.grid, *launch.block)) for launch in program.launches.values()))
    assert threads[0] > 2 * threads[1]


def test_kernels_that_are_not_followed_keep_what_is_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a normalisation whose values leave the kernel and are read in it.

    In the loss, threads beyond the last pixel have no sum to take the logarithm of: where they read their register all the
    same, a compiler took that for impossible and dropped the condition of the stores that follow.
    """
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 4, 1)).train()
    program = gensyn_tvm.from_torch(network, (torch.ones(8, 3, 14, 14),))
    graph = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.SGD(lr=0.1)).graph
    given = {i.name: sample(i.type, 0, k) for k, i in enumerate(graph.inputs)}
    fast = device_program(graph, OPENCL)
    (name,) = {w.split("'")[1] for w in fast.plan.warnings}
    monkeypatch.setattr(pipeline, "APART", "plain")
    plain = device_program(graph, OPENCL)
    pieces = [sum(n.startswith(f"{name}__") for n in p.launches) for p in (fast, plain)]
    assert pieces[0] < 3 / 4 * pieces[1]
    found = OpenClExecutable(graph, fast).run(given)
    assert_all_same([o.name for o in graph.outputs], found, interpreter.run(graph, given))


def test_transposed_operands_are_read_where_they_are() -> None:
    b = GraphBuilder("transposed")
    x = b.add_input("x", "input", TensorType((40, 33), "float32"))
    y = b.add_input("y", "input", TensorType((3, 50, 40), "float32"))
    turned = b.emit("transpose", b.emit("transpose", y, perm=(0, 2, 1)), perm=(0, 1, 2))
    b.add_output("z", b.emit("matmul", b.emit("transpose", x, perm=(1, 0)), turned))
    b.add_output("other", turned)
    graph = b.finish()
    rng = np.random.default_rng(1)
    given = {i.name: array(i.type, rng, special=False) for i in graph.inputs}
    program = device_program(graph, OPENCL)
    assert sum(name.startswith("transpose") or "matmul" in name for name in program.launches) == 1
    found = OpenClExecutable(graph, program).run(given)
    assert_all_same(["z", "other"], found, interpreter.run(graph, given))
