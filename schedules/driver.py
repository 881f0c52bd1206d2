"""Chooses a schedule rule for each kernel. A rule returns ``None`` for "not mine"; somebody must take every kernel."""

from __future__ import annotations

from typing import Any

import tvm

from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.targets.cpu import CpuTarget

#: ``none``: the canonical loop nest as written (the oracle). ``plain``: inlined, sequential, scalar.
#: ``fast``: tiled, vectorised and parallel by the rules of the target's family.
STYLES = ("none", "plain", "fast")


def schedule_kernel(name: str, function: Any, target: CpuTarget, style: str) -> Any:
    """The scheduled PrimFunc.

    Raises:
        ScheduleError: unknown style, or no rule takes the kernel.
    """
    if style not in STYLES:
        raise ScheduleError(f"unknown schedule style {style!r}; expected one of {', '.join(STYLES)}")
    if style == "none":
        return function
    from gensyn_tvm.schedules.cpu import RULES, inline_maps

    sch = tvm.s_tir.Schedule(function, debug_mask="none")
    inline_maps(sch)
    if style == "fast":
        for rule in RULES:
            if rule(sch, target) is not None:
                break
        else:
            raise ScheduleError(f"no schedule rule takes kernel {name!r} for target {target.name}")
    return sch.mod["main"].with_attrs(dict(function.attrs))
