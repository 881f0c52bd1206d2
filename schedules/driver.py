"""Schedules a kernel in one of three styles."""

from __future__ import annotations

from typing import Any

import tvm

from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.operators.nest import AS_WRITTEN, WAYS
from gensyn_tvm.schedules.blocks import inline_maps, is_empty, live_blocks
from gensyn_tvm.schedules.cpu import schedule as schedule_cpu
from gensyn_tvm.schedules.cpu.ragged import in_vectors
from gensyn_tvm.schedules.cpu.rows import row_stages, schedule_rows
from gensyn_tvm.schedules.cpu.sequences import has_sequence, schedule_sequences
from gensyn_tvm.schedules.gpu import schedule as schedule_gpu
from gensyn_tvm.targets.cpu import CpuTarget
from gensyn_tvm.targets.gpu.target import GpuTarget

Target = CpuTarget | GpuTarget

#: ``none``: the canonical loop nest as written (the oracle). ``plain``: inlined, sequential, scalar.
#: ``fast``: tiled, vectorised and parallel by the rules of the target's family.
#: On a GPU ``plain`` has a thread for each element of each stage.
STYLES = ("none", "plain", "fast")
#: GPUs only: ``fast`` without stages of the same rows in one kernel.
APART = "apart"

#: What a rule may ask of TVM: primitives that leave the axes of reduction blocks as the variant declared them, which is
#: what the order verifier goes by. Others (ReorderBlockIterVar, TransformBlockLayout, RFactor, Tensorize, …) redefine them.
PRIMITIVES = frozenset(
    {"GetSBlock", "GetLoops", "GetChildBlocks", "GetConsumers", "GetProducers", "GetOutputBlocks"}
    | {"Split", "Fuse", "Reorder", "Bind", "Parallel", "Vectorize", "Unroll", "AddUnitLoop"}
    | {"ComputeAt", "ReverseComputeAt", "ComputeInline", "ReverseComputeInline", "CacheRead", "CacheWrite"}
    | {"DecomposeReduction", "SetScope", "StorageAlign", "TransformLayout"}
)


def schedule_kernel(name: str, function: Any, target: Target, style: str) -> Any:
    """The scheduled PrimFunc.

    Raises:
        ScheduleError: unknown style, a block that no rule takes, or a primitive that is not one of ``PRIMITIVES``.
    """
    styles = (*STYLES, APART) if isinstance(target, GpuTarget) else STYLES
    if style not in styles:
        raise ScheduleError(f"unknown schedule style {style!r}; expected one of {', '.join(styles)}")
    if style == "none" or AS_WRITTEN in dict(function.attrs):
        return function
    if has_sequence(function):  # TVM's primitives do not know statements that run in order
        if isinstance(target, GpuTarget):
            return schedule_gpu(function, target, style)
        return schedule_sequences(function, target) if style == "fast" else function
    if isinstance(target, GpuTarget) and style == "plain":
        return schedule_gpu(function, target, style)
    sch = traced(function, target, style)
    if sch is None:
        return function
    _check_primitives(name, sch)
    scheduled = sch.mod["main"]
    if isinstance(target, GpuTarget):
        return schedule_gpu(scheduled, target, style).with_attrs(dict(function.attrs))
    if style == "fast":
        stages = row_stages(scheduled)
        scheduled = schedule_rows(scheduled, stages, target) if stages else in_vectors(scheduled, target)
    return scheduled.with_attrs({**dict(function.attrs), WAYS: target.ways})


def traced(function: Any, target: Target, style: str) -> Any:
    """A kernel's schedule with its trace, before rows rebuild its loops if they do; None if it stays as it is."""
    sch = tvm.s_tir.Schedule(function, debug_mask="none")
    if any(is_empty(sch, block) for block in live_blocks(sch)):
        return None  # TVM's primitives fail on stages without elements, and there is nothing to gain
    inline_maps(sch)
    if isinstance(target, CpuTarget) and style == "fast" and not row_stages(sch.mod["main"]):
        schedule_cpu(sch, target)
    return sch


def _check_primitives(name: str, sch: Any) -> None:
    for instruction in sch.trace.insts:
        if instruction.kind.name not in PRIMITIVES:
            raise ScheduleError(
                describe(
                    "a schedule uses a primitive that may redefine the order of a reduction",
                    where=f"kernel {name!r}",
                    found=instruction.kind.name,
                    expected=", ".join(sorted(PRIMITIVES)),
                    remedy="write the schedule rule with these primitives",
                )
            )
