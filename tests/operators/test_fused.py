"""Chains of operators that become one kernel: fusing them changes no bit."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import TARGETS

from .case import array
from .support import CONFIGURATIONS, Configuration, assert_all_same, executed

Build = Callable[..., Sequence[int]]

CONV = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}


def scalar(b: GraphBuilder, value: float) -> int:
    """A float32 constant."""
    data = base64.b64encode(np.float32(value).tobytes()).decode()
    return b.emit("constant", dtype="float32", shape=(), data=data)


def reduce(b: GraphBuilder, op: str, x: int, *axes: int) -> int:
    return b.emit(op, x, axes=axes, keepdims=True)


def conv_bias_relu(b: GraphBuilder, x: int, w: int, bias: int) -> list[int]:
    return [b.emit("maximum", b.emit("add", b.emit("conv", x, w, **CONV), bias), scalar(b, 0.0))]


def dense_gelu(b: GraphBuilder, x: int, w: int, bias: int) -> list[int]:
    z = b.emit("add", b.emit("matmul", x, w), bias)
    half = b.emit("mul", z, scalar(b, 0.5))
    erf = b.emit("erf", b.emit("mul", z, scalar(b, 0.70710678)))
    return [b.emit("mul", half, b.emit("add", erf, scalar(b, 1.0)))]


def softmax(b: GraphBuilder, x: int) -> list[int]:
    e = b.emit("exp", b.emit("sub", x, reduce(b, "reduce_max", x, 1)))
    return [b.emit("div", e, reduce(b, "sum", e, 1))]


def log_softmax(b: GraphBuilder, x: int) -> list[int]:
    shifted = b.emit("sub", x, reduce(b, "reduce_max", x, 1))
    return [b.emit("sub", shifted, b.emit("log", reduce(b, "sum", b.emit("exp", shifted), 1)))]


def batch_norm(b: GraphBuilder, x: int, gamma: int, beta: int) -> list[int]:
    count = scalar(b, 5 * 7 * 9)
    mean = b.emit("div", reduce(b, "sum", x, 0, 2, 3), count)
    centred = b.emit("sub", x, mean)
    variance = b.emit("div", reduce(b, "sum", b.emit("mul", centred, centred), 0, 2, 3), count)
    spread = b.emit("sqrt", b.emit("add", variance, scalar(b, 1e-5)))
    normal = b.emit("div", centred, spread)
    return [b.emit("add", b.emit("mul", normal, gamma), beta), mean, variance]


def sum_of_products(b: GraphBuilder, x: int, y: int) -> list[int]:
    product = b.emit("mul", x, y)
    return [b.emit("sum", product, axes=(1,), keepdims=False), b.emit("add", b.emit("mul", x, x), product)]


def reduce_and_spread(b: GraphBuilder, x: int) -> list[int]:
    total = b.emit("sum", b.emit("abs", x), axes=(1,), keepdims=True)
    spread = b.emit("broadcast_to", total, shape=(13, 70))
    return [b.emit("transpose", b.emit("div", x, spread), perm=(1, 0)), b.emit("reshape", total, shape=(13,))]


def two_sum(b: GraphBuilder, x: int, y: int) -> list[int]:
    """Zero in real numbers, the rounding error in floats."""
    total = b.emit("add", x, y)
    back = b.emit("sub", total, x)
    return [b.emit("add", b.emit("sub", x, b.emit("sub", total, back)), b.emit("sub", y, back))]


def moved(b: GraphBuilder, x: int, y: int) -> list[int]:
    joined = b.emit("concat", b.emit("neg", x), b.emit("sqrt", y), axis=1)
    padded = b.emit("pad", joined, scalar(b, -0.0), padding=((1, 2), (0, 3)))
    cut = b.emit("slice", padded, starts=(0, 1), limits=(11, 28), strides=(2, 3))
    return [b.emit("add", cut, cut), b.emit("sum", padded, axes=(0,), keepdims=False)]


def dropout(b: GraphBuilder, seed: int, step: int, x: int) -> list[int]:
    random = b.emit("random_bits", seed, step, op_id=3, shape=(40, 33))
    limit = b.emit("constant", dtype="uint32", shape=(), data=base64.b64encode(np.uint32(3 << 30).tobytes()).decode())
    kept = b.emit("mul", x, scalar(b, 4 / 3))
    return [b.emit("where", b.emit("less", random, limit), kept, scalar(b, 0.0))]


def momentum(b: GraphBuilder, weight: int, velocity: int, a: int, dy: int) -> list[int]:
    gradient = b.emit("matmul", b.emit("transpose", a, perm=(1, 0)), dy)
    speed = b.emit("add", b.emit("mul", velocity, scalar(b, 0.9)), gradient)
    return [b.emit("sub", weight, b.emit("mul", speed, scalar(b, 0.1))), speed]


def residual(b: GraphBuilder, x: int, w: int) -> list[int]:
    """The sum of a product is fused with an elementwise neighbour that reads the product's own input."""
    y = b.emit("tanh", b.emit("conv", x, w, **CONV))
    pooled = b.emit("avg_pool", b.emit("add", x, y), kernel=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)),
                    dilations=(1, 1), count_include_pad=True)  # fmt: skip
    return [pooled, b.emit("sum", y, axes=(2, 3), keepdims=False)]


