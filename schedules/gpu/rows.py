"""Stages that go through the same rows in one kernel: a warp for each row, what goes from stage to stage in shared memory.

The 32 lanes of a sum are the threads of a warp. Several rows make a block; each stage's own elements are dealt out to the
threads of its row, and all threads of the block wait for one another between the stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from gensyn_tvm.operators.nest import i64, ravel, unravel
from gensyn_tvm.schedules.blocks import with_accesses
from gensyn_tvm.schedules.cpu.stages import Axis, Stage, common_axes, element_bits, uses
from gensyn_tvm.schedules.gpu.loops import Loop, bound, inside, sequence, serial, unrolled, whole
from gensyn_tvm.schedules.gpu.nests import in_register
from gensyn_tvm.targets.gpu.target import GpuTarget

Statement = Any

_ROLES = frozenset({"map", "move", "pack", "lanes", "rest", "tree", "fold"})
_WARP = 32
#: Rows of a block, and the fewest rows with which warps keep a GPU busy; with fewer, threads of several blocks share a row.
_ROWS, _FEWEST = (8, 4, 2, 1), 64
#: Terms or elements of a row from which on a warp goes through it for too long, unless there are so many rows that all of them
#: together keep the memory of a large GPU busy.
_LONG, _BUSY = 2048, 2048
#: Results of a stage in a row up to which a thread does all of the row, in registers.
_NARROW = 16
#: Stages that are looked at beyond the last that fits.
_AHEAD = 6


def rows_at(stages: Sequence[Stage], begin: int, parameters: Sequence[Any], target: GpuTarget) -> list[Stage]:
    """The stages from ``begin`` on that are worth a kernel of rows; none if it is not."""
    best: list[Stage] = []
    for end in range(begin + 1, len(stages) + 1):
        members = list(stages[begin:end])
        if members[-1].role not in _ROLES or end - begin - len(best) > _AHEAD:
            break
        axes = common_axes(members)
        if _goes_across(members, axes):
            break
        kept = _kept(members, stages, parameters)
        rows = math.prod(a.extent for a in axes)
        enough = _BUSY if max(_steps(n, s, axes) for n, s in enumerate(members)) >= _LONG else _FEWEST
        if rows >= enough and _layout(members, axes, kept, target):
            best = members
    reduces = [s for s in best if len(s.variables) > s.spatial]
    return best if len(best) > 1 and reduces else []


def _goes_across(members: Sequence[Stage], axes: Sequence[Axis]) -> bool:
    """Whether the terms of neighbouring rows, rather than those of one row, lie side by side in memory."""
    written = [s.write.buffer for s in members]
    for n, stage in enumerate(members):
        if len(stage.variables) == stage.spatial:
            continue
        common = {axis.variables[n] for axis in axes}
        for access in stage.reads:
            last = access.indices[-1] if access.indices else i64(0)
            inside_row = [k for k in range(len(stage.variables)) if k not in common and uses(last, stage.variables[k])]
            outside = any(uses(last, stage.variables[k]) for k in common)
            if outside and not inside_row and not any(access.buffer.same_as(b) for b in written):
                return True
    return False


def _kept(members: Sequence[Stage], stages: Sequence[Stage], parameters: Sequence[Any]) -> list[Stage]:
    """The stages whose results only other members read."""
    others = [s for s in stages if s not in members]
    return [
        s
        for s in members
        if not any(s.write.buffer.same_as(p) for p in parameters)
        and not any(a.buffer.same_as(s.write.buffer) for o in others for a in o.accesses())
    ]


@dataclass(frozen=True)
class _Layout:
    """Who does a row.

    Attributes:
        loops: over blocks and threads.
        row: the number of the row.
        lane: the number of the thread in its row.
        width: threads of a row.
        scope: where what goes from stage to stage is.
        limit: the condition that the row exists.
    """

    loops: list[Loop]
    row: Any
    lane: Any
    width: int
    scope: str
    limit: Any


def _own(n: int, stage: Stage, axes: Sequence[Axis]) -> int:
    """How many results of a stage belong to a row."""
    common = {axis.variables[n] for axis in axes}
    return math.prod(e for k, e in enumerate(stage.extents[: stage.spatial]) if k not in common)


def _steps(n: int, stage: Stage, axes: Sequence[Axis]) -> int:
    """How many terms, or elements where nothing is added up, of a stage belong to a row."""
    return _own(n, stage, axes) * math.prod(stage.extents[stage.spatial :])


def _layout(members: Sequence[Stage], axes: Sequence[Axis], kept: Sequence[Stage], target: GpuTarget) -> _Layout | None:
    """A warp for each row, or a thread where a row has few elements; None if not even one row has room."""
    rows = math.prod(a.extent for a in axes)
    yes = tirx.IntImm("bool", 1)
    if max(_own(n, s, axes) for n, s in enumerate(members)) <= _NARROW:
        threads = min(target.threads, rows)
        groups = math.ceil(rows / threads)
        loops = [bound("blockIdx.x", groups), bound("threadIdx.x", threads)]
        row = loops[0].value * i64(threads) + loops[1].value
        return _Layout(loops, row, i64(0), 1, "local", yes if groups * threads == rows else tirx.LT(row, i64(rows)))
    size = sum(math.prod(s.write.shape()) // rows * max(element_bits(s.write) // 8, 1) for s in kept)
    count = next((n for n in _ROWS if rows % n == 0 and n * size <= target.shared_bytes), 0)
    if not count:
        return None
    loops = [bound("blockIdx.x", rows // count), bound("threadIdx.y", count), bound("threadIdx.x", _WARP)]
    row = loops[0].value * i64(count) + loops[1].value
    return _Layout(loops, row, loops[2].value, _WARP, "shared", yes)


def schedule_group(
    members: Sequence[Stage], stages: Sequence[Stage], parameters: Sequence[Any], target: GpuTarget
) -> tuple[Statement, list[Any], list[Any]]:
    """The statement of a group, the buffers that it uses, and those that it needs no longer."""
    axes = common_axes(members)
    kept = _kept(members, stages, parameters)
    layout = _layout(members, axes, kept, target)
    assert layout is not None, "rows_at has found room"
    values = unravel(layout.row, [a.extent for a in axes])
    shared = {s.write.buffer: _Shared.of(n, s, axes, layout.scope) for n, s in enumerate(members) if s in kept}
    registers: list[Any] = []
    statements = []
    for n, stage in enumerate(members):
        bindings: dict[int, Any] = {axis.variables[n]: value for axis, value in zip(axes, values, strict=True)}
        statements.append(_stage(stage, bindings, layout, shared, registers))
    buffers = [s.buffer for s in shared.values()]
    return inside(layout.loops, sequence(statements)), [*buffers, *registers], list(shared)


@dataclass(frozen=True)
class _Shared:
    """A buffer between stages, all of its row axes as one, so that TVM sees that a block or thread has few of the rows.

    Attributes:
        buffer: the buffer (rows, own axes…).
        rows: the dimensions of the axes of rows, with their extents.
        own: the other dimensions.
    """

    buffer: Any
    rows: tuple[tuple[int, int], ...]
    own: tuple[int, ...]

    @staticmethod
    def of(n: int, stage: Stage, axes: Sequence[Axis], scope: str) -> _Shared:
        """The buffer that takes the place of the one that stage ``n`` of the group stores."""
        positions = [stage.position(i) for i in stage.write.indices]
        rows = tuple((positions.index(axis.variables[n]), axis.extent) for axis in axes)
        own = tuple(d for d in range(len(positions)) if d not in [r for r, _ in rows])
        shape = [math.prod(e for _, e in rows), *(stage.write.shape()[d] for d in own)]
        dtype = str(stage.write.buffer.dtype)
        return _Shared(tirx.decl_buffer([i64(e) for e in shape], dtype, "row", scope=scope), rows, own)

    def place(self, indices: Sequence[Any]) -> list[Any]:
        """Where the element is that has these indices in the buffer that was."""
        return [ravel([indices[d] for d, _ in self.rows], [e for _, e in self.rows]), *(indices[d] for d in self.own)]


def _stage(
    stage: Stage, bindings: dict[int, Any], layout: _Layout, shared: Mapping[Any, _Shared], registers: list[Any]
) -> Statement:
    """A stage's own elements, dealt out to the threads of a row."""
    own = [k for k in range(stage.spatial) if k not in bindings]
    count = math.prod(stage.extents[k] for k in own)
    turn = (unrolled if layout.width == 1 else serial)("turn", math.ceil(count / layout.width))
    position = turn.value * i64(layout.width) + layout.lane
    predicate = layout.limit if count % layout.width == 0 else tirx.LT(position, i64(count))
    values = [bindings.get(k) for k in range(len(stage.variables))]
    for k, value in zip(own, unravel(position, [stage.extents[k] for k in own]), strict=True):
        values[k] = value
    block = _with_buffers(stage.block, shared)
    terms = [serial(f"term{k}", stage.extents[k]) for k in range(stage.spatial, len(stage.variables))]
    values[stage.spatial :] = [t.value for t in terms]
    if block.init is None:
        return turn.around(inside(terms, s_tir.SBlockRealize(values, predicate, block)))
    first, each, last, register = in_register(block)
    registers.append(register)
    parts = [
        s_tir.SBlockRealize(values[: stage.spatial], predicate, first),
        inside(terms, s_tir.SBlockRealize(values, predicate, each)),
        s_tir.SBlockRealize(values[: stage.spatial], predicate, last),
    ]
    return turn.around(tirx.SeqStmt(parts))


def _with_buffers(block: Any, shared: Mapping[Any, _Shared]) -> Any:
    """A block that reads and writes other buffers."""

    def access(buffer: Any, indices: Any) -> tuple[Any, Any] | None:
        found = shared.get(buffer)
        return None if found is None else (found.buffer, found.place(indices))

    return with_accesses(block, access, lambda r: whole(shared[r.source].buffer) if r.source in shared else r)
