"""Conditions that need not be asked: results beyond the last row or column that stay in a thread's registers.

A tile of results may reach beyond the matrix. The verifier wants to see that such places take no part, so their statements have
conditions. Once it has, the conditions of statements that go from registers and shared memory to registers are dropped: every
place has registers of its own, and what lies in those beyond the last row or column is not stored by anybody.

It has to have been written, though: what reads a register that nobody has written has no meaning in C, and compilers conclude
that it does not happen. So a condition stays where a statement reads what has been stored under a condition only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

_REDUCTION = 2  # tirx.IterVar.CommReduce
_CLOSE = ("local", "shared")


def without_idle_conditions(function: Any) -> Any:
    """The kernel without them. Conditions on the terms of a reduction stay."""
    written: set[Any] = set()  # what has been stored so far in all places

    def visit(realize: Any, mutator: Any) -> Any:
        realize = mutator.default_mutate(realize)
        block = realize.block
        if not isinstance(block.body, tirx.BufferStore):
            return realize
        kept = _parts(realize.predicate)
        if _is_close(block, written):
            terms = [
                v for axis, v in zip(block.iter_vars, realize.iter_values, strict=True) if int(axis.iter_type) == _REDUCTION
            ]
            loops = {v for value in terms for v in _variables(value)}
            kept = [c for c in kept if loops & _variables(c)]
        if not kept:
            written.add(block.body.buffer)
        predicate: Any = tirx.IntImm("bool", 1)
        for n, condition in enumerate(kept):
            predicate = condition if n == 0 else tirx.And(predicate, condition)
        return s_tir.SBlockRealize(realize.iter_values, predicate, block)

    return function.with_body(tvm_ffi.structural_mutate(function.body, (s_tir.SBlockRealize, visit)))


def _is_close(block: Any, written: Collection[Any]) -> bool:
    """Whether a block stores to registers and reads from nowhere but registers and shared memory that have been written."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(block.body.value, (tvm.ir.TensorLoad, loads.append))
    sources = [e.source for e in loads]
    return str(block.body.buffer.scope()) == "local" and all(str(b.scope()) in _CLOSE and b in written for b in sources)


def _parts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_parts(condition.a), *_parts(condition.b)]
    return [] if isinstance(condition, tirx.IntImm) else [condition]


def _variables(expr: Any) -> set[Any]:
    found: set[Any] = set()
    tvm_ffi.structural_walk(expr, (tvm.ir.Var, found.add))
    return found
