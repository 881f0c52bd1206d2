"""Schedules for GPUs: tiles of products in shared memory; for all other stages a thread for each element."""

from __future__ import annotations

from typing import Any

from gensyn_tvm.schedules.gpu.nests import schedule_nests
from gensyn_tvm.targets.gpu.target import GpuTarget


def schedule(function: Any, target: GpuTarget, style: str) -> Any:
    """The kernel with threads in all of its nests; ``plain`` has no tiles."""
    return schedule_nests(function, target)


__all__ = ["schedule"]
