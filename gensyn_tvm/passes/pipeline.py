"""The compiler after the freeze, phase by phase. Nothing here may change a bit.

recompute   copies of nodes that the gradients compute again instead of keeping their values
layout      operands of products in the order in which they are read
lift        canonical graph → Relax, one operator of ours for each node
legalise    each operator → its deterministic TIR variant
fuse        neighbouring kernels → one kernel, in an order that needs little memory
schedule    each kernel → loops for the target
verify      every reduction in canonical order, no arithmetic but the exact operators
lower       Relax → one function that calls the kernels, with planned memory
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators.nest import AS_WRITTEN
from gensyn_tvm.passes.booleans import store_as_bytes
from gensyn_tvm.passes.calls import Calls, read_calls
from gensyn_tvm.passes.culprit import naming_primitive
from gensyn_tvm.passes.exactness import check_exactness
from gensyn_tvm.passes.fuse import fuse
from gensyn_tvm.passes.in_place import updates_in_place
from gensyn_tvm.passes.join import join_operands
from gensyn_tvm.passes.layout import choose_layouts
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import ENTRY, lift
from gensyn_tvm.passes.memory import constant_area, plan_memory
from gensyn_tvm.passes.moves import check_moves
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.passes.prepared import keep_prepared
from gensyn_tvm.passes.recompute import recompute
from gensyn_tvm.passes.rederive import rederived
from gensyn_tvm.passes.reorder import reorder
from gensyn_tvm.passes.rows import PREFIX as ROWS_PREFIX
from gensyn_tvm.passes.spread import store_images
from gensyn_tvm.passes.views import by_views, keep_views
from gensyn_tvm.runtime.plan import Plan
from gensyn_tvm.schedules.driver import APART, Target, schedule_kernel
from gensyn_tvm.targets.cpu import CpuTarget
from gensyn_tvm.targets.host import assemble, is_parallel

_REDUCTION = 2  # tirx.IterVar.CommReduce

#: Phases in order, as ``gensyn-tvm inspect --phase`` names them.
PHASES = ("lift", "legalise", "fuse", "schedule", "lower")


@dataclass(frozen=True)
class Lowered:
    """A program ready for code generation.

    Attributes:
        module: the kernels and the host function that calls them.
        plan: what the runtime has to know.
        constants: the bytes of the area of constants.
    """

    module: Any
    plan: Plan
    constants: bytes


def kernels(module: Any) -> list[tuple[Any, Any]]:
    """(global variable, PrimFunc) of every kernel of a module."""
    return [(gv, f) for gv, f in module.functions_items() if isinstance(f, tirx.PrimFunc)]


def schedule(module: Any, target: Target, style: str) -> Any:
    """Schedule every kernel; see ``gensyn_tvm.schedules.driver`` for the styles."""
    scheduled = tvm.IRModule(module.functions, attrs=module.attrs)
    for gv, function in kernels(module):
        scheduled.update_func(gv, schedule_kernel(gv.name_hint, function, target, style))
    return scheduled


def verify(module: Any, unscheduled: Any, target: Target, style: str) -> tuple[Any, list[str]]:
    """The module with every kernel proved to compute what it did before it was scheduled, in order and exactly.

    A kernel that the verifier cannot follow even as it was written, not after a fusion of rows, or that has no reduction, runs
    with a simpler schedule or none; the second result has a warning for each, because it costs speed.

    Raises:
        ScheduleError: a reduction may run out of order, or a value may be another one.
        ExactnessError: arithmetic outside of the exact operators.
    """
    variants = {gv.name_hint: function for gv, function in kernels(unscheduled)}
    proved = tvm.IRModule(module.functions, attrs=module.attrs)
    warnings: list[str] = []
    for gv, function in kernels(module):
        name = gv.name_hint
        if AS_WRITTEN in dict(function.attrs):
            check_moves(name, function)
        else:
            function, warning = _proved(name, function, variants[name], target, style)
            warnings += [warning] if warning else []
            proved.update_func(gv, function)
        check_exactness(name, function)
    return proved, warnings


def _proved(name: str, function: Any, variant: Any, target: Target, style: str) -> tuple[Any, str]:
    """The scheduled kernel; in a simpler style, with a warning, if the verifier cannot follow it, unless a reduction's order
    is at stake.
    """
    try:
        if isinstance(target, CpuTarget):
            with naming_primitive(name, variant, target, style):
                check_order(name, function, variant)
        else:  # no primitives but those that inline
            check_order(name, function, variant)
        return function, ""
    except ScheduleError as refused:
        ordered = _reduces(variant) and not name.startswith(ROWS_PREFIX)
        if isinstance(target, CpuTarget) and ordered and _is_followed(name, variant, variant):
            raise
        for simpler in ("plain",) if isinstance(target, CpuTarget) else (APART, "plain"):
            found = schedule_kernel(name, variant, target, simpler)
            if _is_followed(name, found, variant):
                break
        else:
            if ordered and not isinstance(target, CpuTarget):
                raise
            found = variant
        return found, f"kernel {name!r} runs with a simpler schedule: {refused}"


def _reduces(function: Any) -> bool:
    """Whether a kernel has a reduction, whose order could be another one."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, lambda b: found.extend(int(v.iter_type) for v in b.iter_vars)))
    return _REDUCTION in found


