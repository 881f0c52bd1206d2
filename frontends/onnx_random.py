"""ONNX's random operators: functions of the seed, the operator's number in the model, and the element.

The bits are those of ``random_bits`` (Philox) with the bit pattern of the float32 ``seed`` as seed (0 without one) and step 0.
Operators are numbered from 2^31 in the model's order, apart from the dropouts of a training step. Other implementations of ONNX
draw other numbers: the standard names no generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gensyn_tvm.frontends.emit import Expr, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter
from gensyn_tvm.frontends.onnx_reader import element_type

_FIRST = 2**31


def _unit(e: OnnxEmitter, shape: Sequence[int], a: Attributes, *, above_zero: bool = False) -> Expr:
    """(bits >> 8) 2^-24 as float32, in [0, 1); with ``above_zero`` one more step of 2^-24, in (0, 1]."""
    seed = number(int(np.float32(a["seed"]).view(np.int32)) if "seed" in a else 0, "int64")
    bits = e.canonical("random_bits", seed, number(0, "int64"), op_id=_FIRST + e.random_operators, shape=tuple(shape))
    e.random_operators += 1
    whole = e.canonical("shift_right", bits, number(8, "uint32"))
    whole = e.add(whole, number(1, "uint32")) if above_zero else whole
    return e.mul(e.cast(whole, "float32"), 2.0**-24)


def _uniform(e: OnnxEmitter, shape: Sequence[int], dtype: str, a: Attributes) -> Expr:
    """low + u * (high - low)"""
    low, high = a.get("low", 0.0), a.get("high", 1.0)
    return e.cast(e.add(e.mul(_unit(e, shape, a), high - low), low), dtype)


def _normal(e: OnnxEmitter, shape: Sequence[int], dtype: str, a: Attributes) -> Expr:
    """mean + scale * sqrt(-2 log(u)) cos(2 pi v)"""
    radius = e(op.sqrt(e.mul(e(op.log(_unit(e, shape, a, above_zero=True))), -2.0)))
    angle = e.canonical("cos", e.mul(_unit(e, shape, a), 2.0 * math.pi))
    return e.cast(e.add(e.mul(e.mul(radius, angle), a.get("scale", 1.0)), a.get("mean", 0.0)), dtype)


def _of_shape(function: Any) -> Converter:
    def convert(e: Any, x: Inputs, a: Attributes) -> Expr:
        result: Expr = function(e, [int(n) for n in a["shape"]], element_type(int(a.get("dtype", 1)), e.place), a)
        return result

    return convert


def _like(function: Any) -> Converter:
    def convert(e: Any, x: Inputs, a: Attributes) -> Expr:
        dtype = element_type(int(a["dtype"]), e.place) if "dtype" in a else dtype_of(x[0])
        result: Expr = function(e, shape_of(x[0]), dtype, a)
        return result

    return convert


def convert_bernoulli(e: Any, x: Inputs, a: Attributes) -> Expr:
    """u < p, as 0 and 1"""
    dtype = element_type(int(a["dtype"]), e.place) if "dtype" in a else dtype_of(x[0])
    u = e.cast(_unit(e, shape_of(x[0]), a), dtype_of(x[0]))
    return e.cast(e(op.less(u, x[0])), dtype)


def convert_multinomial(e: Any, x: Inputs, a: Attributes) -> Expr:
    """The class at which x - log(-log(u)) is largest, for each sample."""
    if rank_of(x[0]) != 2 or dtype_of(x[0]) != "float32":
        raise e.refuse(f"an input of {dtype_of(x[0])}{shape_of(x[0])}", expected="float32 (batch, classes)")
    batch, classes = shape_of(x[0])
    count = int(a.get("sample_size", 1))
    u = _unit(e, [batch, count, classes], a, above_zero=True)
    u = e.minimum(u, 1.0 - 2.0**-24)  # so that both logarithms are finite
    noise = e(op.negative(e(op.log(e(op.negative(e(op.log(u))))))))
    index = e(op.argmax(e.add(e.reshape(x[0], [batch, 1, classes]), noise), 2, False))
    return e.cast(index, element_type(int(a.get("dtype", 6)), e.place))


RANDOM: dict[str, Converter] = {
    "RandomUniform": _of_shape(_uniform),
    "RandomUniformLike": _like(_uniform),
    "RandomNormal": _of_shape(_normal),
    "RandomNormalLike": _like(_normal),
    "Bernoulli": convert_bernoulli,
    "Multinomial": convert_multinomial,
}
