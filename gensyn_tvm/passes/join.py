"""Operands that only one product reads are spread out or packed inside of its kernel, part by part.

A depthwise convolution reads one channel of its image at a time. Spread out by a kernel of its own, the whole image goes
through memory before the convolution reads it; a channel that is spread out right before it is read stays in a cache. So does a
panel of a packed operand that all tiles of rows read one after another.

Both kernels are proved before they are joined: the operand's moves bits and nothing else, and the product's runs in its order.
The joined one runs the same statements; for each part first those that make it, then all that read it. That the iterations of
both fall into such groups is shown here, for every place that they touch, or the kernels stay apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Range

from gensyn_tvm.operators.nest import AS_WRITTEN, i64, ravel, substituted
from gensyn_tvm.passes.calls import Call, Calls, View

Expr = Any
Stmt = Any
#: Operators that make operands in parts, and the axes of a part, which are the last; kernels are numbered behind their names.
_MAKERS = {"image": 1, "pack": 2}
#: Between the names of a product's kernel and of the kernel that it is joined with.
WITH = "_with_"
#: Bytes of a part that surely stays in the second-level cache while it is read, and parts that keep all threads busy.
_MOST_BYTES, _FEWEST_PARTS = 256 * 1024, 8


@dataclass(frozen=True)
class _Tasks:
    """The loop that is all of a kernel, and the arrays that the kernel has for itself."""

    loop: Any
    allocated: list[Any]


def _tasks(function: Any) -> _Tasks | None:
    root = function.body
    if not isinstance(root, s_tir.SBlockRealize) or not isinstance(root.block.body, tirx.For):
        return None
    loop = root.block.body
    fits = loop.kind in (tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL) and isinstance(loop.extent, tirx.IntImm)
    return _Tasks(loop, list(root.block.alloc_buffers)) if fits and int(loop.min) == 0 else None


class _Groups:
    """Shows that the iterations of a group touch one part of an operand."""

    def __init__(self, operand: Any, axes: int, part: Any, parts: int) -> None:
        self.operand, self.part = operand, part
        self.outer = [int(e) for e in operand.shape][: len(operand.shape) - axes]
        self.analyzer = tvm.sym.Analyzer()
        self.analyzer.bind(part, Range(i64(0), i64(parts)))

    def hold(self, statement: Stmt, values: Mapping[Any, Expr]) -> bool:
        """Whether all that a statement touches of the operand lies in the part; ``values`` of the variables around it."""
        if isinstance(statement, tirx.For):
            self.analyzer.bind(statement.loop_var, Range.from_min_extent(statement.min, statement.extent))
            return self.hold(statement.body, values)
        if isinstance(statement, s_tir.SBlockRealize):
            axes = [v.var for v in statement.block.iter_vars]
            given = [substituted(v, values) for v in statement.iter_values]
            inside = {**values, **dict(zip(axes, given, strict=True))}
            parts = [p for p in (statement.block.init, statement.block.body) if p is not None]
            return all(self.hold(part, inside) for part in parts)
        if isinstance(statement, tirx.SeqStmt):
            return all(self.hold(part, values) for part in statement)
        if isinstance(statement, tirx.IfThenElse):
            parts = [p for p in (statement.then_case, statement.else_case) if p is not None]
            return self._in_part(statement.condition, values) and all(self.hold(part, values) for part in parts)
        return self._in_part(statement, values)

    def _in_part(self, node: Any, values: Mapping[Any, Expr]) -> bool:
        touched: list[Any] = []
        tvm_ffi.structural_walk(node, [(tvm.ir.TensorLoad, touched.append), (tirx.BufferStore, touched.append)])
        arrays = [x.buffer if isinstance(x, tirx.BufferStore) else x.source for x in touched]
        places = (x.indices for x, array in zip(touched, arrays, strict=True) if array.same_as(self.operand))
        return all(self._is_part([substituted(i, values) for i in place]) for place in places)

    def _is_part(self, place: list[Expr]) -> bool:
        number = ravel(place[: len(self.outer)], self.outer)
        return bool(self.analyzer.can_prove_equal(number, self.part))


def replaced(statement: Stmt, array: Any, other: Any, place: Callable[[Any], list[Expr]]) -> Stmt:
    """A statement on another array in one's place; ``place`` says where each of its elements lies there."""

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return tirx.BufferLoad(other, place(expr.indices)) if expr.source.same_as(array) else expr

    def store(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        return tirx.BufferStore(other, stmt.value, place(stmt.indices)) if stmt.buffer.same_as(array) else stmt

    def block(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        reads, writes = ([whole if r.source.same_as(array) else r for r in rs] for rs in (stmt.reads, stmt.writes))
        parts = (stmt.name_hint, stmt.body, stmt.init, stmt.alloc_buffers, stmt.match_buffers, stmt.annotations)
        return s_tir.SBlock(stmt.iter_vars, reads, writes, *parts)

    whole = tirx.BufferRegion(other, [Range(i64(0), e) for e in other.shape])
    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (s_tir.SBlock, block)]
    return tvm_ffi.structural_mutate(statement, callbacks)


def _group(tasks: _Tasks, operand: Any, axes: int, part: Any, parts: int) -> Stmt | None:
    """A kernel's iterations for one part; None if they do not fall into groups."""
    count = int(tasks.loop.extent) // parts
    if count * parts != int(tasks.loop.extent):
        return None
    task = tirx.Var("task", "int64")
    body = substituted(tasks.loop.body, {tasks.loop.loop_var: part * i64(count) + task})
    groups = _Groups(operand, axes, part, parts)
    groups.analyzer.bind(task, Range(i64(0), i64(count)))
    if not groups.hold(body, {}):
        return None
    return tirx.For(task, i64(0), i64(count), tirx.ForKind.SERIAL, body)


def joined(maker: Any, product: Any, position: int, axes: int) -> Any:
    """One kernel for two, or None if their iterations do not go part by part.

    Args:
        maker: the kernel that makes the operand; its parameters are what it reads and the operand.
        product: the scheduled kernel that reads it.
        position: of the operand among the parameters of ``product``.
        axes: the last axes of the operand that a part has; those before number the parts.
    """
    first, second = _tasks(maker), _tasks(product)
    source, written = maker.params
    operand = product.params[position]
    if first is None or second is None or first.allocated or len(operand.shape) <= axes:
        return None
    *outer, _ = extents = [int(e) for e in operand.shape]
    parts = math.prod(outer[: len(extents) - axes])
    part = tirx.Var("part", "int64")
    makes, reads = (_group(t, o, axes, part, parts) for t, o in ((first, written), (second, operand)))
    if makes is None or reads is None:
        return None
    own = tirx.decl_buffer(list(operand.shape)[-axes:], operand.dtype, "part_of_operand", scope="global")
    both = ((makes, written), (reads, operand))
    body = tirx.SeqStmt([replaced(statement, whole, own, lambda index: list(index)[-axes:]) for statement, whole in both])
    held = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "part", body, None, [own]))
    loop = tirx.For(part, i64(0), i64(parts), second.loop.kind, held)
    root = s_tir.SBlock([], [], [], "root", loop, None, second.allocated)
    others = [p for k, p in enumerate(product.params) if k != position]
    function = tirx.PrimFunc([source, *others], s_tir.SBlockRealize([], True, root))
    return function.with_attrs(dict(product.attrs))


