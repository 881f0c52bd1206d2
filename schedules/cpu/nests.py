"""Loops around one stage: vectors of full width along one axis, narrower ones for what is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tvm
from tvm import s_tir, tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, unravel
from gensyn_tvm.schedules.cpu.stages import Access, Stage, element_bits, is_flat, uses
from gensyn_tvm.targets.cpu import CpuTarget

Expr = Any
Statement = Any

#: Terms up to which a reduction keeps a vector of results in a register from the first term to the last.
_SHORT_REDUCTION = 64
#: Bytes of a page of memory, and of an array of which a cache of the first or second level holds only a part.
_PAGE, _LARGE = 4096, 2**19
#: Loops of so few iterations around vectors are unrolled.
_UNROLLED = 8
#: Vectors that a stage with elementary functions calculates side by side. Each function is one long chain in which every
#: step waits for the one before; the processor's queues hold little more than two chains of one vector.
ELEMENTARY_VECTORS = 2
_ELEMENTARY = frozenset(exact.PREFIX + name for name in exact.ELEMENTARY)


@dataclass(frozen=True)
class Span:
    """A run of positions along several variables taken as one.

    Attributes:
        variables: numbers of the stage's variables, outermost first.
        start: the first position.
        length: how many.
    """

    variables: tuple[int, ...]
    start: Expr
    length: int


def loop(name: str, extent: int, kind: Any = tirx.ForKind.SERIAL) -> tuple[Any, Any]:
    """A loop variable and what puts the loop around a statement."""
    var = tirx.Var(name, "int64")
    return var, lambda body: tirx.For(var, i64(0), i64(extent), kind, body)


def sequence(statements: Sequence[Statement]) -> Statement:
    """Statements one after the other."""
    flat: list[Statement] = []
    for s in statements:
        flat.extend(s.seq if isinstance(s, tirx.SeqStmt) else [s])
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def lanes_for(stage: Stage, variables: Sequence[int], target: CpuTarget) -> int:
    """Elements in a vector along the variables; 1 where a condition depends on them, or all of a tree's lanes lie apart."""
    moved = [stage.variables[k] for k in variables]
    if any(uses(c, v) for c in stage.conditions for v in moved):
        return 1
    if stage.role == "tree" and not all(steps_through(a, v) for a in stage.accesses() for v in moved[-1:]):
        return 1
    return _whole_lanes(stage, variables, target)


def _whole_lanes(stage: Stage, variables: Sequence[int], target: CpuTarget) -> int:
    """Elements in a vector along the variables if nothing forbids vectors; 1 for scalar targets."""
    lanes = target.lanes(_width(stage, variables))
    return lanes * ELEMENTARY_VECTORS if lanes > 1 and not _ELEMENTARY.isdisjoint(stage.calls) else lanes


def _width(stage: Stage, variables: Sequence[int]) -> int:
    """Bits of the widest element that is touched along the variables, at least 32."""
    moved = [stage.variables[k] for k in variables]
    touched = [a for a in stage.accesses() if any(uses(i, v) for i in a.indices for v in moved)]
    return max([32, *map(element_bits, touched)])


def steps_through(access: Access, variable: Any) -> bool:
    """Whether neighbouring positions of the variable are neighbours in memory, or the same place."""
    outer = access.indices[:-1]
    if any(uses(i, variable) for i in outer):
        return False
    return not access.indices or not uses(access.indices[-1], variable) or _moves_by_one(access.indices[-1], variable)


def _moves_by_one(index: Expr, variable: Any) -> bool:
    if index.same_as(variable):
        return True
    return isinstance(index, tirx.Add) and (
        (_moves_by_one(index.a, variable) and not uses(index.b, variable))
        or (_moves_by_one(index.b, variable) and not uses(index.a, variable))
    )


