"""Loops of a GPU: bound to blocks and threads, serial, written out, in vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from gensyn_tvm.operators.nest import i64

Expr = Any
Statement = Any

_Kind = tirx.ForKind


@dataclass(frozen=True)
class Loop:
    """A loop that is still to be put around a statement.

    Attributes:
        value: its variable, or 0 if it has one iteration only.
        around: puts it around a statement.
    """

    value: Expr
    around: Callable[[Statement], Statement]


def bound(tag: str, extent: int) -> Loop:
    """A loop over blocks or threads: ``blockIdx.x``, ``threadIdx.y``, …"""
    name = tag.replace(".", "_")
    var = tirx.Var(name, "int64")
    axis = tirx.IterVar(None, tirx.Var(name, "int64"), tirx.IterVar.ThreadIndex, tag)
    return Loop(var, lambda body: tirx.For(var, i64(0), i64(extent), _Kind.THREAD_BINDING, body, axis))


def serial(name: str, extent: int, kind: Any = _Kind.SERIAL, annotations: Mapping[str, Any] | None = None) -> Loop:
    """A loop of one thread; ``annotations`` for TVM's passes."""
    if extent == 1:
        return Loop(i64(0), lambda body: body)
    var = tirx.Var(name, "int64")
    return Loop(var, lambda body: tirx.For(var, i64(0), i64(extent), kind, body, annotations=dict(annotations or {})))


def unrolled(name: str, extent: int) -> Loop:
    """A loop of one thread that is written out."""
    return serial(name, extent, _Kind.UNROLLED)


def vector(name: str, extent: int) -> Loop:
    """The lanes of a vector."""
    return serial(name, extent, _Kind.VECTORIZED)


def inside(loops: Sequence[Loop], statement: Statement) -> Statement:
    """A statement in loops, the outermost first."""
    for loop in reversed(loops):
        statement = loop.around(statement)
    return statement


def sequence(statements: Sequence[Statement]) -> Statement:
    """Statements one after the other."""
    flat: list[Statement] = []
    for s in statements:
        flat.extend(s.seq if isinstance(s, tirx.SeqStmt) else [s])
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def whole(buffer: Any) -> Any:
    """All of a buffer, as what a block reads or writes."""
    return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(i64(0), extent) for extent in buffer.shape])
