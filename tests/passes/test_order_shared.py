"""Kernels whose reduction reads an output that whole tiles and then the rest complete, and pads of arrays put side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import exact
from gensyn_tvm.passes.fuse import fuse
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.passes.pipeline import kernels, schedule
from gensyn_tvm.targets.cpu import TARGETS

from .test_order_values import rewritten

TARGET = TARGETS["x86-64-v4"]


def softmax_gradient(rows: int = 4, columns: int = 1000) -> Graph:
    """What cross entropy hands on to a linear layer, and its sum over the batch for the bias: 1000 is no multiple of 64.

    A product reads the values themselves, so that they are stored.
    """
    b = GraphBuilder("gradient")
    x, t = (b.add_input(n, "input", TensorType((rows, columns), "float32")) for n in "xt")
    s = b.add_input("s", "input", TensorType((rows, 1), "float32"))
    w = b.add_input("w", "input", TensorType((columns, 8), "float32"))
    y = b.emit("sub", t, b.emit("mul", s, b.emit("exp", x)))
    total = b.emit("sum", y, axes=(0,), keepdims=False)
    b.add_output("y", b.emit("matmul", y, w))
    b.add_output("sum", total)
    return b.finish()


def side_by_side(length: int = 128) -> Graph:
    """The gradient of splitting queries, keys and values: heads put together, padded to three times the width, added."""
    b = GraphBuilder("pads")
    zero = b.add_input("zero", "input", TensorType((), "float32"))
    heads_of = [b.add_input(name, "input", TensorType((1, 12, length, 64), "float32")) for name in "qkv"]
    total: int | None = None
    for k, heads in enumerate(heads_of):
        rows = b.emit("reshape", b.emit("transpose", heads, perm=(0, 2, 1, 3)), shape=(1, length, 768))
        wide = b.emit("pad", rows, zero, padding=((0, 0), (0, 0), (768 * k, 768 * (2 - k))))
        total = wide if total is None else b.emit("add", total, wide)
    assert total is not None
    b.add_output("y", b.emit("reshape", total, shape=(length, 3 * 768)))
    return b.finish()


def built(graph: Graph) -> Iterator[tuple[str, Any, Any]]:
    """Name, schedule and variant of each fused kernel."""
    with TARGET.to_tvm():
        module = fuse(legalise(lift(graph)), rows=True)
        scheduled = schedule(module, TARGET, "fast")
    variants = {gv.name_hint: f for gv, f in kernels(module)}
    for gv, f in kernels(scheduled):
        yield gv.name_hint, f, variants[gv.name_hint]


@pytest.mark.parametrize("graph", [softmax_gradient(), softmax_gradient(70, 200), side_by_side(), side_by_side(7)])
def test_the_verifier_follows_the_schedules_of_these_kernels(graph: Graph) -> None:
    found = [*built(graph)]
    assert any(name.startswith(("rows_exp", "fused_transpose")) for name, _, _ in found)
    for name, function, variant in found:
        check_order(name, function, variant)


# ---- what would be wrong is still refused --------------------------------------------------------------------------------


def gradient_kernel() -> tuple[Any, Any]:
    ((_, function, variant),) = [k for k in built(softmax_gradient()) if "exp" in k[0]]
    return function, variant


def blocks_of(stmt: Any) -> list[str]:
    names: list[str] = []
    tvm_ffi.structural_walk(stmt, (s_tir.SBlockRealize, lambda r: names.append(r.block.name_hint)))
    return names


def values_late(seq: Any) -> Any:
    """The stage that the reduction reads after the reduction, in every tile."""
    names = [set(blocks_of(s)) for s in seq.seq]
    first = next((k for k, n in enumerate(names) if n == {"map2"}), None)
    if first is None or len(seq.seq) < 3:
        return None
    stmts = [*seq.seq]
    return tirx.SeqStmt([*stmts[:first], *stmts[first + 1 :], stmts[first]])


def other_terms(block: Any) -> Any:
    """The reduction adds what it reads twice."""
    if block.name_hint != "lanes":
        return None
    store = block.body
    term = store.value.args[1]
    value = exact.add(store.value.args[0], exact.add(term, term))
    return _with_body(block, tirx.BufferStore(store.buffer, value, store.indices))


def read_back(block: Any) -> Any:
    """The stage reads the sum that is made of it."""
    if block.name_hint != "map2":
        return None
    store = block.body
    total = next(b for b in OUTPUTS if len(b.shape) == 1)
    value = exact.add(store.value, tirx.BufferLoad(total, [store.indices[1]]))
    return _with_body(block, tirx.BufferStore(store.buffer, value, store.indices))


OUTPUTS: list[Any] = []


def _with_body(block: Any, body: Any) -> Any:
    return s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


#: Kind of node, change, and what the refusal says.
ATTACKS: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
    "read before it is there": (tirx.SeqStmt, values_late, "before they are complete"),
    "other terms": (s_tir.SBlock, other_terms, "a reduction with other terms"),
    "a circle": (s_tir.SBlock, read_back, "depend on one another"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_the_shared_output_are_refused(name: str) -> None:
    kind, change, text = ATTACKS[name]
    function, variant = gradient_kernel()
    OUTPUTS[:] = function.params[-2:]
    check_order("k", function, variant)
    with pytest.raises(ScheduleError, match=text):
        check_order("k", rewritten(function, kind, change), variant)


def test_a_rest_of_other_values_is_refused() -> None:
    """Whole tiles are right, the last columns are not: the blocks of one buffer must agree."""
    function, variant = gradient_kernel()
    seen: list[Any] = []

    def change(call: Any) -> Any:
        if call.op.name != exact.PREFIX + "sub":
            return None
        seen.append(call)
        return exact.add(*call.args) if len(seen) == 2 else None

    wrong = rewritten(function, tvm.ir.Call, change)
    assert len(seen) > 1
    with pytest.raises(ScheduleError, match="different values of"):
        check_order("k", wrong, variant)
