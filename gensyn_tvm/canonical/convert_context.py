"""What a converter from Relax to canonical operators works with.

A converter is ``converter(ctx, call, args)``: the Relax call, and for each of its arguments the number of a canonical
value, a tuple of them, or None (shapes, integers and the like, which are read from ``call``). It returns a value number or
a tuple of them. Nothing here or in the ``convert_*`` modules imports TVM.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.errors import UnsupportedOperatorError

Value = Any
Converter = Callable[["Context", Any, Sequence[Value]], Value]


def integer(expr: Any) -> int:
    """The value of an integer immediate or a Python integer; ValueError for a symbolic expression."""
    value = getattr(expr, "value", expr)
    if not isinstance(value, int):
        raise ValueError(f"{expr} is not a constant integer")
    return int(value)


def integers(expr: Any) -> tuple[int, ...]:
    """The integers of a shape, a tuple expression or an array of immediates."""
    for name in ("values", "fields"):
        if hasattr(expr, name):
            expr = getattr(expr, name)
            break
    return tuple(integer(e) for e in expr)


def type_of(expr: Any) -> TensorType:
    """The canonical type of a Relax tensor expression.

    Raises:
        ValueError: it is no tensor, or its shape is unknown or symbolic.
        InvalidProgramError: a dtype that canonical graphs do not have.
    """
    shape = getattr(expr.ty, "shape", None)
    if shape is None:
        raise ValueError(f"{expr.ty} is not a tensor of known shape")
    return TensorType(integers(shape), str(expr.ty.dtype.dtype))


class Context:
    """Emits canonical nodes.

    Attributes:
        builder: the graph under construction.
        operator: the Relax operator being converted, for messages.
        place: where in the user's model it comes from.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self.operator = ""
        self.place = ""
        self._constants: dict[int, np.ndarray] = {}

    def refuse(self, found: str, *, expected: str = "", remedy: str = "") -> UnsupportedOperatorError:
        """The error for the operator being converted."""
        return UnsupportedOperatorError(self.operator, where=self.place, found=found, expected=expected, remedy=remedy)

    # ---- values

    def type(self, value: int) -> TensorType:
        """Type of a value."""
        return self.builder.types[value]

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.builder.types[value].shape

    def axes(self, axes: Any, rank: int) -> tuple[int, ...]:
        """Ascending axes from an attribute: None means all, negative ones count from the end."""
        if axes is None:
            return tuple(range(rank))
        listed = [axes] if isinstance(axes, int) or hasattr(axes, "value") else list(axes)
        return tuple(sorted({integer(a) % rank for a in listed}))

    def array(self, values: np.ndarray) -> int:
        """A constant tensor."""
        little = np.array(values, order="C").astype(values.dtype.newbyteorder("<"))
        data = base64.b64encode(little.tobytes()).decode("ascii")
        number = self.emit("constant", dtype=values.dtype.name, shape=tuple(values.shape), data=data)
        self._constants[number] = values
        return number

    def stored_constant(self, attrs: Mapping[str, Any]) -> int:
        """A constant from the attributes of a ``constant`` node."""
        number = self.emit("constant", **attrs)
        dtype = self.type(number).numpy_dtype()
        self._constants[number] = np.frombuffer(base64.b64decode(attrs["data"]), dtype).reshape(self.shape(number))
        return number

    def number(self, value: float | int | bool, like: int) -> int:
        """A scalar constant of the dtype of ``like``: for float32 the double ``value`` rounded to nearest."""
        return self.scalar(value, self.type(like).dtype)

    def scalar(self, value: float | int | bool, dtype: str) -> int:
        """A scalar constant; a float32 is the double ``value`` rounded to nearest."""
        if dtype not in FLOATS and dtype != "bool" and int(value) != value:
            raise self.refuse(f"the number {value} beside a tensor of {dtype}", expected="an integer")
        source = np.float64 if dtype in FLOATS else None
        with np.errstate(over="ignore"):
            return self.array(np.array(value, dtype=source).astype(dtype))

    def constant(self, value: Value) -> np.ndarray | None:
        """The array behind a constant value, None for anything that is computed."""
        return self._constants.get(value) if isinstance(value, int) else None

    # ---- operators

    def emit(self, op: str, *inputs: int, **attrs: Any) -> int:
        """One canonical node."""
        return self.builder.emit(op, *inputs, **attrs)

    def add(self, a: int, b: int) -> int:
        """a + b"""
        return self.emit("add", a, b)

    def sub(self, a: int, b: int) -> int:
        """a - b"""
        return self.emit("sub", a, b)

    def mul(self, a: int, b: int) -> int:
        """a * b"""
        return self.emit("mul", a, b)

    def div(self, a: int, b: int) -> int:
        """a / b"""
        return self.emit("div", a, b)

    def where(self, condition: int, a: int, b: int) -> int:
        """condition ? a : b"""
        return self.emit("where", condition, a, b)

    def cast(self, x: int, dtype: str) -> int:
        """x as ``dtype``; x itself if it is that already."""
        return x if self.type(x).dtype == dtype else self.emit("cast", x, dtype=dtype)

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        """x with another shape; x itself if it has it already."""
        return x if self.shape(x) == tuple(shape) else self.emit("reshape", x, shape=tuple(shape))

    def transpose(self, x: int, perm: Sequence[int]) -> int:
        """x with its axes permuted; x itself for the identity."""
        return x if list(perm) == list(range(len(perm))) else self.emit("transpose", x, perm=tuple(perm))

    def broadcast(self, x: int, shape: Sequence[int]) -> int:
        """x broadcast to a shape; x itself if it has it already."""
        return x if self.shape(x) == tuple(shape) else self.emit("broadcast_to", x, shape=tuple(shape))

    def sum(self, x: int, axes: Sequence[int], *, keepdims: bool) -> int:
        """Sum over ascending axes."""
        return self.emit("sum", x, axes=tuple(axes), keepdims=keepdims)

    def mean(self, x: int, axes: Sequence[int], *, keepdims: bool) -> int:
        """Sum over ascending axes, divided by the exact count."""
        count = int(np.prod([self.shape(x)[a] for a in axes], dtype=np.int64))
        if not self.type(x).is_float:
            raise self.refuse(f"a mean of {self.type(x)}", expected="float32 or float64", remedy="cast to float32 first")
        return self.div(self.sum(x, axes, keepdims=keepdims), self.number(count, x))

    def slice(self, x: int, axis: int, start: int, stop: int, stride: int = 1) -> int:
        """x[start:stop:stride] along one axis."""
        shape = self.shape(x)
        starts = tuple(start if a == axis else 0 for a in range(len(shape)))
        limits = tuple(stop if a == axis else n for a, n in enumerate(shape))
        strides = tuple(stride if a == axis else 1 for a in range(len(shape)))
        return self.emit("slice", x, starts=starts, limits=limits, strides=strides)

    def iota(self, shape: Sequence[int], axis: int, dtype: str) -> int:
        """The index along an axis."""
        return self.emit("iota", dtype=dtype, shape=tuple(shape), axis=axis)


def attributes(call: Any) -> Mapping[str, Any]:
    """Attributes of one of our own Relax operators as Python values."""
    return {str(k): _python(v) for k, v in call.attrs.items()}


def _python(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "value"):
        return value.value
    return tuple(_python(v) for v in value)
