"""Indices that TVM's iterator maps get wrong.

``FlattenBuffer`` simplifies every index as a map of iterators. Where a division is divided again with a constant in between or
inside and a sum in between, as in ((v + 106) // 16 + 123) % 128 // 16, the result of TVM 0.27 is another function: a kernel
that reads a slice of a reshaped tensor would read the wrong elements. Before that pass the inner divisions of such indices are
therefore put into an operator that it does not understand (``exact_index``, the identity), which leaves them to the ordinary
simplifier; at the very end it disappears, on GPUs behind that pass.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.sym import Analyzer

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import ravel, substituted
from gensyn_tvm.targets.prefetch import prefetch_all
from gensyn_tvm.targets.transposition import turn_all

Expr = Any

_DIVISIONS = (tirx.FloorDiv, tirx.FloorMod)
_SUMS = (tirx.Add, tirx.Sub)


def _has(expr: Expr, kinds: tuple[Any, ...]) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (kinds, found.append))
    return bool(found)


def _is_offset(expr: Expr) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr.value) != 0


def _is_unsafe(operand: Expr) -> bool:
    """Whether what is divided is, or contains, a sum with a division in it, and anything in it adds a constant but 0."""
    sums: list[Any] = []
    tvm_ffi.structural_walk(operand, (_SUMS, sums.append))
    return any(_has(node, _DIVISIONS) for node in sums) and any(_is_offset(n.a) or _is_offset(n.b) for n in sums)


def hide(index: Expr) -> Expr:
    """The index with the inner divisions of every unsafe division in ``exact_index``."""

    def inner(node: Any, mutator: Any) -> Any:
        return exact.call("index", exact.dtype_of(node), node)

    def division(node: Any, mutator: Any) -> Any:
        if not _is_unsafe(node.a):
            return mutator.default_mutate(node)
        return type(node)(tvm_ffi.structural_mutate(node.a, (_DIVISIONS, inner)), node.b)

    return tvm_ffi.structural_mutate(index, (_DIVISIONS, division)) if _has(index, _DIVISIONS) else index


def hide_divisions(function: Any) -> Any:
    """A PrimFunc without blocks in which no index has a constant between two divisions that can be seen."""

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        indices = [hide(i) for i in expr.indices]
        changed = any(new is not old for new, old in zip(indices, expr.indices, strict=True))
        return tirx.BufferLoad(expr.source, indices) if changed else expr

    def store(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        return tirx.BufferStore(stmt.buffer, stmt.value, [hide(i) for i in stmt.indices])

    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)]
    return function.with_body(tvm_ffi.structural_mutate(function.body, callbacks))


def straighten(function: Any) -> Any:
    """A PrimFunc without blocks in which loads that go straight through memory say so, with their place in the last index.

    (k // 9, k % 9 // 3, k % 3) of an array (n, 3, 3) is the element k. So vectors of neighbours are seen to be vectors.
    """

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        if len(expr.source.ty.strides) or not any(_has(i, _DIVISIONS) for i in expr.indices):
            return expr
        divided: list[tuple[Expr, Any]] = []
        indices = [_with_names(i, divided) for i in expr.indices]
        flat = Analyzer().simplify(ravel(indices, [int(e) for e in expr.source.shape]))
        left: list[Any] = []
        tvm_ffi.structural_walk(flat, (_DIVISIONS, lambda node: left.append(node.a)))
        if all(any(a.same_as(name) for a in left) for _, name in divided):
            return expr
        for whole, name in divided:
            flat = substituted(flat, {name: whole})
        return tirx.BufferLoad(expr.source, [*(tirx.IntImm(exact.dtype_of(flat), 0) for _ in expr.indices[1:]), flat])

    return function.with_body(tvm_ffi.structural_mutate(function.body, (tvm.ir.TensorLoad, load)))


def _with_names(index: Expr, divided: list[tuple[Expr, Any]]) -> Expr:
    """An index with names for what it divides, which are added to ``divided``.

    The simplifier sees through k // 9 * 9 + k % 9, but changes the constants of (i + 16) // 9 * 9 + (i + 16) % 9.
    """

    def division(node: Any, mutator: Any) -> Any:
        if isinstance(node.a, _DIVISIONS):
            return mutator.default_mutate(node)
        name = next((n for whole, n in divided if tvm_ffi.structural_equal(whole, node.a)), None)
        if name is None:
            name = tirx.Var("divided", exact.dtype_of(node.a))
            divided.append((node.a, name))
        return type(node)(name, node.b)

    return tvm_ffi.structural_mutate(index, (_DIVISIONS, division))


@tvm.transform.module_pass(opt_level=0, name="StraightenLoads")
def _straighten_all(module: Any, context: Any) -> Any:
    found = {gv: straighten(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(found, attrs=module.attrs)


@tvm.transform.module_pass(opt_level=0, name="HideDivisions")
def _hide_all(module: Any, context: Any) -> Any:
    hidden = {gv: hide_divisions(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(hidden, attrs=module.attrs)


@tvm.transform.module_pass(opt_level=0, name="ShowDivisions")
def show_divisions(module: Any, context: Any) -> Any:
    """Once buffers are flat ``exact_index`` has done its work: without it indices can be narrow, and vectors."""

    def visit(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return expr.args[0] if expr.op.name == f"{exact.PREFIX}index" else expr

    def shown(function: Any) -> Any:
        return function.with_body(tvm_ffi.structural_mutate(function.body, (tvm.ir.Call, visit)))

    found = {gv: shown(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(found, attrs=module.attrs)


def before_flattening(*, device: bool = False) -> Any:
    """TVM's passes up to the one that flattens buffers (its own pipeline runs them again, on nothing), and ours.

    ``device``: loops are bound to the threads of a GPU.
    """
    passes = s_tir.transform
    return tvm.transform.Sequential(
        [
            passes.CanonicalizeLoop(),
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            *([passes.LiftThreadBinding(), passes.StmtSimplify()] if device else []),
            passes.CompactBufferAllocation(),
            *([passes.UnifyThreadBinding()] if device else []),
            passes.LowerMatchBuffer(),
            passes.StmtSimplify(),
            *([passes.InjectSoftwarePipeline()] if device else []),
            passes.LowerOpaqueBlock(),
            *([_straighten_all] if device else []),
            _hide_all,
            *([] if device else [turn_all, prefetch_all]),
        ]
    )
