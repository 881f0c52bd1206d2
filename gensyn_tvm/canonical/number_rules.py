"""Type rules of conversions between number formats, of bit operations and of integer division."""

from __future__ import annotations

from gensyn_tvm.canonical import tensor_rules as t
from gensyn_tvm.canonical.rule_basics import Attrs, Rule, Types, arity, need, show
from gensyn_tvm.canonical.types import DTYPES, FLOATS, INTEGERS, NARROW, NARROW_FLOATS, TensorType


def cast_saturating(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """A float to a narrow float."""
    arity(inputs, 1)
    need(inputs[0].dtype in (*FLOATS, *NARROW_FLOATS), show(inputs), "a float")
    need(attrs["dtype"] in NARROW_FLOATS, attrs["dtype"], f"dtype in {tuple(NARROW_FLOATS)}")
    return (TensorType(inputs[0].shape, attrs["dtype"]),)


def bits_of(dtype: str) -> int:
    """Width of an element in bits; a bool has 8."""
    return NARROW[dtype] if dtype in NARROW else 8 * TensorType((), dtype).numpy_dtype().itemsize


def bitcast(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The same bits as another dtype of equal width."""
    arity(inputs, 1)
    dtype = attrs["dtype"]
    need(dtype in DTYPES and dtype != "bool", dtype, "a dtype other than bool")
    need(bits_of(dtype) == bits_of(inputs[0].dtype), f"{show(inputs)} to {dtype}", "dtypes of equal width")
    return (TensorType(inputs[0].shape, dtype),)


RULES: dict[str, Rule] = {
    "cast_saturating": cast_saturating,
    "bitcast": bitcast,
    "rem": t.binary(INTEGERS),
    "bit_and": t.binary(INTEGERS),
    "bit_or": t.binary(INTEGERS),
    "bit_xor": t.binary(INTEGERS),
    "bit_not": t.unary(INTEGERS),
    "shift_left": t.binary(INTEGERS),
    "shift_right": t.binary(INTEGERS),
}

ATTRIBUTES: dict[str, set[str]] = {"cast_saturating": {"dtype"}, "bitcast": {"dtype"}}
