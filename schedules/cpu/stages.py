"""The stages of a kernel, what they read and write, and the axes along which neighbouring stages may run together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import ROLE

Expr = Any

_REDUCTION = 2  # tirx.IterVar.CommReduce


@dataclass(frozen=True)
class Access:
    """One element of a buffer that a stage reads or writes."""

    buffer: Any
    indices: tuple[Expr, ...]

    def shape(self) -> list[int]:
        """Extents of the buffer."""
        return [int(e) for e in self.buffer.shape]


@dataclass(frozen=True, eq=False)
class Stage:
    """One block that computes every element of one buffer.

    Attributes:
        block: the block.
        role: its role.
        variables: index variables, the spatial ones first.
        extents: their extents.
        spatial: how many are spatial.
        write: what is stored.
        reads: what is loaded, without the accumulator.
        calls: names of the operators called.
        conditions: conditions of guarded reads.
        loose: numbers of the variables that are used otherwise than to read.
    """

    block: Any
    role: str
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    spatial: int
    write: Access
    reads: tuple[Access, ...]
    calls: tuple[str, ...]
    conditions: tuple[Expr, ...]
    loose: frozenset[int]

    @property
    def elements(self) -> int:
        """How often the block's statement runs."""
        return math.prod(self.extents)

    def position(self, index: Expr) -> int | None:
        """The number of the variable that ``index`` is, None if it is none."""
        return next((k for k, v in enumerate(self.variables) if v.same_as(index)), None)

    def accesses(self) -> list[Access]:
        """All accesses."""
        return [self.write, *self.reads]


def stages_of(function: Any) -> list[Stage] | None:
    """The stages of an unscheduled kernel in program order; None if it is not a list of plain loop nests."""
    body = function.body.block.body
    found = [_stage(nest) for nest in (body.seq if isinstance(body, tirx.SeqStmt) else [body])]
    return None if any(stage is None for stage in found) else [stage for stage in found if stage is not None]


def _stage(statement: Any) -> Stage | None:
    while isinstance(statement, tirx.For):
        statement = statement.body
    block = getattr(statement, "block", None)
    if block is None or not isinstance(block.body, tirx.BufferStore):
        return None
    kinds = [int(v.iter_type) == _REDUCTION for v in block.iter_vars]
    if kinds != sorted(kinds):
        return None
    loads: list[Any] = []
    calls: list[Any] = []
    tvm_ffi.structural_walk(block.body, [(tvm.ir.TensorLoad, loads.append), (tvm.ir.Call, calls.append)])
    write = Access(block.body.buffer, tuple(block.body.indices))
    return Stage(
        block,
        str(dict(block.annotations).get(ROLE, "")),
        tuple(v.var for v in block.iter_vars),
        tuple(int(v.dom.extent) for v in block.iter_vars),
        kinds.count(False),
        write,
        tuple(Access(e.source, tuple(e.indices)) for e in loads if not e.source.same_as(write.buffer)),
        tuple(str(getattr(c.op, "name", "")) for c in calls),
        tuple(c.args[0] for c in calls if str(getattr(c.op, "name", "")).endswith("if_then_else")),
        _loose(block),
    )


def _loose(block: Any) -> frozenset[int]:
    """Variables that occur in the value outside of indices."""

    def nothing(expr: Any, mutator: Any) -> Any:
        return tirx.BufferLoad(expr.source, [tirx.IntImm("int64", 0) for _ in expr.indices])

    value = tvm_ffi.structural_mutate(block.body.value, (tvm.ir.TensorLoad, nothing))
    return frozenset(k for k, v in enumerate(block.iter_vars) if uses(value, v.var))


def uses(expr: Expr, variable: Any) -> bool:
    """Whether a variable occurs in an expression."""
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return any(v.same_as(variable) for v in found)


def element_bits(access: Access) -> int:
    """Bits of an element of the buffer, at least 8."""
    return int("".join(c for c in exact.element_of(str(access.buffer.dtype)) if c.isdigit()) or 8)


# ---- common axes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """An axis that all stages of a group have in common: whatever one of them reads from another lies at the same position.

    Attributes:
        extent: its extent.
        variables: for each stage the number of its variable.
    """

    extent: int
    variables: tuple[int, ...]


class _Classes:
    """Union-find over the variables of stages and the dimensions of buffers."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self._spoilt: set[Any] = set()

    def find(self, key: Any) -> Any:
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def join(self, a: Any, b: Any) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[a] = b
            if a in self._spoilt:
                self._spoilt.add(b)

    def spoil(self, key: Any) -> None:
        self._spoilt.add(self.find(key))

    def is_spoilt(self, key: Any) -> bool:
        return self.find(key) in self._spoilt


def common_axes(stages: Sequence[Stage]) -> list[Axis]:
    """The common axes of extent above 1, in the order in which the last stage has them."""
    classes = _Classes()
    written = {stage.write.buffer: n for n, stage in enumerate(stages)}
    shared = {a.buffer for stage in stages for a in stage.reads if a.buffer in written}
    for n, stage in enumerate(stages):
        for access in stage.accesses():
            if access.buffer not in shared:
                continue
            name = written[access.buffer]
            for d, (index, extent) in enumerate(zip(access.indices, access.shape(), strict=True)):
                k = stage.position(index)
                if k is not None and k < stage.spatial:
                    classes.join(("stage", n, k), ("buffer", name, d))
                elif not (isinstance(index, tirx.IntImm) and extent == 1):
                    classes.spoil(("buffer", name, d))
    ranks = {written[b]: len(b.shape) for b in shared}
    last = stages[-1]
    found = []
    for k in range(last.spatial):
        axis = _axis(classes, stages, ranks, classes.find(("stage", len(stages) - 1, k)), last.extents[k])
        if axis is not None and axis.extent > 1:
            found.append(axis)
    return found


def _axis(classes: _Classes, stages: Sequence[Stage], ranks: dict[int, int], root: Any, extent: int) -> Axis | None:
    if classes.is_spoilt(root):
        return None
    members = []
    for n, stage in enumerate(stages):
        mine = [k for k in range(stage.spatial) if classes.find(("stage", n, k)) == root]
        if len(mine) != 1 or stage.extents[mine[0]] != extent:
            return None
        members += mine
    for buffer, rank in ranks.items():
        if sum(classes.find(("buffer", buffer, d)) == root for d in range(rank)) != 1:
            return None
    return Axis(extent, tuple(members))


def is_flat(stage: Stage, variables: Sequence[int]) -> bool:
    """Whether the variables, taken as one, move through each buffer that they touch as through one axis."""
    if len(variables) < 2:
        return True
    for access in stage.accesses():
        wide = [d for d, e in enumerate(access.shape()) if e > 1]
        touched = [d for d in wide if any(uses(access.indices[d], stage.variables[k]) for k in variables)]
        if not touched:
            continue
        first = wide.index(touched[0])
        if len(touched) < len(variables) or touched != wide[first : first + len(variables)]:
            return False
        for d, k in zip(touched, variables, strict=True):
            if not access.indices[d].same_as(stage.variables[k]):
                return False
            if d != touched[0] and access.shape()[d] != stage.extents[k]:
                return False
    return not stage.loose & set(variables)
