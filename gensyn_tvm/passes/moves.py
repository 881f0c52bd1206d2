"""Kernels that are loops as they run (``nest.AS_WRITTEN``) may move bits and nothing else, so their order cannot matter."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.operators import exact

#: Calls that yield a bit pattern, or a value that is read.
_MOVES = ("bits", "if_then_else")


def check_moves(name: str, function: Any) -> None:
    """Refuse a kernel without blocks that computes, or that reads what it writes.

    Raises:
        ScheduleError: with the kernel and what it does.
    """
    calls: list[Any] = []
    stores: list[Any] = []
    loads: list[Any] = []
    tvm_ffi.structural_walk(
        function.body,
        [(tvm.ir.Call, calls.append), (tirx.BufferStore, stores.append), (tvm.ir.TensorLoad, loads.append)],
    )
    names = [str(getattr(c.op, "name", c.op)).removeprefix(exact.PREFIX).split(".")[-1] for c in calls]
    computed = [n for n in names if n not in _MOVES]
    written = [s.buffer for s in stores]
    read = [str(x.source.name) for x in loads if any(x.source.same_as(b) for b in written)]
    if computed or read:
        raise ScheduleError(
            describe(
                "a kernel without blocks does more than move bits",
                where=f"kernel {name!r}",
                found=f"a call of {computed[0]}" if computed else f"a read of {read[0]}, which it writes",
                expected="loads, stores and permutations of vectors",
                remedy="write it with blocks (Kernel.stage), whose order is proved",
            )
        )
