"""Attacks on what a kernel computes: each changes bits when nothing is verified, and is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import exact, products, reductions
from gensyn_tvm.operators.nest import i64, kernel, load
from gensyn_tvm.passes.order import check_order

from ..fuzz.schedules import arrays_for, run_all

F = "float32"


def types(*shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(shape, F) for shape in shapes]


def matmul() -> Any:
    """One chunk of 32 terms."""
    return products.matmul("main", types((16, 32), (32, 16)), TensorType((16, 16), F), {})


def chunks() -> Any:
    """Three chunks of 512 terms and their sum."""
    return products.matmul("main", types((4, 1536), (1536, 16)), TensorType((4, 16), F), {})


def row_sum() -> Any:
    attrs = {"axes": (1,), "keepdims": False}
    return reductions.lane_reduction(reductions.SUM)("main", types((16, 256)), TensorType((16,), F), attrs)


def zero_sum() -> Any:
    """The sum of eight zeros with a negative sign."""
    with kernel("main", types((1,)), TensorType((1,), F)) as k:

        def step(index: Any, term: Any, total: Any) -> Any:
            return exact.add(total, exact.neg(exact.absolute(exact.sub(load(k.inputs[0], index), load(k.inputs[0], index)))))

        k.stage("fold", k.output, [1], step, reduce=[8], init=exact.const(-0.0))
    return k.result()


def cut() -> Any:
    """Rows of eight of which six are kept."""
    with kernel("main", types((48,)), TensorType((6, 6), F)) as k:
        flat, rows = k.scratch([48], F), k.scratch([6, 8], F)
        k.stage("pack", flat, [48], lambda i: load(k.inputs[0], i))
        k.stage("move", rows, [48], lambda i: load(flat, i), at=lambda v: [v // i64(8), v % i64(8)])
        k.stage("map", k.output, [6, 6], lambda i: exact.neg(load(rows, i)))
    return k.result()


def same_bits(variant: Any, function: Any, *, zeros: bool = False, infinities: bool = False) -> bool:
    """Whether both store the same, of random numbers or of a matrix of -0.0 and a matrix of ones.

    With ``infinities`` every second row begins with them, so that the row before shows a term that is read beyond its end,
    whatever memory that is multiplied with.
    """
    arguments = arrays_for(variant, 0)
    if infinities:
        arguments[0][1::2, :3] = np.inf
    if zeros:
        arguments[0][...] = -0.0
        arguments[1][...] = 1.0
    before, after = run_all([variant, function], [arguments, arguments])
    return np.array_equal(before[-1], after[-1])


# ---- expressions and statements replaced behind TVM's back ---------------------------------------------------------------


def rewritten(function: Any, kind: Any, replace: Callable[[Any], Any]) -> Any:
    """The function with ``replace(node)`` in place of each node of a kind for which that is not None."""

    def change(node: Any, mutator: Any) -> Any:
        node = mutator.default_mutate(node)
        new = replace(node)
        return node if new is None else new

    return function.with_body(tvm_ffi.structural_mutate(function.body, [(kind, change)]))


def calls(name: str, make: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace calls of an exact operator by ``make(arguments)``."""

    def mutate(function: Any) -> Any:
        return rewritten(function, tvm.ir.Call, lambda c: make(*c.args) if c.op.name == exact.PREFIX + name else None)

    return mutate


