"""Row fusion: kernels that go through the same rows become one kernel.

TVM's fusion stops at reductions. Here the kernels of a softmax, of a normalisation, of their gradients or of an optimizer step
become one, in which every stage of a row runs while the row is in the cache (``schedules.cpu.rows``). Two kernels may be merged
if whatever one reads from the other lies at the same position of some axes; merging changes no scalar operation and no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relax, tirx

from gensyn_tvm.canonical.from_relax import variables_of
from gensyn_tvm.passes.views import ALONE, VIEW
from gensyn_tvm.schedules.blocks import INLINABLE
from gensyn_tvm.schedules.cpu.costs import PARALLEL_WORK, cost_of_calls
from gensyn_tvm.schedules.cpu.rows import ROW_ROLES
from gensyn_tvm.schedules.cpu.stages import Access, Stage, common_axes, stages_of

_ENTRY = "main"
_CALL_TIR = "relax.call_tir"
#: Limits of a merged kernel: calls, and arrays that it reads or writes.
_MAX_CALLS, _MAX_ARRAYS = 48, 28
#: Rows that keep all threads busy.
_MANY = 8
#: Bytes between the stages of one row: what stays in a second-level cache.
_ROW_BYTES = 2**19
#: Cost of an element from which a stage's results are stored.
_COSTLY = 8
#: A stage that has so few elements, in proportion to the largest, is computed before the rows.
_SMALL = 8

#: What the stages of a reduction are called.
_REDUCING = frozenset({"lanes", "rest", "tree", "fold"})

#: How the names of kernels begin that compute rows together.
PREFIX = "rows_"


@dataclass(frozen=True, eq=False)
class _Array:
    """What a kernel's parameter stands for: an array between kernels or inside of one."""

    shape: tuple[int, ...]


@dataclass
class _Call:
    """One call of a kernel, with its arrays.

    Attributes:
        function: the kernel's global variable.
        arguments: what it is called with, in terms of the enclosing function.
        result: the variable of its result.
        type: the type of its result.
    """

    function: Any
    arguments: list[Any]
    result: Any
    type: Any


@dataclass
class _Group:
    """Bindings that become one kernel, at the place of the last."""

    members: list[int]
    calls: list[_Call]
    stages: list[Stage] = field(default_factory=list)


