"""The terms of a product, on floats (one fma each) and on integers (which wrap)."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from gensyn_tvm.operators import elementwise as ew
from gensyn_tvm.operators import exact

Expr = Any


def _constant(value: float, dtype: str) -> Expr:
    return exact.const(value, dtype) if dtype.startswith("float") else tirx.IntImm(dtype, int(value))


def zero(dtype: str) -> Expr:
    """+0.0, or the integer 0: what stands in the padding, and the sum of nothing."""
    return _constant(0.0, dtype)


def start(dtype: str) -> Expr:
    """-0.0, or the integer 0: the sum before its first term."""
    return _constant(-0.0, dtype)


def multiply_add(a: Expr, b: Expr, accumulator: Expr) -> Expr:
    """a * b + accumulator with one rounding, or wrapping."""
    return exact.fma(a, b, accumulator) if ew.is_float(a) else exact.wrap_add(exact.wrap_mul(a, b), accumulator)


add = ew.add
