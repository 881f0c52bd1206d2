"""Kernels without products: stages that share axes run together, row by row, while what they share is in the cache.

Stages that read from one another at the same positions of some axes (the rows of a softmax, the channels of a batch
normalisation) become one loop over these axes, run by threads, with the loops of each stage inside. Buffers between them shrink
to what one row needs. Vectors go along a stage's own last axis, or, where the common axes are the ones that lie side by side in
memory, along a tile of those.

TVM's primitives can move a producer into one consumer only and know nothing of loops with something left over, so the loops are
built here; the order verifier proves each result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import s_tir, tirx

from gensyn_tvm.operators.nest import i64, unravel
from gensyn_tvm.schedules import records
from gensyn_tvm.schedules.blocks import with_accesses
from gensyn_tvm.schedules.cpu.costs import PARALLEL_WORK, cost_of_calls
from gensyn_tvm.schedules.cpu.nests import (
    Span,
    Statement,
    has_terms_far_apart,
    loop,
    nest,
    sequence,
    side_by_side,
    steps_through,
)
from gensyn_tvm.schedules.cpu.stages import Access, Axis, Stage, common_axes, is_flat, stages_of, uses
from gensyn_tvm.schedules.parameters import RowParameters
from gensyn_tvm.targets.cpu import CpuTarget

Expr = Any

#: What the stages of a kernel may be for it to be scheduled here.
ROW_ROLES = frozenset({"map", "move", "pack", "lanes", "rest", "tree", "fold"})
#: Bytes that one row may take in buffers between stages.
_ROW_BYTES = 4 * 2**20
#: Rows that keep all threads busy.
_MANY = 8
#: Stages that are looked at beyond the last that fits.
_AHEAD = 12
#: Neighbouring results in a tile: of stages that reduce (32 lanes of these stay in the first-level cache), and of others.
_REDUCING_TILE_VECTORS = 4
_TILE = 1024


#: Rows that go through a step together, and elements of all of them: they stay in the first-level cache.
_ROWS_TOGETHER, _TOGETHER = 8, 3072

_UNTUNED = RowParameters()


@dataclass(frozen=True)
class Group:
    """Stages that run together.

    Attributes:
        stages: in program order.
        axes: the axes that they have in common.
        buffers: the kernel's buffers between stages.
        given: parameters of the loops.
    """

    stages: list[Stage]
    axes: list[Axis]
    buffers: Sequence[Any]
    given: RowParameters = _UNTUNED

    @property
    def scratch(self) -> bool:
        """Whether the stages use buffers that are none of the kernel's arguments."""
        return any(a.buffer.same_as(b) for s in self.stages for a in s.accesses() for b in self.buffers)

    @property
    def work(self) -> int:
        """Rough cost in additions."""
        return sum(stage.elements * cost_of_calls(stage.calls) for stage in self.stages)

    @property
    def parallel(self) -> bool:
        """Whether threads share the rows."""
        return self.work >= (PARALLEL_WORK if self.given.threads_from is None else self.given.threads_from)

    def key(self) -> str:
        """Under which a record is found: dtype, common axes, and of each stage its role and extents."""
        axes = "x".join(str(a.extent) for a in self.axes)
        stages = [f"{s.role}:{'x'.join(map(str, s.extents))}" for s in self.stages]
        return " ".join(["rows", str(self.stages[-1].write.buffer.dtype), axes or "1", *stages])


def row_stages(function: Any) -> list[Stage] | None:
    """The stages of a kernel if all are of a kind that is scheduled here."""
    stages = stages_of(function)
    return stages if stages and all(stage.role in ROW_ROLES for stage in stages) else None


def schedule_rows(function: Any, stages: Sequence[Stage], target: CpuTarget) -> Any:
    """The kernel with threads and vectors."""
    root = function.body.block
    tuned = records.active(target.name, target.maker)
    groups = [replace(g, given=tuned.find(g.key(), RowParameters)) for g in _groups(stages, list(root.alloc_buffers))]
    copies = _Copies(list(root.alloc_buffers), groups)
    body = sequence([s for group in groups for s in _loops(group, target, copies)])
    block = s_tir.SBlock(list(root.iter_vars), list(root.reads), list(root.writes), root.name_hint, body, root.init, copies.all)
    return function.with_body(s_tir.SBlockRealize([], True, block))


