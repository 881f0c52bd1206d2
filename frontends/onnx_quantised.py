"""ONNX's quantised operators: integer products are exact in int32 (they wrap), scales are applied in float32.

quantise(v, zero point z, dtype): integers cast(round(v) + z), the cast saturating; floats cast(v + z), limited to the dtype's
largest values first if it saturates. Rounding is to nearest, ties to even; NaN becomes 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from gensyn_tvm.canonical.types import INTEGERS, NARROW_FLOATS, NARROW_INTEGERS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant_of, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, optional
from gensyn_tvm.frontends.onnx_reader import element_type
from gensyn_tvm.frontends.onnx_windows import Window


def _is_integer(dtype: str) -> bool:
    return dtype in INTEGERS or dtype in NARROW_INTEGERS


def _is_zero(zero: Expr | None) -> bool:
    """Whether a zero point is left out or constant zeros."""
    array = None if zero is None else constant_of(zero)
    return zero is None or (array is not None and not array.any())


def _range(dtype: str) -> tuple[int, int]:
    info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def _quantise(e: Emitter, v: Expr, zero: Expr | None, dtype: str, *, saturate: bool = True) -> Expr:
    """The float32 v as ``dtype``."""
    integer = _is_integer(dtype)
    v = e(op.round(v)) if integer else v
    if not _is_zero(zero):
        v = e.add(v, e.cast(zero, "float32"))
    if dtype in NARROW_INTEGERS:
        low, high = _range(dtype)
        v = e.clip(v, float(low), float(high))
    elif dtype in NARROW_FLOATS and saturate:
        largest = float(ml_dtypes.finfo(dtype).max)
        v = e.clip(v, -largest, largest)
    elif dtype in NARROW_FLOATS and dtype == "float4_e2m1fn":
        raise e.refuse("saturate=0 to float4", expected="1: it has no infinity and no NaN")
    return e.cast(v, dtype)


def _spread(e: Emitter, parameter: Expr | None, x: Expr, a: Attributes) -> Expr | None:
    """A scale or zero point beside x: one number, one for each index of an axis, or one for each block along it."""
    if parameter is None or (int(np.prod(shape_of(parameter), dtype=np.int64)) == 1 and rank_of(parameter) <= 1):
        return None if parameter is None else e.reshape(parameter, [])
    axis, shape, block = convert_axis(a.get("axis", 1), rank_of(x)), shape_of(x), int(a.get("block_size", 0))
    if rank_of(parameter) == 1 and not block:
        return e.reshape(parameter, [d if k == axis else 1 for k, d in enumerate(shape)])
    if not block or rank_of(parameter) != len(shape):
        raise e.refuse(f"a scale of shape {tuple(shape_of(parameter))} with block_size {block}", expected="a vector, or blocks")
    parts = shape_of(parameter)
    single, full = [*parts[: axis + 1], 1, *parts[axis + 1 :]], [*parts[: axis + 1], block, *parts[axis + 1 :]]
    wide = e.broadcast(e.reshape(parameter, single), full)
    wide = e.reshape(wide, [*parts[:axis], parts[axis] * block, *parts[axis + 1 :]])
    return e.slice(wide, axis, 0, shape[axis])


def convert_quantise(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """quantise(x / scale): the quotient rounded to ``precision``, by default the dtype of the scale."""
    zero = optional(x, 2)
    dtype = dtype_of(zero) if zero is not None else "uint8"
    if zero is None and a.get("output_dtype"):
        dtype = element_type(a["output_dtype"], e.place)
    precision = element_type(a["precision"], e.place) if a.get("precision") else dtype_of(x[1])
    if not _is_integer(dtype) and dtype not in NARROW_FLOATS:
        raise e.refuse(f"a result of {dtype}", expected="an integer or a narrow float")
    parts = [e.cast(e.cast(v, precision), "float32") for v in (x[0], _spread(e, x[1], x[0], a))]
    quotient = e.cast(e.cast(e.div(*parts), precision), "float32")
    return _quantise(e, quotient, _spread(e, zero, x[0], a), dtype, saturate=bool(a.get("saturate", 1)))


def _centred(e: Emitter, x: Expr, zero: Expr | None) -> Expr:
    """x - zero point, as int32 (wrapping) or float32."""
    wide = "int32" if _is_integer(dtype_of(x)) else "float32"
    value = e.cast(x, wide)
    return value if _is_zero(zero) else e.sub(value, e.cast(zero, wide))


def convert_dequantise(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """(x - zero point) * scale: the difference exact, rounded to float32; the product rounded to the dtype of the result."""
    dtype = element_type(a["output_dtype"], e.place) if a.get("output_dtype") else dtype_of(x[1])
    value = e.cast(_centred(e, x[0], _spread(e, optional(x, 2), x[0], a)), "float32")
    return e.cast(e.mul(value, e.cast(_spread(e, x[1], x[0], a), "float32")), dtype)


def convert_dynamic_quantise(e: Emitter, x: Inputs, a: Attributes) -> Any:
    """scale = (max(x, 0) - min(x, 0)) / 255, or 1 / 255 if that is 0; zero = round(clip(0 - min(x, 0) / scale, 0, 255))."""
    axes = list(range(rank_of(x[0])))
    high, low = (e(f(x[0], axes, False)) if axes else x[0] for f in (op.max, op.min))
    high, low = e.maximum(high, 0.0), e.minimum(low, 0.0)
    extent = e.where(e(op.equal(high, low)), 1.0, e.sub(high, low))
    scale = e.div(extent, 255.0)
    zero = e.cast(e(op.round(e.clip(e.sub(0.0, e.div(low, scale)), 0.0, 255.0))), "uint8")
    return [_quantise(e, e.div(x[0], scale), zero, "uint8"), scale, zero]


def _by_row(e: Emitter, parameter: Expr | None) -> Expr | None:
    """A vector of one number for each row of a matrix, as a column."""
    if parameter is None or rank_of(parameter) != 1:
        return parameter
    extent = shape_of(parameter)[0]
    return e.reshape(parameter, [] if extent == 1 else [extent, 1])


def convert_matmul_integer(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """(A - zero) (B - zero) in int32."""
    return e(op.matmul(_centred(e, x[0], _by_row(e, optional(x, 2))), _centred(e, x[1], optional(x, 3))))


def _rescaled(e: Emitter, total: Expr, scales: Sequence[Expr], zero: Expr, dtype: str) -> Expr:
    """quantise(float32(total) * ((scale of x * scale of w) / scale of y))."""
    x, w, y = (e.cast(s, "float32") for s in scales)
    return _quantise(e, e.mul(e.cast(total, "float32"), e.div(e.mul(x, w), y)), zero, dtype)


def convert_qlinear_matmul(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Quantised operands and result."""
    total = e(op.matmul(_centred(e, x[0], _by_row(e, x[2])), _centred(e, x[3], x[5])))
    scales = [_by_row(e, x[1]), x[4], _by_row(e, x[6])]
    return _rescaled(e, total, scales, _by_row(e, x[7]), dtype_of(x[7]))


