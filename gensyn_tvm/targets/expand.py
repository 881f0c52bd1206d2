"""Long bodies as statements.

TVM's code generator substitutes what ``let`` binds wherever it is read, so that bodies in which each value is read twice grow
exponentially. The bodies of long operators are therefore written as statements that store each value in a local array of a
vector's size, which LLVM turns into registers. This happens after vectorisation and every simplification, immediately before
the remaining operators are lowered.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary import BINARY_BODIES
from gensyn_tvm.targets.body import Body
from gensyn_tvm.targets.host import on_the_cpu, returning
from gensyn_tvm.targets.indices import before_flattening
from gensyn_tvm.targets.lowering import has_fma
from gensyn_tvm.targets.strides import read_whole_vectors

Expr = Any

#: What ``tvm.compile`` and ``relax.build`` need as ``tir_pipeline``.
PIPELINE = "gensyn_tvm"


class StoredBody(Body):
    """A body whose named values are stored in local arrays.

    Attributes:
        statements: what calculates them, in order.
    """

    def __init__(self, lanes: int, *, has_fma: bool) -> None:
        super().__init__(lanes, has_fma=has_fma)
        self.statements: list[Any] = []
        self._names: dict[int, Expr] = {}

    def let(self, value: Expr) -> Expr:
        """Store a value; reading it again costs nothing."""
        if isinstance(value, tirx.Var) or id(value) in self._names:
            return value
        element = exact.element_of(exact.dtype_of(value))
        buffer = tirx.decl_buffer((self.lanes,), element, "stored", scope="local")
        start = tirx.IntImm("int32", 0)
        index = start if self.lanes == 1 else tirx.Ramp(start, tirx.IntImm("int32", 1), self.lanes)
        self.statements += [tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, value, [index])]
        name = tirx.BufferLoad(buffer, [index])
        self._names[id(name)] = name
        return name


def _is_long(call: Any) -> bool:
    name = str(getattr(call.op, "name", "")).removeprefix(exact.PREFIX)
    return name in BINARY_BODIES


def _has_long(expr: Expr) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (tvm.ir.Call, lambda call: found.append(call) if _is_long(call) else None))
    return bool(found)


class _Hoister:
    """Takes long operators out of an expression, in the order of evaluation."""

    def __init__(self) -> None:
        self.statements: list[Any] = []
        self._conditions: list[Expr] = []

    def hoist(self, expr: Expr) -> Expr:
        """The expression with its long operators replaced by their stored results."""
        return tvm_ffi.structural_mutate(expr, (tvm.ir.Call, self._call))

    def _call(self, call: Any, mutator: Any) -> Any:
        if str(getattr(call.op, "name", "")).endswith(".if_then_else"):
            return self._guarded(call, mutator) if _has_long(call) else call
        call = mutator.default_mutate(call)
        if not _is_long(call):
            return call
        body = StoredBody(exact.lanes_of(exact.dtype_of(call)), has_fma=has_fma())
        arguments = [body.let(self._guard(a)) for a in call.args]
        name = str(call.op.name).removeprefix(exact.PREFIX)
        result = body.let(BINARY_BODIES[name](body, *arguments))
        self.statements += body.statements
        return result

    def _guarded(self, call: Any, mutator: Any) -> Any:
        """What a condition protects stays protected where it is moved to."""
        condition = mutator.mutate(call.args[0])
        branches = []
        for guard, branch in ((condition, call.args[1]), (tirx.Not(condition), call.args[2])):
            self._conditions.append(guard)
            branches.append(mutator.mutate(branch))
            self._conditions.pop()
        return tirx.if_then_else(condition, *branches)

    def _guard(self, argument: Expr) -> Expr:
        for condition in reversed(self._conditions):
            argument = tirx.if_then_else(condition, argument, tirx.const(0, exact.dtype_of(argument)))
        return argument


def _store(stmt: Any, mutator: Any) -> Any:
    if not _has_long(stmt.value):
        return stmt
    hoister = _Hoister()
    value = hoister.hoist(stmt.value)
    return tirx.SeqStmt([*hoister.statements, tirx.BufferStore(stmt.buffer, value, stmt.indices)])


def _bind(stmt: Any, mutator: Any) -> Any:
    if not _has_long(stmt.value):
        return stmt
    hoister = _Hoister()
    value = hoister.hoist(stmt.value)
    return tirx.SeqStmt([*hoister.statements, tirx.Bind(stmt.var, value)])


def _sequence(stmt: Any, mutator: Any) -> Any:
    """Sequences in sequences are one, so that what they declare is visible in all that follows."""
    statements: list[Any] = []
    for part in stmt.seq:
        new = mutator.mutate(part)
        statements += list(new.seq) if isinstance(new, tirx.SeqStmt) else [new]
    return tirx.SeqStmt(statements)


def expand(function: Any) -> Any:
    """A PrimFunc whose long operators are statements."""
    callbacks = [(tirx.BufferStore, _store), (tirx.Bind, _bind), (tirx.SeqStmt, _sequence)]
    return function.with_body(tvm_ffi.structural_mutate(function.body, callbacks))


@tvm.transform.module_pass(opt_level=0, name="ExpandLongOperators")
def _expand_all(module: Any, context: Any) -> Any:
    expanded = {gv: expand(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(expanded, attrs=module.attrs)


def _pipeline() -> tuple[Any, Any, Any]:
    passes, host, device = get_tir_pipeline("default")
    return (
        tvm.transform.Sequential([before_flattening(), passes]),
        lambda: tvm.transform.Sequential([_expand_all, read_whole_vectors, on_the_cpu(), host(), returning()]),
        lambda: tvm.transform.Sequential([_expand_all, device()]),
    )


register_tir_pipeline(PIPELINE, _pipeline)
