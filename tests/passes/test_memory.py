"""The memory plan and the order of kernels: nothing overlaps, nothing runs too early, and less memory is needed."""

from __future__ import annotations

import numpy as np
import pytest

from gensyn_tvm.passes.memory import ALIGNMENT, Interval, place
from gensyn_tvm.passes.reorder import _Scheduler, cheaper_order, peak_of


def drawn_intervals(seed: int, count: int = 120) -> list[Interval]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 200, count)
    lengths = rng.integers(0, 60, count)
    sizes = rng.choice([0, 1, 63, 64, 65, 1000, 4096, 100_000], count)
    return [Interval(int(s), int(a), int(a + n)) for s, a, n in zip(sizes, starts, lengths, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_arrays_alive_together_never_overlap(seed: int) -> None:
    intervals = drawn_intervals(seed)
    offsets = place(intervals)
    assert offsets == place(intervals)
    assert all(o >= 0 and o % ALIGNMENT == 0 for o in offsets)
    for i, (a, x) in enumerate(zip(offsets, intervals, strict=True)):
        for b, y in list(zip(offsets, intervals, strict=True))[:i]:
            apart_in_time = x.end < y.start or y.end < x.start
            assert apart_in_time or a + x.size <= b or b + y.size <= a


def test_memory_of_dead_arrays_is_used_again() -> None:
    chain = [Interval(1024, k, k + 1) for k in range(50)]
    offsets = place(chain)
    assert max(offsets) + 1024 == 2048


def test_a_small_array_does_not_keep_a_large_place() -> None:
    intervals = [Interval(64 * 1024, 0, 1), Interval(64, 2, 9), Interval(64 * 1024, 3, 9)]
    assert max(o + i.size for o, i in zip(place(intervals), intervals, strict=True)) == 64 * 1024 + 64


def drawn_tasks(seed: int) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 150))
    reads = [sorted(set(rng.integers(max(0, t - 40), t, rng.integers(0, 4)).tolist())) if t else [] for t in range(count)]
    return reads, [int(s) for s in rng.choice([0, 4, 1000, 5000, 100_000], count)]


@pytest.mark.parametrize("seed", range(40))
def test_every_task_runs_once_after_what_it_reads(seed: int) -> None:
    reads, sizes = drawn_tasks(seed)
    for order in (_Scheduler(reads, sizes).run(), cheaper_order(reads, sizes)):
        assert sorted(order) == list(range(len(reads)))
        position = {t: k for k, t in enumerate(order)}
        assert all(position[v] < position[t] for t, values in enumerate(reads) for v in values)
    assert peak_of(cheaper_order(reads, sizes), reads, sizes) <= peak_of(list(range(len(reads))), reads, sizes)


def test_updates_run_when_their_gradient_is_known() -> None:
    """A chain of gradients, each also updating a parameter; the updates come last in the given order."""
    depth, big = 10, 1000
    gradients = [[k - 1] if k else [] for k in range(depth)]
    weights = [[k] for k in range(depth)]
    updates = [[depth + k] for k in range(depth)]
    reads = gradients + weights + updates
    sizes = [10] * depth + [big] * depth + [0] * depth
    assert peak_of(list(range(3 * depth)), reads, sizes) >= depth * big
    assert peak_of(cheaper_order(reads, sizes), reads, sizes) < 2 * big + 10 * depth
