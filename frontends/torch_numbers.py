"""Elementwise ATen operators beyond the common ones: quotients, powers, bits, predicates and further functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gensyn_tvm.canonical.types import FLOATS, INTEGERS
from gensyn_tvm.frontends import blocks, division
from gensyn_tvm.frontends.emit import Expr, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import (
    Arguments,
    Converter,
    convert_common,
    convert_logical,
    in_float32,
)

# ---- quotients ------------------------------------------------------------------------------------------------------


def convert_div_mode(e: FoldingEmitter, a: Arguments) -> Expr:
    x, y = convert_common(e, a, a.out_dtype)
    mode = getattr(a, "rounding_mode", "floor")
    if mode is None:
        return e.div(x, y)
    return (division.floor_quotient if mode == "floor" else division.trunc_quotient)(e, x, y)


def convert_remainder(sign_of_x: bool) -> Converter:
    """``fmod`` has the sign of the dividend, ``remainder`` that of the divisor."""
    return lambda e, a: division.remainder(e, *convert_common(e, a, a.out_dtype), sign_of_x=sign_of_x)


def convert_trunc(e: FoldingEmitter, a: Arguments) -> Expr:
    return a.self if dtype_of(a.self) in INTEGERS else division.truncated(e, a.self)


def convert_rounding(function: Callable[[Expr], Expr]) -> Converter:
    """floor, ceil, round; integers are whole already."""
    return lambda e, a: a.self if dtype_of(a.self) in INTEGERS else e(function(a.self))


def convert_round_decimals(e: FoldingEmitter, a: Arguments) -> Expr:
    """round(x * 10^n) / 10^n, or with products and quotients exchanged for n < 0"""
    scale = 10.0 ** abs(a.decimals)
    if a.decimals >= 0:
        return e.div(e(op.round(e.mul(a.self, scale))), scale)
    return e.mul(e(op.round(e.div(a.self, scale))), scale)


# ---- powers ---------------------------------------------------------------------------------------------------------


def _is_simple(exponent: float) -> bool:
    """Whether the power is few products or a square root."""
    return abs(exponent) == 0.5 or (float(exponent).is_integer() and abs(exponent) <= 64)


def convert_power(e: FoldingEmitter, a: Arguments) -> Expr:
    """Small whole and half exponents of floats as products and roots, others as ``pow``."""
    base, exponent = a.self, a.exponent
    if isinstance(exponent, int | float) and a.out_dtype in FLOATS and _is_simple(exponent):
        return blocks.power(e, e.cast(base, a.out_dtype), exponent)
    whole = isinstance(exponent, int) and a.out_dtype in INTEGERS and not isinstance(exponent, bool)
    if whole and 0 < exponent <= 64:
        return blocks.power(e, base, exponent)
    common = a.out_dtype if a.out_dtype in (*FLOATS, "int32", "int64") else "int64"
    x, y = (number(v, common) if isinstance(v, bool | int | float) else e.cast(v, common) for v in (base, exponent))
    return e.cast(e.canonical("pow", x, y), a.out_dtype)


# ---- bits -----------------------------------------------------------------------------------------------------------


def convert_bits(name: str, logical: Callable[[Expr, Expr], Expr]) -> Converter:
    """Of bools a logical operator, of integers the canonical one."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        if a.out_dtype == "bool":
            return convert_logical(logical)(e, a)
        return e.canonical(name, *convert_common(e, a, a.out_dtype))

    return convert


def convert_bit_not(e: FoldingEmitter, a: Arguments) -> Expr:
    return e(op.logical_not(a.self)) if a.out_dtype == "bool" else e.canonical("bit_not", a.self)


def convert_shift(name: str) -> Converter:
    return lambda e, a: e.canonical(name, *convert_common(e, a, a.out_dtype))


# ---- predicates, signs ----------------------------------------------------------------------------------------------


