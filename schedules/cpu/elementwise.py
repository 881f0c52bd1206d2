"""Stages that compute each element on its own: threads over the outer loops, vectors along the innermost."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.schedules.blocks import calls_in, extents, has_guards, spatial_and_reduction
from gensyn_tvm.schedules.cpu.costs import PARALLEL_WORK, cost_of_calls
from gensyn_tvm.targets.cpu import CpuTarget

#: Vectors from which a line of a size that no vector divides is left to LLVM, rather than divide every index of a gather.
_LONG_LINE = 4


def work_of(sch: Any, block: Any, elements: int) -> int:
    """Rough cost of a block."""
    return elements * cost_of_calls(calls_in(sch, block))


def vector_length(extent: int, lanes: int) -> int:
    """The largest power of two up to ``lanes`` that divides ``extent``."""
    length = 1
    while length < lanes and extent % (2 * length) == 0:
        length *= 2
    return length


def element_bits(sch: Any, block: Any) -> int:
    """Width of the elements that a block stores."""
    dtype = str(sch.get(block).writes[0].source.ty.dtype if hasattr(sch.get(block).writes[0], "source") else "float32")
    digits = "".join(c for c in dtype.split("x")[0] if c.isdigit())
    return max(32, int(digits or 32))


def _is_flat(sch: Any, block: Any) -> bool:
    """Whether what a block reads has the shape of what it writes, so that all may be one line."""
    regions = [*sch.get(block).writes, *sch.get(block).reads]
    shapes = {tuple(int(e) for e in r.source.shape) for r in regions if hasattr(r, "source")}
    return len(shapes) == 1


def elementwise(sch: Any, block: Any, target: CpuTarget) -> Any:
    """Parallel outer loops, vectorised innermost loop."""
    loops, _ = spatial_and_reduction(sch, block)
    if not loops:
        return block
    sizes = extents(sch, loops)
    total = math.prod(sizes)
    parallel = work_of(sch, block, total) >= PARALLEL_WORK
    lanes = 1 if has_guards(sch, block) else target.lanes(element_bits(sch, block))
    inner = loops[-1]
    flat = sizes[-1] < _LONG_LINE * lanes or _is_flat(sch, block)
    if flat and vector_length(sizes[-1], lanes) < min(lanes, 4) <= vector_length(total, lanes):
        inner, loops, sizes = sch.fuse(*loops), [], [total]
    length = vector_length(sizes[-1], lanes)
    outer = loops[:-1]
    if length > 1:
        rest, vector = sch.split(inner, [None, length])
        sch.vectorize(vector)
        outer.append(rest)
    elif not outer:
        outer = [inner]
    if parallel and outer:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
    return block


def taken_along(sch: Any, block: Any, target: CpuTarget) -> None:
    """A stage that the rule of a neighbouring stage schedules."""
    return None
