"""The normal form: the same bits as the graph, and one form for many ways to write a computation."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.access import Access, Loop, covers, disjoint, indices, through_reshape, whole
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.normal import normalise, structure_digest
from gensyn_tvm.canonical.rules import validate
from gensyn_tvm.canonical.types import TensorType
from tests.canonical.disguise import disguised
from tests.fuzz.generate import graph as random_graph
from tests.fuzz.generate import inputs as values_for


def f32(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


def build(body: Callable[[GraphBuilder], int], **inputs: TensorType) -> Graph:
    """A graph of one output; inputs that begin with x come with the batch, the others are parameters."""
    builder = GraphBuilder("g")
    for name, type_ in inputs.items():
        builder.add_input(name, "input" if name.startswith("x") else "parameter", type_)
    builder.add_output("y", body(builder))
    return builder.finish()


def scalar(builder: GraphBuilder, value: float) -> int:
    data = base64.b64encode(np.float32(value).tobytes()).decode()
    return builder.emit("constant", dtype="float32", shape=(), data=data)


@pytest.mark.parametrize("block", range(6))
def test_random_graphs_keep_their_bits(block: int) -> None:
    """100 graphs each: with subnormals, infinities, NaNs and both zeros in half of them."""
    for seed in range(block * 100, block * 100 + 100):
        graph = random_graph(seed)
        form = normalise(graph)
        validate(form.graph)
        given = values_for(graph)
        expected = interpreter.run(graph, given)
        found = form.outputs(interpreter.run(form.graph, form.inputs(given)))
        for output, a, b in zip(graph.outputs, expected, found, strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, np.ascontiguousarray(b).tobytes()), (seed, output.name)


@pytest.mark.parametrize("block", range(5))
def test_disguised_graphs_have_one_form(block: int) -> None:
    differing = 0
    for seed in range(block * 100, block * 100 + 100):
        graph = random_graph(seed)
        if any(0 in t.shape for t in graph.value_types()):
            continue
        other = disguised(graph, seed)
        assert structure_digest(other) == structure_digest(graph), seed
        differing += other.nodes != graph.nodes
    assert differing > 40


def test_graphs_without_elements_are_their_own_form() -> None:
    graph = build(lambda b: b.emit("transpose", 0, perm=(1, 0)), x=f32(0, 3))
    form = normalise(graph)
    assert form.graph.nodes == graph.nodes
    assert form.outputs(interpreter.run(form.graph, form.inputs({"x": np.zeros((0, 3), np.float32)})))[0].shape == (3, 0)


def _gate(b: GraphBuilder, value: int, number: int) -> int:
    return b.emit("slice", value, starts=(0, 4 * number), limits=(2, 4 * number + 4), strides=(1, 1))


def _linear(b: GraphBuilder) -> int:
    return b.emit("add", b.emit("matmul", 0, b.emit("transpose", 1, perm=(1, 0))), 2)


def _dense(b: GraphBuilder) -> int:
    product = b.emit("matmul", b.emit("reshape", 0, shape=(8, 3)), 1)
    return b.emit("reshape", b.emit("add", b.emit("broadcast_to", 2, shape=(8, 5)), product), shape=(2, 4, 5))


def _turned(b: GraphBuilder) -> int:
    product = b.emit("matmul", 1, b.emit("transpose", 0, perm=(0, 2, 1)))
    return b.emit("transpose", b.emit("add", b.emit("reshape", 2, shape=(5, 1)), product), perm=(0, 2, 1))


#: Ways to write one computation.
SAME: dict[str, list[Graph]] = {
    "linear": [
        build(_linear, x=f32(2, 4, 3), w=f32(5, 3), b=f32(5)),
        build(_dense, x=f32(2, 4, 3), w=f32(3, 5), b=f32(1, 5)),
        build(_turned, x=f32(2, 4, 3), weight=f32(5, 3), bias=f32(5)),
    ],
    "layout": [
        build(
            lambda b: b.emit("sum", b.emit("exp", b.emit("add", 0, 1)), axes=(2, 3), keepdims=False),
            x=f32(2, 3, 4, 5),
            c=f32(3, 1, 1),
        ),
        build(
            lambda b: b.emit("sum", b.emit("exp", b.emit("add", 1, 0)), axes=(1, 2), keepdims=False),
            x=f32(2, 4, 5, 3),
            c=f32(3),
        ),
        build(
            lambda b: b.emit(
                "reshape", b.emit("sum", b.emit("exp", b.emit("add", 0, 1)), axes=(1, 2), keepdims=True), shape=(2, 3)
            ),
            x=f32(2, 4, 5, 3),
            c=f32(3),
        ),
    ],
    "gates": [
        build(lambda b: b.emit("mul", *(_gate(b, b.emit("matmul", 0, 1), k) for k in (0, 1))), x=f32(2, 3), w=f32(3, 8)),
        build(lambda b: b.emit("mul", *(_gate(b, b.emit("matmul", 0, 1), k) for k in (1, 0))), x=f32(2, 3), w=f32(3, 8)),
        build(lambda b: b.emit("mul", b.emit("matmul", 0, 1), b.emit("matmul", 0, 2)), x=f32(2, 3), w=f32(3, 4), v=f32(3, 4)),
    ],
    "neutral": [
        build(lambda b: b.emit("exp", 0), x=f32(2, 3)),
        build(lambda b: b.emit("exp", b.emit("mul", b.emit("add", 0, scalar(b, -0.0)), scalar(b, 1.0))), x=f32(2, 3)),
        build(lambda b: b.emit("div", b.emit("exp", b.emit("sub", 0, scalar(b, 0.0))), scalar(b, 1.0)), x=f32(2, 3)),
        build(
            lambda b: b.emit("sum", b.emit("exp", b.emit("reshape", 0, shape=(2, 1, 3))), axes=(1,), keepdims=False),
            x=f32(2, 3),
        ),
    ],
    "comparison": [
        build(lambda b: b.emit("greater", 0, 1), x=f32(3), w=f32(3)),
        build(lambda b: b.emit("less", 1, 0), x=f32(3), w=f32(3)),
    ],
}


@pytest.mark.parametrize("name", SAME)
def test_ways_to_write_one_computation(name: str) -> None:
    forms = [normalise(graph) for graph in SAME[name]]
    assert len({form.digest() for form in forms}) == 1
    assert all(form.graph.nodes == forms[0].graph.nodes for form in forms)


#: Computations that look alike and are not the same.
DIFFERENT: dict[str, list[Graph]] = {
    "order of a difference": [
        build(lambda b: b.emit("sub", 0, 1), x=f32(3), w=f32(3)),
        build(lambda b: b.emit("sub", 1, 0), x=f32(3), w=f32(3)),
    ],
    "plus zero changes the sign of a zero": [
        build(lambda b: b.emit("exp", 0), x=f32(3)),
        build(lambda b: b.emit("exp", b.emit("add", 0, scalar(b, 0.0))), x=f32(3)),
    ],
    "order of a sum": [
        build(lambda b: b.emit("sum", 0, axes=(0, 1), keepdims=False), x=f32(3, 4)),
        build(lambda b: b.emit("sum", b.emit("sum", 0, axes=(1,), keepdims=False), axes=(0,), keepdims=False), x=f32(3, 4)),
    ],
    "where brackets are": [
        build(lambda b: b.emit("add", b.emit("add", 0, 1), 2), x=f32(3), w=f32(3), v=TensorType((1,), "float32")),
        build(lambda b: b.emit("add", 0, b.emit("add", 1, 2)), x=f32(3), w=f32(3), v=TensorType((1,), "float32")),
    ],
    "roles": [
        build(lambda b: b.emit("sub", 0, 1), x=f32(3), w=f32(3)),
        build(lambda b: b.emit("sub", 0, 1), x=f32(3), x2=f32(3)),
    ],
    "constants": [
        build(lambda b: b.emit("mul", 0, scalar(b, 0.5)), x=f32(3)),
        build(lambda b: b.emit("mul", 0, scalar(b, 0.25)), x=f32(3)),
    ],
    "one input twice, or two": [
        build(lambda b: b.emit("mul", 0, 0), x=f32(3), x2=f32(3)),
        build(lambda b: b.emit("mul", 0, 1), x=f32(3), x2=f32(3)),
    ],
    "which part of a parameter": [
        build(
            lambda b: b.emit("sub", _gate(b, b.emit("matmul", 0, 1), 0), _gate(b, b.emit("matmul", 0, 1), 0)),
            x=f32(2, 3),
            w=f32(3, 8),
        ),
        build(
            lambda b: b.emit("sub", _gate(b, b.emit("matmul", 0, 1), 0), _gate(b, b.emit("matmul", 0, 1), 1)),
            x=f32(2, 3),
            w=f32(3, 8),
        ),
    ],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_computations_that_differ(name: str) -> None:
    first, second = DIFFERENT[name]
    assert structure_digest(first) != structure_digest(second)


def test_sums_over_exchanged_axes_differ() -> None:
    """The order of a sum is part of the computation: a transposition under it stays."""
    one = build(lambda b: b.emit("sum", b.emit("exp", 0), axes=(1, 2), keepdims=False), x=f32(2, 3, 4))
    turned = build(
        lambda b: b.emit("sum", b.emit("transpose", b.emit("exp", 0), perm=(0, 2, 1)), axes=(1, 2), keepdims=False),
        x=f32(2, 3, 4),
    )
    forms = [normalise(g) for g in (one, turned)]
    given = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    arrays = [next(iter(form.inputs(given).values())) for form in forms]
    # The input is taken in another order, so one array of weights is not the other's.
    assert not np.array_equal(arrays[0].reshape(-1), arrays[1].reshape(-1))


def test_updated_states_are_told_apart() -> None:
    def graph(swapped: bool) -> Graph:
        builder = GraphBuilder("g")
        for name in ("a", "b"):
            builder.add_input(name, "parameter", f32(3))
        values = [builder.emit("exp", 0), builder.emit("neg", 1)]
        for name, value in zip(("a", "b"), values[::-1] if swapped else values, strict=True):
            builder.add_output(name, value, updates=True)
        return builder.finish()

    assert structure_digest(graph(False)) != structure_digest(graph(True))


def test_extents_of_outputs_stay() -> None:
    builder = GraphBuilder("g")
    builder.add_input("x", "input", f32(4, 3))
    builder.add_input("n", "input", TensorType((), "int64"))
    builder.add_output("y", builder.emit("transpose", 0, perm=(1, 0)), extents=((1, 1),))
    graph = builder.finish()
    given = {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "n": np.array(2)}
    form = normalise(graph)
    (expected,) = interpreter.run(graph, given)
    (found,) = interpreter.run(form.graph, form.inputs(given))
    assert np.array_equal(expected, found) and found.shape == (3, 2)


def test_deep_graphs_need_no_deep_stack() -> None:
    def body(b: GraphBuilder) -> int:
        value = 0
        for k in range(3000):
            value = b.emit("add" if k % 2 else "sub", value, 1)
        return value

    assert len(normalise(build(body, x=f32(2), w=f32(2))).graph.nodes) == 3000


def test_accesses() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6))
    half = Access((1, 0), ((Loop(2, 0, 2),), (Loop(3, 1, 2),)))
    assert np.array_equal(x.reshape(-1)[indices(half, x.shape)], x[1::2, ::2])
    assert not covers(half, x.shape) and covers(whole(x.shape, (1, 0)), x.shape)
    assert disjoint([half, half._replace(starts=(0, 0))], 2) is False  # they lie between one another
    assert disjoint([Access((k, 0), ((Loop(6, 1, 1),),)) for k in range(4)], 2)
    # Rows 1 to 2 of (6, 4) are not a box of (4, 6); rows 3 to 5 are.
    assert through_reshape(Access((1, 0), ((Loop(2, 0, 1),), (Loop(4, 1, 1),))), (6, 4), (4, 6)) is None
    lower = through_reshape(Access((3, 0), ((Loop(3, 0, 1), Loop(4, 1, 1)),)), (6, 4), (4, 6))
    assert lower is not None and np.array_equal(x.reshape(-1)[indices(lower, x.shape)], x.reshape(6, 4)[3:].reshape(-1))
