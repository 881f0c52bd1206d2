"""Images that only one product reads are spread out inside of its kernel, channel by channel.

A depthwise convolution reads one channel of its image at a time. Spread out by a kernel of its own, the whole image goes
through memory before the convolution reads it; a channel that is spread out right before it is read stays in a cache.

Both kernels are proved before they are joined: the image's moves bits and nothing else, and the product's runs in its order.
The joined one runs the same statements; for each channel first those that spread it out, then all that read it. That the
product's iterations fall into such groups is shown here, for every load, or the kernels stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Range

from gensyn_tvm.operators.nest import AS_WRITTEN, i64, substituted
from gensyn_tvm.passes.calls import Call, Calls

Expr = Any
Stmt = Any
#: Name of the operator that spreads images out; its kernels are numbered.
_IMAGE = "image"


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
    """Shows that iterations ``channel * count`` up to ``(channel + 1) * count`` of a kernel touch one channel of an image."""

    def __init__(self, image: Any, channel: Any, channels: int) -> None:
        self.image, self.channel = image, channel
        self.analyzer = tvm.sym.Analyzer()
        self.analyzer.bind(channel, Range(i64(0), i64(channels)))

    def hold(self, statement: Stmt, values: Mapping[Any, Expr]) -> bool:
        """Whether all that a statement touches of the image lies in the channel; ``values`` of the variables around it."""
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
            return self._in_channel(statement.condition, values) and all(self.hold(part, values) for part in parts)
        return self._in_channel(statement, values)

    def _in_channel(self, node: Any, values: Mapping[Any, Expr]) -> bool:
        touched: list[Any] = []
        tvm_ffi.structural_walk(node, [(tvm.ir.TensorLoad, touched.append), (tirx.BufferStore, touched.append)])
        places = (x.indices for x in touched if (x.buffer if isinstance(x, tirx.BufferStore) else x.source).same_as(self.image))
        return all(self._is_channel([substituted(i, values) for i in place]) for place in places)

    def _is_channel(self, place: list[Expr]) -> bool:
        sample, channel = place[0], place[1]
        number = sample * i64(int(self.image.shape[1])) + channel
        return bool(self.analyzer.can_prove_equal(number, self.channel))


def _within(statement: Stmt, image: Any, channel: Any) -> Stmt:
    """A statement on an array of one channel in place of the image."""

    def load(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return tirx.BufferLoad(channel, [expr.indices[-1]]) if expr.source.same_as(image) else expr

    def store(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        return tirx.BufferStore(channel, stmt.value, [stmt.indices[-1]]) if stmt.buffer.same_as(image) else stmt

    def block(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        reads = [whole if r.source.same_as(image) else r for r in stmt.reads]
        parts = (stmt.name_hint, stmt.body, stmt.init, stmt.alloc_buffers, stmt.match_buffers, stmt.annotations)
        return s_tir.SBlock(stmt.iter_vars, reads, stmt.writes, *parts)

    whole = tirx.BufferRegion(channel, [Range(i64(0), channel.shape[0])])
    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (s_tir.SBlock, block)]
    return tvm_ffi.structural_mutate(statement, callbacks)


def joined(spread: Any, product: Any, position: int) -> Any:
    """One kernel for two, or None if the product's iterations do not go channel by channel.

    Args:
        spread: the kernel that spreads an image (N, C, length) out; its parameters are what it reads and the image.
        product: the scheduled kernel that reads it.
        position: of the image among the parameters of ``product``.
    """
    first, second = _tasks(spread), _tasks(product)
    source, written = spread.params
    image = product.params[position]
    if first is None or second is None or first.allocated or len(image.shape) != 3:
        return None
    channels, tasks = int(image.shape[0]) * int(image.shape[1]), int(second.loop.extent)
    if int(first.loop.extent) != channels or tasks % channels:
        return None
    channel, task = tirx.Var("channel", "int64"), tirx.Var("task", "int64")
    number = channel * i64(tasks // channels) + task
    writes = substituted(first.loop.body, {first.loop.loop_var: channel})
    reads = substituted(second.loop.body, {second.loop.loop_var: number})
    groups = _Groups(image, channel, channels)
    groups.analyzer.bind(task, Range(i64(0), i64(tasks // channels)))
    if not _Groups(written, channel, channels).hold(writes, {}) or not groups.hold(reads, {}):
        return None
    own = tirx.decl_buffer([image.shape[2]], image.dtype, "channel_of_image", scope="global")
    inner = tirx.For(task, i64(0), i64(tasks // channels), tirx.ForKind.SERIAL, _within(reads, image, own))
    body = tirx.SeqStmt([_within(writes, written, own), inner])
    held = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "channel", body, None, [own]))
    loop = tirx.For(channel, i64(0), i64(channels), second.loop.kind, held)
    root = s_tir.SBlock([], [], [], "root", loop, None, second.allocated)
    others = [p for k, p in enumerate(product.params) if k != position]
    function = tirx.PrimFunc([source, *others], s_tir.SBlockRealize([], True, root))
    return function.with_attrs(dict(product.attrs))


def join_images(module: Any, program: Calls) -> Any:
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
            function = joined(functions[spread.kernel], functions[call.kernel], position)
            made[key] = "" if function is None else f"{call.kernel}_with_{spread.kernel}"
            if function is not None:
                result[tvm.ir.GlobalVar(made[key])] = function
        if made[key]:
            rest = [v for k, v in enumerate(call.arguments) if k != position]
            program.calls[second] = Call(made[key], [spread.arguments[0], *rest], call.writes)
            gone.add(first)
    _leave_out(program, gone)
    return _used(result, program)


def _pairs(program: Calls, functions: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Calls that spread an image out, and the only one that reads it."""
    for k, call in enumerate(program.calls):
        function = functions[call.kernel]
        is_image = call.kernel.rstrip("0123456789") == _IMAGE and AS_WRITTEN in dict(function.attrs)
        if not is_image or k < program.prepared or call.written[0].array.kind != "inner":
            continue
        array = call.written[0].array
        (reader, *others) = array.readers or [-1]
        once = not others and reader >= 0 and sum(v.array is array for v in program.calls[reader].arguments) == 1
        if once and AS_WRITTEN not in dict(functions[program.calls[reader].kernel].attrs):
            yield k, reader


def _leave_out(program: Calls, gone: set[int]) -> None:
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


def _used(module: Any, program: Calls) -> Any:
    """The module without kernels that no call has any more."""
    names = {c.kernel for c in program.calls}
    kept = {gv: f for gv, f in module.functions_items() if not isinstance(f, tirx.PrimFunc) or gv.name_hint in names}
    return tvm.IRModule(kept, attrs=module.attrs)
