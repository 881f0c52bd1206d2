"""Schedules for CPUs: kernels with products by a rule for each role that a stage can have; others by ``rows``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.schedules.blocks import live_blocks, role_of
from gensyn_tvm.schedules.cpu import elementwise, products
from gensyn_tvm.targets.cpu import CpuTarget

#: A rule schedules the block it is given, or returns None if the block has been taken along by another rule.
Rule = Callable[[Any, Any, CpuTarget], Any]

RULES: dict[str, Rule] = {
    "map": elementwise.elementwise,
    "move": elementwise.elementwise,
    "pack": elementwise.elementwise,
    "panel": products.panel,
    "chunk": products.chunk,
    "total": elementwise.taken_along,
    "join": elementwise.taken_along,
}


def schedule(sch: Any, target: CpuTarget) -> None:
    """Schedule every block of a kernel with products.

    Raises:
        ScheduleError: a block without a role.
    """
    for block in live_blocks(sch):
        role = role_of(sch, block)
        if role not in RULES:
            raise ScheduleError(f"block {sch.get(block).name_hint!r} has role {role!r}; no CPU rule takes it")
        if len(sch.get_loops(block)) == max(len(sch.get(block).iter_vars), 1):  # else another rule has taken it along
            RULES[role](sch, block, target)


__all__ = ["RULES", "schedule"]
