"""Vectors along rows whose length no vector divides, in kernels that were scheduled by TVM's primitives.

A split of such a loop guards every lane, and there are no vectors behind it. Here whole vectors are followed by halves,
quarters, … of one for the rest: the same block several times, and each element in one of them.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators.nest import ROLE, i64, substituted
from gensyn_tvm.schedules.cpu.nests import loop, sequence
from gensyn_tvm.schedules.cpu.stages import Access, element_bits, uses
from gensyn_tvm.targets.cpu import CpuTarget

_REDUCTION = 2  # tirx.IterVar.CommReduce
#: Loops of so few vectors are unrolled.
_UNROLLED = 8


def in_vectors(function: Any, target: CpuTarget) -> Any:
    """The kernel with its serial loops around single elementwise stages in vectors, where a loop goes along memory."""

    def visit(node: Any, mutator: Any) -> Any:
        node = mutator.default_mutate(node)
        lanes = _lanes(node, target)
        return node if lanes < 2 else _pieces(node, lanes)

    return function.with_body(tvm_ffi.structural_mutate(function.body, [(tirx.For, visit)]))


def _lanes(node: Any, target: CpuTarget) -> int:
    """Elements of a vector along a loop; 0 if it stays as it is."""
    realize = node.body
    if int(node.kind) != tirx.ForKind.SERIAL or not isinstance(realize, s_tir.SBlockRealize) or dict(node.annotations):
        return 0
    block = realize.block
    moved = [v.var for v, value in zip(block.iter_vars, realize.iter_values, strict=True) if uses(value, node.loop_var)]
    if dict(block.annotations).get(ROLE) != "map" or len(moved) != 1 or not isinstance(block.body, tirx.BufferStore):
        return 0
    if any(int(v.iter_type) == _REDUCTION for v in block.iter_vars) or uses(realize.predicate, node.loop_var):
        return 0
    (variable,) = moved
    if not goes_along(block.body, variable):
        return 0
    touched = [a for a in _places(block.body) if any(uses(i, variable) for i in a.indices)]
    lanes = target.lanes(max([32, *map(element_bits, touched)]))
    return lanes if int(node.extent) >= lanes else 0


def goes_along(store: Any, variable: Any) -> bool:
    """Whether a statement reads without conditions, and where a variable moves it, it moves along memory."""
    calls: list[str] = []
    tvm_ffi.structural_walk(store.value, (tvm.ir.Call, lambda e: calls.append(str(getattr(e.op, "name", "")))))
    guarded = any(name.endswith("if_then_else") for name in calls)
    return not guarded and all(_is_along(a.indices, variable) for a in _places(store))


def _places(store: Any) -> list[Access]:
    """What a statement stores and loads."""
    found = [Access(store.buffer, tuple(store.indices))]
    tvm_ffi.structural_walk(store.value, (tvm.ir.TensorLoad, lambda e: found.append(Access(e.source, tuple(e.indices)))))
    return found


def _is_along(indices: Any, variable: Any) -> bool:
    """Whether neighbouring places of a variable are neighbours in memory, or the same."""
    return not any(uses(i, variable) for i in indices[:-1]) and (
        not len(indices) or indices[-1].same_as(variable) or not uses(indices[-1], variable)
    )


def _pieces(node: Any, lanes: int) -> Any:
    """The loop as whole vectors, then halves, quarters, … of one."""
    done, extent, statements = 0, int(node.extent), []
    while done < extent:
        count = (extent - done) // lanes
        if count:
            statements.append(_piece(node, done, count, lanes))
            done += count * lanes
        lanes //= 2
    return sequence(statements)


def _piece(node: Any, done: int, count: int, lanes: int) -> Any:
    position: Any = node.min + i64(done)
    wraps = []
    if count > 1:
        kind = tirx.ForKind.UNROLLED if count <= _UNROLLED else tirx.ForKind.SERIAL
        var, wrap = loop("j", count, kind)
        position = position + var * i64(lanes)
        wraps.append(wrap)
    if lanes > 1:
        var, wrap = loop("v", lanes, tirx.ForKind.VECTORIZED)
        position = position + var
        wraps.append(wrap)
    here = {node.loop_var: position}
    values = [substituted(value, here) for value in node.body.iter_values]
    statement: Any = s_tir.SBlockRealize(values, node.body.predicate, node.body.block)
    for wrap in reversed(wraps):
        statement = wrap(statement)
    return statement
