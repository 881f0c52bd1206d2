"""Writing and rewriting Relax functions; the name of a binding's variable is its place in the user's model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

Expr = Any
op = relax.op

_TEMPORARY = re.compile(r"[lg]v\d*")
_ADJOINT = re.compile(r"_adjoint\d*(_out\d*)?$")

#: Given the emitter, a call and its rewritten arguments: what stands for the call, or None to keep it.
Rewrite = Callable[["Emitter", Any, Sequence[Expr]], Any]


def shape_of(expr: Expr) -> list[int]:
    """Extents of a tensor expression of static shape."""
    return [int(extent) for extent in expr.ty.shape]


def dtype_of(expr: Expr) -> str:
    """Dtype name of a tensor expression."""
    return str(expr.ty.dtype.dtype)


def number(value: bool | int | float, dtype: str) -> Expr:
    """A scalar constant; a float32 is the double ``value`` rounded to nearest."""
    return relax.const(np.array(value, dtype=dtype), dtype)


class Emitter:
    """Appends bindings to the dataflow block that a BlockBuilder is in.

    Attributes:
        place: name of the next bindings.

    Python numbers in its arithmetic take the dtype of the tensor beside them.
    """

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.place = ""

    def __call__(self, expr: Expr) -> Expr:
        """Bind ``expr`` to a new variable of the current place."""
        value = self.builder.normalize(expr)
        if isinstance(value, tvm.ir.Var):
            return value
        variable = relax.DataflowVar(self.place, value.ty)
        self.builder.emit_normalized(relax.VarBinding(variable, value))
        return variable

    def _pair(self, a: Expr | float, b: Expr | float) -> tuple[Expr, Expr]:
        if isinstance(a, int | float):
            return number(a, dtype_of(b)), b
        if isinstance(b, int | float):
            return a, number(b, dtype_of(a))
        return a, b

    def add(self, a: Expr | float, b: Expr | float) -> Expr:
        """a + b"""
        return self(op.add(*self._pair(a, b)))

    def sub(self, a: Expr | float, b: Expr | float) -> Expr:
        """a - b"""
        return self(op.subtract(*self._pair(a, b)))

    def mul(self, a: Expr | float, b: Expr | float) -> Expr:
        """a * b"""
        return self(op.multiply(*self._pair(a, b)))

    def div(self, a: Expr | float, b: Expr | float) -> Expr:
        """a / b"""
        return self(op.divide(*self._pair(a, b)))

    def cast(self, x: Expr, dtype: str) -> Expr:
        """x as ``dtype``; x itself if it is that already."""
        return x if dtype_of(x) == dtype else self(op.astype(x, dtype))


def inline(emitter: Emitter, function: Any, arguments: Sequence[Expr], rewrite: Rewrite | None = None) -> Any:
    """Append the bindings of ``function`` applied to ``arguments`` and return its result, a nested tuple of expressions."""
    environment: dict[Any, Any] = dict(zip(function.params, arguments, strict=True))
    places = _places(function)
    for block in function.body.blocks:
        for binding in block.bindings:
            emitter.place = places[binding.var]
            environment[binding.var] = _emit(emitter, binding.value, environment, rewrite)
    return _result(function.body.body, environment)


def _places(function: Any) -> dict[Any, str]:
    """Names of all bound variables; temporaries of gradients are called after the gradient that they are for."""
    places: dict[Any, str] = {}
    name = "gradient"
    for block in reversed(list(function.body.blocks)):
        for binding in reversed(list(block.bindings)):
            own = str(binding.var.name)
            if not _TEMPORARY.fullmatch(own):
                of = _ADJOINT.sub("", own)
                name = own if of == own else f"gradient of {of}"
            places[binding.var] = name
    return places


def _emit(emitter: Emitter, value: Any, environment: Mapping[Any, Any], rewrite: Rewrite | None) -> Any:
    if not isinstance(value, tvm.ir.Call):
        return _result(value, environment)
    arguments = [_argument(a, environment) for a in value.args]
    if rewrite is not None:
        replaced = rewrite(emitter, value, arguments)
        if replaced is not None:
            return replaced
    return emitter(relax.Call(value.op, arguments, value.attrs, value.ty_args, value.span))


def _result(expr: Any, environment: Mapping[Any, Any]) -> Any:
    """An expression, or a Python tuple of results where it is a tuple."""
    if isinstance(expr, tvm.ir.Var):
        return environment[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(_result(f, environment) for f in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        parts = _result(expr.tuple_value, environment)
        return parts[expr.index] if isinstance(parts, tuple) else relax.TupleGetItem(parts, expr.index)
    return expr


def _argument(expr: Any, environment: Mapping[Any, Any]) -> Expr:
    return _expression(_result(expr, environment))


def _expression(value: Any) -> Expr:
    return relax.Tuple([_expression(v) for v in value]) if isinstance(value, tuple) else value


def build_function(parameters: Sequence[Any], body: Callable[[Emitter], Sequence[Expr]]) -> Any:
    """A module whose ``main`` has the given parameters and one dataflow block written by ``body``, which gives the results."""
    builder = relax.BlockBuilder()
    with builder.function("main", list(parameters)):
        with builder.dataflow():
            results = [builder.emit_output(r) for r in body(Emitter(builder))]
        builder.emit_func_output(relax.Tuple(results))
    return builder.get()
