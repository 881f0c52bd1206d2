"""Time contestants side by side, compare what they computed, and digest what we did."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cpu.contestants import OURS, Contestant

#: Idle threads of every pool spin for a while, on the cores of whoever comes next.
PAUSE = 0.12


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: blocks of each contestant.
        seconds: of a block, about; at least ``calls`` calls.
        calls: the fewest calls in a block.
    """

    rounds: int
    seconds: float
    calls: int


QUICK = Effort(2, 0.05, 2)
FULL = Effort(3, 0.1, 3)


def block(run: Callable[[], object], effort: Effort) -> list[float]:
    """Seconds of single calls after a warm-up."""
    run()
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    # Short calls are timed in batches that are long against the clock's resolution and the loop around it.
    batch = max(1, math.ceil(2e-4 / max(once, 1e-7)))
    # A call that needs no batch counts itself: networks take long enough.
    times = [once] if batch == 1 else []
    begin = time.perf_counter()
    while len(times) < effort.calls or time.perf_counter() - begin < effort.seconds:
        start = time.perf_counter()
        for _ in range(batch):
            run()
        times.append((time.perf_counter() - start) / batch)
    return times


def race(contestants: Mapping[str, Contestant], threads: int, effort: Effort) -> dict[str, float]:
    """Median seconds of each, from blocks in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(effort.rounds):
        for name, contestant in contestants.items():
            run = contestant.ready(threads)
            time.sleep(PAUSE)
            times[name] += block(run, effort)
    return {name: statistics.median(values) for name, values in times.items()}


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest element of each expected output; infinite for other shapes or NaN."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return math.inf
        scale = max(float(np.abs(b).max(initial=0.0)), 1e-30)
        distance = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)) / scale
        worst = max(worst, math.inf if math.isnan(distance) else distance)
    return worst


def differences(contestants: Mapping[str, Contestant], threads: int, reference: str) -> dict[str, float]:
    """How far each first output (or loss of a first step) is from the reference's."""
    outputs = {name: c.arrays(c.ready(threads)()) for name, c in contestants.items()}
    return {name: difference(arrays, outputs[reference]) for name, arrays in outputs.items()}


def ratios(seconds: Mapping[str, float]) -> dict[str, Any]:
    """Each peer's time divided by ours, and the smallest of them."""
    each = {name: value / seconds[OURS] for name, value in seconds.items() if name != OURS}
    fastest = min(each, key=lambda name: each[name]) if each else None
    return {"ratios": each, "fastest_peer": fastest, "ratio": each[fastest] if fastest else None}
