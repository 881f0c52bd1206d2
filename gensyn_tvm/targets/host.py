"""The host function: one function that calls every kernel of a program in order, in place of a virtual machine.

Kernels are private functions on addresses, called directly: nothing is checked, allocated or looked up between two kernels.
The entry ``RUN(table, first, last, threads)`` runs the steps from ``first`` up to ``last`` of a plan
(``gensyn_tvm.runtime.plan``) in the IEEE-754 default floating-point environment, and puts the caller's back.

Any library in the process may have changed that environment (flush-to-zero, rounding mode), in the calling thread or in those
that compute threads inherit theirs from; so each run sets it in every thread. Calls on one thread do that themselves, faster
(``runtime/_call_entry.c``), and take the entry ``UNGUARDED``. A C call is a barrier for memory, and kernels read their operands
from memory and write their results there: no arithmetic moves across it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import GlobalVar, PrimType, StringImm

from gensyn_tvm.runtime.machine import NO_ENVIRONMENT, RUN, UNGUARDED
from gensyn_tvm.runtime.plan import ACCEPTED, Argument, Plan, Step

_PRIVATE = "gensyn.kernel"
_STEPS = "gensyn_steps"
#: Kernels get names that no C library has.
_PREFIX = "gensyn_kernel_"

#: Local arrays up to this many bytes are on the stack.
_STACK = 8192

Expr = Any
Stmt = Any


def is_parallel(function: Any) -> bool:
    """Whether a kernel has a loop for several threads."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.For, lambda loop: found.append(loop.kind)))
    return tirx.ForKind.PARALLEL in found


def assemble(module: Any, plan: Plan) -> Any:
    """The kernels of a module and the host function of their plan."""
    result = tvm.IRModule({})
    kernels = {}
    for gv, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            kernels[gv.name_hint] = GlobalVar(_PREFIX + gv.name_hint)
            result[kernels[gv.name_hint]] = _on_addresses(function)
    for step in plan.steps:  # a second version of kernels that may write over what they read
        over = _over(plan, step)
        if over and _in_place_name(step, over) not in kernels:
            name = _in_place_name(step, over)
            kernels[name] = GlobalVar(_PREFIX + name)
            (function,) = (f for gv, f in module.functions_items() if gv.name_hint == step.kernel)
            result[kernels[name]] = _on_addresses(function, over)
    steps = GlobalVar(_STEPS)
    result[steps] = _steps(plan, kernels)
    result[UNGUARDED] = _entry(UNGUARDED, steps, plan, guarded=False)
    result[RUN] = _entry(RUN, steps, plan, guarded=True)
    return result


def _int(value: int, dtype: str = "int32") -> Expr:
    return tirx.IntImm(dtype, value)


def _return(value: Expr) -> Stmt:
    return tirx.Return(value)


def _over(plan: Plan, step: Step) -> dict[int, int]:
    """The arguments of a call that may take the memory of another one, and that one."""
    first = len(plan.inputs)
    slots = {a.slot: k for k, a in enumerate(step.arguments)}
    outputs = {k: a.slot - first for k, a in enumerate(step.arguments) if a.slot - first in plan.in_place and a.slot >= first}
    return {k: slots[plan.in_place[output]] for k, output in outputs.items()}


def _in_place_name(step: Step, over: Mapping[int, int]) -> str:
    return "_".join([step.kernel, "over", *(f"{k}_{given}" for k, given in sorted(over.items()))])


def _on_addresses(function: Any, over: Mapping[int, int] | None = None) -> Any:
    """A kernel whose parameters are addresses; ``returning`` lets it return 0 if all went well.

    A parameter in ``over`` has the address of another one, none of its own: LLVM believes that two addresses do not overlap.
    """
    over = over or {}
    addresses = [tirx.Var(f"{p.name}_address", tirx.buffer.buffer_data_pointer_type(p)) for p in function.params]
    addresses = [addresses[over.get(k, k)] for k in range(len(addresses))]
    arrays = [tirx.DeclBuffer(p, data=a) for p, a in zip(function.params, addresses, strict=True)]
    body: Stmt = tirx.SeqStmt([*arrays, function.body])
    for p in function.params:
        body = tirx.AttrStmt(p, "storage_alignment", _int(ACCEPTED), body)
    attrs = {k: v for k, v in dict(function.attrs).items() if k != "global_symbol"}
    own = [a for k, a in enumerate(addresses) if k not in over]
    return tirx.PrimFunc(own, body, PrimType("int32"), tvm.ir.make_node("ir.DictAttrs", **attrs, **{_PRIVATE: True}))


def _steps(plan: Plan, kernels: dict[str, Any]) -> Any:
    """The function that calls the kernels, on the table of addresses."""
    table = tirx.decl_buffer((plan.slots,), "int64", "table")
    address = tirx.Var("table_address", tirx.buffer.buffer_data_pointer_type(table))
    first, last = tirx.Var("first", "int64"), tirx.Var("last", "int64")
    body: list[Stmt] = [tirx.DeclBuffer(table, data=address)]
    for k, step in enumerate(plan.steps):
        wanted = tirx.And(first <= _int(k, "int64"), _int(k, "int64") < last)
        body.append(tirx.IfThenElse(wanted, _step(table, kernels, plan, step), None))
    # A program without steps, all of whose outputs are inputs, has this statement only; a sequence needs two.
    body.append(tirx.Evaluate(_int(0)))
    function = tirx.PrimFunc([address, first, last], tirx.SeqStmt(body), PrimType("int32"))
    return function.with_attrs({"tirx.noalias": True, _PRIVATE: True})


