"""The cases by group, and how they are divided among processes."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cpu.cases import KERNEL_GROUPS, MODEL_GROUPS, Case

GROUPS = (*KERNEL_GROUPS, *MODEL_GROUPS)


@dataclass(frozen=True)
class Job:
    """Cases of one group that share a process."""

    group: str
    cases: tuple[str, ...]


def all_cases(group: str) -> list[Case]:
    """The cases of a group; models need ``transformers``, whose import takes a second, so only when asked for."""
    if group in MODEL_GROUPS:
        from benchmarks.cpu import models

        return [c for c in models.cases() if c.group == group]
    from benchmarks.cpu import gradients, kernels

    return [c for c in (*kernels.cases(), *gradients.cases()) if c.group == group]


def jobs(groups: tuple[str, ...], *, quick: bool, wanted: list[str], done: set[tuple[str, str]]) -> list[Job]:
    """Processes in the order of the report: one for each network, and for eight kernels.

    Args:
        groups: which groups.
        quick: only the cases of the quick sample.
        wanted: only cases whose name contains one of these; all if empty.
        done: group and name of cases to leave out.
    """
    found = []
    for group in groups:
        names = [c.name for c in all_cases(group) if (c.quick or not quick) and (group, c.name) not in done]
        names = [n for n in names if not wanted or any(w in n for w in wanted)]
        size = 1 if group in MODEL_GROUPS else 8
        found += [Job(group, tuple(names[k : k + size])) for k in range(0, len(names), size)]
    return found
