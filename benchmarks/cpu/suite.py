"""The cases by group, and how they are divided among processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.cpu.cases import KERNEL_GROUPS, MODEL_GROUPS, Case

GROUPS = (*KERNEL_GROUPS, *MODEL_GROUPS)


@dataclass(frozen=True)
class Job:
    """Cases that share a process, by group and name."""

    cases: tuple[tuple[str, str], ...]


def all_cases(group: str) -> list[Case]:
    """The cases of a group; models need ``transformers``, whose import takes a second, so only when asked for."""
    if group in MODEL_GROUPS:
        from benchmarks.cpu import models

        return [c for c in models.cases() if c.group == group]
    from benchmarks.cpu import gradients, kernels

    return [c for c in (*kernels.cases(), *gradients.cases()) if c.group == group]


def jobs(groups: tuple[str, ...], *, quick: bool, wanted: list[str], done: set[tuple[str, str]], ending: str = "") -> list[Job]:
    """Processes in the order of the report: one for each network; for eight kernels, or two for all kernels of the sample.

    Args:
        groups: which groups.
        quick: only the cases of the quick sample.
        wanted: only cases whose name contains one of these; all if empty.
        done: group and name of cases to leave out.
        ending: only cases whose name ends so.
    """
    keys = [(group, c.name) for group in groups for c in all_cases(group) if c.quick or not quick]
    keys = [k for k in keys if k not in done and k[1].endswith(ending) and (not wanted or any(w in k[1] for w in wanted))]
    kernels = [k for k in keys if k[0] not in MODEL_GROUPS]
    size = max(1, math.ceil(len(kernels) / 2)) if quick else 8
    shared = [Job(tuple(kernels[k : k + size])) for k in range(0, len(kernels), size)]
    return [*shared, *(Job((key,)) for key in keys if key[0] in MODEL_GROUPS)]