class _Copies:
    """Buffers between stages. A group that is written out twice gets buffers of its own for each."""

    def __init__(self, buffers: list[Any], groups: Sequence[Group]) -> None:
        self.all = buffers
        users = {b: [g for g in groups if any(a.buffer.same_as(b) for s in g.stages for a in s.accesses())] for b in buffers}
        self._private = {b for b, found in users.items() if len(found) == 1}

    def renewed(self, group: Group) -> Group:
        """The group with new buffers in place of those that only it uses."""
        fresh = {
            s.write.buffer: tirx.decl_buffer(s.write.buffer.shape, str(s.write.buffer.dtype), f"{s.write.buffer.name}_rest")
            for s in group.stages
            if s.write.buffer in self._private
        }
        self.all = [*self.all, *fresh.values()]
        return replace(group, stages=[_with_buffers(stage, fresh) for stage in group.stages])


def _with_buffers(stage: Stage, fresh: Mapping[Any, Any]) -> Stage:
    block = with_accesses(
        stage.block,
        lambda buffer, indices: (fresh[buffer], indices) if buffer in fresh else None,
        lambda r: tirx.BufferRegion(fresh.get(r.source, r.source), r.region),
    )

    def renamed(a: Access) -> Access:
        return Access(fresh.get(a.buffer, a.buffer), a.indices)

    return replace(stage, block=block, write=renamed(stage.write), reads=tuple(map(renamed, stage.reads)))


# ---- groups ---------------------------------------------------------------------------------------------------------


def _groups(stages: Sequence[Stage], buffers: Sequence[Any]) -> list[Group]:
    """Neighbouring stages with common axes, as many as keep enough rows."""

    def group(members: Sequence[Stage]) -> Group:
        return Group(list(members), common_axes(members), buffers)

    found = []
    begin = 0
    while begin < len(stages):
        best, end = group(stages[begin : begin + 1]), begin + 1
        # Stages that only a later one brings together (the parts of a reduction) have nothing in common before it.
        for stop in range(begin + 2, len(stages) + 1):
            if stop - end > _AHEAD:
                break
            joined = group(stages[begin:stop])
            if _worthwhile(joined, best):
                best, end = joined, stop
        found.append(best)
        begin = end
    return found


def _worthwhile(joined: Group, before: Group) -> bool:
    rows, rows_before = (math.prod(a.extent for a in g.axes) for g in (joined, before))
    if not joined.axes or (rows < min(_MANY, rows_before) and joined.work >= PARALLEL_WORK):
        return False
    return _bytes_between(joined) <= rows * _ROW_BYTES


def _bytes_between(group: Group) -> int:
    read = {a.buffer for stage in group.stages for a in stage.reads}
    return sum(4 * math.prod(s.write.shape()) for s in group.stages if s.write.buffer in read)


# ---- loops ----------------------------------------------------------------------------------------------------------


def _loops(group: Group, target: CpuTarget, copies: _Copies) -> list[Statement]:
    read = _crossing(group)
    if read is not None:
        return _squares(group, read, target)
    suffix = _side_by_side(group, target)
    if not suffix:
        return [_rows(group, target)]
    return _tiles(group, suffix, target, copies)


def _bindings(group: Group, n: int, axes: Sequence[Axis], values: Sequence[Expr]) -> dict[int, Expr]:
    return {axis.variables[n]: value for axis, value in zip(axes, values, strict=True)}


def _over(axes: Sequence[Axis], *, parallel: bool, body: Callable[[list[Expr]], Statement]) -> Statement:
    """A loop over all positions of some axes, run by threads if ``parallel``."""
    extents = [axis.extent for axis in axes]
    if not axes:
        return body([])
    var, wrap = loop("row", math.prod(extents), tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL)
    return wrap(body(unravel(var, extents)))


