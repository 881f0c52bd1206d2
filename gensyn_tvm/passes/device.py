"""The compiler after the freeze for GPUs: the phases of ``pipeline`` with other schedules, then a device kernel for each stage.

Of the layouts of products, which are chosen for the vectors of a CPU, only transposed operands are left (``layout_gpu``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.passes.booleans import store_as_bytes
from gensyn_tvm.passes.calls import Array, Call, Calls, View
from gensyn_tvm.passes.fuse import fuse
from gensyn_tvm.passes.layout_gpu import read_transposed
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.memory import constant_area, plan_memory
from gensyn_tvm.passes.pipeline import calls_of, fixed_inputs, kernels, schedule, verify
from gensyn_tvm.passes.prepared import keep_prepared
from gensyn_tvm.passes.recompute import recompute
from gensyn_tvm.passes.reorder import reorder
from gensyn_tvm.runtime.plan import nbytes
from gensyn_tvm.targets.gpu import DeviceProgram, GpuTarget
from gensyn_tvm.targets.gpu.code import source_of
from gensyn_tvm.targets.gpu.cut import Cut, cut, type_of
from gensyn_tvm.targets.gpu.registers import without_idle_conditions

#: Styles of schedules that a GPU has.
STYLES = ("plain", "fast")


def device_program(graph: Graph, target: GpuTarget, style: str = "fast", recomputed: Collection[int] = ()) -> DeviceProgram:
    """The source and launches of a canonical graph.

    Args:
        graph: the program.
        target: CUDA or OPENCL of ``gensyn_tvm.targets.gpu``.
        style: ``plain`` (a thread for each element of each stage) or ``fast``. Never changes a bit.
        recomputed: the nodes that ``recompute`` copies.

    Raises:
        UnsupportedOperatorError: an operator has no deterministic variant.
        ScheduleError: another style; a kernel that the order verifier refuses.
    """
    if style not in STYLES:
        raise ScheduleError(f"unknown schedule style {style!r} for a GPU; expected one of {', '.join(STYLES)}")
    with target.to_tvm():
        graph = recompute(graph, recomputed)
        module = legalise(lift(read_transposed(graph) if style == "fast" else graph))
        module = reorder(fuse(keep_prepared(module, fixed_inputs(graph)), rows=style == "fast"))
        module, warnings = verify(schedule(module, target, style), module, target, style)
        cuts = {gv.name_hint: cut(gv.name_hint, _ready(f)) for gv, f in kernels(module)}
        program = in_pieces(calls_of(module, fixed_inputs(graph)), cuts)
    used = {call.kernel for call in program.calls}
    pieces = [piece for found in cuts.values() for piece in found.pieces if piece.name in used]
    source, launches = source_of(pieces, target)
    plan = replace(plan_memory(program, parallel=False, in_place={}), warnings=tuple(warnings))
    return DeviceProgram(target.kind, source, launches, plan, constant_area(program.constants))


def _ready(function: Any) -> Any:
    """A verified kernel as it is cut: booleans are bytes, and results that nobody stores are not asked for."""
    return store_as_bytes(without_idle_conditions(function), parameters=True)


def in_pieces(program: Calls, cuts: Mapping[str, Cut]) -> Calls:
    """The program with each call replaced by those of its kernel's pieces, and their intermediate arrays among its own."""
    calls: list[Call] = []
    prepared = 0
    for k, call in enumerate(program.calls):
        if k == program.prepared:
            prepared = len(calls)
        found = cuts[call.kernel]
        views = dict(zip(found.params, call.arguments, strict=True))
        for piece in found.pieces:
            for buffer in piece.buffers:
                if buffer not in views:
                    t = type_of(buffer)
                    views[buffer] = View(Array("inner", -1, nbytes(t)), t)
            calls.append(Call(piece.name, [views[b] for b in piece.buffers], piece.writes))
    if program.prepared == len(program.calls):
        prepared = len(calls)
    result = Calls(program.inputs, program.outputs, calls, program.constants, prepared)
    _note_uses(result)
    return result


def _note_uses(program: Calls) -> None:
    """When each array is written first and used last."""
    arrays = {
        id(v.array): v.array for v in (*program.inputs, *program.outputs, *(v for c in program.calls for v in c.arguments))
    }
    for array in arrays.values():
        array.writer, array.readers = -1, []
    for k, call in enumerate(program.calls):
        for view in call.written:
            if view.array.writer < 0:
                view.array.writer = k
            else:
                view.array.readers.append(k)
        for view in call.read:
            view.array.readers.append(k)
