"""How many neighbouring elements a thread may read from memory at a time."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer

from gensyn_tvm.operators.nest import i64, ravel, substituted

Expr = Any

#: Bytes of the widest load that every GPU has.
_WIDEST = 16


def vector_width(value: Expr, along: Any, extent: int, share: int) -> int:
    """Elements of one load along a variable: 1 unless all of them lie side by side, at multiples of their bytes.

    Args:
        value: what is read, an expression of ``along`` and others.
        along: the variable.
        extent: how many values it has; a load must not go beyond.
        share: elements that a thread reads in all.
    """
    if not isinstance(value, tvm.ir.TensorLoad):
        return 1
    width = _WIDEST * 8 // int("".join(c for c in str(value.source.dtype) if c.isdigit()) or 8)
    if width > 4 or extent % width or share % width:
        return 1
    group, lane = tirx.Var("group", "int64"), tirx.Var("lane", "int64")
    analyzer = Analyzer()
    analyzer.bind(lane, tvm.ir.Range(i64(0), i64(width)))
    analyzer.bind(group, tvm.ir.Range(i64(0), i64(extent // width)))
    flat = ravel(list(value.indices), [int(e) for e in value.source.shape])
    first, each = (substituted(flat, {along: group * i64(width) + offset}) for offset in (i64(0), lane))
    if not tvm_ffi.structural_equal(analyzer.simplify(each - first), lane):
        return 1
    remainder = analyzer.simplify(tirx.FloorMod(first, i64(width)))
    return width if isinstance(remainder, tirx.IntImm) and not int(remainder.value) else 1
