"""Bodies of exact operators at lowering time.

After vectorisation and all of TVM's simplifications an operator such as ``exact_exp`` is expanded into exact primitives.
``Body`` collects let-bindings, so that a value that is used twice is computed once, and knows the lanes and the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact

Expr = Any

#: Whether the target that is being lowered has fused multiply-add instructions; set by ``lowering_for``.
_HAS_FMA: ContextVar[bool] = ContextVar("has_fma")

#: A type of the same width for each element type.
_OTHER_TYPE = {
    "int8": "uint8",
    "uint8": "int8",
    "int16": "uint16",
    "uint16": "int16",
    "float32": "int32",
    "float64": "int64",
    "int32": "uint32",
    "int64": "uint64",
    "uint32": "int32",
    "uint64": "int64",
}


@contextmanager
def lowering_for(*, has_fma: bool) -> Iterator[None]:
    """Declare the features of the target while TVM lowers for it."""
    token = _HAS_FMA.set(has_fma)
    try:
        yield
    finally:
        _HAS_FMA.reset(token)


def has_fma() -> bool:
    """Whether the target that is being lowered has fused multiply-add instructions."""
    return _HAS_FMA.get()


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

    def argument(self, value: Expr) -> Expr:
        """Name an operand of the operator, unseen by TVM's analyzer.

        The analyzer binds the names inside of an operand before and after simplifying it, and gives up if one of them has
        become a constant in between.
        """
        if isinstance(value, tirx.Var):
            return value
        return self.let(self._hidden(value))

    def const(self, value: float, element: str = "float32") -> Expr:
        """A float constant in all lanes."""
        return self._spread(exact.const(value, element))

    def bits_const(self, element: str, bits: int) -> Expr:
        """A float constant, given by its bit pattern, in all lanes."""
        return self._spread(exact.from_bits(element, bits))

    def int_const(self, value: int, element: str) -> Expr:
        """An integer constant in all lanes."""
        return self._spread(exact.int_const(value, element))

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
        return self._hidden(value) if isinstance(value, tirx.Select | tirx.Add | tirx.Sub | tirx.Mul) else value

    def _hidden(self, value: Expr) -> Expr:
        """The same value behind reinterpretations, which TVM does not look through."""
        dtype = exact.dtype_of(value)
        other = _OTHER_TYPE.get(exact.element_of(dtype))
        if other is None:
            return value
        constant = value.value if isinstance(value, tirx.Broadcast) else value
        if isinstance(constant, tirx.IntImm):
            return tirx.Cast(dtype, self._hidden_integer(int(constant.value)))
        return tirx.reinterpret(dtype, tirx.reinterpret(self.dtype(other), value))

    def _hidden_integer(self, value: int) -> Expr:
        """An int64 constant. TVM takes a reinterpreted 0 for a null pointer, and its C code cannot reinterpret an int32."""
        wide = tirx.reinterpret(self.dtype("uint64"), self.int_const(value or 1, "int64"))
        if not value:
            wide = tirx.shift_right(wide, self.int_const(1, "uint64"))
        return tirx.reinterpret(self.dtype("int64"), wide)

    def _spread(self, scalar: Expr) -> Expr:
        return scalar if self.lanes == 1 else tirx.Broadcast(scalar, self.lanes)


def call_body(call: Any) -> tuple[Body, str, list[Expr]]:
    """A body for the call's lanes, the element dtype of its first argument, and its arguments bound to names.

    Booleans are not bound, because TVM's analyzer fails on vectors of them; no row uses one twice.
    """
    dtype = exact.dtype_of(call.args[0])
    body = Body(exact.lanes_of(dtype), has_fma=has_fma())
    element = exact.element_of(dtype)
    return body, element, list(call.args) if element == "bool" else [body.argument(a) for a in call.args]
