"""Vectors of elements that lie a few places apart: whole vectors are read and shuffled, where TVM reads element by element."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators import exact

Expr = Any

#: Distances between neighbours for which reading everything between them pays.
_NEAR = (2, 3, 4)
#: Lanes from which it does.
_LANES = 4


def whole_vectors(function: Any) -> Any:
    """A vectorised PrimFunc without blocks that reads nothing outside of what it read before, and stores the same."""
    return function.with_body(tvm_ffi.structural_mutate(function.body, (tvm.ir.TensorLoad, _load)))


def _load(expr: Any, mutator: Any) -> Any:
    expr = mutator.default_mutate(expr)
    (index,) = expr.indices if len(expr.indices) == 1 else (None,)
    if not isinstance(index, tirx.Ramp) or not isinstance(index.stride, tirx.IntImm) or exact.lanes_of(str(expr.source.dtype)) > 1:
        return expr
    step, lanes = int(index.stride), exact.lanes_of(exact.dtype_of(index))
    if step not in _NEAR or lanes < _LANES:
        return expr
    # The last vector ends with the last element, so that it overlaps the one before.
    last = (lanes - 1) * step + 1 - lanes
    starts = [*range(0, last, lanes), last]
    one = tirx.IntImm(exact.element_of(exact.dtype_of(index)), 1)
    vectors = [tirx.BufferLoad(expr.source, [tirx.Ramp(index.base + _like(index, s), one, lanes)]) for s in starts]
    places = []
    for lane in range(lanes):
        n, offset = divmod(lane * step, lanes)
        place = lane * step if n < len(starts) - 1 else (len(starts) - 1) * lanes + lane * step - last
        places.append(_number(place))
    return tirx.Shuffle(vectors, places)


def _like(index: Any, value: int) -> Expr:
    return tirx.IntImm(exact.element_of(exact.dtype_of(index)), value)


def _number(value: int) -> Expr:
    return tirx.IntImm("int32", value)


@tvm.transform.module_pass(opt_level=0, name="WholeVectors")
def read_whole_vectors(module: Any, _context: Any) -> Any:
    """The pass; for LLVM only, after vectorisation."""
    if tvm.target.Target.current().kind.name != "llvm":
        return module
    changed = {gv: whole_vectors(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(changed, attrs=module.attrs)