def _step(table: Any, kernels: dict[str, Any], plan: Plan, step: Step) -> Stmt:
    """The call of a step; of the version in place if the caller gave an output the memory of the input that it updates."""
    over = _over(plan, step)
    apart = _call(table, kernels[step.kernel], step.arguments)
    if not over:
        return apart
    output, given = (tirx.BufferLoad(table, [_int(step.arguments[k].slot, "int64")]) for k in next(iter(over.items())))
    own = tuple(a for k, a in enumerate(step.arguments) if k not in over)
    return tirx.IfThenElse(output.equal(given), _call(table, kernels[_in_place_name(step, over)], own), apart)


def _call(table: Any, kernel: Any, arguments: Sequence[Argument]) -> Stmt:
    addresses = [
        tirx.reinterpret("handle", tirx.BufferLoad(table, [_int(a.slot, "int64")]) + _int(a.offset, "int64")) for a in arguments
    ]
    status = tvm.ir.Call(kernel, addresses, ret_ty=PrimType("int32"))
    # Not an exception: the generated code returns -1.
    return tirx.IfThenElse(status != _int(0), tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_throw_last_error")), None)


def _entry(name: str, steps: Any, plan: Plan, *, guarded: bool) -> Any:
    table = tirx.decl_buffer((plan.slots,), "int64", "table")
    address, first, last = (tirx.Var(n, "int64") for n in ("address", "first", "last"))
    threads = tirx.Var("threads", "int32")
    pointer = tirx.reinterpret(tirx.buffer.buffer_data_pointer_type(table), address)
    call = tvm.ir.Call(steps, [pointer, first, last], ret_ty=PrimType("int32"))

    def report(status: Expr) -> Stmt:
        return tirx.BufferStore(table, tirx.Cast("int64", status), [_int(plan.status, "int64")])

    # Memory of the function's own would be cut to the element that is seen to be used.
    saved = tirx.address_of(tirx.BufferLoad(table, [_int(plan.environment, "int64")]))
    run = _guard(call, saved, report, threads if plan.parallel else None) if guarded else report(call)
    function = tirx.PrimFunc([address, first, last, threads], tirx.SeqStmt([tirx.DeclBuffer(table, data=pointer), run]))
    # TVM's LLVM generator takes "noalias" from whichever function it saw last, for the whole module: without it here every
    # kernel would keep its accumulators in memory.
    return function.with_attrs({"global_symbol": name, "tirx.noalias": True})


def _environment(function: str, pointer: Expr) -> Expr:
    return tirx.call_extern("int32", function, tirx.reinterpret("handle", pointer))


def _guard(call: Expr, saved: Expr, report: Callable[[Expr], Stmt], threads: Expr | None) -> Stmt:
    """The call in the default environment, of the calling thread and of ``threads`` compute threads; reports how it went.

    The old environment of the calling thread is kept at ``saved``.

    ``FE_DFL_ENV`` is the pointer -1 in glibc and musl; it clears flush-to-zero and denormals-are-zero too.
    """
    set_default = _environment("fesetenv", _int(-1, "int64"))
    body: list[Stmt] = []
    if threads is not None:
        loop = tirx.For(tirx.Var("thread", "int32"), _int(0), threads, tirx.ForKind.PARALLEL, tirx.Evaluate(set_default))
        body.append(tirx.IfThenElse(threads > _int(1), loop, None))
    failed = report(_int(NO_ENVIRONMENT))
    body.append(report(call))
    body.append(tirx.IfThenElse(_environment("fesetenv", saved) != _int(0), failed, None))
    inside = tirx.IfThenElse(set_default != _int(0), failed, tirx.SeqStmt(body))
    return tirx.IfThenElse(_environment("fegetenv", saved) != _int(0), failed, inside)


def on_the_cpu() -> Any:
    """A pass for what TVM does to functions with a packed interface only, and for local arrays on the stack.

    Private kernels are told their device. TVM asks its runtime for the memory of every local array, even of accumulators, in
    each call; small ones are better off on the stack, from where LLVM takes them into registers.
    """
    return tvm.transform.module_pass(lambda module, _context: _on_the_cpu(module), opt_level=0, name="OnTheCpu")


def _on_the_cpu(module: Any) -> Any:
    result = tvm.IRModule({}, attrs=module.attrs)
    for gv, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and _PRIVATE in dict(function.attrs):
            body = function.body
            if tvm.target.Target.current().kind.name != "c":  # TVM's C code has no local arrays of its own
                body = tvm_ffi.structural_mutate(body, (tirx.AllocBuffer, _on_the_stack))
            for key, value in (("device_type", 1), ("device_id", 0)):
                body = tirx.AttrStmt(StringImm("default"), key, _int(value), body)
            function = function.with_body(body)
        result[gv] = function
    return result


def returning() -> Any:
    """A pass for after TVM's: private functions return 0 at their very end.

    TVM gives the memory of a function's arrays back behind its last statement, and behind a return nothing runs.
    """

    def pass_function(module: Any, _context: Any) -> Any:
        result = tvm.IRModule({}, attrs=module.attrs)
        for gv, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc) and _PRIVATE in dict(function.attrs):
                function = function.with_body(tirx.SeqStmt([function.body, _return(_int(0))]))
            result[gv] = function
        return result

    return tvm.transform.module_pass(pass_function, opt_level=0, name="Returning")


def _on_the_stack(stmt: Any, _mutator: Any) -> Any:
    shape = [int(n) for n in stmt.buffer.shape if isinstance(n, tirx.IntImm)]
    size = math.prod(shape) * _element_bytes(stmt.buffer.dtype)
    if len(shape) != len(stmt.buffer.shape) or not 0 < size <= _STACK:
        return stmt
    return tirx.AllocBuffer(stmt.buffer, annotations={"disable_lower_builtin": _int(1)})


def _element_bytes(dtype: Any) -> int:
    return (int(dtype.bits) * int(dtype.lanes) + 7) // 8
