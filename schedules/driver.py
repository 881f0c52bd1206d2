"""Schedules a kernel in one of three styles."""

from __future__ import annotations

from typing import Any

import tvm

from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.schedules.blocks import inline_maps
from gensyn_tvm.schedules.cpu import schedule as schedule_cpu
from gensyn_tvm.targets.cpu import CpuTarget

#: ``none``: the canonical loop nest as written (the oracle). ``plain``: inlined, sequential, scalar.
#: ``fast``: tiled, vectorised and parallel by the rules of the target's family.
STYLES = ("none", "plain", "fast")


def schedule_kernel(name: str, function: Any, target: CpuTarget, style: str) -> Any:
    """The scheduled PrimFunc.

    Raises:
        ScheduleError: unknown style, or a block that no rule takes.
    """
    if style not in STYLES:
        raise ScheduleError(f"unknown schedule style {style!r}; expected one of {', '.join(STYLES)}")
    if style == "none":
        return function
    sch = tvm.s_tir.Schedule(function, debug_mask="none")
    if style == "plain":
        inline_maps(sch)
    else:
        schedule_cpu(sch, target)
    return sch.mod["main"].with_attrs(dict(function.attrs))
