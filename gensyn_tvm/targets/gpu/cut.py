"""A scheduled kernel → device kernels: one for each of its stages, because only the end of a kernel makes all threads wait.

What one stage leaves to another is an array in memory that the memory plan places.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.operators.nest import i64
from gensyn_tvm.targets.gpu.program import Launch

Buffer = Any
Statement = Any

#: Characters of a kernel's name that are kept.
_LONGEST_NAME = 80
#: What every GPU since the oldest target launches.
_LARGEST_GRID = (2**31 - 1, 65535, 65535)
_LARGEST_BLOCK = (1024, 1024, 64)


@dataclass(frozen=True)
class Piece:
    """A device kernel.

    Attributes:
        name: unique in a program.
        function: a PrimFunc on ``buffers``, without host code.
        buffers: parameters; arguments and intermediate arrays of the kernel it was cut from.
        writes: how many of them, the last ones, it writes.
        rereads: numbers of those of them that it reads, too.
        launch: its threads.
        tiled: whether they have shared memory.
    """

    name: str
    function: Any
    buffers: tuple[Buffer, ...]
    writes: int
    rereads: tuple[int, ...]
    launch: Launch
    tiled: bool


@dataclass(frozen=True)
class Cut:
    """A kernel in pieces, and the buffers of its parameters; what pieces use besides are intermediate arrays."""

    params: tuple[Buffer, ...]
    pieces: tuple[Piece, ...]


def type_of(buffer: Buffer) -> TensorType:
    """The carried type of a buffer."""
    return TensorType(tuple(int(e) for e in buffer.shape), str(buffer.dtype))


def cut(name: str, function: Any) -> Cut:
    """The device kernels of a scheduled PrimFunc, in order. Statements without iterations have none.

    Raises:
        ScheduleError: loops of different extents are bound to one thread axis.
    """
    name = _short(name)
    root = function.body.block
    statements = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    pieces = []
    for k, statement in enumerate(statements):
        if _is_empty(statement):
            continue
        pieces.append(_piece(f"{name}__{k}", function, root, _in_threads(statement)))
    return Cut(tuple(function.params), tuple(pieces))


def _piece(name: str, function: Any, root: Any, statement: Statement) -> Piece:
    loads, stores = _accessed(statement)
    shared = [*function.params, *(b for b in root.alloc_buffers if str(b.scope()) in ("", "global"))]
    own = [b for b in root.alloc_buffers if str(b.scope()) not in ("", "global") and (b in loads or b in stores)]
    read, written = [b for b in shared if b in loads and b not in stores], [b for b in shared if b in stores]
    buffers = (*read, *written)
    addresses = [tirx.Var(f"p{k}", tirx.buffer.buffer_data_pointer_type(b)) for k, b in enumerate(buffers)]
    body = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", statement, None, own))
    arrays = [tirx.DeclBuffer(b, data=a) for b, a in zip(buffers, addresses, strict=True)]
    piece = tirx.PrimFunc(addresses, tirx.SeqStmt([*arrays, body]))
    tiled = any(str(b.scope()) == "shared" for b in own)
    rereads = tuple(k for k, b in enumerate(buffers) if b in written and b in loads)
    return Piece(name, piece, buffers, len(written), rereads, _launch(name, statement), tiled)


def _short(name: str) -> str:
    """A name from which files can be named; those of fused kernels list all of their operators."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _is_empty(statement: Statement) -> bool:
    while isinstance(statement, tirx.For):
        if not int(statement.extent):
            return True
        statement = statement.body
    return False


def _in_threads(statement: Statement) -> Statement:
    """A statement that no rule gave threads to is run by one."""
    if _bound(statement):
        return statement
    thread = tirx.IterVar(None, tirx.Var("one", "int64"), 1, "threadIdx.x")
    return tirx.For(tirx.Var("one", "int64"), i64(0), i64(1), tirx.ForKind.THREAD_BINDING, statement, thread)


def _bound(statement: Statement) -> list[Any]:
    loops: list[Any] = []
    tvm_ffi.structural_walk(statement, (tirx.For, lambda f: loops.append(f) if f.kind == tirx.ForKind.THREAD_BINDING else None))
    return loops


def _accessed(statement: Statement) -> tuple[set[Buffer], set[Buffer]]:
    loads: set[Buffer] = set()
    stores: set[Buffer] = set()
    tvm_ffi.structural_walk(
        statement, [(tvm.ir.TensorLoad, lambda e: loads.add(e.source)), (tirx.BufferStore, lambda s: stores.add(s.buffer))]
    )
    return loads, stores


def _launch(name: str, statement: Statement) -> Launch:
    extents: dict[str, int] = {}
    for loop in _bound(statement):
        tag, extent = str(loop.thread_binding.thread_tag), int(loop.extent)
        if extents.setdefault(tag, extent) != extent:
            raise ScheduleError(
                describe(
                    "a schedule binds two loops of different extents to one thread axis",
                    where=f"kernel {name!r}, {tag}",
                    found=f"{extent} and {extents[tag]}",
                    expected="equal extents",
                    remedy="split the loops by the same number",
                )
            )
    grid, block = (tuple(extents.get(f"{kind}.{axis}", 1) for axis in "xyz") for kind in ("blockIdx", "threadIdx"))
    for what, sizes, limits in (("blocks", grid, _LARGEST_GRID), ("threads", block, _LARGEST_BLOCK)):
        if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            found, expected = f"{what} {sizes}", f"at most {limits}"
            raise ScheduleError(
                describe(
                    "a kernel has more blocks or threads than a GPU can launch",
                    where=f"kernel {name!r}",
                    found=found,
                    expected=expected,
                    remedy="compile with schedule 'plain', or make the arrays smaller",
                )
            )
    return Launch(grid, block)  # type: ignore[arg-type]
