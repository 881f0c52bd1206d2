"""Questions about the blocks of a kernel, and inlining, which is the same for all hardware."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import ROLE

_REDUCTION = 2  # tirx.IterVar.CommReduce

#: Stages that are one expression for each element and move or compute without order.
INLINABLE = ("map", "move")
#: Recomputing these for every element of a broadcast costs more than storing them.
_EXPENSIVE = tuple(
    exact.PREFIX + name for name in (*exact.ELEMENTARY, *exact.ELEMENTARY_BINARY, *exact.NARROW_ROWS, "div", "sqrt")
)
#: How much an operator's body grows when TVM's code generator substitutes what it binds: nested bodies multiply, and a few
#: inside of one another would compile forever.
_BODY = {
    **dict.fromkeys(exact.ELEMENTARY, 8),
    **dict.fromkeys(exact.ELEMENTARY_BINARY, 12),
    **{name: 3 if name.startswith("decode") else 8 for name in exact.NARROW_ROWS},
    **dict.fromkeys(("floor", "ceil", "round", *exact.INTEGER), 4),
    **dict.fromkeys(("maximum", "minimum", "wrap_add", "wrap_sub", "wrap_mul", "convert", "narrow_to_odd"), 3),
    **dict.fromkeys(("neg", "abs", "canonical_nan"), 1),
}
_MAX_BODY = 12
#: Reads in a stage beyond which it is kept: where stages read one value several times, inlining multiplies them.
_MAX_READS = 64


def live_blocks(sch: Any) -> list[Any]:
    """Blocks of the kernel in program order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def role_of(sch: Any, block: Any) -> str:
    """The role of a stage; empty for blocks that a schedule primitive made."""
    return str(dict(sch.get(block).annotations).get(ROLE, ""))


def extents(sch: Any, loops: list[Any]) -> list[int]:
    """Extents of loops."""
    return [int(sch.get(loop).extent) for loop in loops]


def spatial_and_reduction(sch: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """Loops of an unscheduled block: the spatial ones, then the reduction ones."""
    loops = list(sch.get_loops(block))
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    if len(kinds) != len(loops):
        return loops, []
    return (
        [loop for loop, kind in zip(loops, kinds, strict=True) if kind != _REDUCTION],
        [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION],
    )


def calls_in(sch: Any, block: Any) -> list[str]:
    """Names of the operators called in a block."""
    names: list[str] = []
    tvm_ffi.structural_walk(sch.get(block).body, [(tvm.ir.Call, lambda call: names.append(str(getattr(call.op, "name", ""))))])
    return names


def reads_in(sch: Any, block: Any) -> int:
    """How many elements a block reads for one of its own."""
    reads: list[Any] = []
    tvm_ffi.structural_walk(sch.get(block).body, [(tvm.ir.expr.TensorLoad, reads.append)])
    return len(reads)


def has_guards(sch: Any, block: Any) -> bool:
    """Whether a block reads conditionally, which vector code cannot do."""
    return any(name.endswith("if_then_else") for name in calls_in(sch, block))


def _size(sch: Any, block: Any) -> int:
    return math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars)


def is_empty(sch: Any, block: Any) -> bool:
    """Whether a block has no element to compute."""
    return _size(sch, block) == 0


def _has(names: list[str], wanted: tuple[str, ...]) -> bool:
    return any(name in wanted for name in names)


def _body(names: list[str]) -> int:
    return sum(_BODY.get(name.removeprefix(exact.PREFIX), 0) for name in names)


def inline_maps(sch: Any) -> None:
    """Inline every elementwise stage into its consumers, unless that would repeat expensive arithmetic."""
    inner = list(sch.get(sch.get_sblock("root")).alloc_buffers)
    for block in live_blocks(sch):
        consumers = list(sch.get_consumers(block))
        if role_of(sch, block) not in INLINABLE or not consumers:
            continue
        if not any(sch.get(block).writes[0].source.same_as(b) for b in inner):
            continue  # its result leaves the kernel
        if reads_in(sch, block) > _MAX_READS:
            continue
        names = calls_in(sch, block)
        body = _body(names)
        if body and body + max(_body(calls_in(sch, c)) for c in consumers) > _MAX_BODY:
            continue  # the value goes through memory
        repeats = max(_size(sch, c) for c in consumers) > 2 * _size(sch, block) or len(consumers) > 1
        if repeats and _has(names, _EXPENSIVE):
            continue
        sch.compute_inline(block)


def with_accesses(block: Any, access: Callable[[Any, Any], tuple[Any, Any] | None], region: Callable[[Any], Any]) -> Any:
    """A block that reads and writes elsewhere.

    Args:
        block: an ``SBlock`` without buffers of its own.
        access: (buffer, indices) -> the buffer and indices in their place, or None to leave them.
        region: the same of the regions that the block declares.
    """

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        found = access(expr.source, expr.indices)
        return expr if found is None else tirx.BufferLoad(*found)

    def store(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        found = access(stmt.buffer, stmt.indices)
        return stmt if found is None else tirx.BufferStore(found[0], stmt.value, found[1])

    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)]
    return s_tir.SBlock(
        list(block.iter_vars),
        [region(r) for r in block.reads],
        [region(r) for r in block.writes],
        block.name_hint,
        tvm_ffi.structural_mutate(block.body, callbacks),
        None if block.init is None else tvm_ffi.structural_mutate(block.init, callbacks),
        annotations=block.annotations,
    )
