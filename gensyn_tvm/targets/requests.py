"""What kernels that ask for memory ahead of its use have in common: how a register tile looks, and a request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators import exact

Expr = Any
Stmt = Any

#: Bytes of a cache line.
LINE = 64
_TILE = (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)
_FMA = exact.PREFIX + "fma"


def own_arrays(function: Any) -> set[Any]:
    """The arrays that a kernel allocates."""
    found: set[Any] = set()
    tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, lambda a: found.add(a.buffer)))
    return found


def register_tile(body: Stmt) -> tuple[list[Any], Any] | None:
    """The loops of a register tile and its multiplication and addition; None if a statement is none."""
    loops = []
    while isinstance(body, tirx.For) and body.kind in _TILE:
        loops.append(body)
        body = body.body
    if not loops or loops[-1].kind != tirx.ForKind.VECTORIZED or not isinstance(body, tirx.BufferStore):
        return None
    return (loops, body) if is_multiply_add(body.value) else None


def is_multiply_add(expr: Expr) -> bool:
    """Whether an expression is an ``fma``."""
    return isinstance(expr, tvm.ir.Call) and str(getattr(expr.op, "name", "")) == _FMA


def itemsize(array: Any) -> int:
    """Bytes of an element."""
    return int(tvm.DataType(str(array.dtype)).bits) // 8


def nbytes(array: Any) -> int:
    """Bytes of an array of static shape."""
    return math.prod(int(e) for e in array.shape) * itemsize(array)


def request(array: Any, index: Sequence[Expr], *, writes: bool = False, far: bool = False) -> Stmt:
    """Ask for the line of an element, for writing or reading, in all caches or (``far``) from the second level on."""
    kind = [tirx.const(n, "int32") for n in (int(writes), 2 if far else 3, 1)]  # 1: data and not instructions
    address = tirx.address_of(tirx.BufferLoad(array, list(index)))
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, *kind))


def before(loop: Any, requests: Sequence[Stmt]) -> Stmt:
    """A loop that makes requests in each iteration before its body."""
    body = tirx.SeqStmt([*requests, loop.body]) if requests else loop.body
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
