"""Results that only become images with zeros around them are stored there at once, between the zeros.

Where convolutions follow one another, an ``image`` kernel copies what the first has stored, so that the second finds zeros
beyond the borders. If nobody else reads the first one's result, its kernel can store each element where the copy would put it,
and the zeros before that: the image goes through memory once less.

Both kernels are proved before: the copy moves bits and nothing else, and the other's runs in its order. Here only the places
change at which that stores. The copy says what its grid is (``nest.GRID``); that it puts each element where the grid says is
shown for every statement of it, or the kernels stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Range

from gensyn_tvm.operators.nest import AS_WRITTEN, GRID, i64, ravel
from gensyn_tvm.passes.calls import Call, Calls, View
from gensyn_tvm.passes.join import leave_out, replaced, used

Expr = Any
Stmt = Any
#: Between the names of a kernel and of the copy that it makes superfluous.
INTO = "_into_"


@dataclass(frozen=True)
class _Places:
    """Where elements of an image (N, C, spatial…) lie in (N, C, length): so many zeros before each axis, and its extents."""

    before: tuple[int, ...]
    extents: tuple[int, ...]

    def of(self, index: Sequence[Expr]) -> list[Expr]:
        """The place of an element."""
        moved = [i + i64(b) if b else i for i, b in zip(index[2:], self.before, strict=True)]
        return [*index[:2], ravel(moved, self.extents)]


def _places(copy: Any) -> _Places | None:
    """What a copy says of itself; None if it is none that keeps all elements as they lie."""
    stated = dict(copy.attrs).get(GRID)
    if stated is None:
        return None
    half = len(stated) // 2
    return _Places(tuple(int(n) for n in stated[:half]), tuple(int(n) for n in stated[half:]))


class _Copies:
    """Shows that a copy puts the elements that it reads where a grid says."""

    def __init__(self, source: Any, places: _Places) -> None:
        self.source, self.places = source, places
        self.analyzer = tvm.sym.Analyzer()

    def hold(self, statement: Stmt) -> bool:
        """Whether all stores of elements in a statement do."""
        if isinstance(statement, tirx.For):
            self.analyzer.bind(statement.loop_var, Range.from_min_extent(statement.min, statement.extent))
            return self.hold(statement.body)
        if isinstance(statement, s_tir.SBlockRealize):
            return not statement.block.iter_vars and self.hold(statement.block.body)
        if isinstance(statement, tirx.SeqStmt):
            return all(self.hold(part) for part in statement)
        if isinstance(statement, tirx.IfThenElse):
            return all(self.hold(part) for part in (statement.then_case, statement.else_case) if part is not None)
        if not isinstance(statement, tirx.BufferStore):
            return False
        if not isinstance(statement.value, tvm.ir.TensorLoad):
            return not _reads(statement, self.source)
        read, stored = statement.value.indices, statement.indices
        pairs = zip(self.places.of(_begin(read)), _begin(stored), strict=True)
        alike = statement.value.source.same_as(self.source) and _neighbours(read) == _neighbours(stored) > 0
        return alike and all(self.analyzer.can_prove_equal(a, b) for a, b in pairs)


def _begin(index: Sequence[Expr]) -> list[Expr]:
    """The index of the first lane."""
    return [i.base if isinstance(i, tirx.Ramp) else i for i in index]


def _neighbours(index: Sequence[Expr]) -> int:
    """Elements side by side that an index means; 0 if they are not side by side along the last axis."""
    *before, last = index
    if any(isinstance(i, tirx.Ramp) for i in before):
        return 0
    if not isinstance(last, tirx.Ramp):
        return 1
    return int(last.lanes) if isinstance(last.stride, tirx.IntImm) and int(last.stride) == 1 else 0


def _reads(statement: Stmt, buffer: Any) -> bool:
    loads: list[Any] = []
    tvm_ffi.structural_walk(statement, (tvm.ir.TensorLoad, loads.append))
    return any(x.source.same_as(buffer) for x in loads)


def _zeros(statement: Stmt, source: Any, written: Any, image: Any) -> Stmt | None:
    """A copy without its stores of elements, storing to ``image``; None if nothing is left."""
    if isinstance(statement, tirx.For):
        body = _zeros(statement.body, source, written, image)
        return body and tirx.For(statement.loop_var, statement.min, statement.extent, statement.kind, body)
    if isinstance(statement, s_tir.SBlockRealize):
        return _zeros(statement.block.body, source, written, image)
    if isinstance(statement, tirx.SeqStmt):
        parts = [p for p in (_zeros(part, source, written, image) for part in statement) if p is not None]
        return tirx.SeqStmt(parts) if len(parts) > 1 else parts[0] if parts else None
    if isinstance(statement, tirx.IfThenElse):
        branches = (statement.then_case, statement.else_case)
        then, otherwise = (None if p is None else _zeros(p, source, written, image) for p in branches)
        if then is None and otherwise is None:
            return None
        return tirx.IfThenElse(statement.condition, tirx.Evaluate(i64(0)) if then is None else then, otherwise)
    return None if _reads(statement, source) else tirx.BufferStore(image, statement.value, statement.indices)


def _grouped(shape: Sequence[int], axes: Sequence[int]) -> list[list[int]] | None:
    """For each axis of an image the axes of ``shape`` that it consists of, in order; None if they do not match."""
    groups: list[list[int]] = []
    position = 0
    for extent in axes:
        group: list[int] = []
        while position < len(shape) and (math.prod(shape[k] for k in group) < extent or not group):
            group.append(position)
            position += 1
        if math.prod(shape[k] for k in group) != extent:
            return None
        groups.append(group)
    rest = range(position, len(shape))
    groups[-1] += [k for k in rest if shape[k] == 1]
    return groups if all(shape[k] == 1 for k in rest) else None


def stored_into(kernel: Any, copy: Any) -> Any:
    """The kernel that stores its result as the copy would, and the copy's zeros; None if that is not shown to be right.

    Args:
        kernel: a scheduled kernel, whose last parameter is its result.
        copy: what copies it; its parameters are what it reads, which may have other axes, and the image.
    """
    source, written = copy.params
    result, places = kernel.params[-1], _places(copy)
    axes = [int(e) for e in source.shape]
    groups = _grouped([int(e) for e in result.shape], axes)
    root = kernel.body
    if places is None or groups is None or not isinstance(root, s_tir.SBlockRealize) or str(result.dtype) != str(written.dtype):
        return None
    if not _Copies(source, places).hold(copy.body):
        return None
    image = tirx.decl_buffer(list(written.shape), written.dtype, "image")
    extents = [int(e) for e in result.shape]

    def place(index: Sequence[Expr]) -> list[Expr]:
        return places.of([ravel([index[k] for k in group], [extents[k] for k in group]) for group in groups])

    zeros = _zeros(copy.body, source, written, image)
    body = replaced(root.block.body, result, image, place)
    block = s_tir.SBlock([], [], [], "root", tirx.SeqStmt([zeros, body]) if zeros else body, None, root.block.alloc_buffers)
    function = tirx.PrimFunc([*kernel.params[:-1], image], s_tir.SBlockRealize([], True, block))
    return function.with_attrs(dict(kernel.attrs))


def store_images(module: Any, program: Calls) -> Any:
    """Leave out copies of a program; the module with the kernels that do without. ``program`` is changed."""
    functions = {gv.name_hint: f for gv, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    gone: set[int] = set()
    for first, second in list(_pairs(program, functions)):
        call, copy = program.calls[first], program.calls[second]
        name = f"{call.kernel}{INTO}{copy.kernel}"
        if name not in functions:
            functions[name] = stored_into(functions[call.kernel], functions[copy.kernel])
            if functions[name] is not None:
                result[tvm.ir.GlobalVar(name)] = functions[name]
        if functions[name] is not None:
            program.calls[first] = Call(name, [*call.read, copy.written[0]], 1)
            gone.add(second)
    leave_out(program, gone)
    return used(result, program)


def _pairs(program: Calls, functions: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Calls whose only result is read by a copy alone, and the copy."""
    for k, call in enumerate(program.calls):
        if k < program.prepared or call.writes != 1 or AS_WRITTEN in dict(functions[call.kernel].attrs):
            continue
        (made,) = call.written
        readers = made.array.readers
        if made.array.kind != "inner" or len(readers) != 1 or any(v.array is made.array for v in call.read):
            continue
        copy = program.calls[readers[0]]
        if GRID in dict(functions[copy.kernel].attrs) and _is_whole(copy.read[0], made):
            yield k, readers[0]


def _is_whole(read: View, made: View) -> bool:
    """Whether a copy reads all of an array, and nothing else."""
    return read.offset == made.offset == 0 and math.prod(read.type.shape) == math.prod(made.type.shape)
