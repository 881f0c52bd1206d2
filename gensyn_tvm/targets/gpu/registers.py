"""Conditions that need not be asked: results beyond the last row or column that stay in a thread's registers.

A tile of results may reach beyond the matrix. The verifier wants to see that such places take no part, so their statements have
conditions. Once it has, the conditions of statements that go from registers and shared memory to registers are dropped: every
place has registers of its own, and what lies in those beyond the last row or column is not stored by anybody.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

_REDUCTION = 2  # tirx.IterVar.CommReduce
_CLOSE = ("local", "shared")


def without_idle_conditions(function: Any) -> Any:
    """The kernel without them. Conditions on the terms of a reduction stay."""

    def visit(realize: Any, mutator: Any) -> Any:
        realize = mutator.default_mutate(realize)
        block = realize.block
        if not isinstance(block.body, tirx.BufferStore) or not _is_close(block):
            return realize
        terms = [v for axis, v in zip(block.iter_vars, realize.iter_values, strict=True) if int(axis.iter_type) == _REDUCTION]
        loops = {v for value in terms for v in _variables(value)}
        kept = [c for c in _parts(realize.predicate) if loops & _variables(c)]
        predicate: Any = tirx.IntImm("bool", 1)
        for n, condition in enumerate(kept):
            predicate = condition if n == 0 else tirx.And(predicate, condition)
        return s_tir.SBlockRealize(realize.iter_values, predicate, block)

    return function.with_body(tvm_ffi.structural_mutate(function.body, (s_tir.SBlockRealize, visit)))


def _is_close(block: Any) -> bool:
    """Whether a block stores to registers and reads from nowhere but registers and shared memory."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(block.body.value, (tvm.ir.TensorLoad, loads.append))
    return str(block.body.buffer.scope()) == "local" and all(str(e.source.scope()) in _CLOSE for e in loads)


def _parts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_parts(condition.a), *_parts(condition.b)]
    return [] if isinstance(condition, tirx.IntImm) else [condition]


def _variables(expr: Any) -> set[Any]:
    found: set[Any] = set()
    tvm_ffi.structural_walk(expr, (tvm.ir.Var, found.add))
    return found
