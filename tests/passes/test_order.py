"""Attacks on the order of reductions: TVM refuses, or the verifier does, or the bits change (and then it must)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import exact, products, reductions
from gensyn_tvm.operators.nest import i64
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.schedules import driver
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.lowering import lowering_for

from ..operators.support import NATIVE

Attack = Callable[[Any, Any, list[Any]], Any]
F = "float32"
CONV = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilations": (1, 1), "groups": 1}


def types(*shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(shape, F) for shape in shapes]


def matmul() -> Any:
    """i, j: 16; k: 32, one chunk."""
    return products.matmul("main", types((16, 32), (32, 16)), TensorType((16, 16), F), {})


def conv() -> Any:
    """batch, group, position, output channel; then channel 8, kernel 3 x 3."""
    return products.conv("main", types((1, 8, 6, 6), (16, 8, 3, 3)), TensorType((1, 16, 4, 4), F), CONV)


def total() -> Any:
    """Three chunks of 512 added in order."""
    return products.matmul("main", types((4, 1536), (1536, 16)), TensorType((4, 16), F), {})


def row_sum() -> Any:
    """Lanes 32, steps 8."""
    attrs = {"axes": (1,), "keepdims": False}
    return reductions.lane_reduction(reductions.SUM)("main", types((16, 256)), TensorType((16,), F), attrs)


def opened(function: Any, role: str = "chunk") -> tuple[Any, Any, list[Any]]:
    """A schedule of the function, its block of that role and the block's loops."""
    sch = s_tir.Schedule(function, debug_mask="none")
    (block,) = [b for b in sch.get_child_blocks(sch.get_sblock("root")) if sch.get(b).name_hint == role]
    return sch, block, list(sch.get_loops(block))


def attacked(function: Any, attack: Attack, role: str = "chunk") -> Any:
    sch, block, loops = opened(function, role)
    attack(sch, block, loops)
    return sch.mod["main"]


def split_and_swap(sch: Any, block: Any, loops: list[Any]) -> None:
    outer, inner = sch.split(loops[-1], [None, 4])
    sch.reorder(inner, outer)


def fuse_split_and_swap(sch: Any, block: Any, loops: list[Any]) -> None:
    outer, inner = sch.split(sch.fuse(*loops[-3:]), [None, 8])
    sch.reorder(inner, outer)


def uneven_split_and_swap(sch: Any, block: Any, loops: list[Any]) -> None:
    outer, inner = sch.split(loops[-1], [None, 5])
    sch.reorder(inner, outer)


def swap_after_decomposition(sch: Any, block: Any, loops: list[Any]) -> None:
    outer, inner = sch.split(loops[-1], [None, 4])
    sch.decompose_reduction(block, outer)
    sch.reorder(inner, outer)


ATTACKS: list[tuple[str, Callable[[], Any], str, Attack, str]] = [
    ("split k, swap", matmul, "chunk", split_and_swap, "loop v_1 of extent 4 (serial)"),
    ("uneven split of k, swap", matmul, "chunk", uneven_split_and_swap, "loop v_1 of extent 5 (serial)"),
    ("swap after decomposition", matmul, "chunk", swap_after_decomposition, "loop v_1 of extent 4 (serial)"),
    ("bind k", matmul, "chunk", lambda s, b, loops: s.bind(loops[-1], "threadIdx.x"), "extent 32 (bind)"),
    ("channel and kernel row", conv, "chunk", lambda s, b, loops: s.reorder(loops[-2], loops[-3]), "extent 3 (serial)"),
    ("kernel row and column", conv, "chunk", lambda s, b, loops: s.reorder(loops[-1], loops[-2]), "extent 3 (serial)"),
    ("channel innermost", conv, "chunk", lambda s, b, loops: s.reorder(*loops[-2:], loops[-3]), "extent 3 (serial)"),
    ("fuse all, split, swap", conv, "chunk", fuse_split_and_swap, "extent 8 (serial)"),
    ("bind the kernel column", conv, "chunk", lambda s, b, loops: s.bind(loops[-1], "threadIdx.x"), "extent 3 (bind)"),
    ("bind chunks", total, "total", lambda s, b, loops: s.bind(loops[-1], "threadIdx.x"), "extent 3 (bind)"),
    ("swap steps of a sum", row_sum, "lanes", split_and_swap, "extent 4 (serial)"),
    ("bind steps of a sum", row_sum, "lanes", lambda s, b, loops: s.bind(loops[-1], "threadIdx.y"), "extent 8 (bind)"),
]