def _by_channel(e: Emitter, parameter: Expr | None, rank: int, axis: int) -> Expr | None:
    """A number, or a vector of one for each output channel, which is axis ``axis`` of ``rank``."""
    if parameter is None or rank_of(parameter) == 0:
        return parameter
    extent = shape_of(parameter)[0]
    return e.reshape(parameter, [] if extent == 1 else [extent if k == axis else 1 for k in range(rank)])


def _integer_conv(e: Emitter, x: Expr, w: Expr, zeros: Sequence[Expr | None], a: Attributes) -> Expr:
    rank = rank_of(x)
    window = Window.of(shape_of(x)[2:], shape_of(w)[2:], a)
    attributes = window.canonical()
    del attributes["kernel"]
    left = _centred(e, x, _by_channel(e, zeros[0], 0, 0))
    right = _centred(e, w, _by_channel(e, zeros[1], rank, 0))
    return e.canonical("conv", left, right, **attributes, groups=int(a.get("group", 1)))


def convert_conv_integer(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Convolution of x - zero with w - zero in int32; the padding is the zero point."""
    return _integer_conv(e, x[0], x[1], [optional(x, 2), optional(x, 3)], a)


def convert_qlinear_conv(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Quantised operands and result; the bias is added in int32."""
    rank = rank_of(x[0])
    total = _integer_conv(e, x[0], x[3], [x[2], x[5]], a)
    if optional(x, 8) is not None:
        total = e.add(total, blocks.per_channel(e, x[8], rank))
    scales = [_by_channel(e, v, rank, 1) for v in (x[1], x[4], x[6])]
    return _rescaled(e, total, scales, _by_channel(e, x[7], rank, 1), dtype_of(x[7]))


CONVERTERS: dict[str, Converter] = {
    "QuantizeLinear": convert_quantise,
    "DequantizeLinear": convert_dequantise,
    "DynamicQuantizeLinear": convert_dynamic_quantise,
    "MatMulInteger": convert_matmul_integer,
    "ConvInteger": convert_conv_integer,
    "QLinearMatMul": convert_qlinear_matmul,
    "QLinearConv": convert_qlinear_conv,
}
