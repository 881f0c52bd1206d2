"""Blocks around statements, with axes of a stage or of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators.nest import i64
from gensyn_tvm.schedules.cpu.stages import Stage
from gensyn_tvm.schedules.gpu.loops import whole

Expr = Any
Statement = Any


def all_of(conditions: Sequence[Expr]) -> Expr:
    """Conjunction of conditions, of which constants say nothing."""
    found = [c for c in conditions if not isinstance(c, tirx.IntImm)]
    result: Expr = tirx.IntImm("bool", 1)
    for n, c in enumerate(found):
        result = c if n == 0 else tirx.And(result, c)
    return result


def block_of(stage: Stage, body: Statement, *, terms: bool, name: str = "") -> Any:
    """A block with a stage's axes around another statement."""
    block = stage.block
    variables = list(block.iter_vars) if terms else list(block.iter_vars[: stage.spatial])
    loads: list[Any] = []
    tvm_ffi.structural_walk(body, (tvm.ir.TensorLoad, lambda e: loads.append(e.source)))
    reads = [whole(b) for b in dict.fromkeys(loads)]
    title = f"{block.name_hint}_{name}" if name else block.name_hint
    return s_tir.SBlock(variables, reads, [whole(body.buffer)], title, body)


def copy_block(
    name: str,
    buffer: Any,
    variables: Sequence[Any],
    shape: Sequence[int],
    value: Expr,
    place: Sequence[Expr] | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> Any:
    """A block of axes of its own that stores a value, at the axes' place unless another is given."""
    axes = [
        tirx.IterVar(tvm.ir.Range.from_min_extent(i64(0), i64(e)), v, tirx.IterVar.DataPar, "")
        for v, e in zip(variables, shape, strict=True)
    ]
    loads: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, lambda e: loads.append(e.source)))
    body = tirx.BufferStore(buffer, value, list(variables if place is None else place))
    reads = [whole(b) for b in dict.fromkeys(loads)]
    return s_tir.SBlock(axes, reads, [whole(buffer)], name, body, annotations=annotations or {})
