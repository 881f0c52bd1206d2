"""Threads of a GPU as one loop: blocks of T threads over N positions, where T does not divide N.

    for group in [0, G), thread in [0, T): where group * T + thread < N:  A(group * T + thread)

runs A for every position once and nothing else, and so does a loop over N positions, which the rest of the verifier
understands. Nests in which the two variables occur otherwise, or under another condition, are left as they are.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

Statement = Any


def join_threads(function: Any) -> Any:
    """The same kernel with a loop over positions in place of each such pair of loops."""
    root = function.body.block if isinstance(function.body, s_tir.SBlockRealize) else None
    if root is None:
        return function
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    joined = [_joined(nest) for nest in nests]
    if all(a is b for a, b in zip(joined, nests, strict=True)):
        return function
    body = joined[0] if len(joined) == 1 else tirx.SeqStmt(joined)
    buffers = list(root.alloc_buffers)
    block = s_tir.SBlock(list(root.iter_vars), list(root.reads), list(root.writes), root.name_hint, body, root.init, buffers)
    return function.with_body(s_tir.SBlockRealize([], True, block))


def _is_bound(statement: Statement) -> bool:
    return isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.THREAD_BINDING and not int(statement.min)


def _joined(nest: Statement) -> Statement:
    if not _is_bound(nest) or not _is_bound(nest.body):
        return nest
    thread = nest.body
    blocks = _blocks(thread.body)
    sizes = {_limit(b.predicate, nest, thread) for b in blocks}
    (size,) = sizes if len(sizes) == 1 else (None,)
    groups, threads = int(nest.extent), int(thread.extent)
    if size is None or not (groups - 1) * threads < size <= groups * threads:
        return nest
    position = tirx.Var("position", "int64")

    def add(expr: Any, mutator: Any) -> Any:
        return position if _is_position(expr, nest, thread) else mutator.default_mutate(expr)

    def realize(statement: Any, _mutator: Any) -> Any:
        values = [tvm_ffi.structural_mutate(v, (tirx.Add, add)) for v in statement.iter_values]
        return s_tir.SBlockRealize(values, True, statement.block)

    body = tvm_ffi.structural_mutate(thread.body, (s_tir.SBlockRealize, realize))
    if any(_occurs(body, loop.loop_var) for loop in (nest, thread)):
        return nest
    return tirx.For(position, 0, tirx.IntImm("int64", size), tirx.ForKind.THREAD_BINDING, body, nest.thread_binding)


def _blocks(statement: Statement) -> list[Any]:
    """The outermost blocks of a statement."""
    found: list[Any] = []

    def note(realize: Any) -> None:
        found.append(realize)

    tvm_ffi.structural_walk(statement, (s_tir.SBlockRealize, note))
    return found


def _limit(predicate: Any, group: Any, thread: Any) -> int | None:
    """N if a predicate is ``group * T + thread < N``."""
    if not isinstance(predicate, tirx.LT) or not _is_position(predicate.a, group, thread):
        return None
    return int(predicate.b.value) if isinstance(predicate.b, tirx.IntImm) else None


def _is_position(expr: Any, group: Any, thread: Any) -> bool:
    if not isinstance(expr, tirx.Add) or not expr.b.same_as(thread.loop_var) or not isinstance(expr.a, tirx.Mul):
        return False
    factor = expr.a.b
    return expr.a.a.same_as(group.loop_var) and isinstance(factor, tirx.IntImm) and int(factor.value) == int(thread.extent)


def _occurs(statement: Statement, variable: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(statement, (tvm.ir.Var, lambda v: found.append(v) if v.same_as(variable) else None))
    return bool(found)
