"""Sums by lanes and tree, and order-free folds."""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import tirx

from gensyn_tvm.schedules.blocks import extents, has_guards, role_of, spatial_and_reduction
from gensyn_tvm.schedules.cpu.elementwise import PARALLEL_WORK, element_bits, vector_length, work_of
from gensyn_tvm.targets.cpu import CpuTarget


def tree(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Compute the lanes of a sum beside its tree: along the lanes if they lie side by side in memory, else along outputs."""
    (lanes,) = [p for p in sch.get_producers(block) if role_of(sch, p) == "lanes"]
    spatial, _ = spatial_and_reduction(sch, block)
    sizes = extents(sch, spatial)
    total = work_of(sch, lanes, math.prod(int(v.dom.extent) for v in sch.get(lanes).iter_vars))
    width = target.lanes(element_bits(sch, lanes))
    across = 1
    if spatial and not _lanes_contiguous(sch, lanes) and not has_guards(sch, lanes):
        across = vector_length(sizes[-1], width)
    vector = None
    if across > 1:
        rest, vector = sch.split(spatial[-1], [None, across])
        spatial[-1] = rest
    if not spatial:
        sch.decompose_reduction(lanes, _lane_loops(sch, lanes, across, width))
        return block
    outer = sch.fuse(*spatial)
    sch.compute_at(lanes, outer, preserve_unit_loops=True)
    if vector is not None:
        sch.vectorize(vector)
    steps = _lane_loops(sch, lanes, across, width)
    if total >= PARALLEL_WORK:
        sch.parallel(outer)
    sch.decompose_reduction(lanes, steps)
    return block


def _lanes_contiguous(sch: Any, lanes: Any) -> bool:
    """Whether the lane index moves the innermost index of something that the block reads."""
    block = sch.get(lanes)
    lane = [v.var for v in block.iter_vars if int(v.iter_type) != 2][-1]
    return any(region.region and _uses(region.region[-1].min, lane) for region in block.reads)


def _uses(expr: Any, var: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return any(v.same_as(var) for v in found)


def _lane_loops(sch: Any, lanes: Any, across: int, width: int) -> Any:
    """Steps outermost; vectors over the lanes, or over ``across`` neighbouring outputs. Returns the loop over steps."""
    kinds = [int(v.iter_type) for v in sch.get(lanes).iter_vars]
    inner = list(sch.get_loops(lanes))[-len(kinds) :]
    lane, steps = inner[-2], inner[-1]
    outputs = inner[:-2]
    if across > 1:
        sch.reorder(steps, lane, outputs[-1])
        sch.vectorize(outputs[-1])
    else:
        sch.reorder(steps, lane)
        length = 1 if has_guards(sch, lanes) else vector_length(extents(sch, [lane])[0], width)
        if length > 1:
            _, vector = sch.split(lane, [None, length])
            sch.vectorize(vector)
    return steps


def fold(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Extrema and window reductions: threads over the outputs."""
    spatial, reduction = spatial_and_reduction(sch, block)
    work = work_of(sch, block, math.prod(extents(sch, spatial + reduction)))
    if spatial and work >= PARALLEL_WORK:
        sch.parallel(sch.fuse(*spatial))
    return block
