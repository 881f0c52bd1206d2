"""Squares that a kernel copies transposed, in registers.

    for t in range(lanes): for c in vectorized(lanes): square[t, c] = x[c, t]

would read each vector of ``square`` element by element. Instead the rows of ``x`` are read as vectors and exchange
their elements (``operators.products.packing``). Bits move, nothing is computed, and each element goes where the loops say.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators.nest import i64, substituted
from gensyn_tvm.operators.products.packing import transposed_block, vector
from gensyn_tvm.schedules.cpu.stages import uses

Expr = Any
_LANES = (4, 8, 16)
_SEQUENTIAL = (tirx.ForKind.SERIAL, tirx.ForKind.UNROLLED)


def _steps(index: Expr, variable: Any, analyzer: Any) -> bool:
    """Whether an index is the variable and something that does not depend on it."""
    return not uses(analyzer.simplify(index - variable), variable)


class _Square:
    """The loops of a square: over terms ``t``, and over columns ``c`` in a vector."""

    def __init__(self, outer: Any, own: set[Any]) -> None:
        self.outer, self.inner = outer, outer.body
        self.own = own

    def matches(self) -> bool:
        """Whether a buffer of the kernel's own is written in vectors that are columns of what is read."""
        outer, inner = self.outer, self.inner
        if not isinstance(inner, tirx.For) or inner.kind != tirx.ForKind.VECTORIZED or outer.kind not in _SEQUENTIAL:
            return False
        if not isinstance(inner.body, tirx.BufferStore) or not isinstance(inner.body.value, tvm.ir.TensorLoad):
            return False
        if not all(isinstance(n, tirx.IntImm) for f in (outer, inner) for n in (f.min, f.extent)):
            return False
        extents = [int(n.extent) for n in (outer, inner)]
        if extents[0] != extents[1] or extents[0] not in _LANES or int(outer.min) or int(inner.min):
            return False
        self.lanes, self.store, self.load = extents[0], inner.body, inner.body.value
        self.itemsize = int(tvm.DataType(str(self.store.buffer.dtype)).bits) // 8
        return self.store.buffer in self.own and not self.load.source.same_as(self.store.buffer) and self._is_transposed()

    def _is_transposed(self) -> bool:
        analyzer = tvm.sym.Analyzer()
        t, c = self.outer.loop_var, self.inner.loop_var
        *read_before, read = self.load.indices
        *written_before, written = self.store.indices
        return (
            _steps(read, t, analyzer)
            and _steps(written, c, analyzer)
            and not any(uses(i, t) for i in read_before)
            and not any(uses(i, c) for i in written_before)
            and not uses(read, c)
            and not uses(written, t)
        )

    def turned(self) -> Any:
        """Vectors along the rows, exchanged, and stored."""
        statements: list[Any] = []

        def bind(value: Expr) -> Expr:
            name = tirx.Var("turned", value.ty)
            statements.append(tirx.Bind(name, value))
            return name

        def at(indices: Any, term: int, column: int, lanes: int) -> list[Expr]:
            places = {self.outer.loop_var: i64(term), self.inner.loop_var: i64(column)}
            *before, last = [substituted(i, places) for i in indices]
            return [*before, vector(last, lanes)]

        def read(row: int, first: int, count: int) -> Expr:
            return tirx.BufferLoad(self.load.source, at(self.load.indices, first, row, count))

        for k, column in enumerate(transposed_block(read, self.lanes, self.itemsize, bind)):
            statements.append(tirx.BufferStore(self.store.buffer, column, at(self.store.indices, k, 0, self.lanes)))
        return tirx.SeqStmt(statements)


def turn(function: Any) -> Any:
    """A PrimFunc without blocks in which squares that are copied transposed into its own buffers are turned in registers."""
    own: set[Any] = set()
    tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, lambda a: own.add(a.buffer)))

    def loop(stmt: Any, mutator: Any) -> Any:
        square = _Square(stmt, own)
        return square.turned() if square.matches() else mutator.default_mutate(stmt)

    return function.with_body(tvm_ffi.structural_mutate(function.body, (tirx.For, loop))) if own else function


@tvm.transform.module_pass(opt_level=0, name="TurnSquares")
def turn_all(module: Any, context: Any) -> Any:
    """The pass over all kernels."""
    turned = {gv: turn(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in module.functions_items()}
    return tvm.IRModule(turned, attrs=module.attrs)
