"""The rule that fits every stage: a thread for each element, which adds up all terms of its element in a register.

Loops are built here rather than by TVM's primitives, which refuse statements that run in order (``Kernel.sequence``): the
independent axes of a nest are one, divided among blocks and threads; all other loops are inside, as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators.nest import i64, unravel
from gensyn_tvm.schedules.gpu.loops import bound, inside
from gensyn_tvm.targets.gpu.target import GpuTarget

Statement = Any

_REDUCTION = 2  # tirx.IterVar.CommReduce


def schedule_nests(function: Any, target: GpuTarget) -> Any:
    """The kernel with threads in each of its nests that has none."""
    root = function.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    registers: list[Any] = []
    rebuilt = [_nest(nest, target, registers) for nest in nests]
    body = rebuilt[0] if len(rebuilt) == 1 else tirx.SeqStmt(rebuilt)
    buffers = [*root.alloc_buffers, *registers]
    block = s_tir.SBlock(list(root.iter_vars), list(root.reads), list(root.writes), root.name_hint, body, root.init, buffers)
    return function.with_body(s_tir.SBlockRealize([], True, block))


def _nest(nest: Statement, target: GpuTarget, registers: list[Any]) -> Statement:
    """One loop nest around one block, with threads; adds the buffer of its accumulators to ``registers``."""
    loops: list[Any] = []
    statement = nest
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    block = getattr(statement, "block", None)
    if block is None or len(block.iter_vars) != len(loops) or not all(int(loop.extent) for loop in loops):
        return nest
    free = [k for k, v in enumerate(block.iter_vars) if int(v.iter_type) != _REDUCTION]
    elements = math.prod(int(loops[k].extent) for k in free)
    threads = min(target.threads, elements)
    groups = math.ceil(elements / threads)
    grid = [bound("blockIdx.x", groups), bound("threadIdx.x", threads)]
    position = grid[0].value * i64(threads) + grid[1].value
    predicate = tirx.LT(position, i64(elements)) if groups * threads > elements else tirx.IntImm("bool", 1)
    values = [loop.loop_var for loop in loops]
    for k, value in zip(free, unravel(position, [int(loops[k].extent) for k in free]), strict=True):
        values[k] = value
    serial = [loop for k, loop in enumerate(loops) if k not in free]
    if block.init is None:
        return inside(grid, _around(serial, s_tir.SBlockRealize(values, predicate, block)))
    first, each, last, register = in_register(block)
    registers.append(register)
    own = [values[k] for k in free]
    parts = [
        s_tir.SBlockRealize(own, predicate, first),
        _around(serial, s_tir.SBlockRealize(values, predicate, each)),
        s_tir.SBlockRealize(own, predicate, last),
    ]
    return inside(grid, tirx.SeqStmt(parts))


def _around(loops: Sequence[Any], statement: Statement) -> Statement:
    for loop in reversed(loops):
        statement = tirx.For(loop.loop_var, i64(0), loop.extent, tirx.ForKind.SERIAL, statement)
    return statement


def in_register(block: Any) -> tuple[Any, Any, Any, Any]:
    """Blocks that begin, continue and store a reduction, and the buffer of which each thread has its own element."""
    stored = block.body.buffer
    register = tirx.decl_buffer(stored.shape, str(stored.dtype), f"{stored.name}_local", scope="local")

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return tirx.BufferLoad(register, expr.indices) if expr.source.same_as(stored) else expr

    def store(stmt: Any, mutator: Any) -> Any:
        return tirx.BufferStore(register, mutator.default_mutate(stmt).value, stmt.indices)

    def moved(statement: Statement) -> Statement:
        return tvm_ffi.structural_mutate(statement, [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)])

    spatial = [v for v in block.iter_vars if int(v.iter_type) != _REDUCTION]
    place = [tirx.BufferRegion(register, r.region) for r in block.writes]
    name, indices = block.name_hint, list(block.body.indices)
    reads = [*(r for r in block.reads if not r.source.same_as(stored)), *place]
    return (
        s_tir.SBlock(spatial, [], place, f"{name}_init", moved(block.init)),
        s_tir.SBlock(list(block.iter_vars), reads, place, name, moved(block.body), None, annotations=block.annotations),
        s_tir.SBlock(
            spatial, place, list(block.writes), f"{name}_store", tirx.BufferStore(stored, register[tuple(indices)], indices)
        ),
        register,
    )