class _Fusion:
    def __init__(self, module: Any) -> None:
        self.module = module
        self.function = module[_ENTRY]
        (block,) = self.function.body.blocks
        self.bindings = list(block.bindings)
        self.number = {b.var: k for k, b in enumerate(self.bindings)}
        self.readers: list[list[int]] = [[] for _ in self.bindings]
        for k, b in enumerate(self.bindings):
            for v in variables_of(b.value):
                if v in self.number:
                    self.readers[self.number[v]].append(k)
        self.arrays: dict[Any, _Array] = {}
        self.parsed: dict[str, list[Stage] | None] = {}
        self.group_of: dict[int, _Group] = {}

    # ---- what a binding computes ----

    def calls_of(self, k: int) -> list[_Call] | None:
        """The kernel calls of a binding, None if it is something else."""
        value, var = self.bindings[k].value, self.bindings[k].var
        if not isinstance(value, relax.Call):
            return None
        if getattr(value.op, "name", "") == _CALL_TIR:
            return [_Call(value.args[0], list(value.args[1].fields), var, value.ty_args[0])]
        if not isinstance(value.op, tvm.ir.GlobalVar):
            return None
        inner = self.module[value.op]
        known: dict[Any, Any] = dict(zip(inner.params, value.args, strict=True))
        calls = []
        for binding in (b for block in inner.body.blocks for b in block.bindings):
            call = binding.value
            if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != _CALL_TIR:
                return None
            known[binding.var] = var if binding.var.same_as(inner.body.body) else relax.Var("inner", binding.var.ty)
            arguments = [known.get(a, a) for a in call.args[1].fields]
            calls.append(_Call(call.args[0], arguments, known[binding.var], call.ty_args[0]))
        return calls if calls and calls[-1].result.same_as(var) else None

    def array(self, key: Any, shape: Sequence[int]) -> _Array:
        return self.arrays.setdefault(key, _Array(tuple(shape)))

    def stages_of_call(self, call: _Call) -> list[Stage] | None:
        """The stages of a kernel in terms of the arrays that it is called with."""
        name = call.function.name_hint
        function = self.module[call.function]
        if name not in self.parsed:
            alone = dict(function.attrs or {}).get(VIEW) == ALONE
            found = stages_of(function) if isinstance(function, tirx.PrimFunc) and not alone else None
            self.parsed[name] = found if found and all(_is_mergeable(s) for s in found) else None
        stages = self.parsed[name]
        if stages is None:
            return None
        keys = [*call.arguments, call.result]
        known = {p: self.array(v, [int(e) for e in p.shape]) for p, v in zip(function.params, keys, strict=True)}

        def renamed(a: Access) -> Access:
            return Access(known.setdefault(a.buffer, _Array(tuple(a.shape()))), a.indices)

        return [replace(s, write=renamed(s.write), reads=tuple(map(renamed, s.reads))) for s in stages]

    # ---- groups ----

    def run(self) -> list[_Group]:
        """Merge each binding into the groups that it reads from, where that is allowed and pays."""
        for k in range(len(self.bindings)):
            calls = self.calls_of(k)
            stages = [self.stages_of_call(c) for c in calls] if calls else []
            if not calls or any(s is None for s in stages):
                continue
            mine = _Group([k], calls, [s for found in stages for s in found or []])
            self.group_of[k] = mine
            read = sorted({self.number[v] for v in variables_of(self.bindings[k].value) if v in self.number}, reverse=True)
            for p in read:
                other = self.group_of.get(p)
                if other is not None and other is not mine:
                    mine = self.merged(other, mine) or mine
        unique = {id(g): g for g in self.group_of.values() if len(g.members) > 1}
        return list(unique.values())

    def merged(self, first: _Group, second: _Group) -> _Group | None:
        """Both groups as one, None if they must or should stay apart."""
        order = sorted([*first.members, *second.members])
        calls_at = dict(zip(first.members, _split(first, self), strict=True)) | dict(
            zip(second.members, _split(second, self), strict=True)
        )
        joined = _Group(order, [c for k in order for c in calls_at[k][0]], [s for k in order for s in calls_at[k][1]])
        # Everything moves to the place of the last member, so nobody else may have read a result before.
        inside = set(order)
        if any(r not in inside and r < order[-1] for k in order for r in self.readers[k]):
            return None
        # Scalars that many kernels read would wait for all that one of them reads: the updates of a step for a late gradient.
        scalars = [k for g in (first, second) if all(s.elements == 1 for s in g.stages) for k in g.members]
        if len(scalars) < len(order) and any(r not in inside for k in scalars for r in self.readers[k]):
            return None
        if len(joined.calls) > _MAX_CALLS or _pads_reduced(first, second) or not _worthwhile(joined, first, second):
            return None
        if len(self.inputs(joined)) + len(self.outputs(joined)) > _MAX_ARRAYS:
            return None
        for k in order:
            self.group_of[k] = joined
        return joined

    def inputs(self, group: _Group) -> list[Any]:
        """What the group reads from outside, in order."""
        own = {c.result for c in group.calls}
        found: dict[Any, None] = {}
        for c in group.calls:
            found.update((a, None) for a in c.arguments if a not in own)
        return list(found)

    def outputs(self, group: _Group) -> list[Any]:
        """Results that others read, in order."""
        inside = set(group.members)
        return [self.bindings[k].var for k in group.members if any(r not in inside for r in self.readers[k])]

    # ---- the module ----

    def rebuilt(self, groups: Sequence[_Group]) -> Any:
        """The module with a primitive function for each group."""
        builder = relax.BlockBuilder(self.module)
        last = {g.members[-1]: g for g in groups}
        gone = {k for g in groups for k in g.members}
        renamed: dict[Any, Any] = {}
        bindings = []
        for k, b in enumerate(self.bindings):
            if k in last:
                bindings += self.call_of(builder, last[k], renamed)
            elif k not in gone:
                value = _replaced(b.value, renamed)
                bindings.append(relax.VarBinding(b.var, value))
        old = self.function
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], old.body.body)
        module = builder.get()
        module.update_func(module.get_global_var(_ENTRY), relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs))
        return module

    def call_of(self, builder: Any, group: _Group, renamed: dict[Any, Any]) -> list[Any]:
        inputs, outputs = self.inputs(group), self.outputs(group)
        function = _primitive(group, inputs, outputs)
        name = PREFIX + "_".join(dict.fromkeys(c.function.name_hint.rstrip("0123456789") for c in group.calls))
        callee = builder.add_func(function, name[:60])
        call = relax.Call(callee, [_replaced(i, renamed) for i in inputs])
        if len(outputs) == 1:
            result = relax.DataflowVar("row", outputs[0].ty) if isinstance(outputs[0], relax.DataflowVar) else outputs[0]
            renamed[outputs[0]] = result
            return [relax.VarBinding(result, call)]
        together = relax.DataflowVar("rows", relax.TupleType([o.ty for o in outputs]))
        bindings = [relax.VarBinding(together, call)]
        bindings += [relax.VarBinding(o, relax.TupleGetItem(together, n)) for n, o in enumerate(outputs)]
        return bindings