def nest(stage: Stage, bound: Mapping[int, Expr], span: Span | None, target: CpuTarget) -> list[Statement]:
    """The loops of a stage inside of loops that have fixed the variables ``bound``.

    ``span``: the run of neighbouring results that the vectors go along; without one they go along the stage's own last axis.
    """
    taken = {*bound, *(span.variables if span else ())}
    free = [k for k in range(stage.spatial) if k not in taken]
    bound = {**bound, **{k: i64(0) for k in free if stage.extents[k] == 1}}
    free = [k for k in free if stage.extents[k] > 1]
    if span is None:
        along = _flat_suffix(stage, free)
        free = free[: len(free) - len(along)]
        span = Span(tuple(along), i64(0), math.prod(stage.extents[k] for k in along))
        is_lane = True
    else:
        is_lane = False
    reduce = list(range(stage.spatial, len(stage.variables)))
    if not reduce:
        return [_around(stage, free, bound, lambda values: _vectors(stage, stage.block, values, span, target))]
    start, update = _decomposed(stage.block)
    first = _around(stage, free, bound, lambda values: _vectors(stage, start, values, span, target))
    terms = math.prod(stage.extents[k] for k in reduce)
    if not is_lane and terms <= _SHORT_REDUCTION and not has_terms_far_apart(stage):
        second = _around(stage, free, bound, lambda values: _vectors(stage, update, values, span, target, inside=reduce))
    else:
        # Lanes side by side in memory are gone through in each step, results side by side in each step and lane.
        lanes = free[-1:] if stage.role == "lanes" and not is_lane else []
        order = [*free[: len(free) - len(lanes)], *reduce, *lanes]
        second = _around(stage, order, bound, lambda values: _vectors(stage, update, values, span, target))
    return [first, second]


def has_terms_far_apart(stage: Stage) -> bool:
    """Whether the terms of a lane are so far apart in a large array that each is on a page of its own."""
    if stage.role != "lanes" or len(stage.variables) == stage.spatial:
        return False
    return any(_bytes_between(access, stage.variables[-1]) >= _PAGE for access in stage.reads)


def _bytes_between(access: Access, variable: Any) -> int:
    """Bytes between what two neighbouring positions of a variable read of a large array; 0 if that is not constant."""
    shape = access.shape()
    if math.prod(shape) * element_bits(access) // 8 < _LARGE:
        return 0
    distance = 0
    for d, index in enumerate(access.indices):
        if not uses(index, variable):
            continue
        parts = list(tvm.sym.detect_linear_equation(index, [variable]))
        if len(parts) != 2 or not isinstance(factor := tvm.sym.Analyzer().simplify(parts[0]), tirx.IntImm):
            return 0
        distance += int(factor.value) * math.prod(shape[d + 1 :])
    return abs(distance) * element_bits(access) // 8


def side_by_side(
    stages: Sequence[Stage], bound: Sequence[Mapping[int, Expr]], spans: Sequence[Span], target: CpuTarget
) -> list[Statement]:
    """Stages without axes of their own: all of them for one vector, then for the next."""
    lanes = min(lanes_for(s, span.variables, target) for s, span in zip(stages, spans, strict=True))
    length, done = spans[0].length, 0
    statements = []
    while done < length:
        count = (length - done) // lanes
        if count:
            var, wrap = loop("j", count)
            inner = []
            for stage, values, span in zip(stages, bound, spans, strict=True):
                start = span.start + i64(done) + var * i64(lanes)
                free = {k: i64(0) for k in range(stage.spatial) if k not in values and k not in span.variables}
                part = Span(span.variables, start, lanes)
                inner.append(_piece(stage, stage.block, {**values, **free}, part, (0, 1, lanes), ()))
            statements.append(wrap(sequence(inner)))
            done += count * lanes
        lanes //= 2
    return statements


def _flat_suffix(stage: Stage, free: Sequence[int]) -> list[int]:
    """The last free variables, as many as are one axis of memory."""
    count = min(1, len(free))
    while count < len(free) and stage.role != "lanes" and is_flat(stage, free[len(free) - count - 1 :]):
        count += 1
    return list(free[len(free) - count :])


def _decomposed(block: Any) -> tuple[Any, Any]:
    """The block that stores the identities and the block that adds the terms."""
    spatial = [v for v in block.iter_vars if int(v.iter_type) != 2]
    start = s_tir.SBlock(spatial, [], list(block.writes), f"{block.name_hint}_init", block.init)
    reads = [*block.reads, *block.writes]
    update = s_tir.SBlock(
        list(block.iter_vars), reads, list(block.writes), block.name_hint, block.body, None, annotations=block.annotations
    )
    return start, update


