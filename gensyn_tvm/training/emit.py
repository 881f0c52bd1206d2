"""Writing and rewriting Relax functions; the name of a binding's variable is its place in the user's model."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.canonical.types import NARROW

Expr = Any
op = relax.op

_TEMPORARY = re.compile(r"[lg]v\d*")

#: Given the emitter, a call and its rewritten arguments: what stands for the call, or None to keep it.
Rewrite = Callable[["Emitter", Any, Sequence[Expr]], Any]


def shape_of(expr: Expr) -> list[int]:
    """Extents of a tensor expression of static shape."""
    return [int(extent) for extent in expr.ty.shape]


def dtype_of(expr: Expr) -> str:
    """Dtype name of a tensor expression."""
    return str(expr.ty.dtype.dtype)


def number(value: bool | int | float | Sequence[int], dtype: str) -> Expr:
    """A scalar constant (or a row of them); a float32 is the double ``value`` rounded to nearest."""
    return constant(np.array(value, dtype=dtype))


def constant(array: np.ndarray) -> Expr:
    """A tensor constant with the array's own dtype; of a narrow one (which TVM cannot hold) a ``constant`` operator."""
    if array.dtype.name in NARROW:
        data = base64.b64encode(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()).decode("ascii")
        return canonical("constant", dtype=array.dtype.name, shape=tuple(array.shape), data=data)
    return relax.const(np.ascontiguousarray(array).reshape(array.shape), str(array.dtype))


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


def inline(
    emitter: Emitter,
    function: Any,
    arguments: Sequence[Expr],
    rewrite: Rewrite | None = None,
    environment: dict[Any, Any] | None = None,
) -> Any:
    """Append the bindings of ``function`` applied to ``arguments`` and return its result, a nested tuple of expressions.

    ``environment`` receives what stands for each variable of the function.
    """
    environment = {} if environment is None else environment
    environment.update(zip(function.params, arguments, strict=True))
    places = _places(function)
    for block in function.body.blocks:
        for binding in block.bindings:
            emitter.place = places[binding.var]
            environment[binding.var] = _emit(emitter, binding.value, environment, rewrite)
    return _result(function.body.body, environment)


def _places(function: Any) -> dict[Any, str]:
    """Names of all bound variables; temporaries are called after what they are for."""
    places: dict[Any, str] = {}
    name = "gradient"
    for block in reversed(list(function.body.blocks)):
        for binding in reversed(list(block.bindings)):
            own = str(binding.var.name)
            name = name if _TEMPORARY.fullmatch(own) else own
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


def build_function(parameters: Sequence[Any], body: Callable[[Emitter], Sequence[Any]]) -> Any:
    """A module whose ``main`` has the given parameters and one dataflow block written by ``body``, which gives the results:
    expressions or (nested) sequences of them."""
    builder = relax.BlockBuilder()

    def outputs(results: Sequence[Any]) -> Any:
        return relax.Tuple([outputs(r) if isinstance(r, list | tuple) else builder.emit_output(r) for r in results])

    with builder.function("main", list(parameters)):
        with builder.dataflow():
            results = outputs(body(Emitter(builder)))
        builder.emit_func_output(results)
    return builder.get()