def in_block(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Replace the realisation of a block."""

    def mutate(function: Any) -> Any:
        return rewritten(
            function, s_tir.SBlockRealize, lambda r: change(r) if r.block.name_hint == name and len(r.block.iter_vars) else None
        )

    return mutate


def _values(realize: Any, change: Callable[[list[Any]], list[Any]]) -> Any:
    return s_tir.SBlockRealize(change(list(realize.iter_values)), realize.predicate, realize.block)


def _backwards(realize: Any) -> Any:
    return _values(realize, lambda v: [*v[:-1], i64(2) - v[-1]])


def _where(realize: Any) -> Any:
    return s_tir.SBlockRealize(list(realize.iter_values), tirx.LT(realize.iter_values[-1], i64(31)), realize.block)


def _twice(function: Any) -> Any:
    return rewritten(
        function,
        tirx.For,
        lambda s: tirx.SeqStmt([s, s]) if isinstance(s.body, s_tir.SBlockRealize) and _updates(s.body) else None,
    )


def _updates(realize: Any) -> bool:
    return realize.block.init is None and any(int(v.iter_type) == 2 for v in realize.block.iter_vars)


def _decomposed(function: Any) -> Any:
    sch = s_tir.Schedule(function, debug_mask="none")
    block = sch.get_sblock("chunk")
    sch.decompose_reduction(block, sch.get_loops(block)[-1])
    return sch.mod["main"]


def _init_last(function: Any) -> Any:
    """The initial value after the terms."""

    def swap(s: Any) -> Any:
        names = [_block_name(part) for part in s.seq]
        return tirx.SeqStmt(list(s.seq)[::-1]) if "chunk_init" in names else None

    return rewritten(_decomposed(function), tirx.SeqStmt, swap)


def _no_init(function: Any) -> Any:
    def drop(s: Any) -> Any:
        kept = [part for part in s.seq if _block_name(part) != "chunk_init"]
        return tirx.SeqStmt(kept) if 1 < len(kept) < len(s.seq) else kept[0] if len(kept) < len(s.seq) else None

    return rewritten(_decomposed(function), tirx.SeqStmt, drop)


def _block_name(stmt: Any) -> str:
    while isinstance(stmt, tirx.For):
        stmt = stmt.body
    return str(stmt.block.name_hint) if isinstance(stmt, s_tir.SBlockRealize) else ""


def _shorter(function: Any) -> Any:
    return rewritten(
        function, tirx.For, lambda s: tirx.For(s.loop_var, s.min, i64(31), s.kind, s.body) if int(s.extent) == 32 else None
    )


def _zero(*args: Any) -> Any:
    return exact.const(0.0) if int(args[0]) == 0x80000000 else exact.call("bits", F, *args)


MUTATIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], str]] = {
    "fma as product and sum": (matmul, calls("fma", lambda a, b, c: exact.add(exact.mul(a, b), c)), "another initial value"),
    "fma of other operands": (matmul, calls("fma", lambda a, b, c: exact.fma(a, c, b)), "another initial value"),
    "subtraction for addition": (row_sum, calls("add", exact.sub), "another initial value"),
    "a rounding more": (cut, calls("neg", lambda x: exact.add(exact.neg(x), exact.const(1.0))), "other values of y"),
    "a sign lost": (cut, calls("neg", lambda x: x), "other values of y"),
    "chunks backwards": (chunks, in_block("total", _backwards), "step -1 in the reduction index"),
    "the last term left out by a predicate": (matmul, in_block("chunk", _where), "a predicate"),
    "the last term left out by the loop": (matmul, _shorter, "every term exactly once"),
    "a positive zero at first": (zero_sum, calls("bits", _zero), "another initial value"),
    "every term twice": (lambda: _decomposed(matmul()), _twice, "may store to the same elements"),
    "the initial value last": (matmul, _init_last, "elements to which no terms are added afterwards"),
    "no initial value": (matmul, _no_init, "without an initial value"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_refused(name: str) -> None:
    make, mutate, text = MUTATIONS[name]
    variant = make()
    with pytest.raises(ScheduleError, match=text):
        check_order("k", mutate(variant), variant)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_change_bits(name: str) -> None:
    make, mutate, _ = MUTATIONS[name]
    seen = not same_bits(make(), mutate(make()))
    if name == "no initial value":  # random numbers don't show a memory of zeros, -0.0 not what the first run left there
        seen = seen or not same_bits(make(), mutate(make()), zeros=True)
    assert seen


# ---- primitives ----------------------------------------------------------------------------------------------------------


def scheduled(function: Any, attack: Callable[[Any], None]) -> Any:
    sch = s_tir.Schedule(function, debug_mask="none", error_render_level="none")
    attack(sch)
    return sch.mod["main"]


def _no_predicate(sch: Any) -> None:
    sch.split(sch.get_loops(sch.get_sblock("chunk"))[-1], [None, 5], disable_predication=True)


def _lose_predicate(sch: Any) -> None:
    """TVM limits what is stored by a predicate, and forgets it when the block moves."""
    sch.reverse_compute_inline(sch.get_sblock("map"))
    outer, inner = sch.split(sch.get_loops(sch.get_sblock("pack"))[0], [None, 8])
    sch.reorder(inner, outer)
    sch.reverse_compute_at("move", outer)


def _interleaved(sch: Any) -> None:
    sch.transform_block_layout(sch.get_sblock("chunk"), lambda i, j, k: (i, j, k % 4, k // 4))


def _narrow(sch: Any) -> None:
    sch.unsafe_set_dtype("chunk", 0, "float64")


def _as_epilogue(sch: Any) -> None:
    sch.fuse_reduction_epilogue("chunk", "map")


def _pad(sch: Any) -> None:
    sch.pad_einsum("chunk", [1, 1, 48])


CHANGING: dict[str, tuple[Callable[[], Any], Callable[[Any], None], str]] = {
    "Split without a predicate": (matmul, _no_predicate, "index .* beyond its extent 32|beyond the extent"),
    "ReverseComputeAt after ReverseComputeInline": (cut, _lose_predicate, "a store to y at"),
    "TransformBlockLayout": (matmul, _interleaved, "another initial value"),
    "FuseReductionEpilogue": (matmul, _as_epilogue, "FloatImm expression"),
    "PadEinsum": (matmul, _pad, "FloatImm expression"),
}
#: These start or go on with +0.0, which shows where all products are -0.0.
SIGNED_ZEROS = ("FuseReductionEpilogue", "PadEinsum")
#: These read terms beyond the end of a row.
BEYOND = ("Split without a predicate",)


@pytest.mark.parametrize("name", CHANGING)
def test_primitives_that_change_bits_are_refused(name: str) -> None:
    make, attack, text = CHANGING[name]
    function = scheduled(make(), attack)
    assert not same_bits(make(), function, zeros=name in SIGNED_ZEROS, infinities=name in BEYOND)
    with pytest.raises(ScheduleError, match=text):
        check_order("k", function, make())


def _loop(sch: Any, block: str, n: int) -> Any:
    return sch.get_loops(sch.get_sblock(block))[n]


#: What the verifier refuses for what it might do: no code for it on a CPU, or something that it cannot judge.
UNJUDGED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "Bind of terms": (lambda s: s.bind(_loop(s, "chunk", -1), "threadIdx.x"), "a reduction loop under bind"),
    "UnsafeSetDtype": (_narrow, "arithmetic|another initial value|other values"),
    "SetScope": (lambda s: s.set_scope("chunk", 0, "shared"), "in scope 'shared'"),
    "Blockize": (lambda s: s.blockize(_loop(s, "map", -1)), "a block that stores one element"),
    "Annotate": (
        lambda s: s.annotate(_loop(s, "map", 0), "software_pipeline_stage", [0]),
        "annotation 'software_pipeline_stage'",
    ),
    "Annotate a block": (lambda s: s.annotate(s.get_sblock("map"), "pragma_import_c", "x"), "annotation 'pragma_import_c'"),
    "ReadAt": (lambda s: s.read_at(_loop(s, "map", 0), s.get_sblock("map"), 0, "local"), "annotation 'auto_copy'"),
}


@pytest.mark.parametrize("name", UNJUDGED)
def test_what_cannot_be_judged_is_refused(name: str) -> None:
    attack, text = UNJUDGED[name]
    with pytest.raises(ScheduleError, match=text):
        check_order("k", scheduled(matmul(), attack), matmul())


def _at(sch: Any) -> None:
    sch.compute_at(sch.get_sblock("chunk"), _loop(sch, "map", 0))


def _reverse_at(sch: Any) -> None:
    sch.reverse_compute_at(sch.get_sblock("map"), _loop(sch, "chunk", 0))


#: No misuse of these changes a bit: they are accepted, and the bits are equal.
HARMLESS: dict[str, Callable[[Any], Any]] = {
    "Unroll": lambda s: s.unroll(_loop(s, "chunk", -1)),
    "ComputeAt": _at,
    "ReverseComputeAt": _reverse_at,
    "CacheRead": lambda s: s.cache_read("chunk", 0, "local"),
    "CacheWrite": lambda s: s.cache_write("chunk", 0, "local"),
    "StorageAlign": lambda s: s.storage_align("chunk", 0, 0, 32, 1),
    "AddUnitLoop": lambda s: s.add_unit_loop(s.get_sblock("chunk")),
    "TransformLayout": lambda s: s.transform_layout("chunk", ("write", 0), lambda i, j: [j // 4, i, j % 4]),
    "UnsafeHideBufferAccess": lambda s: s.unsafe_hide_buffer_access(s.get_sblock("map"), "read", [0]),
    "Parallel over rows": lambda s: s.parallel(_loop(s, "chunk", 0)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_primitives_are_accepted(name: str) -> None:
    function = scheduled(matmul(), HARMLESS[name])
    check_order("k", function, matmul())
    assert same_bits(matmul(), function)


#: TVM itself finds no way to apply these to opaque arithmetic. Should that change, the verifier has to be tried on them.
IMPOSSIBLE: dict[str, Callable[[Any], Any]] = {
    "RFactor": lambda s: s.rfactor(_loop(s, "chunk", -1), 0),
    "DecomposePadding": lambda s: s.decompose_padding("chunk", _loop(s, "chunk", 0)),
    "RollingBuffer": lambda s: s.rolling_buffer("chunk", 0),
    "Parallel over terms": lambda s: s.parallel(_loop(s, "chunk", -1)),
    "Vectorize over terms": lambda s: s.vectorize(_loop(s, "chunk", -1)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_primitives_that_do_not_apply(name: str) -> None:
    with pytest.raises((s_tir.ScheduleError, RuntimeError, ValueError, TypeError)):
        scheduled(matmul(), IMPOSSIBLE[name])
