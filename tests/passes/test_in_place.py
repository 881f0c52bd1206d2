"""Updates in place: the same bits as apart, nothing that reads a neighbour, nothing that somebody reads later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, kernel, load
from gensyn_tvm.passes.in_place import overwritable
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.plan import Plan, nbytes

#: Larger than what is computed at once, and no multiple of anything.
N = 201
SPECIAL = np.array([0, 0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00001, 0x00800000, 0x7F7FFFFF], np.uint32)
Update = Callable[[GraphBuilder, int, int], int]


def scaled(b: GraphBuilder, p: int, g: int) -> int:
    return b.emit("add", b.emit("mul", p, p), g)


def shifted(b: GraphBuilder, p: int, g: int) -> int:
    """Each row reads the row before it, which has been written by then."""
    first = b.emit("slice", p, starts=(0, 0), limits=(1, N), strides=(1, 1))
    others = b.emit("slice", p, starts=(0, 0), limits=(N - 1, N), strides=(1, 1))
    return b.emit("add", b.emit("concat", first, others, axis=0), g)


def turned(b: GraphBuilder, p: int, g: int) -> int:
    return b.emit("add", b.emit("transpose", p, perm=(1, 0)), g)


def centred(b: GraphBuilder, p: int, g: int) -> int:
    """Rows are read as a whole before their elements are written."""
    return b.emit("add", b.emit("sub", p, b.emit("sum", p, axes=(1,), keepdims=True)), g)


def multiplied(b: GraphBuilder, p: int, g: int) -> int:
    return b.emit("add", b.emit("matmul", p, p), g)


def graph(update: Update, *, late: bool = False) -> Graph:
    """A state and what it becomes; with ``late`` somebody needs the old state and the new one."""
    b = GraphBuilder("update")
    g = b.add_input("g", "input", TensorType((N, N), "float32"))
    p = b.add_input("p", "parameter", TensorType((N, N), "float32"))
    new = update(b, p, g)
    if late:
        b.add_output("both", b.emit("matmul", new, p))
    b.add_output("p", new, updates=True)
    return b.finish()


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    p, g = (rng.standard_normal((N, N)).astype(np.float32) for _ in "pg")
    p.reshape(-1)[: len(SPECIAL)] = SPECIAL.view(np.float32)
    g.reshape(-1)[5 : 5 + len(SPECIAL)] = SPECIAL.view(np.float32)
    return p, g


def built(update: Update, *, late: bool = False) -> Executable:
    return compile(Source(graph(update, late=late), State({"p": arrays()[0]})))


def both(exe: Executable, steps: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The state after some steps, apart and in place."""
    _, g = arrays()
    state, run = exe.init(), exe.start()
    for _ in range(steps):
        state, apart = exe(state, (g,))
        shown = run((g,))
        assert {n: v.tobytes() for n, v in apart.items()} == {n: v.tobytes() for n, v in shown.items()}
    return state["p"].view(np.uint32), run.state["p"].view(np.uint32)


@pytest.mark.parametrize("update", [scaled, shifted, turned, centred, multiplied])
def test_in_place_and_apart_give_the_same_bits(update: Update) -> None:
    exe = built(update)
    assert exe._machine.plan.in_place or update is not scaled
    assert not exe._machine.plan.in_place or update is not turned
    apart, inside = both(exe)
    assert np.array_equal(apart, inside)


def test_a_state_that_is_read_beside_its_next_value_is_not_overwritten() -> None:
    exe = built(scaled, late=True)
    assert exe._machine.plan.in_place == {}
    both(exe)


def test_what_is_refused_would_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gensyn_tvm.passes.in_place._may_be_over", lambda *_: True)
    exe = built(turned)
    assert exe._machine.plan.in_place
    apart, inside = both(exe)
    assert not np.array_equal(apart, inside)


def of_stages(*stages: Callable[..., Any]) -> dict[int, set[int]]:
    """What may be written over what in a kernel (x, y) → z with such stages; each is (kernel, x, y, z, scratch)."""
    t = TensorType((8, 8), "float32")
    with kernel("k", [t, t], t) as k:
        between = k.scratch([8, 8], "float32")
        for stage in stages:
            stage(k, *k.inputs, k.output, between)
    return overwritable("k", k.result())


def store(to: int, *read: tuple[int, int]) -> Callable[..., Any]:
    """A stage that adds elements of arrays, by number among (x, y, z, scratch), so many columns further on."""

    def stage(k: Any, *arrays: Any) -> None:
        def value(index: Any) -> Any:
            terms = [load(arrays[n], [index[0], (index[1] + i64(by)) % i64(8) if by else index[1]]) for n, by in read]
            return exact.add(terms[0], terms[-1])

        k.stage("map", arrays[to], [8, 8], value)

    return stage


X, Y, Z, BETWEEN = range(4)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([store(Z, (X, 0), (Y, 0))], {X, Y}),
        ([store(Z, (X, 1), (Y, 0))], {Y}),
        ([store(Z, (X, 0), (X, 1))], {Y}),
        ([store(BETWEEN, (X, 1), (Y, 0)), store(Z, (BETWEEN, 0), (Y, 0))], {X, Y}),
        ([store(BETWEEN, (X, 0), (Y, 0)), store(Z, (BETWEEN, 1), (Y, 1))], {X}),
    ],
    ids=["same element", "neighbour", "element and neighbour", "neighbours in loops before", "neighbour at last"],
)
def test_what_may_be_overwritten(stages: list[Callable[..., Any]], expected: set[int]) -> None:
    assert of_stages(*stages) == {Z: expected}


def check_nobody_reads_later(plan: Plan) -> None:
    first = len(plan.inputs)
    for output, given in plan.in_place.items():
        (writer,) = [k for k, s in enumerate(plan.steps) if any(a.slot == first + output for a in s.arguments[-s.writes :])]
        readers = [k for k, s in enumerate(plan.steps) if any(a.slot == given for a in s.arguments)]
        assert readers[-1] == writer
        assert given not in {a.slot for _, a in plan.copies}


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_updates_in_place(model: Any, optimizer: str) -> None:
    """Parameters and moments, also of the first parameter, whose kernel computes what the others read too."""
    exe = compile(gensyn_tvm.training_step(model.load(8), loss="cross_entropy", optimizer=optimizer))
    plan = exe._machine.plan
    check_nobody_reads_later(plan)
    large = [k for k, o in enumerate(exe.graph.outputs) if o.updates and nbytes(plan.outputs[k]) > 4096]
    assert large and set(large) <= set(plan.in_place)
