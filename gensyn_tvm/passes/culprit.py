"""Which schedule primitive the order verifier would not accept: looked for only once a kernel has been refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm

from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.schedules.cpu.sequences import has_sequence
from gensyn_tvm.schedules.driver import traced
from gensyn_tvm.targets.cpu import CpuTarget

#: Instructions of a trace that is searched: every prefix is replayed, so that the time grows with the square.
LONGEST = 150


@contextmanager
def naming_primitive(name: str, function: Any, target: CpuTarget, style: str) -> Iterator[None]:
    """Add to what the order verifier refuses which primitive did it: the first after which no state is accepted any more."""
    try:
        yield
    except ScheduleError as error:
        if style == "none" or has_sequence(function):
            raise
        sch = traced(function, target, style)
        culprit = None if sch is None else culprit_of(name, function, sch.trace)
        if culprit is None:
            raise
        raise ScheduleError(f"{error}\n  primitive: {culprit}") from error


def culprit_of(name: str, function: Any, trace: Any) -> str | None:
    """The text of the instruction after the longest prefix of a trace that the verifier accepts; None for a long trace."""
    instructions = list(trace.insts)
    if len(instructions) > LONGEST:
        return None
    for length in reversed(range(len(instructions))):
        replayed = tvm.s_tir.Schedule(function, debug_mask="none")
        prefix = tvm.s_tir.schedule.Trace(instructions[:length], trace.decisions)
        prefix.apply_to_schedule(replayed, remove_postproc=False)
        try:
            check_order(name, replayed.mod["main"], function)
        except ScheduleError:
            continue
        return str(instructions[length].kind.name)
    return None