def _is_followed(name: str, function: Any, variant: Any) -> bool:
    try:
        check_order(name, function, variant)
    except ScheduleError:
        return False
    return True


def store_booleans(module: Any) -> Any:
    """Arrays of bool inside of kernels as bytes; see ``gensyn_tvm.passes.booleans``."""
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    for gv, function in kernels(module):
        result.update_func(gv, store_as_bytes(function))
    return result


def calls_of(module: Any, fixed: Collection[int] = ()) -> Calls:
    """The calls of a scheduled module; ``fixed`` are the inputs that no output updates."""
    passes = tvm.transform.Sequential(
        [
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
        ]
    )
    return read_calls(passes(by_views(module))[ENTRY], fixed)


def lower(module: Any, fixed: Collection[int] = (), updates: Mapping[int, int] | None = None) -> Lowered:
    """Relax calls → a function that calls the kernels with planned memory.

    ``fixed`` are the inputs that no output updates; ``updates``: of other outputs the input whose next value they are.
    """
    program = calls_of(module, fixed)
    module = join_operands(store_images(module, program), program)
    in_place = updates_in_place(program, updates or {}, {gv.name_hint: f for gv, f in kernels(module)})
    parallel = any(is_parallel(f) for _, f in kernels(module))
    plan = plan_memory(program, parallel=parallel, in_place=in_place)
    return Lowered(assemble(module, plan), plan, constant_area(program.constants))


def fixed_inputs(graph: Graph) -> list[int]:
    """The state inputs that no output updates."""
    updated = {o.name for o in graph.outputs if o.updates}
    return [k for k, i in enumerate(graph.inputs) if i.role in STATE_ROLES and i.name not in updated]


def updates_of(graph: Graph) -> dict[int, int]:
    """The outputs that are the next value of an input, and that input."""
    number = {i.name: k for k, i in enumerate(graph.inputs)}
    return {k: number[o.name] for k, o in enumerate(graph.outputs) if o.updates}


def run_phases(
    graph: Graph,
    target: CpuTarget,
    style: str,
    observe: Callable[[str, Any], None] | None = None,
    recomputed: Collection[int] = (),
) -> Lowered:
    """The lowered program of a canonical graph; ``observe(phase, module)`` sees each phase's result.

    ``recomputed`` are the nodes that ``recompute`` copies.
    """
    see = observe or (lambda phase, module: None)
    with target.to_tvm():
        again = rederived(graph, recomputed) if style == "fast" else ()
        graph = recompute(graph, {*recomputed, *again})
        module = lift(graph if style != "fast" else keep_views(choose_layouts(graph, target)))
        see("lift", module)
        module = legalise(module)
        see("legalise", module)
        if style != "none":
            module = fuse(keep_prepared(module, fixed_inputs(graph)), rows=style == "fast")
        module = reorder(module)
        see("fuse", module)
        module, warnings = verify(schedule(module, target, style), module, target, style)
        see("schedule", module)
        lowered = lower(store_booleans(module), fixed_inputs(graph), updates_of(graph))
        lowered = replace(lowered, plan=replace(lowered.plan, warnings=tuple(warnings)))
        see("lower", lowered.module)
    return lowered
