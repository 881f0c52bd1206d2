"""The memory plan and the order of kernels: nothing overlaps, nothing runs too early, and less memory is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tvm import relax

import gensyn_tvm
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.passes.fuse import fuse
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.memory import ALIGNMENT, Interval, array_bytes, place
from gensyn_tvm.passes.pipeline import lower
from gensyn_tvm.passes.reorder import _Scheduler, cheaper_order, peak_of, reorder
from gensyn_tvm.targets.cpu import TARGETS

from ..fuzz import generate


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


@dataclass(eq=False)
class Placed:
    """An array of a lowered program: bytes ``begin`` to ``end`` of a storage, and whether they are what its kernel wrote."""

    storage: Any
    begin: int
    end: int
    state: str = "empty"

    def overlaps(self, other: Placed) -> bool:
        return self.storage.same_as(other.storage) and self.begin < other.end and other.begin < self.end


def lowered(graph: Graph, *, fused: bool) -> Any:
    with TARGETS["x86-64"].to_tvm():
        module = legalise(lift(graph))
        return lower(reorder(fuse(module, rows=True) if fused else module))


def replay(module: Any) -> int:
    """Follow the lowered program call by call and see who writes over whom; the number of arrays in the arena.

    An array is written by the first call that takes it and read by all others.
    """
    function = module["main"]
    arrays: dict[Any, Placed] = {}
    views: dict[Any, Placed] = {}
    sizes: dict[Any, int] = {}
    tuples: dict[Any, list[Any]] = {}
    for b in (b for block in function.body.blocks for b in block.bindings):
        call = b.value
        if isinstance(call, relax.Var):
            views.update({b.var: views[call]} if call in views else {})
            continue
        if isinstance(call, relax.Tuple):
            tuples[b.var] = list(call.fields)
            continue
        assert isinstance(call, relax.Call), call
        name = getattr(call.op, "name", None) or getattr(call.op, "global_symbol", None) or call.op.name_hint
        if name == "relax.vm.alloc_storage":
            (sizes[b.var],) = (int(n) for n in call.args[0].values)
        elif name == "relax.vm.alloc_tensor":
            storage, offset = call.args[0], int(call.args[1].value)
            arrays[b.var] = views[b.var] = Placed(storage, offset, offset + array_bytes(b.var.ty))
            assert offset % ALIGNMENT == 0 and views[b.var].end <= sizes[storage]
        elif name in ("vm.builtin.ensure_zero_offset", "vm.builtin.reshape"):
            views.update({b.var: views[call.args[0]]} if call.args[0] in views else {})
        elif isinstance(call.op, relax.GlobalVar):
            taken = [views[a] for a in call.args if a in views]
            assert all(p.state != "overwritten" for p in taken), f"{name} reads what another kernel wrote over"
            written = [p for p in taken if p.state == "empty"]
            assert written and written == [views.get(a) for a in call.args][-len(written) :], f"{name} reads what nobody wrote"
            for w in written:
                for p in arrays.values():
                    if p is not w and p.overlaps(w):
                        assert p not in taken, f"{name} writes over what it reads"
                        p.state = "overwritten" if p.state == "written" else p.state
                w.state = "written"
        else:
            assert name in ("relax.vm.kill_object", "relax.null_value") or name.startswith(
                ("vm.builtin.check", "vm.builtin.match")
            )
    returned = tuples[function.body.body]
    for r in returned:
        assert r not in views or (views[r].state == "written" and views[r].begin == 0)
    kept = {views[r].storage for r in returned if r in views}
    shared = [p for p in arrays.values() if sum(q.storage.same_as(p.storage) for q in arrays.values()) > 1]
    assert all(p.storage not in kept for p in shared), "an output shares its storage"
    return len(shared)


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
    with pytest.raises(AssertionError, match=r"writes over|wrote over"):
        replay(lowered(step.graph, fused=True))
