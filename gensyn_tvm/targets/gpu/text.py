"""Scalar expressions of TIR as text of CUDA C++ or OpenCL C.

TVM prints the kernels; this prints the functions that they call, where every conversion must be the one that is meant:
integers wrap (arithmetic is done on unsigned numbers), results of 8 and 16 bits are cut to their type after each operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

from gensyn_tvm.operators import exact

Expr = Any

_TYPES: dict[str, dict[str, str]] = {
    "cuda": {
        **{"float32": "float", "float64": "double", "bool": "bool"},
        **{"int8": "signed char", "int16": "short", "int32": "int", "int64": "long long"},
        **{"uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long"},
    },
    "opencl": {
        **{"float32": "float", "float64": "double", "bool": "bool"},
        **{"int8": "char", "int16": "short", "int32": "int", "int64": "long"},
        **{"uint8": "uchar", "uint16": "ushort", "uint32": "uint", "uint64": "ulong"},
    },
}

_CUDA_AS = {
    ("float32", "int32"): "__float_as_int",
    ("float32", "uint32"): "__float_as_uint",
    ("int32", "float32"): "__int_as_float",
    ("uint32", "float32"): "__uint_as_float",
    ("float64", "int64"): "__double_as_longlong",
    ("int64", "float64"): "__longlong_as_double",
}

_WRAPPING = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*", tirx.LShift: "<<"}
_DIVIDING = {tirx.Div: "/", tirx.Mod: "%"}
_EXTREMA = {tirx.Min: "<", tirx.Max: ">"}
_TRUTH = {tirx.And: "&&", tirx.Or: "||"}
_COMPARING = {tirx.EQ: "==", tirx.NE: "!=", tirx.LT: "<", tirx.LE: "<=", tirx.GT: ">", tirx.GE: ">="}
_CUT = {**_DIVIDING, tirx.BitwiseAnd: "&", tirx.BitwiseOr: "|", tirx.BitwiseXor: "^", tirx.RShift: ">>"}


def type_text(kind: str, dtype: str) -> str:
    """The name of a type."""
    return _TYPES[kind][dtype]


def bits_of(dtype: str) -> int:
    """Width of an integer or float type."""
    return int(re.sub(r"\D", "", dtype))


def unsigned_of(dtype: str) -> str:
    """The unsigned integer type in which arithmetic of an integer type wraps."""
    return "uint64" if bits_of(dtype) == 64 else "uint32"


def reinterpreted(kind: str, source: str, target: str, value: str) -> str:
    """``value`` of type ``source`` as the same bits of type ``target``."""
    if source == target:
        return value
    if not (source + target).count("float"):
        return f"(({type_text(kind, target)}){value})"
    if kind == "opencl":
        return f"as_{type_text(kind, target)}({value})"
    if (source, target) not in _CUDA_AS:  # by way of the signed integer
        middle = (source if source.startswith("float") else target).replace("float", "int")
        return reinterpreted(kind, middle, target, reinterpreted(kind, source, middle, value))
    return f"{_CUDA_AS[source, target]}({value})"


def wrapped(kind: str, dtype: str, operation: str, a: str, b: str) -> str:
    """Addition, subtraction, multiplication or left shift of integers modulo 2 to the width."""
    wide = type_text(kind, unsigned_of(dtype))
    return f"(({type_text(kind, dtype)})(({wide}){a} {operation} ({wide}){b}))"


class Printer:
    """Prints the expressions of one function.

    Attributes:
        call: text of a call of an exact operator, given the call and the texts of its arguments.
        statements: declarations of what the expressions bind, in order.
    """

    def __init__(self, kind: str, call: Callable[[Any, list[str]], str]) -> None:
        self.kind = kind
        self.call = call
        self.statements: list[str] = []
        self.names: dict[Any, str] = {}

    def bind(self, variable: Any, name: str) -> None:
        """Give a variable a name."""
        self.names[variable] = name

    def text(self, expr: Expr) -> str:
        """An expression; what it binds becomes statements."""
        dtype = exact.dtype_of(expr)
        if isinstance(expr, tirx.Let):
            self.bind(expr.var, self._named(expr.value))
            return self.text(expr.body)
        if isinstance(expr, tirx.Var):
            return self.names[expr]
        if isinstance(expr, tirx.IntImm):
            return self._integer(int(expr.value), dtype)
        if isinstance(expr, tirx.Cast):
            return self._narrow(dtype, self.text(expr.value))
        if isinstance(expr, tirx.Select):
            parts = (self.text(e) for e in (expr.condition, expr.true_value, expr.false_value))
            return "({} ? {} : {})".format(*parts)
        if isinstance(expr, tirx.Not):
            return f"(!{self.text(expr.a)})"
        if isinstance(expr, tirx.BitwiseNot):
            return self._narrow(dtype, f"~{self.text(expr.a)}")
        if isinstance(expr, tvm.ir.Call):
            return self._call(expr, dtype)
        return self._binary(expr, dtype)

    def _named(self, expr: Expr) -> str:
        """The name of a value, by a declaration."""
        value = self.text(expr)
        name = f"v{len(self.statements)}"
        self.statements.append(f"const {type_text(self.kind, exact.dtype_of(expr))} {name} = {value};")
        return name

    def _binary(self, expr: Expr, dtype: str) -> str:
        kind = type(expr)
        if kind in _EXTREMA:
            a, b = self._named(expr.a), self._named(expr.b)
            return f"({a} {_EXTREMA[kind]} {b} ? {a} : {b})"
        a, b = self.text(expr.a), self.text(expr.b)
        if kind in _WRAPPING and not dtype.startswith("float"):
            return wrapped(self.kind, dtype, _WRAPPING[kind], a, b)
        if kind in _CUT and not dtype.startswith("float"):
            return self._narrow(dtype, f"{a} {_CUT[kind]} {b}")
        symbol = {**_TRUTH, **_COMPARING}.get(kind)
        if symbol is None:
            raise TypeError(f"an expression that has no text: {expr}")
        return f"({a} {symbol} {b})"

    def _call(self, expr: Any, dtype: str) -> str:
        name = str(expr.op.name)
        args = [self.text(a) for a in expr.args]
        if name.startswith(exact.PREFIX):
            return self.call(expr, args)
        name = name.split(".")[-1]
        if name == "reinterpret":
            return reinterpreted(self.kind, exact.dtype_of(expr.args[0]), dtype, args[0])
        raise TypeError(f"a call that has no text: {expr}")

    def _narrow(self, dtype: str, text: str) -> str:
        return f"(({type_text(self.kind, dtype)})({text}))"

    def _integer(self, value: int, dtype: str) -> str:
        if dtype == "bool":
            return "true" if value else "false"
        return f"({type_text(self.kind, dtype)})0x{value % 2**64:x}u{'l' if self.kind == 'opencl' else 'll'}"
