"""Where the time of a run goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """All calls of one kernel on arrays of the same types.

    Attributes:
        kernel: its name, as ``gensyn-tvm inspect --phase schedule`` shows it.
        arrays: types of what it reads and, behind them, of what it writes.
        calls: how often it is called in a run.
        seconds: wall-clock time of all of these calls.
        prepared: whether it runs only once for a set of parameters rather than in each run.
    """

    kernel: str
    arrays: tuple[str, ...]
    calls: int
    seconds: float
    prepared: bool


def rows_of(machine: Any, seconds: Sequence[float]) -> list[Row]:
    """The steps of a machine's plan with the time of each, kernels together, the slowest first."""
    found: dict[tuple[str, tuple[str, ...], bool], list[float]] = {}
    for k, (step, time) in enumerate(zip(machine.plan.steps, seconds, strict=True)):
        key = (step.kernel, tuple(a.type for a in step.arguments), k < machine.plan.prepare)
        found.setdefault(key, []).append(time)
    rows = [Row(kernel, arrays, len(t), sum(t), prepared) for (kernel, arrays, prepared), t in found.items()]
    return sorted(rows, key=lambda row: (row.prepared, -row.seconds))


def as_text(rows: Sequence[Row], top: int | None = None) -> str:
    """A table: milliseconds, share of a run, calls, kernel, types."""
    total = sum(row.seconds for row in rows if not row.prepared)
    lines = [f"{'ms':>10} {'share':>6} {'calls':>5}  kernel"]
    for row in rows[:top]:
        share = "once" if row.prepared else f"{row.seconds / total:.1%}"
        lines.append(f"{row.seconds * 1e3:10.3f} {share:>6} {row.calls:5}  {row.kernel}  {' '.join(row.arrays)}")
    return "\n".join([*lines, f"{total * 1e3:10.3f}  a run of {sum(row.calls for row in rows if not row.prepared)} calls"])