def join_operands(module: Any, program: Calls) -> Any:
    """Join calls of a program; the module with the joined kernels. ``program`` is changed."""
    functions = {gv.name_hint: f for gv, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    made: dict[tuple[str, str, int], str] = {}
    gone: set[int] = set()
    for first, second in list(_pairs(program, functions)):
        call, spread = program.calls[second], program.calls[first]
        position = next(k for k, v in enumerate(call.arguments) if v.array is spread.written[0].array)
        key = (spread.kernel, call.kernel, position)
        if key not in made:
            function = joined(functions[spread.kernel], functions[call.kernel], position, _axes(spread.kernel))
            name = f"{call.kernel}{WITH}{spread.kernel}"
            # A name is taken if the same two are joined at another position elsewhere: here they stay apart.
            made[key] = "" if function is None or name in functions else name
            if made[key]:  # perhaps once more, with its other operand
                result[tvm.ir.GlobalVar(name)] = functions[name] = function
        if made[key]:
            rest = [v for k, v in enumerate(call.arguments) if k != position]
            program.calls[second] = Call(made[key], [spread.arguments[0], *rest], call.writes)
            gone.add(first)
    leave_out(program, gone)
    return used(result, program)


def _axes(kernel: str) -> int:
    """The axes of a part of the operand that a kernel makes; 0 if it makes none."""
    return _MAKERS.get(kernel.rstrip("0123456789"), 0)


def _pairs(program: Calls, functions: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Calls that make an operand in parts, and the only one that reads it."""
    for k, call in enumerate(program.calls):
        axes = _axes(call.kernel)
        if not axes or AS_WRITTEN not in dict(functions[call.kernel].attrs) or k < program.prepared:
            continue
        made = call.written[0]
        (reader, *others) = made.array.readers or [-1]
        if others or reader < 0 or made.array.kind != "inner" or not _pays(made, axes):
            continue
        read = program.calls[reader]
        once = sum(v.array is made.array for v in read.arguments) == 1
        if once and AS_WRITTEN not in dict(functions[read.kernel].attrs):
            yield k, reader


def _pays(made: View, axes: int) -> bool:
    """Whether a part stays in a cache; of packed operands there must be enough of them, of images each is little work."""
    parts = math.prod(made.type.shape[:-axes])
    return made.array.size <= parts * _MOST_BYTES and (axes == 1 or parts >= _FEWEST_PARTS)


def leave_out(program: Calls, gone: set[int]) -> None:
    """Remove calls; those that read what they read do so in their place."""
    program.calls = [c for k, c in enumerate(program.calls) if k not in gone]
    arrays = {id(v.array): v.array for call in program.calls for v in call.arguments}
    for array in arrays.values():
        array.writer, array.readers = -1, []
    for k, call in enumerate(program.calls):
        for v in call.written:
            v.array.writer = k
        for v in call.read:
            v.array.readers.append(k)


def used(module: Any, program: Calls) -> Any:
    """The module without kernels that no call has any more."""
    names = {c.kernel for c in program.calls}
    kept = {gv: f for gv, f in module.functions_items() if not isinstance(f, tirx.PrimFunc) or gv.name_hint in names}
    return tvm.IRModule(kept, attrs=module.attrs)
