"""Elementwise operators: one exact expression for each output element, with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact, numbers
from gensyn_tvm.operators.nest import i64, kernel, load

Expr = Any
Attrs = Mapping[str, Any]


def is_float(x: Expr) -> bool:
    """Whether a TIR expression is a float."""
    return exact.element_of(exact.dtype_of(x)).startswith("float")


def _int(like: Expr, value: int) -> Expr:
    return tirx.IntImm(exact.dtype_of(like), value)


def add(a: Expr, b: Expr) -> Expr:
    """Float sum, or wrapping integer sum."""
    return exact.add(a, b) if is_float(a) else exact.wrap_add(a, b)


def sub(a: Expr, b: Expr) -> Expr:
    """Float or wrapping integer difference."""
    return exact.sub(a, b) if is_float(a) else exact.wrap_sub(a, b)


def mul(a: Expr, b: Expr) -> Expr:
    """Float or wrapping integer product."""
    return exact.mul(a, b) if is_float(a) else exact.wrap_mul(a, b)


def div(a: Expr, b: Expr) -> Expr:
    """Float quotient, or integer quotient truncated toward zero."""
    return exact.div(a, b) if is_float(a) else exact.int_div(a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    """``maximum`` of docs/numerics.md."""
    return exact.maximum(a, b) if is_float(a) else tirx.Max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """``minimum`` of docs/numerics.md."""
    return exact.minimum(a, b) if is_float(a) else tirx.Min(a, b)


def equal(a: Expr, b: Expr) -> Expr:
    """Equality; on floats NaN is not equal to itself and the zeros are equal."""
    if exact.element_of(exact.dtype_of(a)) == "bool":  # LLVM code for EQ would compare floats
        return tirx.Or(tirx.And(a, b), tirx.And(tirx.Not(a), tirx.Not(b)))
    return exact.eq(a, b) if is_float(a) else tirx.EQ(a, b)


def not_equal(a: Expr, b: Expr) -> Expr:
    """Negation of ``equal``."""
    if exact.element_of(exact.dtype_of(a)) == "bool":
        return tirx.Or(tirx.And(a, tirx.Not(b)), tirx.And(tirx.Not(a), b))
    return exact.ne(a, b) if is_float(a) else tirx.NE(a, b)


def less(a: Expr, b: Expr) -> Expr:
    """a < b."""
    return exact.lt(a, b) if is_float(a) else tirx.LT(a, b)


def less_equal(a: Expr, b: Expr) -> Expr:
    """a <= b."""
    return exact.le(a, b) if is_float(a) else tirx.LE(a, b)


def neg(a: Expr) -> Expr:
    """Sign flip of floats, wrapping 0 - a of integers."""
    return exact.neg(a) if is_float(a) else exact.wrap_sub(_int(a, 0), a)


def absolute(a: Expr) -> Expr:
    """Magnitude; wraps for the smallest integer."""
    return exact.absolute(a) if is_float(a) else exact.select(tirx.LT(a, _int(a, 0)), neg(a), a)


def sign(a: Expr) -> Expr:
    """1, -1, or the zero or NaN itself."""
    dtype = exact.dtype_of(a)
    zero, one, minus = (exact.const(v, dtype) for v in (0.0, 1.0, -1.0))
    return exact.select(exact.gt(a, zero), one, exact.select(exact.lt(a, zero), minus, a))


SCALAR: dict[str, Callable[..., Expr]] = {
    "neg": neg,
    "abs": absolute,
    "sqrt": exact.sqrt,
    "floor": exact.floor,
    "ceil": exact.ceil,
    "round": exact.round_even,
    "sign": sign,
    **{name: (lambda a, name=name: exact.elementary(name, a)) for name in exact.ELEMENTARY},
    **{name: (lambda a, b, name=name: exact.elementary_binary(name, a, b)) for name in exact.ELEMENTARY_BINARY},
    "is_nan": exact.is_nan,
    "logical_not": tirx.Not,
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    **numbers.SCALAR,
    "maximum": maximum,
    "minimum": minimum,
    "equal": equal,
    "not_equal": not_equal,
    "less": less,
    "less_equal": less_equal,
    "greater": lambda a, b: less(b, a),
    "greater_equal": lambda a, b: less_equal(b, a),
    "logical_and": tirx.And,
    "logical_or": tirx.Or,
    "where": exact.select,
}


def broadcast_index(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """Position in an operand of ``shape`` for an index of the broadcast result."""
    tail = list(index)[len(index) - len(shape) :] if shape else []
    return [i64(0) if extent == 1 else position for position, extent in zip(tail, shape, strict=True)]


def elementwise(op: str) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of the variant of ``op``."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        with kernel(name, inputs, output) as k:

            def value(index: Sequence[Expr]) -> Expr:
                return SCALAR[op](*(load(b, broadcast_index(index, t.shape)) for b, t in zip(k.inputs, inputs, strict=True)))

            k.stage("map", k.output, output.shape, value)
        return k.result()

    return build
