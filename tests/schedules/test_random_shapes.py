"""Random shapes: fast schedules, plain ones and the interpreter agree on every bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.rules import infer
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.canonical.window_rules import conv_output_shape
from gensyn_tvm.errors import InvalidProgramError

from ..operators.cases import Case, bundle
from ..operators.support import NATIVE, Configuration, assert_all_same, outputs

F = "float32"
COUNT = {"matmul": 40, "conv": 14, "sum": 45, "elementwise": 60, "moves": 30, "pools": 12}
Draw = Callable[[np.random.Generator], Case]
Shape = tuple[int, ...]


def dims(rng: np.random.Generator, low: int, high: int, count: int) -> Shape:
    """Extents, half of them near multiples of a vector."""
    near = 16 * rng.integers(0, max(2, high // 16), count) + rng.integers(-1, 2, count)
    values = np.where(rng.random(count) < 0.5, near, rng.integers(low, high + 1, count))
    return tuple(int(v) for v in np.clip(values, low, high))


def matmul(rng: np.random.Generator) -> Case:
    m, n = dims(rng, 1, 70, 2)
    (k,) = dims(rng, 1, 80, 1) if rng.random() < 0.7 else dims(rng, 500, 1700, 1)
    batch = ((), (2,), (3, 1))[rng.integers(3)]
    return Case(f"matmul {batch} {m} {k} {n}", "matmul", (((*batch, m, k), F), ((k, n), F)), {}, bool(rng.random() < 0.3))


def conv(rng: np.random.Generator) -> Case:
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        n, c, o = int(rng.integers(1, 4)), int(rng.integers(1, 12)) * groups, int(rng.integers(1, 20)) * groups
        window, size = dims(rng, 1, 4, 2), dims(rng, 3, 14, 2)
        pads = tuple(tuple(map(int, rng.integers(0, 3, 2))) for _ in window)
        attrs: dict[str, Any] = {
            "strides": dims(rng, 1, 3, 2),
            "padding": pads,
            "dilations": dims(rng, 1, 2, 2),
            "groups": groups,
        }
        x, w = (n, c, *size), (o, c // groups, *window)
        if all(s + sum(p) > d * (k - 1) for s, p, d, k in zip(size, pads, attrs["dilations"], window, strict=True)):
            break
    y = conv_output_shape(x, w, attrs)
    op = ("conv", "conv_backward_data", "conv_backward_weight")[rng.integers(3)]
    more: dict[str, Any] = {"conv_backward_data": {"input_spatial": size}, "conv_backward_weight": {"kernel": window}}.get(
        op, {}
    )
    shapes = {"conv": (x, w), "conv_backward_data": (y, w), "conv_backward_weight": (x, y)}[op]
    return Case(f"{op} {x} {w} {attrs}", op, tuple((s, F) for s in shapes), {**attrs, **more}, special=False)


def reduction(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 5))
    shape = dims(rng, 1, (3000, 60, 20, 9)[rank - 1], rank)
    axes = tuple(int(a) for a in np.flatnonzero(rng.random(rank) < 0.6))
    op = str(rng.choice(["sum", "sum", "sum", "prod", "reduce_max", "argmin"]))
    if op == "argmin":
        axes = (rank - 1,)
    return Case(
        f"{op} {shape} {axes}",
        op,
        ((shape, F),),
        {"axes": axes, "keepdims": bool(rng.random() < 0.5)},
        bool(rng.random() < 0.3),
    )


def elementwise(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 4))
    shape = dims(rng, 1, (2000, 70, 20)[rank - 1], rank)
    other = tuple(1 if rng.random() < 0.3 else e for e in shape)[int(rng.integers(0, 2)) :]
    op = str(rng.choice(["add", "mul", "div", "maximum", "sub", "sqrt", "neg", "tanh"]))
    shapes = ((shape, F),) if op in ("sqrt", "neg", "tanh") else ((shape, F), (other, F))
    return Case(f"{op} {shapes}", op, shapes, {})


def move(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 4))
    shape = dims(rng, 1, (900, 60, 20)[rank - 1], rank)
    op = str(rng.choice(["transpose", "reshape", "slice", "pad", "concat"]))
    if op == "transpose":
        return Case(f"transpose {shape}", op, ((shape, F),), {"perm": tuple(int(p) for p in rng.permutation(rank))})
    if op == "reshape":
        return Case(f"reshape {shape}", op, ((shape, F),), {"shape": (*shape[1:], shape[0])})
    if op == "slice":
        starts = tuple(int(rng.integers(0, e)) for e in shape)
        return Case(
            f"slice {shape} {starts}", op, ((shape, F),), {"starts": starts, "limits": shape, "strides": dims(rng, 1, 3, rank)}
        )
    if op == "pad":
        pads = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in shape)
        return Case(f"pad {shape} {pads}", op, ((shape, F), ((), F)), {"padding": pads})
    axis = int(rng.integers(rank))
    others = [(*shape[:axis], int(e), *shape[axis + 1 :]) for e in rng.integers(1, 20, 2)]
    return Case(f"concat {shape} {others} {axis}", op, tuple((s, F) for s in (shape, *others)), {"axis": axis})


def pool(rng: np.random.Generator) -> Case:
    while True:
        x = (*dims(rng, 1, 4, 2), *dims(rng, 4, 15, 2))
        pads = tuple(tuple(map(int, rng.integers(0, 2, 2))) for _ in range(2))
        attrs: dict[str, Any] = {
            "kernel": dims(rng, 1, 4, 2),
            "strides": dims(rng, 1, 3, 2),
            "padding": pads,
            "dilations": dims(rng, 1, 2, 2),
        }
        try:
            infer("max_pool", [TensorType(x, F)], attrs)
        except InvalidProgramError:
            continue
        break
    if rng.random() < 0.5:
        return Case(f"max_pool {x} {attrs}", "max_pool", ((x, F),), attrs)
    return Case(f"avg_pool {x} {attrs}", "avg_pool", ((x, F),), {**attrs, "count_include_pad": bool(rng.random() < 0.5)})


DRAWS: dict[str, Draw] = {
    "matmul": matmul,
    "conv": conv,
    "sum": reduction,
    "elementwise": elementwise,
    "moves": move,
    "pools": pool,
}


@cache
def cases(kind: str) -> list[Case]:
    rng = np.random.default_rng(2024)
    return [DRAWS[kind](rng) for _ in range(COUNT[kind])]


@pytest.mark.parametrize("kind", DRAWS)
def test_fast_is_plain_is_the_interpreter(kind: str) -> None:
    drawn = cases(kind)
    names = [case.name for case in drawn]
    expected = interpreter.run(*bundle(drawn))
    for configuration in (Configuration(NATIVE, "fast", (1, 2)), Configuration(NATIVE, "plain")):
        for found in outputs(*bundle(drawn), configuration).values():
            assert_all_same(names, found, expected)


def test_there_are_two_hundred_shapes() -> None:
    assert len({case.name for kind in DRAWS for case in cases(kind)}) >= 180
