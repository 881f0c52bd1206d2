"""What the order verifier sees of a kernel: its blocks with the loops around them, in program order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.operators.nest import ROLE, SEQUENCE

#: Kinds of loops by TVM's number.
KINDS = {0: "serial", 1: "parallel", 2: "vectorize", 3: "unroll", 4: "bind"}
#: Loops whose iterations run one after the other.
SEQUENTIAL = ("serial", "unroll")
_SPATIAL, _REDUCTION = 0, 2  # tirx.IterVar.DataPar, CommReduce
#: Annotations that say something to schedule rules or about the layout of a buffer in memory, and nothing about order.
_ANNOTATIONS = ("buffer_dim_align", "pragma_auto_unroll_max_step", "pragma_unroll_explicit")
#: Of a loop that threads of a GPU run: its statements overlap, and TVM refuses one that would come before what it reads.
_PIPELINE = ("software_pipeline_stage", "software_pipeline_order")
_SCOPES = ("", "global", "local", "shared")


@dataclass(frozen=True, eq=False)
class Loop:
    """One ``for``; ``tag`` is the axis of blocks or threads that it is bound to."""

    var: Any
    start: int
    extent: int
    kind: str
    tag: str = ""

    @property
    def is_thread(self) -> bool:
        """Whether its iterations are threads of one block, which share memory."""
        return self.tag.startswith("threadIdx")


@dataclass(frozen=True, eq=False)
class Axis:
    """An index of a block and the expression that the loops bind it to."""

    var: Any
    extent: int
    reduces: bool
    value: Any


@dataclass(frozen=True, eq=False)
class Block:
    """A block that stores one element, or a sequence of statements.

    Attributes:
        path: the loops around it and its positions among neighbouring statements, from the outside.
        store: the statement, None for a sequence; ``init``: the one that gives the initial value, or None.
        node: TVM's block.
    """

    name: str
    path: tuple[Loop | int, ...]
    axes: tuple[Axis, ...]
    predicate: Any
    store: Any
    init: Any
    node: Any

    @property
    def loops(self) -> list[Loop]:
        """The loops around it, outermost first."""
        return [p for p in self.path if isinstance(p, Loop)]

    @property
    def empty(self) -> bool:
        """Whether it has nothing to compute, and no iteration that would."""
        return any(a.extent == 0 for a in self.axes) and any(loop.extent == 0 for loop in self.loops)

    @property
    def spatial(self) -> list[Axis]:
        """Axes that choose the element."""
        return [a for a in self.axes if not a.reduces]

    @property
    def reductions(self) -> list[Axis]:
        """Axes that choose the term."""
        return [a for a in self.axes if a.reduces]


@dataclass
class Kernel:
    """A PrimFunc taken apart.

    Attributes:
        params: buffers of the parameters.
        blocks: in program order.
    """

    name: str
    params: list[Any]
    blocks: list[Block]

    @property
    def in_order(self) -> bool:
        """Whether it has a block of statements that run in order (``Kernel.sequence``)."""
        return any(b.store is None for b in self.blocks)

    @property
    def empty(self) -> bool:
        """Whether some block has nothing to compute."""
        return any(b.empty for b in self.blocks)


def refuse(
    kernel: str,
    block: str,
    loop: Loop | None = None,
    *,
    found: str,
    expected: str,
    what: str = "the schedule would change the order of a reduction",
    remedy: str = "schedule only spatial loops with this primitive, or keep the reduction loops in ascending order",
) -> NoReturn:
    """Raise the error that names the block and loop."""
    where = f"kernel {kernel!r}, block {block!r}"
    if loop is not None:
        where += f", loop {loop.var} of extent {loop.extent} ({loop.kind})"
    raise ScheduleError(describe(what, where=where, found=found, expected=expected, remedy=remedy))


def read_kernel(name: str, function: Any) -> Kernel:
    """Take a PrimFunc apart.

    Raises:
        ScheduleError: it contains something of which the verifier does not know what it does to the order.
    """
    kernel = Kernel(name, list(function.params), [])
    _visit(kernel, function.body, (), outermost=True)
    return kernel


def _visit(kernel: Kernel, stmt: Any, path: tuple[Loop | int, ...], *, outermost: bool = False) -> None:
    if isinstance(stmt, tirx.For):
        tag = "" if stmt.thread_binding is None else str(stmt.thread_binding.thread_tag)
        loop = Loop(stmt.loop_var, constant_of(stmt.min), constant_of(stmt.extent), KINDS[int(stmt.kind)], tag)
        if tag and any(isinstance(p, Loop) and p.tag == tag for p in path):
            refuse(kernel.name, "", loop, found=f"a loop over {tag} inside of another", expected="one loop over each axis")
        if stmt.step is not None and constant_of(stmt.step) != 1:
            refuse(kernel.name, "", loop, found=f"a step of {stmt.step}", expected="steps of 1")
        if stmt.annotations:
            in_threads = any(isinstance(p, Loop) and p.is_thread for p in path)
            allowed = (*_ANNOTATIONS, *_PIPELINE) if in_threads else _ANNOTATIONS
            _check_annotations(kernel.name, f"loop {loop.var}", stmt.annotations, allowed)
        _visit(kernel, stmt.body, (*path, loop))
    elif isinstance(stmt, s_tir.SBlockRealize):
        _realize(kernel, stmt, path, outermost=outermost)
    elif isinstance(stmt, tirx.SeqStmt):
        for k, child in enumerate(stmt.seq):
            _visit(kernel, child, (*path, k))
    else:
        found = type(stmt).__name__
        raise ScheduleError(f"kernel {kernel.name!r} contains a {found} statement; the order inside cannot be proved")


def _realize(kernel: Kernel, realize: Any, path: tuple[Loop | int, ...], *, outermost: bool) -> None:
    block = realize.block
    name = str(block.name_hint)
    annotations = block.annotations
    _check_annotations(kernel.name, f"block {name!r}", annotations, _ANNOTATIONS)
    if len(block.match_buffers):
        refuse(kernel.name, name, found="a view of part of a buffer", expected="buffers as they are")
    for buffer in block.alloc_buffers:
        _check_buffer(kernel.name, name, buffer)
    if outermost and not len(block.iter_vars):
        _visit(kernel, block.body, path)
        return
    sequence = annotations.get(ROLE) == SEQUENCE
    if not sequence and not isinstance(block.body, tirx.BufferStore):
        found = f"a {type(block.body).__name__} statement"
        refuse(kernel.name, name, found=found, expected="a block that stores one element")
    if not sequence and block.body.buffer.scope() == "shared" and not any(isinstance(p, Loop) and p.is_thread for p in path):
        found = f"buffer {block.body.buffer.name} in scope 'shared'"
        refuse(kernel.name, name, found=found, expected="threads that share it")
    axes = tuple(_axis(kernel.name, name, v, e) for v, e in zip(block.iter_vars, realize.iter_values, strict=True))
    store = None if sequence else block.body
    kernel.blocks.append(Block(name, path, axes, realize.predicate, store, block.init, block))


def _axis(kernel: str, block: str, v: Any, value: Any) -> Axis:
    kind = int(v.iter_type)
    if kind not in (_SPATIAL, _REDUCTION) or constant_of(v.dom.min) != 0:
        refuse(kernel, block, found=f"axis {v.var} of another kind", expected="spatial and reduction axes from 0")
    return Axis(v.var, constant_of(v.dom.extent), kind == _REDUCTION, value)


def _check_annotations(kernel: str, where: str, annotations: Any, allowed: Sequence[str]) -> None:
    for key in annotations:
        if not str(key).startswith("gensyn.") and str(key) not in allowed:
            raise ScheduleError(
                describe(
                    "the schedule annotates what the verifier cannot judge",
                    where=f"kernel {kernel!r}, {where}",
                    found=f"annotation {key!r}",
                    expected=", ".join(allowed),
                    remedy="do without the annotation",
                )
            )


def _check_buffer(kernel: str, block: str, buffer: Any) -> None:
    scope = str(buffer.scope())
    ty = buffer.ty
    if scope not in _SCOPES or len(ty.strides) or _offset(ty) or not _row_major(buffer):
        found = f"buffer {buffer.name} in scope {scope!r}" if scope not in _SCOPES else f"buffer {buffer.name} with strides"
        refuse(kernel, block, found=found, expected="plain buffers in memory, shared by a block, or in registers")


def _row_major(buffer: Any) -> bool:
    layout = buffer.ty.layout
    return layout is None or tvm_ffi.structural_equal(layout, tirx.decl_buffer(buffer.shape, str(buffer.dtype)).ty.layout)


def _offset(ty: Any) -> bool:
    return bool(getattr(ty.elem_offset, "value", ty.elem_offset))


def constant_of(expr: Any) -> int:
    """The value of a constant.

    Raises:
        ScheduleError: it is no constant.
    """
    value = getattr(expr, "value", None)
    if not isinstance(value, int):
        raise ScheduleError(f"a loop bound is not a constant: {expr}; the order of the kernel cannot be proved")
    return value