def _around(stage: Stage, order: Sequence[int], bound: Mapping[int, Expr], body: Any) -> Statement:
    """Serial loops over variables of the stage, around what ``body`` makes of all values."""
    values = dict(bound)
    wraps = []
    for k in order:
        if stage.extents[k] == 1:
            values[k] = i64(0)
            continue
        values[k], wrap = loop(f"i{k}", stage.extents[k])
        wraps.append(wrap)
    statement = sequence(body(values))
    for wrap in reversed(wraps):
        statement = wrap(statement)
    return statement


def _vectors(
    stage: Stage, block: Any, values: Mapping[int, Expr], span: Span, target: CpuTarget, inside: Sequence[int] = ()
) -> list[Statement]:
    """Pieces of a span: whole vectors first, then halves, quarters, … of one for the rest.

    ``inside``: reduction variables whose loops are around each vector.
    """
    statements = []
    cuts = [] if inside else cuts_in(stage, span)
    for begin, end in pairwise([0, *cuts, span.length]):
        lanes = _whole_lanes(stage, span.variables, target) if cuts else lanes_for(stage, span.variables, target)
        done = begin
        while done < end:
            count = (end - done) // lanes
            if count:
                statements.append(_piece(stage, block, values, span, (done, count, lanes), inside))
                done += count * lanes
            lanes //= 2
    return statements


def cuts_in(stage: Stage, span: Span) -> list[int]:
    """Places of a span between which no condition changes; none if there are conditions of which that cannot be said."""
    if len(span.variables) != 1 or not isinstance(span.start, tirx.IntImm) or not stage.conditions:
        return []
    (variable,) = (stage.variables[k] for k in span.variables)
    found: set[int] = set()
    for condition in (c for c in stage.conditions if uses(c, variable)):
        for compared in _comparisons(condition):
            if not uses(compared, variable):
                continue
            place = _threshold(compared, variable)
            if place is None:
                return []
            found.add(place - int(span.start.value))
    return sorted(p for p in found if 0 < p < span.length)


def _comparisons(condition: Expr) -> list[Expr]:
    if isinstance(condition, tirx.And | tirx.Or):
        return [*_comparisons(condition.a), *_comparisons(condition.b)]
    return [condition]


def _threshold(compared: Expr, variable: Any) -> int | None:
    """The first place from which a comparison of a variable with a constant has its other value."""
    if not isinstance(compared, tirx.LT | tirx.GE):
        return None
    difference = list(tvm.sym.detect_linear_equation(compared.a - compared.b, [variable]))
    if len(difference) != 2:
        return None
    factor, offset = (tvm.sym.Analyzer().simplify(e) for e in difference)
    if not isinstance(factor, tirx.IntImm) or not isinstance(offset, tirx.IntImm) or int(factor.value) != 1:
        return None
    return -int(offset.value)


def _piece(
    stage: Stage,
    block: Any,
    values: Mapping[int, Expr],
    span: Span,
    piece: tuple[int, int, int],
    inside: Sequence[int],
) -> Statement:
    done, count, lanes = piece
    position = span.start + i64(done) if done else span.start
    wraps = []
    if count > 1:
        kind = tirx.ForKind.UNROLLED if count <= _UNROLLED and not inside and lanes > 1 else tirx.ForKind.SERIAL
        var, wrap = loop("j", count, kind)
        position = position + (var * i64(lanes) if lanes > 1 else var)
        wraps.append(wrap)
    values = dict(values)
    for k in inside:
        values[k] = i64(0)
        if stage.extents[k] > 1:
            values[k], wrap = loop(f"i{k}", stage.extents[k])
            wraps.append(wrap)
    if lanes > 1:
        var, wrap = loop("v", lanes, tirx.ForKind.VECTORIZED)
        position = position + var
        wraps.append(wrap)
    values.update(zip(span.variables, unravel(position, [stage.extents[k] for k in span.variables]), strict=True))
    bindings = [values[k] for k in range(len(block.iter_vars))]
    statement: Statement = s_tir.SBlockRealize(bindings, True, block)
    for wrap in reversed(wraps):
        statement = wrap(statement)
    return statement
