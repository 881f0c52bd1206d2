"""Loop nests: a thin layer over TVM's IR builder in which the deterministic variants are written.

A variant is a PrimFunc of *stages*. Each stage is one block with spatial axes and reduction axes; the reduction axes are
written in the canonical order and that is the order in which the unscheduled program runs them. A stage carries a *role*
(annotation ``gensyn.role``) by which schedule rules find it again after fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType

Expr = Any
Buffer = Any
Index = Sequence[Expr]

ROLE = "gensyn.role"

#: Annotations of a ``chunk`` stage, see ``products.chunked.Product``.
PANEL, TILE, BLOCK = "gensyn.panel", "gensyn.tile", "gensyn.block"
AROUND, STREAMED, LINES = "gensyn.around", "gensyn.streamed", "gensyn.lines"
#: Annotation of a ``panel`` stage and of the ``chunk`` stage that reads it, see ``products.chunked.Product``.
INSIDE = "gensyn.inside"

#: Attribute of a PrimFunc whose loops run as they are written: it has no blocks, and no schedule applies.
AS_WRITTEN = "gensyn.as_written"

#: Attribute of a scheduled kernel: ways of the first-level cache for which it is.
WAYS = "gensyn.ways"

#: Attribute of a kernel that puts zeros around an image, whose elements keep their places beside one another: the zeros before
#: each axis, then the extents with zeros.
GRID = "gensyn.grid"

#: Roles of stages. ``move`` and ``map`` are one scalar expression for each output element and may be inlined; ``pack`` and
#: ``panel`` (the right operand of a product) move bits into a better place; ``join`` adds the last, shorter chunk of a product
#: to the others; the others are reductions, or pieces of one (``rest``: elements that are left over where all lanes have the
#: same number).
ROLES = ("map", "move", "pack", "panel", "chunk", "total", "join", "lanes", "rest", "tree", "fold")

#: Role of the blocks that ``Kernel.sequence`` makes: statements that run in order and may store to places that data decides.
SEQUENCE = "sequence"


def i64(value: int) -> Expr:
    """An index constant; all indices are int64 and narrowed by TVM where that is safe."""
    return tirx.IntImm("int64", value)


class Kernel:
    """A PrimFunc under construction.

    Attributes:
        inputs: input buffers.
        output: output buffer.
    """

    def __init__(self, inputs: list[Buffer], output: Buffer) -> None:
        self.inputs = inputs
        self.output = output
        self._result: Any = None

    def scratch(self, shape: Sequence[int], dtype: str) -> Buffer:
        """An intermediate buffer."""
        return T.sblock_alloc_buffer([i64(e) for e in shape], dtype)

    def stage(
        self,
        role: str,
        store: Buffer,
        spatial: Sequence[int],
        value: Callable[..., Expr],
        *,
        reduce: Sequence[int] = (),
        init: Expr | None = None,
        at: Callable[..., Index] | None = None,
        annotations: Mapping[str, int] | None = None,
    ) -> None:
        """Append a block that stores ``value(spatial indices, reduction indices, current)`` to ``store``.

        Args:
            role: one of ``ROLES``.
            store: the buffer written.
            spatial: extents of the spatial axes.
            value: for a stage without reduction ``value(index)``; with one ``value(index, reduce_index, accumulator)``.
            reduce: extents of the reduction axes, outermost first.
            init: value of the accumulator before the first term; required with ``reduce``.
            at: position in ``store`` for spatial indices; the indices themselves by default.
            annotations: what schedule rules should know besides.
        """
        with ExitStack() as stack:
            loops: list[Any] = []
            for extent in (*spatial, *reduce):
                loops.append(stack.enter_context(T.serial(i64(0), i64(extent))))
            if not loops:
                # A kernel needs a loop for TVM to give it a root block, also if it stores a single scalar.
                unit = stack.enter_context(T.serial(i64(0), i64(1)))
            stack.enter_context(T.sblock(role))
            if not loops:
                T.axis.spatial(i64(1), unit)
            index = [T.axis.spatial(i64(e), v) for e, v in zip(spatial, loops, strict=False)]
            terms = [T.axis.reduce(i64(e), v) for e, v in zip(reduce, loops[len(spatial) :], strict=True)]
            T.sblock_attr({ROLE: role, **(annotations or {})})
            place = list(at(*index)) if at else list(index)
            if not reduce:
                T.buffer_store(store, value(index), place)
                return
            with T.init():
                T.buffer_store(store, init, place)
            T.buffer_store(store, value(index, terms, _load(store, place)), place)

    def sequence(
        self,
        outer: Sequence[int],
        steps: Sequence[int],
        inner: Sequence[int],
        body: Callable[[list[Expr], list[Expr], list[Expr]], None],
        *,
        reads: Sequence[Buffer],
        writes: Sequence[Buffer],
    ) -> None:
        """Append a block that runs ``body(outer index, step index, inner index)`` for every step in row-major order.

        ``body`` appends statements (``store``, ``when``, ``repeat``), which may read and write what earlier steps wrote. Outer
        and inner indices are independent of one another: every buffer that the block writes must have, in all accesses, the
        index variable of each outer and inner axis that is to run in parallel alone at one fixed position (the order verifier
        checks this).

        Args:
            outer: extents of independent axes around the steps.
            steps: extents of the axes whose order counts, outermost first.
            inner: extents of independent axes inside of the steps.
            body: appends the statements.
            reads: buffers that the statements read and no statement writes.
            writes: buffers that the statements write; they may read them too.
        """
        with ExitStack() as stack:
            extents = (*outer, *steps, *inner) or (1,)
            loops = [stack.enter_context(T.serial(i64(0), i64(extent))) for extent in extents]
            stack.enter_context(T.sblock(SEQUENCE))
            kinds = [T.axis.spatial] * len(outer) + [T.axis.reduce] * len(steps) + [T.axis.spatial] * len(inner)
            index = [axis(i64(e), v) for axis, e, v in zip(kinds or [T.axis.spatial], extents, loops, strict=True)]
            # Which part of a buffer is touched depends on data: all of it may be.
            T.reads(*map(_whole, (*reads, *writes)))
            T.writes(*map(_whole, writes))
            T.sblock_attr({ROLE: SEQUENCE})
            a, b = len(outer), len(outer) + len(steps)
            body(index[:a], index[a:b], index[b : b + len(inner)])

    def result(self) -> Any:
        """The finished PrimFunc; only after the ``kernel`` context has ended."""
        return self._result


def _whole(buffer: Buffer) -> Any:
    ranges = [tvm.ir.Range.from_min_extent(i64(0), extent) for extent in buffer.shape]
    return tirx.BufferRegion(buffer, ranges)


def _load(buffer: Buffer, index: Index) -> Expr:
    return buffer[tuple(index)]


def load(buffer: Buffer, index: Index) -> Expr:
    """``buffer[index]``; the index of a scalar is empty."""
    return _load(buffer, index)


def store(buffer: Buffer, index: Index, value: Expr) -> None:
    """The statement ``buffer[index] = value`` in a sequence."""
    T.buffer_store(buffer, value, list(index))


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements of a sequence that only run where ``condition`` holds."""
    with T.If(condition), T.Then():
        yield


