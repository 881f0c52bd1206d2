"""Kernels with statements that run in order (``Kernel.sequence``): threads and vectors over independent axes, nothing else.

TVM's schedule primitives refuse such blocks, so loops are rebuilt here: an independent loop may be split, moved to the outside
and run by threads, and the innermost one may become vectors. The order verifier proves each result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import ROLE, SEQUENCE, i64
from gensyn_tvm.schedules.cpu.elementwise import PARALLEL_WORK, vector_length
from gensyn_tvm.targets.cpu import CpuTarget

_REDUCTION = 2  # tirx.IterVar.CommReduce
#: Work of one iteration, roughly, in the unit of ``PARALLEL_WORK``.
_STEP_WORK = 4
#: Neighbouring elements that one thread keeps together.
_CHUNK = 128

_Kind = tirx.ForKind


@dataclass(frozen=True)
class _Loop:
    var: Any
    extent: int
    free: bool
    kind: Any = _Kind.SERIAL


def has_sequence(function: Any) -> bool:
    """Whether a kernel has a block made by ``Kernel.sequence``."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, [(s_tir.SBlock, found.append)])
    return any(dict(block.annotations).get(ROLE) == SEQUENCE for block in found)


def schedule_sequences(function: Any, target: CpuTarget) -> Any:
    """The kernel with threads and vectors over independent axes."""
    root = function.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    rebuilt = [_nest(nest, target) for nest in nests]
    body = rebuilt[0] if len(rebuilt) == 1 else tirx.SeqStmt(rebuilt)
    block = s_tir.SBlock(
        list(root.iter_vars), list(root.reads), list(root.writes), root.name_hint, body, root.init, list(root.alloc_buffers)
    )
    return function.with_body(s_tir.SBlockRealize([], True, block))


def _nest(nest: Any, target: CpuTarget) -> Any:
    """One loop nest around one block."""
    loops: list[_Loop] = []
    statement = nest
    while isinstance(statement, tirx.For):
        loops.append(_Loop(statement.loop_var, int(statement.extent), False))
        statement = statement.body
    block = statement.block
    if len(block.iter_vars) != len(loops) or not all(loop.extent for loop in loops):
        return nest
    loops = [replace(loop, free=int(v.iter_type) != _REDUCTION) for loop, v in zip(loops, block.iter_vars, strict=True)]
    values = {k: loop.var for k, loop in enumerate(loops)}
    lanes = vector_length(loops[-1].extent, _lanes(block, target)) if loops[-1].free else 1
    last = len(loops) - 1
    if lanes > 1:
        rest, vector = _split(loops.pop(), lanes)
        loops += [rest, replace(vector, kind=_Kind.VECTORIZED)]
        values[last] = rest.var * i64(lanes) + vector.var
    if _STEP_WORK * math.prod(loop.extent for loop in loops) >= PARALLEL_WORK:
        loops = _threads(loops, values, last, lanes)
    result = s_tir.SBlockRealize([values[k] for k in range(last + 1)], statement.predicate, block)
    for loop in reversed(loops):
        result = tirx.For(loop.var, i64(0), i64(loop.extent), loop.kind, result)
    return result


def _split(loop: _Loop, factor: int) -> tuple[_Loop, _Loop]:
    rest, part = (tirx.Var(f"{loop.var.name}_{name}", "int64") for name in ("outer", "inner"))
    return replace(loop, var=rest, extent=loop.extent // factor), replace(loop, var=part, extent=factor)


def _threads(loops: list[_Loop], values: dict[int, Any], last: int, lanes: int) -> list[_Loop]:
    """The first independent loop of more than one iteration, outermost and run by threads."""
    for k, loop in enumerate(loops):
        if not loop.free or loop.extent == 1 or loop.kind != _Kind.SERIAL:
            continue
        if k != last or not any(not other.free for other in loops):
            return [replace(loop, kind=_Kind.PARALLEL), *loops[:k], *loops[k + 1 :]]
        # The innermost axis: a thread takes a chunk of neighbours through all steps.
        chunk = max(c for c in range(1, min(loop.extent, max(_CHUNK // lanes, 1)) + 1) if loop.extent % c == 0)
        rest, part = _split(loop, chunk)
        inner = rest.var * i64(chunk) + part.var
        values[last] = inner * i64(lanes) + loops[-1].var if lanes > 1 else inner
        return [replace(rest, kind=_Kind.PARALLEL), *loops[:k], part, *loops[k + 1 :]]
    return loops


# ---- vectors --------------------------------------------------------------------------------------------------------


def _lanes(block: Any, target: CpuTarget) -> int:
    """Vector lanes for the innermost axis: 1 unless all accesses are to neighbours and no condition depends on it."""
    variable = block.iter_vars[-1].var
    conditions: list[Any] = []
    accesses: list[Any] = []
    nested: list[Any] = []
    tvm_ffi.structural_walk(
        block.body,
        [
            (tirx.IfThenElse, lambda s: conditions.append(s.condition)),
            (tvm.ir.Call, lambda c: conditions.append(c.args[0]) if str(c.op.name).endswith("if_then_else") else None),
            (tirx.BufferStore, accesses.append),
            (tvm.ir.TensorLoad, accesses.append),
            (tirx.For, nested.append),
        ],
    )
    if nested or any(_uses(c, variable) for c in conditions) or not all(_neighbours(a, variable) for a in accesses):
        return 1
    widths = [_bits(a) for a in accesses if any(_uses(i, variable) for i in a.indices)]
    return target.lanes(max([32, *widths]))


def _bits(access: Any) -> int:
    value = access.value if isinstance(access, tirx.BufferStore) else access
    return int("".join(c for c in exact.dtype_of(value) if c.isdigit()) or 8)


def _neighbours(access: Any, variable: Any) -> bool:
    """Whether the variable is the last index, and in no other, or in none."""
    *outer, innermost = list(access.indices) or [i64(0)]
    if any(_uses(i, variable) for i in outer):
        return False
    return innermost.same_as(variable) or not _uses(innermost, variable)


def _uses(expr: Any, variable: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return any(v.same_as(variable) for v in found)
