"""The memory plan: every intermediate array has a fixed place in one arena, shared by arrays that are never alive together.

TVM's own plan hands whole allocations on from one array to another, so that a small array may hold a large one.
Outputs are not in the arena: they live on in the caller's hands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

#: Bytes; kernels may assume this alignment of every array (TVM's ``kAllocAlignment``).
ALIGNMENT = 64

_ENTRY = "main"
_ALLOCATION = "relax.builtin.alloc_tensor"


@dataclass
class Interval:
    """An array and the bindings from ``start`` to ``end``, both included, during which it must keep its bytes."""

    size: int
    start: int
    end: int


def plan_memory(module: Any) -> Any:
    """Place the arrays that the calls of ``main`` allocate in an arena, in place of ``StaticPlanBlockMemory``."""
    function = module[_ENTRY]
    bindings = [b for block in function.body.blocks for b in block.bindings]
    intervals = _intervals(bindings, function.body.body)
    if not intervals:
        return module
    offsets = dict(zip(intervals, place(list(intervals.values())), strict=True))
    total = max(offsets[v] + _rounded(i.size) for v, i in intervals.items())
    arena = relax.Var("arena", relax.AnyType())
    planned = [relax.VarBinding(arena, relax.op.memory.alloc_storage(relax.ShapeExpr([total]), 0, "global", "uint8"))]
    for b in bindings:
        if b.var in offsets:
            shape, dtype = b.value.args[0], b.value.args[1]
            whole = relax.Var("placed", b.var.ty)
            planned.append(relax.VarBinding(whole, relax.op.memory.alloc_tensor(arena, offsets[b.var], shape, dtype)))
            # Kernels want the offset in the pointer; on a CPU this puts it there.
            b = relax.VarBinding(b.var, relax.op.memory.ensure_zero_offset(whole))
        planned.append(b)
    body = relax.SeqExpr([relax.BindingBlock(planned)], function.body.body)
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    result.update_func(
        module.get_global_var(_ENTRY),
        relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs),
    )
    return relax.transform.Normalize()(result)


def _intervals(bindings: Sequence[Any], result: Any) -> dict[Any, Interval]:
    """The arrays that are not part of the result, in the order of their allocation, by the variable that holds them first."""
    found: dict[Any, Interval] = {}
    holds: dict[Any, set[Any]] = {}  # for each variable the allocations that it may be a view of

    def arrays(expr: Any) -> set[Any]:
        if isinstance(expr, tvm.ir.Var):
            return holds.get(expr, set())
        if isinstance(expr, relax.TupleGetItem):
            return arrays(expr.tuple_value)
        children = expr.fields if isinstance(expr, relax.Tuple) else getattr(expr, "args", ())
        return set().union(*(arrays(c) for c in children))

    for k, b in enumerate(bindings):
        call = b.value if isinstance(b.value, relax.Call) else None
        name = getattr(call.op, "name", "") if call is not None else ""
        if name == _ALLOCATION:
            holds[b.var] = {b.var}
            found[b.var] = Interval(array_bytes(b.var.ty), k, k)
            continue
        read = arrays(b.value)
        for v in read:
            found[v].end = k
        # A kernel's call has no value; any other may be a view.
        holds[b.var] = read
    returned = arrays(result)
    return {v: i for v, i in found.items() if v not in returned}


def array_bytes(ty: Any) -> int:
    """Bytes of an array of a static Relax type."""
    return math.prod(int(n) for n in ty.shape) * np.dtype(str(ty.dtype.dtype)).itemsize


def _rounded(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


def place(intervals: Sequence[Interval]) -> list[int]:
    """An offset for each interval, such that no two that overlap in time overlap in space.

    The largest first, each into the smallest gap that holds it, the lowest of equal ones (Pisarchyk and Lee 2020,
    arXiv:2001.03288, greedy by size).
    """
    sizes = np.array([_rounded(i.size) for i in intervals], np.int64)
    starts, ends = (np.array([getattr(i, end) for i in intervals], np.int64) for end in ("start", "end"))
    offsets = np.full(len(intervals), -1, np.int64)
    for k in np.lexsort((np.arange(len(intervals)), starts, -sizes)):
        beside = np.flatnonzero((offsets >= 0) & (starts <= ends[k]) & (starts[k] <= ends))
        beside = beside[np.argsort(offsets[beside], kind="stable")]
        # What is placed up to each array ends where the gap before the next begins.
        reached = np.maximum.accumulate(offsets[beside] + sizes[beside]) if len(beside) else beside
        begins = np.concatenate([np.zeros(1, np.int64), reached])
        gaps = np.concatenate([offsets[beside], [np.iinfo(np.int64).max]]) - begins
        fits = np.flatnonzero(gaps >= sizes[k])
        offsets[k] = begins[fits[np.argmin(gaps[fits])]]
    return [int(o) for o in offsets]