@pytest.mark.parametrize(("function", "role", "attack", "text"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_refused(function: Callable[[], Any], role: str, attack: Attack, text: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check_order("the_kernel", attacked(function(), attack, role))
    message = str(caught.value)
    assert "the schedule would change the order of a reduction" in message
    assert "kernel 'the_kernel'" in message
    assert f"block '{role}" in message
    assert text in message
    assert "what to do" in message


def parallel_after_decomposition(sch: Any, block: Any, loops: list[Any]) -> None:
    sch.decompose_reduction(block, loops[-1])
    sch.parallel(loops[-1])


IMPOSSIBLE: dict[str, tuple[Callable[[], Any], Attack]] = {
    "parallel k": (matmul, lambda s, b, loops: s.parallel(loops[-1])),
    "vectorize k": (matmul, lambda s, b, loops: s.vectorize(loops[-1])),
    "parallel k after decomposition": (matmul, parallel_after_decomposition),
    "parallel kernel column": (conv, lambda s, b, loops: s.parallel(loops[-1])),
    "rfactor k": (matmul, lambda s, b, loops: s.rfactor(s.split(loops[-1], [None, 4])[1], 0)),
}


@pytest.mark.parametrize(("function", "attack"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_in_tvm(function: Callable[[], Any], attack: Attack) -> None:
    """Should TVM ever allow one of these, the verifier has to be tried on it."""
    sch, block, loops = opened(function())
    with pytest.raises(s_tir.ScheduleError):
        attack(sch, block, loops)


def with_kind(function: Any, kind: int, extent: int) -> Any:
    """The function with every serial loop of that extent turned into another kind, behind TVM's back."""

    def visit(stmt: Any) -> Any:
        if isinstance(stmt, tirx.For):
            new = kind if int(stmt.extent) == extent else int(stmt.kind)
            return tirx.For(stmt.loop_var, stmt.min, stmt.extent, new, visit(stmt.body))
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([visit(s) for s in stmt.seq])
        if isinstance(stmt, s_tir.SBlockRealize) and stmt.block.name_hint == "root":
            b = stmt.block
            block = s_tir.SBlock(
                b.iter_vars,
                b.reads,
                b.writes,
                b.name_hint,
                visit(b.body),
                b.init,
                b.alloc_buffers,
                b.match_buffers,
                b.annotations,
            )
            return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, block)
        return stmt

    return function.with_body(visit(function.body))


@pytest.mark.parametrize(("kind", "name"), [(1, "parallel"), (2, "vectorize")])
def test_loop_kinds_that_tvm_refuses_are_refused_again(kind: int, name: str) -> None:
    function = products.matmul("main", types((16, 48), (48, 32)), TensorType((16, 32), F), {})
    check_order("k", function)
    with pytest.raises(ScheduleError, match=rf"block 'chunk', loop v\w* of extent 48 \({name}\)[\s\S]*under {name}"):
        check_order("k", with_kind(function, kind, 48))


def handmade(index: Callable[[Any, Any], Any], outer: int = 1) -> Any:
    """A sum of eight numbers whose position is ``index(outer loop, inner loop)`` of loops of ``outer`` and 8 iterations."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name("main")
        x = T.arg("x", T.buffer([8], F))
        y = T.arg("y", T.buffer([1], F))
        with T.serial(i64(0), i64(outer)) as i, T.serial(i64(0), i64(8)) as k, T.sblock("total"):
            v = T.axis.spatial(i64(1), i64(0))
            r = T.axis.reduce(i64(8), index(i, k))
            with T.init():
                T.buffer_store(y, exact.const(-0.0), [v])
            T.buffer_store(y, exact.add(y[v], x[r]), [v])
    return builder.get()


def test_handmade_loops() -> None:
    check_order("k", handmade(lambda i, k: k))
    with pytest.raises(ScheduleError, match=r"block 'total', loop v\w* of extent 8 \(serial\)[\s\S]*step -1"):
        check_order("k", handmade(lambda i, k: 7 - k))
    with pytest.raises(ScheduleError, match=r"loop v\w* of extent 3[\s\S]*a loop that no index of the block depends on"):
        check_order("k", handmade(lambda i, k: k, outer=3))
    with pytest.raises(ScheduleError, match="an affine function of the loops"):
        check_order("k", handmade(lambda i, k: (k * k) % 8))
    with pytest.raises(ScheduleError, match="step 1 in the reduction index, inner loops span 14"):
        check_order("k", handmade(lambda i, k: i + k * 2, outer=2))


def test_unknown_statements_are_refused() -> None:
    function = matmul()
    body = tirx.AttrStmt(tirx.Var("x", "int32"), "pragma", tirx.IntImm("int32", 1), function.body)
    with pytest.raises(ScheduleError, match="kernel 'k' contains a AttrStmt statement"):
        check_order("k", function.with_body(body))


# ---- what is allowed ------------------------------------------------------------------------------------------------


def tiled(sch: Any, block: Any, loops: list[Any]) -> None:
    i, j, k = loops
    i_outer, i_inner = sch.split(i, [None, 4])
    j_outer, j_inner = sch.split(j, [None, 8])
    k_outer, k_inner = sch.split(k, [None, 8])
    sch.reorder(i_outer, j_outer, k_outer, k_inner, i_inner, j_inner)
    sch.vectorize(j_inner)
    sch.unroll(i_inner)
    sch.unroll(k_inner)
    sch.parallel(sch.fuse(i_outer, j_outer))
    sch.decompose_reduction(block, k_outer)


def computed_at(sch: Any, block: Any, loops: list[Any]) -> None:
    (consumer,) = sch.get_consumers(block)
    sch.compute_at(block, sch.get_loops(consumer)[0])


LEGAL: dict[str, tuple[Callable[[], Any], str, Attack]] = {
    "split k": (matmul, "chunk", lambda s, b, loops: s.split(loops[-1], [None, 4])),
    "uneven split of k": (matmul, "chunk", lambda s, b, loops: s.split(loops[-1], [None, 5])),
    "unroll k": (matmul, "chunk", lambda s, b, loops: s.unroll(loops[-1])),
    "k outermost": (matmul, "chunk", lambda s, b, loops: s.reorder(loops[2], loops[0], loops[1])),
    "tile": (matmul, "chunk", tiled),
    "compute_at": (matmul, "chunk", computed_at),
    "decompose": (conv, "chunk", lambda s, b, loops: s.decompose_reduction(b, loops[-3])),
    "fuse j and k": (matmul, "chunk", lambda s, b, loops: s.fuse(*loops[-2:])),
    "fuse reduction loops": (conv, "chunk", lambda s, b, loops: s.fuse(*loops[-3:])),
    "lanes inside steps": (row_sum, "lanes", lambda s, b, loops: s.vectorize((s.reorder(loops[2], loops[1]), loops[1])[1])),
}


@pytest.mark.parametrize(("function", "role", "change"), LEGAL.values(), ids=LEGAL)
def test_legal_schedules_keep_their_bits(function: Callable[[], Any], role: str, change: Attack) -> None:
    scheduled = attacked(function(), change, role)
    check_order("k", scheduled)
    assert np.array_equal(executed(scheduled), executed(function()))


def executed(function: Any) -> np.ndarray:
    """The bits that a function computes on this machine, nothing verified."""
    target = TARGETS[NATIVE]
    with target.to_tvm(), lowering_for(has_fma=target.has_fma):
        built = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target.to_tvm())
    rng = np.random.default_rng(1)
    buffers = [tuple(int(e) for e in p.ty.shape) for p in function.params]
    arrays = [tvm.runtime.tensor(rng.standard_normal(shape).astype(F)) for shape in buffers]
    built["main"](*arrays)
    return arrays[-1].numpy().view(np.uint32)


#: A bound loop has no meaning on a CPU.
NOT_EXECUTED = ("bind k", "bind the kernel column", "bind chunks", "bind steps of a sum")
EXECUTED = {a[0]: a[1:4] for a in ATTACKS if a[0] not in NOT_EXECUTED}


@pytest.mark.parametrize(("function", "role", "attack"), EXECUTED.values(), ids=EXECUTED)
def test_refused_schedules_do_change_bits(function: Callable[[], Any], role: str, attack: Attack) -> None:
    """The refusals are no mere formality."""
    assert not np.array_equal(executed(attacked(function(), attack, role)), executed(function()))


# ---- primitives that redefine what the verifier goes by --------------------------------------------------------------


def reorder_block_axes(sch: Any, block: Any, loops: list[Any]) -> None:
    count = len(loops)
    sch.reorder_block_iter_var(block, [*range(count - 3), count - 1, count - 2, count - 3])
    sch.reorder(loops[-1], loops[-2], loops[-3])


def interleave(sch: Any, block: Any, loops: list[Any]) -> None:
    sch.transform_block_layout(block, lambda i, j, k: (i, j, k % 4, k // 4))


REDEFINITIONS: dict[str, tuple[Callable[[], Any], Attack, str]] = {
    "ReorderBlockIterVar": (conv, reorder_block_axes, "chunk"),
    "TransformBlockLayout": (matmul, interleave, "chunk"),
}


@pytest.mark.parametrize(("primitive", "given"), REDEFINITIONS.items(), ids=REDEFINITIONS)
def test_redefined_axes_are_refused_by_the_driver(
    primitive: str, given: tuple[Callable[[], Any], Attack, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    function, attack, role = given

    def rule(sch: Any, _target: Any) -> None:
        (block,) = [b for b in sch.get_child_blocks(sch.get_sblock("root")) if sch.get(b).name_hint == role]
        attack(sch, block, list(sch.get_loops(block)))

    changed = attacked(function(), attack, role)
    check_order("k", changed)  # in ascending order of axes that are no longer the canonical ones
    assert not np.array_equal(executed(changed), executed(function()))
    monkeypatch.setattr(driver, "schedule_cpu", rule)
    with pytest.raises(ScheduleError, match=rf"kernel 'the_kernel'[\s\S]*found: {primitive}\n"):
        driver.schedule_kernel("the_kernel", function(), TARGETS["x86-64"], "fast")


def test_unknown_style_is_refused() -> None:
    with pytest.raises(ScheduleError, match="unknown schedule style 'quick'; expected one of none, plain, fast"):
        driver.schedule_kernel("k", matmul(), TARGETS["x86-64"], "quick")
