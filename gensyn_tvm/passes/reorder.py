"""The order of kernels: what frees memory runs as soon as it can, what only takes memory waits until it is needed.

An optimizer's updates move from the end of a step to where each gradient is known, so that gradients are not all alive at once.
Kernels are only moved, and only if the estimated peak falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from gensyn_tvm.canonical.from_relax import variables_of
from gensyn_tvm.passes.memory import array_bytes

_ENTRY = "main"


def reorder(module: Any) -> Any:
    """The module with the bindings of ``main``'s dataflow block in an order that needs less memory for intermediates."""
    function = module[_ENTRY]
    (block,) = function.body.blocks
    *bindings, result = block.bindings
    number = {b.var: k for k, b in enumerate(bindings)}
    reads = [sorted({number[v] for v in variables_of(b.value) if v in number}) for b in bindings]
    kept = {number[v] for v in variables_of(result.value) if v in number}
    sizes = [0 if k in kept else _bytes(b.var.ty) for k, b in enumerate(bindings)]
    order = cheaper_order(reads, sizes)
    body = relax.SeqExpr([relax.DataflowBlock([*(bindings[k] for k in order), result])], function.body.body)
    reordered = tvm.IRModule(module.functions, attrs=module.attrs)
    reordered.update_func(
        module.get_global_var(_ENTRY),
        relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs),
    )
    return reordered


def _bytes(ty: Any) -> int:
    fields = getattr(ty, "fields", None)
    return array_bytes(ty) if fields is None else sum(_bytes(f) for f in fields)


def cheaper_order(reads: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[int]:
    """An order of tasks with a smaller peak than 0, 1, 2, …, or that order itself if none is found.

    Args:
        reads: for each task the tasks whose results it reads, all of smaller number, each once.
        sizes: bytes of each task's result, which is alive until its last reader has run; 0 for what memory does not matter.
    """
    given = list(range(len(reads)))
    found = _Scheduler(reads, sizes).run()
    return found if peak_of(found, reads, sizes) < peak_of(given, reads, sizes) else given


def peak_of(order: Sequence[int], reads: Sequence[Sequence[int]], sizes: Sequence[int]) -> int:
    """The most bytes alive at once while the tasks run in an order."""
    last = {v: t for t in order for v in reads[t]}
    live = peak = 0
    for t in order:
        live += sizes[t]
        peak = max(peak, live)
        live -= sum(sizes[v] for v in reads[t] if last[v] == t) + (sizes[t] if t not in last else 0)
    return peak


class _Scheduler:
    def __init__(self, reads: Sequence[Sequence[int]], sizes: Sequence[int]) -> None:
        self.reads, self.sizes = reads, sizes
        self.readers: list[list[int]] = [[] for _ in reads]
        for t, values in enumerate(reads):
            for v in values:
                self.readers[v].append(t)
        self.waiting = [set(r) for r in self.readers]  # readers that have not run
        self.missing = [len(values) for values in reads]  # results that a task still waits for
        self.done = [False] * len(reads)
        self.order: list[int] = []

    def run(self) -> list[int]:
        """Every task that somebody waits for, in the given order but for those that move up or wait."""
        for t in range(len(self.reads)):
            if not self.done[t] and not self.can_wait(t):
                self.demand(t)
        return self.order

    def can_wait(self, t: int) -> bool:
        """Whether the task's result takes more than what its run would let die; only results that are read can wait."""
        return bool(self.readers[t]) and self.sizes[t] > self.freed(t, self.readers)

    def freed(self, t: int, readers: Sequence[Any]) -> int:
        return sum(self.sizes[v] for v in self.reads[t] if len(readers[v]) == 1)

    def demand(self, t: int) -> None:
        """Run a task after what it reads and what that reads, then whatever frees memory."""
        stack = [t]
        while stack:
            top = stack[-1]
            ahead = [v for v in self.reads[top] if not self.done[v]]
            if self.done[top] or not ahead:
                stack.pop()
                if not self.done[top]:
                    self.execute(top)
            else:
                stack.extend(reversed(ahead))

    def execute(self, t: int) -> None:
        """Run a task, and after it every task that has become ready and takes no more than it frees."""
        pending = [t]
        while pending:
            now = pending.pop()
            if self.done[now] or self.missing[now]:
                continue
            self.done[now] = True
            self.order.append(now)
            for v in self.reads[now]:
                self.waiting[v].discard(now)
            for r in self.readers[now]:
                self.missing[r] -= 1
            near = {r for v in self.reads[now] if len(self.waiting[v]) == 1 for r in self.waiting[v]}
            near.update(self.readers[now])
            pending.extend(sorted((r for r in near if self.is_free(r)), reverse=True))

    def is_free(self, t: int) -> bool:
        return not self.done[t] and not self.missing[t] and self.sizes[t] <= self.freed(t, self.waiting)
