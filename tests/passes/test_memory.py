"""The memory plan and the order of kernels: nothing overlaps, nothing runs too early, and less memory is needed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.passes.fuse import fuse
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.memory import Interval, place
from gensyn_tvm.passes.pipeline import fixed_inputs, lower
from gensyn_tvm.passes.reorder import _Scheduler, cheaper_order, peak_of, reorder
from gensyn_tvm.runtime.plan import ALIGNMENT, Argument, Plan
from gensyn_tvm.targets.cpu import TARGETS

from ..fuzz import generate
from ..operators.support import NATIVE


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


def lowered(graph: Graph, *, fused: bool) -> Plan:
    with TARGETS["x86-64"].to_tvm():
        module = legalise(lift(graph))
        return lower(reorder(fuse(module, rows=True) if fused else module), fixed_inputs(graph)).plan


def extent(argument: Argument) -> tuple[int, int, int]:
    """Slot, first byte and the byte behind the last."""
    dtype, _, shape = argument.type.partition("[")
    size = math.prod(int(n) for n in shape.rstrip("]").split(",") if n.strip()) * np.dtype(dtype).itemsize
    return argument.slot, argument.offset, argument.offset + size


def replay(plan: Plan) -> int:
    """Follow the plan call by call and see who writes over whom; the number of arrays written to areas of memory.

    Whoever reads bytes must find there what one kernel wrote, all of it and nothing else.
    """
    areas = {plan.area(name): name for name in plan.areas}
    written: dict[int, list[tuple[int, int]]] = {slot: [] for slot in range(plan.slots)}
    ready = {*range(len(plan.inputs)), plan.area("constants")}
    count = 0
    for k, step in enumerate(plan.steps):
        read, written_now = (
            [extent(a) for a in part]
            for part in (step.arguments[: -step.writes], step.arguments[len(step.arguments) - step.writes :])
        )
        for slot, begin, end in read:
            whole = slot in ready or begin == end or any(b == begin and e >= end for b, e in written[slot])
            assert whole, f"step {k}, {step.kernel}, reads what no kernel wrote or another wrote over"
        for slot, begin, end in written_now:
            assert slot not in ready, "writes over an input"
            assert begin % ALIGNMENT == 0
            assert all(slot != s or e <= begin or end <= b for s, b, e in read), "writes over what it reads"
            if slot in areas:
                assert end <= plan.areas[areas[slot]]
                assert (areas[slot] in ("prepared", "scratch")) == (k < plan.prepare)
                count += 1
            written[slot] = [(b, e) for b, e in written[slot] if e <= begin or end <= b] + [(begin, end)]
    outputs = range(len(plan.inputs), len(plan.inputs) + len(plan.outputs))
    copied = {len(plan.inputs) + k for k, _ in plan.copies}
    assert all(len(written[o]) == (o not in copied) for o in outputs), "an output is not written exactly once"
    return count


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_no_kernel_reads_what_another_wrote_over(model: Any, fused: bool) -> None:
    step = gensyn_tvm.training_step(model.load(8), loss="cross_entropy", optimizer="adamw")
    assert replay(lowered(step.graph, fused=fused)) > 10


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_kernel_of_random_graphs_reads_what_another_wrote_over(first: int) -> None:
    graph = generate.bundle([generate.graph(seed) for seed in range(first, first + 20)])
    assert replay(lowered(graph, fused=True)) > 10


def test_outputs_of_every_kind_have_storage_of_their_own() -> None:
    """An input, a value twice, a view of an intermediate that is also read, an array without elements, a narrow float."""
    b = GraphBuilder("outputs")
    x = b.add_input("x", "input", TensorType((6, 5), "float32"))
    n = b.add_input("n", "input", TensorType((3,), "bfloat16"))
    k = b.add_input("k", "input", TensorType((4,), "int64"))
    total = b.emit("matmul", x, b.emit("transpose", x, perm=(1, 0)))
    flat = b.emit("reshape", total, shape=(36,))
    doubled = b.emit("add", k, k)
    results = {"x": x, "n": n, "flat": flat, "flat again": flat, "product": b.emit("matmul", total, total), "total": total}
    results |= {"doubled": doubled, "view": b.emit("reshape", doubled, shape=(2, 2))}
    results["nothing"] = b.emit("slice", k, starts=(1,), limits=(1,), strides=(1,))
    for name, value in results.items():
        b.add_output(name, value)
    for fused in (True, False):
        replay(lowered(b.finish(), fused=fused))


def test_the_replay_finds_arrays_on_top_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    step = gensyn_tvm.training_step(MODELS[1].load(8), loss="cross_entropy", optimizer="adamw")
    monkeypatch.setattr("gensyn_tvm.passes.memory.place", lambda intervals: [0] * len(intervals))
    with pytest.raises(AssertionError, match=r"writes over|wrote over|reads what"):
        replay(lowered(step.graph, fused=True))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(NATIVE == "c", reason="no panels, whose added columns need memory of the kernel's own")
def test_memory_of_a_kernels_own_is_given_back() -> None:
    """1001 columns are no whole panels: the product lies in an array of 2 MB first, which each call takes and gives back."""
    b = GraphBuilder("product")
    x, w = (b.add_input(n, "input", TensorType(s, "float32")) for n, s in (("x", (512, 64)), ("w", (64, 1001))))
    b.add_output("y", b.emit("matmul", x, w))
    call = gensyn_tvm.compile(b.finish()).bind()
    arrays = np.ones((512, 64), np.float32), np.ones((64, 1001), np.float32)
    out = np.empty((512, 1001), np.float32)
    for _ in range(3):
        call(*arrays, out=out)
    before = resident()
    for _ in range(100):
        call(*arrays, out=out)
    assert resident() - before < 32 * 2**20
