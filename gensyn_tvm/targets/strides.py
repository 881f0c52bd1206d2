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
    found = _near(expr)
    if found is None:
        return expr
    base, step, lanes = found
    dtype = exact.dtype_of(base)

    def vector(start: int) -> Expr:
        return tirx.BufferLoad(expr.source, [tirx.Ramp(base + tirx.IntImm(dtype, start), tirx.IntImm(dtype, 1), lanes)])

    # The last vector ends with the last element, so that it overlaps the one before.
    last = (lanes - 1) * step + 1 - lanes
    starts = [*range(0, last, lanes), last]
    before = len(starts) - 1
    elements = [k * step for k in range(lanes)]
    places = [e if e < before * lanes else before * lanes + e - last for e in elements]
    return tirx.Shuffle([vector(s) for s in starts], [tirx.IntImm("int32", p) for p in places])


def _near(load: Any) -> tuple[Expr, int, int] | None:
    """Where a vector begins whose elements lie a few places apart, how far apart, and how many they are."""
    index = load.indices[0] if len(load.indices) == 1 else None
    if not isinstance(index, tirx.Ramp) or not isinstance(index.stride, tirx.IntImm):
        return None
    step, lanes = int(index.stride), exact.lanes_of(exact.dtype_of(index))
    scalars = exact.lanes_of(str(load.source.dtype)) == 1
    return (index.base, step, lanes) if scalars and step in _NEAR and lanes >= _LANES else None


@tvm.transform.module_pass(opt_level=0, name="WholeVectors")
def read_whole_vectors(module: Any, _context: Any) -> Any:
    """The pass; for LLVM only, after vectorisation."""
    if tvm.target.Target.current().kind.name != "llvm":
        return module
    changed = {gv: whole_vectors(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(changed, attrs=module.attrs)