def convert_predicate(function: Callable[[Expr], Expr], of_integers: bool) -> Converter:
    """isnan, isinf, isfinite; integers are finite numbers."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        if dtype_of(a.self) in INTEGERS or dtype_of(a.self) == "bool":
            return e.full(shape_of(a.self), of_integers, "bool")
        return e(function(a.self))

    return convert


def convert_sign(e: FoldingEmitter, a: Arguments) -> Expr:
    """x > 0 ? 1 : (x < 0 ? -1 : 0), of NaN 0, too."""
    dtype = dtype_of(a.self)
    if dtype == "bool":
        return a.self
    zero = number(0, dtype)
    negative = zero if dtype.startswith("u") else e.where(e(op.less(a.self, zero)), number(-1, dtype), zero)
    return e.where(e(op.greater(a.self, zero)), number(1, dtype), negative)


def convert_nan_to_num(e: FoldingEmitter, a: Arguments) -> Expr:
    """NaN and infinities replaced, by default by 0 and the largest finite values."""
    x, dtype = a.self, dtype_of(a.self)
    if dtype not in FLOATS:
        return x
    largest = float.fromhex("0x1.fffffep127" if dtype == "float32" else "0x1.fffffffffffffp1023")
    high, low = (largest if a.posinf is None else a.posinf), (-largest if a.neginf is None else a.neginf)
    y = e.where(e(op.equal(x, number(math.inf, dtype))), number(high, dtype), x)
    y = e.where(e(op.equal(x, number(-math.inf, dtype))), number(low, dtype), y)
    return e.where(e(op.isnan(x)), number(0.0 if a.nan is None else a.nan, dtype), y)


# ---- functions ------------------------------------------------------------------------------------------------------


def convert_function(name: str) -> Converter:
    """A correctly rounded function of float32."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x = e.cast(a.self, a.out_dtype)
        if a.out_dtype != "float32":
            raise e.refuse(f"an input of {a.out_dtype}", expected="float32")
        return e.canonical(name, x)

    return in_float32(convert)


def convert_atan2(e: FoldingEmitter, a: Arguments) -> Expr:
    """atan(y / x), moved by pi into the quadrant; of zeros and infinities as C defines it, except the sign of a zero x."""
    y, x = convert_common(e, a, a.out_dtype)
    zero = number(0, a.out_dtype)
    infinite = e(op.logical_and(e(op.isinf(y)), e(op.isinf(x))))
    both_zero = e(op.logical_and(e(op.equal(y, zero)), e(op.equal(x, zero))))
    ratio = e.where(infinite, e.mul(e(op.sign(y)), e(op.sign(x))), e.where(both_zero, y, e.div(y, x)))
    angle = e(op.atan(ratio))
    turn = e.where(e(op.less(y, zero)), number(-math.pi, a.out_dtype), number(math.pi, a.out_dtype))
    return e.where(e(op.less(x, zero)), e.add(angle, turn), angle)


def convert_log_sigmoid(e: FoldingEmitter, a: Arguments) -> Expr:
    """-(softplus(-x))"""
    return e(op.negative(blocks.softplus(e, e(op.negative(a.self)), 1.0, math.inf)))


def convert_log_sigmoid_forward(e: FoldingEmitter, a: Arguments) -> Any:
    return [convert_log_sigmoid(e, a), None]


def convert_glu(e: FoldingEmitter, a: Arguments) -> Expr:
    """first half * sigmoid(second half)"""
    axis = a.dim % rank_of(a.self)
    half = shape_of(a.self)[axis] // 2
    first, second = e.slice(a.self, axis, 0, half), e.slice(a.self, axis, half, 2 * half)
    return e.mul(first, e(op.sigmoid(second)))