F = "float32"
I64 = ((), "int64")


@dataclass(frozen=True)
class Chain:
    """Operators that hang together; ``kernels`` is the most kernels that fusion may leave."""

    build: Build
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    kernels: int

    @property
    def name(self) -> str:
        return self.build.__name__


CHAINS = (
    Chain(conv_bias_relu, (((2, 3, 9, 10), F), ((20, 3, 3, 3), F), ((20, 1, 1), F)), 2),
    Chain(dense_gelu, (((17, 600), F), ((600, 24), F), ((24,), F)), 2),
    Chain(softmax, (((19, 41), F),), 4),
    Chain(log_softmax, (((40, 10), F),), 4),
    Chain(batch_norm, (((5, 6, 7, 9), F), ((6, 1, 1), F), ((6, 1, 1), F)), 7),
    Chain(sum_of_products, (((33, 1100), F), ((33, 1100), F)), 4),
    Chain(reduce_and_spread, (((13, 70), F),), 3),
    Chain(two_sum, (((65, 33), F), ((33,), F)), 1),
    Chain(moved, (((9, 20), F), ((9, 8), F)), 4),
    Chain(dropout, (I64, I64, ((40, 33), F)), 2),
    Chain(momentum, (((30, 10), F), ((30, 10), F), ((64, 30), F), ((64, 10), F)), 4),
    Chain(residual, (((2, 16, 8, 8), F), ((16, 16, 3, 3), F)), 6),
)


def assemble(chains: Sequence[Chain], *, special: bool) -> tuple[Graph, dict[str, np.ndarray], list[str]]:
    """One graph of all chains, its inputs, and a name for each output."""
    builder = GraphBuilder("chains")
    rng = np.random.default_rng(5)
    given: dict[str, np.ndarray] = {}
    arguments: list[list[int]] = []
    for chain in chains:
        numbers = []
        for k, (shape, dtype) in enumerate(chain.shapes):
            given[f"{chain.name}{k}"] = array(TensorType(shape, dtype), rng, special=special)
            numbers.append(builder.add_input(f"{chain.name}{k}", "input", TensorType(shape, dtype)))
        arguments.append(numbers)
    for chain, numbers in zip(chains, arguments, strict=True):
        for k, value in enumerate(chain.build(builder, *numbers)):
            builder.add_output(f"{chain.name}-{k}", value)
    graph = builder.finish()
    return graph, given, [o.name for o in graph.outputs]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_chains_are_the_interpreter(configuration: Configuration) -> None:
    graph, ordinary, names = assemble(CHAINS, special=False)
    _, special, _ = assemble(CHAINS, special=True)
    executable = compile(graph, configuration.target, schedule=configuration.style)
    for given in (ordinary, special):
        expected = interpreter.run(graph, given)
        for threads in configuration.threads:
            assert_all_same(names, executed(executable, given, threads), expected)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: c.name)
def test_chains_do_fuse(chain: Chain) -> None:
    graph = assemble([chain], special=False)[0]
    counts: dict[str, int] = {}
    run_phases(graph, TARGETS["x86-64"], "plain", lambda phase, module: counts.update({phase: len(kernels(module))}))
    assert counts["fuse"] <= chain.kernels


def test_two_sum_finds_rounding_errors() -> None:
    """The chain would be a constant zero for a compiler that treats floats as real numbers."""
    graph, given, _ = assemble([c for c in CHAINS if c.build is two_sum], special=False)
    (found,) = interpreter.run(graph, given)
    assert np.count_nonzero(found) > 100
