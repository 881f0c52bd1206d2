"""Schedules for GPUs: tiles of products, rows of several stages; for all other stages a thread for each element."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from gensyn_tvm.schedules.cpu.stages import stages_of
from gensyn_tvm.schedules.gpu.nests import schedule_nests
from gensyn_tvm.schedules.gpu.products import product_at
from gensyn_tvm.schedules.gpu.rows import rows_at, schedule_group
from gensyn_tvm.schedules.gpu.sizes import apart
from gensyn_tvm.schedules.gpu.tiles import schedule_product
from gensyn_tvm.targets.gpu.target import GpuTarget


def schedule(function: Any, target: GpuTarget, style: str) -> Any:
    """The kernel with threads in all of its nests; styles as of ``gensyn_tvm.schedules.driver``."""
    return schedule_nests(function if style == "plain" else _together(function, target, rows=style == "fast"), target)


def _together(function: Any, target: GpuTarget, *, rows: bool) -> Any:
    """The kernel with its products in tiles, ``rows`` of several stages together, and its other nests as they were."""
    stages = stages_of(function)
    if not stages:
        return function
    root = function.body.block
    parameters = list(function.params)
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    rebuilt: dict[int, Any] = dict(enumerate(nests))
    buffers = list(root.alloc_buffers)
    n = 0
    while n < len(stages):
        product = product_at(stages, n)
        if product is None:
            group = rows_at(stages, n, parameters, target) if rows else []
            if group:
                rebuilt[n], own, gone = schedule_group(group, stages, parameters, target)
                for stage in group[1:]:
                    del rebuilt[stages.index(stage)]
                buffers = [b for b in buffers if not any(b.same_as(g) for g in gone)] + own
            n += max(len(group), 1)
            continue
        for part in apart(product):
            first = stages.index(part.stages[0])
            rebuilt[first], own, gone = schedule_product(part)
            members = part.stages if part.finish is None else (*part.stages, part.finish.stage)
            for stage in (*members[1:], *part.brought):
                del rebuilt[stages.index(stage)]
            buffers = [b for b in buffers if not any(b.same_as(g) for g in gone)] + own
            n = max(n, stages.index(members[-1]) + 1)
        n = max(n, stages.index(product.stages[-1]) + 1)
    statements = list(rebuilt.values())
    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
    block = s_tir.SBlock(list(root.iter_vars), list(root.reads), list(root.writes), root.name_hint, body, root.init, buffers)
    return function.with_body(s_tir.SBlockRealize([], True, block))


__all__ = ["schedule"]