def _rows(group: Group, target: CpuTarget) -> Statement:
    """One row after the other, vectors along the stages' own axes.

    Where each step of a row waits for a value that all of the row makes (a softmax's maximum, its sum), several short rows go
    through a step before the next one begins: what waits in one row does not keep the others waiting.
    """

    def run(members: Sequence[int], values: Sequence[Expr]) -> list[Statement]:
        inner = [nest(group.stages[n], _bindings(group, n, group.axes, values), None, target) for n in members]
        return [s for statements in inner for s in statements]

    steps = _steps(group)
    block = _together(group) if len(steps) > 1 and group.axes else 1
    if block == 1:
        everything = range(len(group.stages))
        return _over(group.axes, parallel=group.parallel, body=lambda values: sequence(run(everything, values)))

    def rows(values: list[Expr]) -> Statement:
        statements = []
        for members in steps:
            var, wrap = loop("together", block)
            mine = [*values[:-1], values[-1] * i64(block) + var]
            statements.append(wrap(sequence(run(members, mine))))
        return sequence(statements)

    *outer, last = group.axes
    return _over([*outer, replace(last, extent=last.extent // block)], parallel=group.parallel, body=rows)


def _steps(group: Group) -> list[list[int]]:
    """The stages in runs, each of which but the last ends with what makes a single value of a row."""
    steps: list[list[int]] = [[]]
    for n, stage in enumerate(group.stages):
        common = {axis.variables[n] for axis in group.axes}
        steps[-1].append(n)
        single = math.prod(stage.extents[k] for k in range(stage.spatial) if k not in common) == 1
        if single and stage.role in ("tree", "fold") and n + 1 < len(group.stages):
            steps.append([])
    return steps


def _together(group: Group) -> int:
    """How many rows that lie side by side go through each step together; 1 where rows are long or nothing divides."""
    rows = math.prod(axis.extent for axis in group.axes)
    longest = max(stage.elements // rows for stage in group.stages)
    most = min(_ROWS_TOGETHER, _TOGETHER // max(longest, 1), rows // _MANY)
    return next((b for b in range(most, 2, -1) if group.axes[-1].extent % b == 0), 1)


def _side_by_side(group: Group, target: CpuTarget) -> list[Axis]:
    """The last common axes, as many as are one axis of memory, if vectors are to go along them; else none."""
    if not group.axes or any(_prefers_own_axis(stage, group, n) for n, stage in enumerate(group.stages)):
        return []
    count = 1
    # A buffer that shrinks to a tile must not be cut across several of its axes.
    while not group.scratch and count < len(group.axes) and _flat(group, group.axes[-count - 1 :]):
        count += 1
    suffix = group.axes[-count:]
    short = math.prod(a.extent for a in suffix) < min(target.lanes(), 8)
    alone = len(group.stages) == 1 and not _is_reduction(group.stages[0])
    return group.axes if short and alone and not group.stages[0].conditions else suffix


def _flat(group: Group, axes: Sequence[Axis]) -> bool:
    return all(is_flat(stage, [axis.variables[n] for axis in axes]) for n, stage in enumerate(group.stages))


def _is_reduction(stage: Stage) -> bool:
    return len(stage.variables) > stage.spatial


def _prefers_own_axis(stage: Stage, group: Group, n: int) -> bool:
    """Whether a stage's vectors should go along an axis of its own and not along the last common one."""
    common = group.axes[-1].variables[n]
    own = [k for k in range(stage.spatial) if k not in [a.variables[n] for a in group.axes] and stage.extents[k] > 1]
    if not own:
        return False
    variable, last = stage.variables[common], stage.variables[own[-1]]
    if _is_reduction(stage):
        return not any(steps_through(a, variable) and _moves(a, variable) for a in stage.reads) or any(
            _moves(a, last) and not _moves(a, variable) for a in stage.reads
        )
    return stage.role != "tree" and not _moves(stage.write, variable)


def _moves(access: Access, variable: Any) -> bool:
    return bool(access.indices) and uses(access.indices[-1], variable)


def _tiles(group: Group, suffix: Sequence[Axis], target: CpuTarget, copies: _Copies) -> list[Statement]:
    """Tiles of results that lie side by side, vectors along them."""
    outer = group.axes[: len(group.axes) - len(suffix)]
    rows, length = (math.prod(a.extent for a in axes) for axes in (outer, suffix))
    parallel = group.parallel
    tile = _tile(group, length, rows, target, parallel=parallel)
    tiles, rest = divmod(length, tile)

    def run(part: Group, values: Sequence[Expr], start: Expr, width: int) -> list[Statement]:
        spans = [Span(tuple(axis.variables[n] for axis in suffix), start, width) for n in range(len(part.stages))]
        bound = [_bindings(part, n, outer, values) for n in range(len(part.stages))]
        if len(part.stages) > 1 and all(map(_has_no_own_axis, part.stages, bound, spans)):
            return side_by_side(part.stages, bound, spans, target)
        return [s for stage, b, span in zip(part.stages, bound, spans, strict=True) for s in nest(stage, b, span, target)]

    last = copies.renewed(group) if rest and tiles else group
    if rows >= _MANY or not parallel or tiles < 2:

        def row(values: list[Expr]) -> Statement:
            whole = []
            if tiles == 1:
                whole = run(group, values, i64(0), tile)
            elif tiles:
                var, wrap = loop("tile", tiles, tirx.ForKind.SERIAL)
                whole = [wrap(sequence(run(group, values, var * i64(tile), tile)))]
            return sequence([*whole, *(run(last, values, i64(tiles * tile), rest) if rest else [])])

        return [_over(outer, parallel=parallel and rows > 1, body=row)]
    var, wrap = loop("tile", rows * tiles, tirx.ForKind.PARALLEL)
    extents = [axis.extent for axis in outer]
    *values, number = unravel(var, [*extents, tiles])
    statements = [wrap(sequence(run(group, values, number * i64(tile), tile)))]
    if rest:
        remainder = _over(outer, parallel=False, body=lambda v: sequence(run(last, v, i64(tiles * tile), rest)))
        statements.append(remainder)
    return statements


def _has_no_own_axis(stage: Stage, bound: Mapping[int, Expr], span: Span) -> bool:
    taken = {*bound, *span.variables}
    return not _is_reduction(stage) and all(stage.extents[k] == 1 for k in range(stage.spatial) if k not in taken)


# ---- transposition --------------------------------------------------------------------------------------------------

#: Cache lines that stay in the first-level cache until the next of their elements is read.
_LINES = 256
#: Sides of the square in which both sides of a transposition use whole cache lines.
_SQUARE = 8


def _crossing(group: Group) -> Axis | None:
    """The axis along which the neighbours of an array lie that a stage reads, if it does not write along the same."""
    stage = group.stages[0]
    if len(group.stages) > 1 or _is_reduction(stage) or stage.conditions or len(group.axes) < 2:
        return None
    written = group.axes[-1]
    if not stage.write.indices[-1].same_as(stage.variables[written.variables[0]]):
        return None
    for access in (a for a in stage.reads if a.indices):
        read = next((a for a in group.axes if access.indices[-1].same_as(stage.variables[a.variables[0]])), written)
        between = math.prod(a.extent for a in group.axes[group.axes.index(read) + 1 :])
        if between > _LINES and min(read.extent, written.extent) >= _SQUARE:
            return read
    return None


def _squares(group: Group, read: Axis, target: CpuTarget) -> list[Statement]:
    """Square after square: vectors along what is written, one for each place along what is read."""
    (stage,) = group.stages
    written = group.axes[-1]
    others = [a for a in group.axes[:-1] if a is not read]
    parallel = group.parallel

    def strip(values: Sequence[Expr], start: Expr, height: int) -> Statement:
        squares, rest = divmod(written.extent, _SQUARE)

        def square(at: Expr, width: int) -> Statement:
            var, wrap = loop("line", height)
            bound = {**_bindings(group, 0, others, values), read.variables[0]: start + var}
            return wrap(sequence(nest(stage, bound, Span(written.variables, at, width), target)))

        var, wrap = loop("square", squares)
        return sequence([wrap(square(var * i64(_SQUARE), _SQUARE)), *([square(i64(squares * _SQUARE), rest)] if rest else [])])

    strips, rest = divmod(read.extent, _SQUARE)
    extents = [*(a.extent for a in others), strips]
    var, wrap = loop("strip", math.prod(extents), tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL)
    *values, number = unravel(var, extents)
    statements = [wrap(strip(values, number * i64(_SQUARE), _SQUARE))]
    if rest:
        statements.append(_over(others, parallel=False, body=lambda v: strip(v, i64(strips * _SQUARE), rest)))
    return statements


def _tile(group: Group, length: int, rows: int, target: CpuTarget, *, parallel: bool) -> int:
    reduces = any(map(_is_reduction, group.stages))
    lanes = max(target.lanes(), 4)
    given = group.given
    if reduces and given.tile_vectors is not None:
        return min(given.tile_vectors * lanes, length)
    if not reduces and given.tile is not None:
        return min(given.tile, length)
    if rows >= _MANY and len(group.stages) == 1 and not reduces:
        return length
    vectors = _REDUCING_TILE_VECTORS * (4 if any(map(has_terms_far_apart, group.stages)) else 1)
    tile = vectors * lanes if reduces else _TILE
    while parallel and rows * (length // tile) < _MANY and tile > 2 * lanes:
        tile //= 2
    return min(tile, length)
