"""The order verifier on threads of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators.registry import VARIANTS
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.schedules.driver import schedule_kernel
from gensyn_tvm.targets.gpu import CUDA

X = TensorType((33, 47), "float32")


def variant(op: str = "sum") -> Any:
    if op == "sum":
        return VARIANTS[op](op, [X], TensorType((33,), "float32"), {"axes": (1,), "keepdims": False})
    return VARIANTS[op](op, [X], X, {})


def changed(function: Any, kind: Any, change: Callable[[Any], Any]) -> Any:
    """The kernel with every node of a kind replaced."""

    def replace(node: Any, mutator: Any) -> Any:
        return change(mutator.default_mutate(node))

    return function.with_body(tvm_ffi.structural_mutate(function.body, (kind, replace)))


def refused(function: Any, unscheduled: Any, *words: str) -> None:
    with pytest.raises(ScheduleError) as error:
        check_order("k", function, unscheduled)
    for word in words:
        assert word in str(error.value)


def limit(by: int) -> Callable[[Any], Any]:
    return lambda e: tirx.LT(e.a, tirx.IntImm("int64", int(e.b.value) + by))


@pytest.mark.parametrize("op", ("sum", "neg"))
def test_threads_over_all_elements_are_accepted(op: str) -> None:
    check_order("k", schedule_kernel("k", variant(op), CUDA, "plain"), variant(op))


@pytest.mark.parametrize("op", ("sum", "neg"))
def test_a_condition_that_leaves_out_an_element_is_refused(op: str) -> None:
    function = variant(op)
    scheduled = schedule_kernel("k", function, CUDA, "plain")
    refused(changed(scheduled, tirx.LT, limit(-1)), function, "in: kernel 'k'")


def test_a_condition_that_lets_threads_run_beyond_the_end_is_refused() -> None:
    function = variant("neg")
    scheduled = schedule_kernel("k", function, CUDA, "plain")
    refused(changed(scheduled, tirx.LT, limit(1)), function, "in: kernel 'k'", "beyond its extent")
    always = changed(scheduled, tirx.LT, lambda e: tirx.IntImm("bool", 1))
    refused(always, function, "in: kernel 'k'", "beyond its extent")


def test_a_thread_that_leaves_out_its_block_is_refused() -> None:
    """All blocks of threads would store the elements of the first one."""
    function = variant("neg")
    scheduled = schedule_kernel("k", function, CUDA, "plain")

    def first_only(realize: Any) -> Any:
        def forget(expr: Any, mutator: Any) -> Any:
            return tirx.IntImm("int64", 0)

        values = [tvm_ffi.structural_mutate(v, (tirx.Mul, forget)) for v in realize.iter_values]
        return s_tir.SBlockRealize(values, realize.predicate, realize.block)

    refused(changed(scheduled, s_tir.SBlockRealize, first_only), function, "in: kernel 'k'")


def test_terms_shared_out_among_threads_are_refused() -> None:
    """The loop over the terms of a product bound to threads: each would add its term to the same register."""
    axis = tirx.IterVar(None, tirx.Var("threadIdx_y", "int64"), tirx.IterVar.ThreadIndex, "threadIdx.y")

    def bind(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.SERIAL or int(loop.extent) == 1:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.THREAD_BINDING, loop.body, axis)

    function = VARIANTS["matmul"]("m", [X, TensorType((47, 5), "float32")], TensorType((33, 5), "float32"), {})
    scheduled = schedule_kernel("m", function, CUDA, "plain")
    check_order("m", scheduled, function)
    refused(changed(scheduled, tirx.For, bind), function, "a reduction loop under bind")


# ---- shared memory --------------------------------------------------------------------------------------------------


def product() -> Any:
    types = [TensorType((100, 700), "float32"), TensorType((700, 90), "float32")]
    return VARIANTS["matmul"]("m", types, TensorType((100, 90), "float32"), {})


def tiled() -> Any:
    return schedule_kernel("m", product(), CUDA, "fast")


def rescoped(function: Any, name: str, scope: str) -> Any:
    """The kernel with the buffers of a name in another memory."""
    found: dict[Any, Any] = {}

    def note(block: Any) -> None:
        for b in block.alloc_buffers:
            if str(b.name) == name:
                found[b] = tirx.decl_buffer(b.shape, str(b.dtype), f"{name}_{scope}", scope=scope)

    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, note))

    def load(e: Any, mutator: Any) -> Any:
        e = mutator.default_mutate(e)
        return tirx.BufferLoad(found[e.source], e.indices) if e.source in found else e

    def store(s: Any, mutator: Any) -> Any:
        s = mutator.default_mutate(s)
        return tirx.BufferStore(found.get(s.buffer, s.buffer), s.value, s.indices)

    def block(s: Any, mutator: Any) -> Any:
        s = mutator.default_mutate(s)
        buffers = [found.get(b, b) for b in s.alloc_buffers]
        return s_tir.SBlock(s.iter_vars, [], s.writes, s.name_hint, s.body, s.init, buffers, s.match_buffers, s.annotations)

    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (s_tir.SBlock, block)]
    return function.with_body(tvm_ffi.structural_mutate(function.body, callbacks))


def test_a_product_in_tiles_is_accepted() -> None:
    assert "shared" in tiled().script()
    check_order("m", tiled(), product())


@pytest.mark.parametrize("name", ("left", "right"))
def test_operands_that_other_threads_brought_are_not_in_registers(name: str) -> None:
    refused(rescoped(tiled(), name, "local"), product(), "beyond what it has computed by then")


def test_operands_that_only_some_threads_bring_are_refused() -> None:
    """The loop over the parts of a tile is cut by half."""

    def half(loop: Any) -> Any:
        if not str(loop.loop_var.name).startswith("part") or "bring" not in str(loop.body):
            return loop
        one = tirx.IntImm("int64", int(loop.extent) // 2)
        return tirx.For(loop.loop_var, loop.min, one, loop.kind, loop.body)

    refused(changed(tiled(), tirx.For, half), product(), "in: kernel 'k'")


def test_operands_of_another_tile_are_refused() -> None:
    def first_tile(realize: Any) -> Any:
        if not str(realize.block.name_hint).startswith("bring"):
            return realize

        def forget(var: Any, mutator: Any) -> Any:
            return tirx.IntImm("int64", 0) if str(var.name) == "blockIdx_y" else var

        values = [tvm_ffi.structural_mutate(v, (tirx.Var, forget)) for v in realize.iter_values]
        return s_tir.SBlockRealize(values, realize.predicate, realize.block)

    refused(changed(tiled(), s_tir.SBlockRealize, first_tile), product(), "in: kernel 'k'")


def test_operands_that_come_after_their_use_are_refused() -> None:
    def backwards(statements: Any) -> Any:
        if not any("bring_0" in str(s) for s in statements.seq) or "term" not in str(statements):
            return statements
        return tirx.SeqStmt(list(statements.seq)[::-1])

    refused(changed(tiled(), tirx.SeqStmt, backwards), product(), "in: kernel 'k'")


def test_a_loop_over_threads_inside_of_another_is_refused() -> None:
    """TVM would take both for one."""

    def rebind(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.UNROLLED or not str(loop.loop_var.name).startswith("c"):
            return loop
        axis = tirx.IterVar(None, tirx.Var("threadIdx_x", "int64"), tirx.IterVar.ThreadIndex, "threadIdx.x")
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.THREAD_BINDING, loop.body, axis)

    refused(changed(tiled(), tirx.For, rebind), product(), "a loop over threadIdx.x inside of another")


def long_rows() -> Any:
    types = TensorType((128, 1040), "float32"), TensorType((128,), "float32")
    return VARIANTS["sum"]("s", [types[0]], types[1], {"axes": (1,), "keepdims": False})


def test_rows_are_accepted() -> None:
    function = schedule_kernel("s", long_rows(), CUDA, "fast")
    assert "threadIdx.y" in function.script()
    check_order("s", function, long_rows())


def test_what_lanes_have_added_up_is_not_in_the_registers_of_one_thread() -> None:
    function = rescoped(schedule_kernel("s", long_rows(), CUDA, "fast"), "row", "local")
    refused(function, long_rows(), "beyond what it has computed by then")


def test_a_result_that_all_threads_store_is_refused() -> None:
    """Without the condition each thread of a warp would store the row's result."""
    function = schedule_kernel("s", long_rows(), CUDA, "fast")

    def unconditional(realize: Any) -> Any:
        if str(realize.block.name_hint).startswith("tree"):
            return s_tir.SBlockRealize(realize.iter_values, True, realize.block)
        return realize

    refused(changed(function, s_tir.SBlockRealize, unconditional), long_rows(), "may store to the same elements")