def _split(group: _Group, fusion: _Fusion) -> list[tuple[list[_Call], list[Stage]]]:
    """The calls and stages of each member."""
    found = []
    calls, stages = list(group.calls), list(group.stages)
    for k in group.members:
        end = next(n for n, c in enumerate(calls) if c.result.same_as(fusion.bindings[k].var)) + 1
        mine = calls[:end]
        count = sum(len(fusion.parsed[c.function.name_hint] or []) for c in mine)
        found.append((mine, stages[:count]))
        calls, stages = calls[end:], stages[count:]
    return found


def _is_mergeable(stage: Stage) -> bool:
    """Of a kind that ``schedules.cpu.rows`` takes, with the axes of every array in the order of the stage's."""
    if stage.role not in ROW_ROLES or not stage.elements:
        return False
    for access in stage.accesses():
        places = [p for i in access.indices if (p := stage.position(i)) is not None]
        if stage.role == "move" and places != sorted(places):
            return False
    return True


def _pads_reduced(first: _Group, second: _Group) -> bool:
    """Whether the second pads rows that the first also reduces: where a row is no whole number of vectors, nobody can see that
    what lies within the padding is complete.
    """
    pads = any(c.function.name_hint.rstrip("0123456789") == "pad" for c in second.calls)
    return pads and any(s.role in _REDUCING for s in first.stages)


def _worthwhile(joined: _Group, first: _Group, second: _Group) -> bool:
    stages, rows = _rows(joined)
    work = sum(s.elements * cost_of_calls(s.calls) for s in stages)
    if work < PARALLEL_WORK:
        return rows > 1
    if rows < _MANY or rows < min(_rows(first)[1], _rows(second)[1], 64):
        return False
    written = {s.write.buffer for s in stages}
    # Cheap stages are computed where they are read and take no memory.
    between = {a.buffer for s in stages for a in s.reads if a.buffer in written}
    between &= {s.write.buffer for s in stages if s.role not in INLINABLE or cost_of_calls(s.calls) >= _COSTLY}
    return sum(4 * math.prod(b.shape) for b in between) <= rows * _ROW_BYTES


def _rows(group: _Group) -> tuple[list[Stage], int]:
    """The stages that go through the rows, and how many rows there are."""
    largest = max(s.elements for s in group.stages)
    inside: set[Any] = set()
    stages = []
    for s in group.stages:
        if s.elements * _SMALL > largest or any(a.buffer in inside for a in s.reads):
            stages.append(s)
            inside.add(s.write.buffer)
    return stages, math.prod(axis.extent for axis in common_axes(stages)) if stages else 1


def _primitive(group: _Group, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The Relax function of a group, which TVM makes one kernel of."""
    known: dict[Any, Any] = {v: relax.Var(f"a{n}", v.ty) for n, v in enumerate(inputs)}
    bindings = []
    for n, c in enumerate(group.calls):
        leaves = any(c.result.same_as(o) for o in outputs)
        result = (relax.Var if leaves else relax.DataflowVar)(f"r{n}", c.result.ty)
        call = relax.call_tir(c.function, [known[a] for a in c.arguments], c.type)
        bindings.append(relax.VarBinding(result, call))
        known[c.result] = result
    results = [known[o] for o in outputs]
    body = results[0] if len(results) == 1 else relax.Tuple(results)
    attrs = tvm.ir.make_node("ir.DictAttrs", Primitive=True)
    ty = outputs[0].ty if len(outputs) == 1 else relax.TupleType([o.ty for o in outputs])
    return relax.Function([known[v] for v in inputs], relax.SeqExpr([relax.DataflowBlock(bindings)], body), ty, True, attrs)


def _replaced(expr: Any, renamed: Mapping[Any, Any]) -> Any:
    """A Relax expression with variables in place of others."""
    if isinstance(expr, tvm.ir.Var):
        return renamed.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_replaced(f, renamed) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_replaced(expr.tuple_value, renamed), expr.index)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [_replaced(a, renamed) for a in expr.args], expr.attrs, expr.ty_args)
    return expr


def fuse_rows(module: Any) -> Any:
    """Merge the kernels and primitive functions that ``main`` calls."""
    fusion = _Fusion(module)
    groups = fusion.run()
    return relax.transform.Normalize()(fusion.rebuilt(groups)) if groups else module
