"""Bodies of exact operators at lowering time.

After vectorisation and all of TVM's simplifications an operator such as ``exact_exp`` is expanded into exact primitives.
``Body`` collects let-bindings, so that a value that is used twice is computed once, and knows the lanes and the target.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact

Expr = Any

#: A type of the same width for each element type.
_OTHER_TYPE = {
    "float32": "int32",
    "float64": "int64",
    "int32": "uint32",
    "int64": "uint64",
    "uint32": "int32",
    "uint64": "int64",
}


class Body:
    """Builds ``let a = …, let b = … in result`` over exact primitives.

    Attributes:
        lanes: vector lanes of every value in the body.
        has_fma: whether ``fma`` of floats is one instruction on the target. Bodies whose result does not depend on it
            (correctly rounded functions) may use it to choose the faster way.
    """

    def __init__(self, lanes: int, *, has_fma: bool) -> None:
        self.lanes = lanes
        self.has_fma = has_fma
        self._bindings: list[tuple[Any, Expr]] = []

    def let(self, value: Expr) -> Expr:
        """Name a value; use the returned variable wherever it is needed. A variable is its own name."""
        if isinstance(value, tirx.Var):
            return value
        if self.lanes > 1:
            value = self._opaque(value)
        var = tirx.Var(f"t{len(self._bindings)}", exact.dtype_of(value))
        self._bindings.append((var, value))
        return var

    def const(self, value: float, element: str = "float32") -> Expr:
        """A float constant in all lanes."""
        return self._spread(exact.const(value, element))

    def bits_const(self, element: str, bits: int) -> Expr:
        """A float constant, given by its bit pattern, in all lanes."""
        return self._spread(exact.from_bits(element, bits))

    def int_const(self, value: int, element: str) -> Expr:
        """An integer constant in all lanes."""
        return self._spread(tirx.IntImm(element, value))

    def dtype(self, element: str) -> str:
        """dtype of ``element`` in all lanes."""
        return exact.with_lanes(element, self.lanes)

    def reinterpret(self, element: str, x: Expr) -> Expr:
        """The same bits as another element dtype of equal width."""
        return tirx.reinterpret(self.dtype(element), x)

    def cast_int(self, element: str, x: Expr) -> Expr:
        """Integer conversion (modulo 2^width)."""
        return tirx.Cast(self.dtype(element), x)

    def finish(self, result: Expr) -> Expr:
        """The let-expression with value ``result``."""
        for var, value in reversed(self._bindings):
            result = tirx.Let(var, value, result)
        return result

    def _opaque(self, value: Expr) -> Expr:
        """The same value behind a reinterpretation: TVM's analyzer looks at let-bound values and fails on vector selects."""
        dtype = exact.dtype_of(value)
        other = _OTHER_TYPE.get(exact.element_of(dtype))
        if other is None or not isinstance(value, tirx.Select | tirx.Add | tirx.Sub | tirx.Mul):
            return value
        return tirx.reinterpret(dtype, tirx.reinterpret(self.dtype(other), value))

    def _spread(self, scalar: Expr) -> Expr:
        return scalar if self.lanes == 1 else tirx.Broadcast(scalar, self.lanes)
