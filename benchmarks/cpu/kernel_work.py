"""What a kernel computes, counted in its loops before they are scheduled."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.s_tir import SBlock, SBlockRealize

from gensyn_tvm.operators import exact

#: Calls that move bits and compute nothing.
_FREE = {"bits", "index", "convert", "canonical_nan"}


def operations(function: Any) -> Counter[str]:
    """How often each exact operator runs, by its name without the prefix: ``fma``, ``add``, ``exp``, …

    Both sides of a condition are counted, and padding where it is computed.
    """
    found: Counter[str] = Counter()
    _visit(function.body, 1, found)
    return found


def _visit(statement: Any, times: int, found: Counter[str]) -> None:
    if isinstance(statement, tirx.For):
        _visit(statement.body, times * int(statement.extent), found)
    elif isinstance(statement, tirx.SeqStmt):
        for s in statement:
            _visit(s, times, found)
    elif isinstance(statement, SBlockRealize):
        _visit(statement.block, times, found)
    elif isinstance(statement, SBlock):  # its initialisation moves constants
        _visit(statement.body, times, found)
    else:
        tvm_ffi.structural_walk(statement, [(Call, lambda call: _count(call, times, found))])


def _count(call: Any, times: int, found: Counter[str]) -> None:
    name = str(getattr(call.op, "name", call.op))
    if name.startswith(exact.PREFIX) and (short := name.removeprefix(exact.PREFIX)) not in _FREE:
        found[short] += times * exact.lanes_of(exact.dtype_of(call))


def bytes_of(types: tuple[str, ...]) -> int:
    """Of arrays with types such as ``float32[2, 3]``, once each."""
    return sum(_bytes(t) for t in types)


def _bytes(text: str) -> int:
    dtype, _, shape = text.rstrip("]").partition("[")
    return math.prod(int(n) for n in shape.split(",") if n) * np.dtype(dtype).itemsize