def convert_shrink(soft: bool) -> Converter:
    """|x| <= lambd ? 0 : x, moved towards 0 by lambd if ``soft``."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x, limit = a.self, a.lambd
        above, below = (
            e(op.greater(x, number(limit, dtype_of(x)))),
            e(op.less(x, number(-limit, dtype_of(x)))),
        )
        low = e.where(below, e.add(x, limit) if soft else x, 0.0)
        return e.where(above, e.sub(x, limit) if soft else x, low)

    return convert


def convert_threshold(e: FoldingEmitter, a: Arguments) -> Expr:
    """x > threshold ? x : value"""
    return e.where(e(op.greater(a.self, number(a.threshold, dtype_of(a.self)))), a.self, number(a.value, dtype_of(a.self)))


def convert_lerp(e: FoldingEmitter, a: Arguments) -> Expr:
    """start + weight * (end - start)"""
    return e.add(a.self, e.mul(e.sub(a.end, a.self), a.weight))


def convert_addc(quotient: bool) -> Converter:
    """self + value * (tensor1 * tensor2), or of the quotient"""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x, y, z = (e.cast(v, a.out_dtype) for v in (a.self, a.tensor1, a.tensor2))
        term = e.div(y, z) if quotient else e.mul(y, z)
        return e.add(x, term if a.value == 1 else e.mul(term, a.value))

    return convert


NUMBERS: dict[str, Converter] = {
    "div.Tensor_mode": convert_div_mode,
    "div.Scalar_mode": convert_div_mode,
    **{f"floor_divide.{k}": convert_div_mode for k in ("default", "Scalar")},
    **{f"remainder.{k}": convert_remainder(False) for k in ("Tensor", "Scalar")},
    **{f"fmod.{k}": convert_remainder(True) for k in ("Tensor", "Scalar")},
    "trunc.default": convert_trunc,
    "fix.default": convert_trunc,
    "floor.default": convert_rounding(op.floor),
    "ceil.default": convert_rounding(op.ceil),
    "round.default": convert_rounding(op.round),
    "round.decimals": convert_round_decimals,
    **{f"pow.{k}": convert_power for k in ("Tensor_Scalar", "Tensor_Tensor", "Scalar")},
    **{f"{n}.{k}": convert_bits("bit_and", op.logical_and) for n in ("bitwise_and", "__and__") for k in ("Tensor", "Scalar")},
    **{f"{n}.{k}": convert_bits("bit_or", op.logical_or) for n in ("bitwise_or", "__or__") for k in ("Tensor", "Scalar")},
    **{f"{n}.{k}": convert_bits("bit_xor", op.not_equal) for n in ("bitwise_xor", "__xor__") for k in ("Tensor", "Scalar")},
    "bitwise_not.default": convert_bit_not,
    "logical_xor.default": lambda e, a: e(op.not_equal(*convert_common(e, a, "bool"))),
    **{f"bitwise_left_shift.{k}": convert_shift("shift_left") for k in ("Tensor", "Tensor_Scalar")},
    **{f"bitwise_right_shift.{k}": convert_shift("shift_right") for k in ("Tensor", "Tensor_Scalar")},
    **{f"__lshift__.{k}": convert_shift("shift_left") for k in ("Tensor", "Scalar")},
    **{f"__rshift__.{k}": convert_shift("shift_right") for k in ("Tensor", "Scalar")},
    "isnan.default": convert_predicate(op.isnan, False),
    "isinf.default": convert_predicate(op.isinf, False),
    "isfinite.default": convert_predicate(op.isfinite, True),
    "sign.default": convert_sign,
    "sgn.default": convert_sign,
    "nan_to_num.default": convert_nan_to_num,
    **{f"{n}.default": convert_function(n) for n in ("expm1", "log1p", "exp2", "log2", "log10", "erfc")},
    "atan2.default": convert_atan2,
    "log_sigmoid.default": convert_log_sigmoid,
    "log_sigmoid_forward.default": convert_log_sigmoid_forward,
    "glu.default": convert_glu,
    "hardshrink.default": convert_shrink(False),
    "softshrink.default": convert_shrink(True),
    "threshold.default": convert_threshold,
    **{f"lerp.{k}": convert_lerp for k in ("Scalar", "Tensor")},
    "addcmul.default": convert_addc(False),
    "addcdiv.default": convert_addc(True),
}