@contextmanager
def repeat(extent: int) -> Iterator[Expr]:
    """Statements of a sequence that run for 0, 1, … ``extent`` - 1, in order."""
    with T.serial(i64(0), i64(extent)) as position:
        yield position


def guarded(condition: Expr, value: Expr, otherwise: Expr) -> Expr:
    """``value`` only where ``condition`` holds, without evaluating (reading) it elsewhere."""
    return T.if_then_else(condition, value, otherwise)


def all_of(conditions: Sequence[Expr]) -> Expr:
    """Conjunction of integer conditions; true for none."""
    result: Expr = tirx.IntImm("bool", 1)
    for k, condition in enumerate(conditions):
        result = condition if k == 0 else tirx.And(result, condition)
    return result


def any_of(conditions: Sequence[Expr]) -> Expr:
    """Disjunction of integer conditions; false for none."""
    result: Expr = tirx.IntImm("bool", 0)
    for k, condition in enumerate(conditions):
        result = condition if k == 0 else tirx.Or(result, condition)
    return result


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """Row-major multi-index of a flat index.

    Along axes of extent 1 it is 0: there is nothing else, which TVM and the order verifier cannot tell from a quotient.
    """
    index: list[Expr] = []
    for k in reversed(range(len(shape))):
        extent = i64(max(shape[k], 1))  # nothing is read along an empty axis
        index.insert(0, i64(0) if shape[k] == 1 else flat % extent if k else flat)
        flat = flat // extent
    return index


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major flat index. Axes of extent 1 take no part: with them TVM cannot tell which region is read."""
    flat: Expr | None = None
    for position, extent in zip(index, shape, strict=True):
        if extent != 1:
            flat = position if flat is None else flat * i64(extent) + position
    return i64(0) if flat is None else flat


def substituted(expr: Expr, values: Mapping[Any, Expr]) -> Expr:
    """An expression or a statement with values in place of variables."""

    def replace(var: Any, mutator: Any) -> Any:
        return values.get(var, var)

    return tvm_ffi.structural_mutate(expr, (tirx.Var, replace))


def as_written(function: Any) -> Any:
    """A PrimFunc whose loops run as they are; it may only move bits (``passes.moves`` checks that)."""
    root = s_tir.SBlock([], [], [], "root", function.body)  # TVM's passes want one
    return function.with_body(s_tir.SBlockRealize([], True, root)).with_attr(AS_WRITTEN, True)


@contextmanager
def kernel(name: str, inputs: Sequence[TensorType], output: TensorType) -> Iterator[Kernel]:
    """Build the PrimFunc ``name`` with one buffer for each input and the output; read it with ``Kernel.result()``.

    Buffers of narrow dtypes hold bit patterns (``TensorType.carrier``).
    """
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        buffers = [T.arg(f"x{k}", T.buffer([i64(e) for e in t.shape], t.carrier)) for k, t in enumerate(inputs)]
        out = T.arg("y", T.buffer([i64(e) for e in output.shape], output.carrier))
        k = Kernel(buffers, out)
        yield k
    k._result = builder.get()
