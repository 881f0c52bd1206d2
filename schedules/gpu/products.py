"""Products among the stages of a kernel, and what tiles have to know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, substituted, unravel
from gensyn_tvm.schedules.cpu.stages import Stage, uses

Expr = Any

_FMA = exact.PREFIX + "fma"
#: Stages that only move the operands of a product.
_MOVING = ("move", "panel", "pack")
#: Rows and columns from which on tiles are worth it.
_SMALLEST = 16
#: Blocks along the second and third axis of a grid, at most.
_LARGEST_GRID = 65535


@dataclass(frozen=True)
class Operand:
    """A factor of a product's terms.

    Attributes:
        value: an expression of the chunk's variables.
        own: numbers of the chunk's spatial variables that only this factor depends on.
        terms_first: whether neighbouring terms, rather than neighbouring rows or columns, lie side by side in memory.
    """

    value: Expr
    own: tuple[int, ...]
    terms_first: bool


@dataclass(frozen=True)
class Product:
    """Neighbouring stages that are one product.

    Attributes:
        stages: in order; the last one's result leaves the registers.
        shared_axes: numbers of the spatial variables that both factors depend on, without the number of the chunk.
        chunk_axis: for each ``chunk`` stage the number of the variable that counts chunks; None: there is one chunk.
        left, right: for each ``chunk`` stage its factors.
        rows, columns: extents of the own axes of the factors, taken as one.
        brought: stages that move operands and that nobody else reads; they are read through.
        finish: the stage after the last one if it stores each result once, and the results in its variables.
    """

    stages: tuple[Stage, ...]
    shared_axes: tuple[int, ...]
    chunk_axis: tuple[int | None, ...]
    left: tuple[Operand, ...]
    right: tuple[Operand, ...]
    rows: int
    columns: int
    brought: tuple[Stage, ...]
    finish: Finish | None


@dataclass(frozen=True)
class Finish:
    """A stage that reads each result of a product once and stores what it makes of it.

    Attributes:
        stage: the stage.
        values: for each of its variables an expression of the indices of the product's result.
        indices: variables for these indices.
        parts: for each index the numbers of the variables that it is made of.
    """

    stage: Stage
    values: tuple[Expr, ...]
    indices: tuple[Any, ...]
    parts: tuple[tuple[int, ...], ...]


# ---- finding products -----------------------------------------------------------------------------------------------


def product_at(stages: Sequence[Stage], begin: int) -> Product | None:
    """The product that begins with a stage; None if none does that tiles are made for."""
    members = _members(stages, begin)
    chunks = [s for s in members if s.role == "chunk"]
    if not chunks or (len(chunks) > 1 and members[-1].role != "join"):
        return None
    brought = _brought(stages[:begin], [*stages[begin + len(members) :], *(s for s in members if s not in chunks)], chunks)
    axes: list[int | None] = []
    left: list[Operand] = []
    right: list[Operand] = []
    shared: list[tuple[int, ...]] = []
    for stage in chunks:
        total = next((s for s in members if s.role == "total" and s.reads[0].buffer.same_as(stage.write.buffer)), None)
        found_factors = _factors(stage)
        if found_factors is None:
            return None
        factors = (_read_through(found_factors[0], brought), _read_through(found_factors[1], brought))
        counted = None if total is None else stage.position(stage.write.indices[_counted(total)])
        own = [tuple(k for k in range(stage.spatial) if k != counted and _only(stage, k, factors, side)) for side in (0, 1)]
        own = [found[-1:] for found in own]  # tiles do not go across several axes
        both = tuple(k for k in range(stage.spatial) if k != counted and k not in own[0] and k not in own[1])
        axes.append(counted)
        shared.append(both)
        for side, found in ((0, left), (1, right)):
            found.append(Operand(factors[side], own[side], _terms_first(stage, factors[side], own[side])))
    sizes = {tuple(math.prod(s.extents[k] for k in o.own) for o in (a, b)) for s, a, b in zip(chunks, left, right, strict=True)}
    if len(sizes) != 1:
        return None
    ((rows, columns),) = sizes
    batch = math.prod(chunks[0].extents[k] for k in shared[0])
    if min(rows, columns) < _SMALLEST or max(rows // _SMALLEST, batch) > _LARGEST_GRID:
        return None
    after = stages[begin + len(members) :]
    finish = _finish(members[-1], after)
    moved = tuple(brought.values())
    return Product(tuple(members), shared[0], tuple(axes), tuple(left), tuple(right), rows, columns, moved, finish)


def _brought(before: Sequence[Stage], others: Sequence[Stage], chunks: Sequence[Stage]) -> dict[Any, Stage]:
    """Earlier stages that move bits for these chunks alone, by the buffer that they store."""
    found: dict[Any, Stage] = {}
    for stage in reversed(before):
        buffer = stage.write.buffer
        direct = all(i.same_as(v) for i, v in zip(stage.write.indices, stage.variables, strict=False))
        if stage.role not in _MOVING or stage.spatial != len(stage.variables) or not direct:
            continue
        readers = [s for s in (*before, *others, *chunks) if any(a.buffer.same_as(buffer) for a in s.reads)]
        if readers and all(s in chunks or s in found.values() for s in readers):
            found[buffer] = stage
    return found


def _read_through(expr: Expr, brought: Mapping[Any, Stage]) -> Expr:
    """An expression that reads what stages move where they take it from."""

    def load(node: Any, mutator: Any) -> Any:
        node = mutator.default_mutate(node)
        stage = brought.get(node.source)
        if stage is None:
            return node
        value = substituted(stage.block.body.value, dict(zip(stage.variables, node.indices, strict=True)))
        return _read_through(value, brought)

    return tvm_ffi.structural_mutate(expr, (tvm.ir.TensorLoad, load))


def _finish(last: Stage, after: Sequence[Stage]) -> Finish | None:
    """The next stage if it goes through the results of the product one by one."""
    buffer = last.write.buffer
    readers = [s for s in after if any(a.buffer.same_as(buffer) for a in s.reads)]
    if len(readers) != 1 or readers[0] is not after[0] or after[0].spatial != len(after[0].variables):
        return None
    stage = after[0]
    reads = [a for a in stage.reads if a.buffer.same_as(buffer)]
    if stage.conditions or any(not _same(a.indices, reads[0].indices) for a in reads):
        return None
    placeholders = tuple(tirx.Var(f"i{d}", "int64") for d in range(len(reads[0].indices)))
    values: dict[int, Expr] = {}
    found: list[tuple[int, ...]] = []
    for index, placeholder in zip(reads[0].indices, placeholders, strict=True):
        parts = _parts_of(index, stage)
        if parts is None or any(k in values for k in parts):
            return None
        found.append(tuple(parts))
        values.update(zip(parts, unravel(placeholder, [stage.extents[k] for k in parts]), strict=True))
    if any(k not in values and e > 1 for k, e in enumerate(stage.extents)):
        return None
    return Finish(stage, tuple(values.get(k, i64(0)) for k in range(stage.spatial)), placeholders, tuple(found))


def _same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return all(tvm_ffi.structural_equal(x, y) for x, y in zip(a, b, strict=True))


def _parts_of(index: Expr, stage: Stage) -> list[int] | None:
    """The numbers of the variables of which an index is the row-major rank; None if it is something else."""
    k = stage.position(index)
    if k is not None:
        return [k]
    if isinstance(index, tirx.IntImm):
        return []
    if isinstance(index, tirx.FloorMod | tirx.FloorDiv) and isinstance(index.b, tirx.IntImm):
        k = stage.position(index.a)
        if k is None or stage.extents[k] > int(index.b.value):
            return None
        return [k] if isinstance(index, tirx.FloorMod) else []
    if isinstance(index, tirx.Add) and isinstance(index.a, tirx.Mul) and isinstance(index.a.b, tirx.IntImm):
        k = stage.position(index.b)
        outer = _parts_of(index.a.a, stage)
        if k is None or outer is None or int(index.a.b.value) != stage.extents[k]:
            return None
        return [*outer, k]
    return None


def _members(stages: Sequence[Stage], begin: int) -> list[Stage]:
    """The stages that follow one another from the first chunk to the last result of the product."""
    found: list[Stage] = []
    for stage in stages[begin:]:
        if stage.role not in ("chunk", "total", "join"):
            break
        if found and stage.role != "chunk" and not any(a.buffer.same_as(s.write.buffer) for s in found for a in stage.reads):
            break
        found.append(stage)
        if stage.role == "join":
            break
    return found if begin < len(stages) and stages[begin].role == "chunk" else []


def _counted(total: Stage) -> int:
    """The dimension of the chunks' buffer along which a total goes."""
    return next(d for d, i in enumerate(total.reads[0].indices) if (total.position(i) or 0) >= total.spatial)


def _factors(stage: Stage) -> tuple[Expr, Expr] | None:
    value = stage.block.body.value
    if str(getattr(getattr(value, "op", None), "name", "")) != _FMA or any(
        not i.same_as(v) for i, v in zip(stage.write.indices, stage.variables[: stage.spatial], strict=True)
    ):
        return None
    left, right, accumulator = value.args
    own = isinstance(accumulator, tvm.ir.TensorLoad) and accumulator.source.same_as(stage.write.buffer)
    return (left, right) if own else None


def _only(stage: Stage, k: int, factors: tuple[Expr, Expr], side: int) -> bool:
    if stage.extents[k] == 1:
        return False
    mine, other = (uses(factors[s], stage.variables[k]) for s in (side, 1 - side))
    return not other and (mine or side == 0)


def _terms_first(stage: Stage, value: Expr, own: Sequence[int]) -> bool:
    loads: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, loads.append))
    last = loads[0].indices[-1] if loads else i64(0)
    rows = any(uses(last, stage.variables[k]) for k in own)
    return not rows and any(uses(last, v) for v in stage.variables[stage.spatial :])
