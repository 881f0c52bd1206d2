"""Booleans that a kernel keeps between its stages are stored as bytes.

TVM stores arrays of bool as int8; where it makes vectors of such an array inside a kernel it forgets the conversions, and
refuses the code or generates none.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

Expr = Any


def _allocated(body: Any) -> dict[Any, Any]:
    """The local arrays of bool, each with the array of bytes that takes its place."""
    found: dict[Any, Any] = {}

    def note(block: Any) -> None:
        for buffer in block.alloc_buffers:
            if str(buffer.dtype) == "bool":
                found[buffer] = tirx.decl_buffer(buffer.shape, "uint8", buffer.name, scope=buffer.scope())

    tvm_ffi.structural_walk(body, (s_tir.SBlock, note))
    return found


def store_as_bytes(function: Any, *, parameters: bool = False) -> Any:
    """A scheduled PrimFunc whose local arrays of bool (and, with ``parameters``, its parameters) hold the bytes 0 and 1."""
    bytes_of = _allocated(function.body)
    if parameters:  # languages for GPUs have no arrays of bool
        bools = [p for p in function.params if str(p.dtype) == "bool"]
        bytes_of |= {p: tirx.decl_buffer(p.shape, "uint8", p.name) for p in bools}
    if not bytes_of:
        return function

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        if expr.source not in bytes_of:
            return expr
        return tirx.NE(tirx.BufferLoad(bytes_of[expr.source], expr.indices), tirx.IntImm("uint8", 0))

    def store(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        if stmt.buffer not in bytes_of:
            return stmt
        value = tirx.Select(stmt.value, tirx.IntImm("uint8", 1), tirx.IntImm("uint8", 0))
        return tirx.BufferStore(bytes_of[stmt.buffer], value, stmt.indices)

    def block(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        reads, writes = ([_region(r) for r in regions] for regions in (stmt.reads, stmt.writes))
        allocated = [bytes_of.get(b, b) for b in stmt.alloc_buffers]
        return s_tir.SBlock(
            stmt.iter_vars, reads, writes, stmt.name_hint, stmt.body, stmt.init, allocated, stmt.match_buffers, stmt.annotations
        )

    def _region(region: Any) -> Any:
        return tirx.BufferRegion(bytes_of.get(region.source, region.source), region.region)

    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (s_tir.SBlock, block)]
    body = tvm_ffi.structural_mutate(function.body, callbacks)
    if not parameters:
        return function.with_body(body)
    return tirx.PrimFunc([bytes_of.get(p, p) for p in function.params], body).with_attrs(dict(function.attrs))
