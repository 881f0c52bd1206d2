"""TFLite's functions of one operand of 8 bits, and the ways from floats to such integers and back.

A function is a table of 256 integers, made at import; where it is one of floats, by our own operators, so that the table does
not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, number, op, rank_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tflite_fixed import Multiplier, divide, half_away, inverse_root, multiplier
from gensyn_tvm.frontends.tflite_integers import in_range, limits_of, scale_of
from gensyn_tvm.frontends.tflite_nodes import Converter, LiteNode


def _table(e: Emitter, x: Expr, table: np.ndarray) -> Expr:
    """The table's entries at the integers of x, which start with the smallest."""
    index = e.cast(x, "int32")
    low = np.iinfo(dtype_of(x)).min
    return blocks.take(e, constant(table), index if low == 0 else e.sub(index, int(low)), 0)


def _integers(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1, dtype=np.int64)


def by_integers(function: Callable[[Emitter, LiteNode, np.ndarray, np.float32, np.float32], np.ndarray]) -> Converter:
    """A function of the integers without their zero point and of both scales that gives integers without theirs."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        (scale, zero), (out, shift) = scale_of(e, n, n.input(e, 0)), scale_of(e, n, n.results[0])
        values = function(e, n, _integers(dtype_of(x[0])) - zero, scale, out) + shift
        info = np.iinfo(n.dtype())
        return _table(e, x[0], values.clip(info.min, info.max).astype(n.dtype()))

    return convert


def by_floats(function: Callable[[Emitter, LiteNode, Expr], Expr]) -> Converter:
    """A function of float32, rounded to units of the result."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        (scale, zero), (out, shift) = scale_of(e, n, n.input(e, 0)), scale_of(e, n, n.results[0])
        reals = scale * (_integers(dtype_of(x[0])) - zero).astype(np.float32)
        made = e.fold(function(e, n, constant(reals)))
        assert made is not None
        units = np.clip(half_away(made * (np.float32(1) / out)), -(2.0**24), 2.0**24) + shift
        info = np.iinfo(n.dtype())
        return _table(e, x[0], units.clip(info.min, info.max).astype(n.dtype()))

    return convert


def _limited(name: str) -> Converter:
    """A standalone activation that limits its operand, in the units of the result."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        (scale, zero), (out, shift) = scale_of(e, n, n.input(e, 0)), scale_of(e, n, n.results[0])
        scaled = Multiplier.of(np.float32(scale / out)).apply(_integers(dtype_of(x[0])) - zero) + shift
        return _table(e, x[0], scaled.clip(*limits_of(e, n, name)).astype(n.dtype()))

    return convert


def _leaky_relu(e: Emitter, n: LiteNode, q: np.ndarray, scale: np.float32, out: np.float32) -> np.ndarray:
    alpha = np.float32(n.options(e, "LeakyRelu")["alpha"])
    if alpha < 0:
        raise e.refuse(f"alpha {alpha}", expected="an alpha that is not negative")
    negative = Multiplier.of(np.float32(np.float32(scale * alpha) / out)).apply(q)
    return np.where(q >= 0, Multiplier.of(np.float32(scale / out)).apply(q), negative)


def _absolute(e: Emitter, n: LiteNode, q: np.ndarray, scale: np.float32, out: np.float32) -> np.ndarray:
    return np.abs(q) if scale == out else np.asarray(Multiplier.of(np.float32(scale / out)).apply(np.abs(q)))


def _rsqrt(e: Emitter, n: LiteNode, q: np.ndarray, scale: np.float32, out: np.float32) -> np.ndarray:
    """The largest integer at 0, as in TFLite, and below, where TFLite stops."""
    factor, shift = multiplier(1.0 / float(np.float32(np.sqrt(scale) * out)))
    values = np.full(q.shape, 255, np.int64)
    for k in np.flatnonzero(q > 0):
        m, places = inverse_root(int(q[k]))
        root = Multiplier(np.int64(m), np.int64(places + 20)).apply(np.int64(1))
        values[k] = Multiplier(np.int64(factor), np.int64(shift - 20)).apply(root)
    return values


def _hard_swish(e: Emitter, n: LiteNode, q: np.ndarray, scale: np.float32, out: np.float32) -> np.ndarray:
    """In 16 bits: x in units of the result, times x + 3 limited to [0, 6], divided by 6."""
    fine = np.float32(np.float32(1 / 128) * scale)
    (result, down), (ramp, up) = (_sixteen(np.float32(fine / unit)) for unit in (out, np.float32(3 / 32768)))
    if down > 0:
        raise e.refuse(f"scales {scale} and {out}", expected="a result whose scale is at least 1/128 of the operand's")
    x = q << 7
    scaled = (x * result + 2**14) >> 15
    gate = (x << max(up - 1, 0)).clip(-(2**15), 2**15 - 1)
    gate = (gate * ramp + 2**14) >> 15
    gate = (gate << 1).clip(-(2**15), 2**15 - 1) if up > 0 else divide(gate, max(-up, 0))
    gate = (gate + 2**15) >> 1
    return np.asarray(divide(np.trunc(gate * scaled / 2**15).astype(np.int64), -down))


def _sixteen(value: np.float32) -> tuple[int, int]:
    """A multiplier in 16 bits."""
    factor, shift = multiplier(float(value))
    return min((factor + 2**15) >> 16, 2**15 - 1), shift


# ---- in and out -----------------------------------------------------------------------------------------------------


def convert_quantise(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """QUANTIZE: of floats x / scale, rounded, halves away from 0; of integers in the units of the result."""
    out, shift = scale_of(e, n, n.results[0])
    info = np.iinfo(n.dtype())
    if dtype_of(x[0]) != "float32":
        scale, zero = scale_of(e, n, n.input(e, 0))
        integers = _integers(dtype_of(x[0])) - zero
        scaled = Multiplier.of(np.float64(scale) / np.float64(out)).apply(integers) + shift
        return _table(e, x[0], scaled.clip(info.min, info.max).astype(n.dtype()))
    quotient = e.cast(e.div(x[0], float(out)), "float64")
    return in_range(e, n, quotient, (int(info.min), int(info.max)))


def convert_dequantise(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """DEQUANTIZE: (x - zero point) * scale, rounded to float32; float16 exactly."""
    tensor = n.input(e, 0)
    if tensor.dtype in NARROW_FLOATS:
        return e.cast(x[0], n.dtype())
    found = n.quantisation(e, tensor, channels=True)
    shape = [len(found.scales) if k == found.axis else 1 for k in range(rank_of(x[0]))] if len(found.scales) > 1 else []
    zeros, scales = found.zeros.astype(np.int32).reshape(shape), found.scales.reshape(shape)
    value = e.sub(e.cast(x[0], "int32"), constant(zeros)) if zeros.any() else e.cast(x[0], "int32")
    return e.mul(e.cast(value, "float32"), constant(scales))


def _logarithm(e: Emitter, n: LiteNode, x: Expr) -> Expr:
    """The smallest integer where x is not positive."""
    scale, zero = scale_of(e, n, n.results[0])
    lowest = float(np.float32(int(np.iinfo(n.dtype()).min) - zero) * scale)
    return e.where(e(op.greater(x, number(0.0, "float32"))), e(op.log(x)), lowest)


TABLES: dict[str, Converter] = {
    "LOGISTIC": by_floats(lambda e, n, x: e(op.sigmoid(x))),
    "TANH": by_floats(lambda e, n, x: e(op.tanh(x))),
    "ELU": by_floats(lambda e, n, x: e.where(e(op.less(x, number(0.0, "float32"))), e.canonical("expm1", x), x)),
    "GELU": by_floats(lambda e, n, x: e(nn.gelu_tanh(x) if n.attr("approximate", False) else nn.gelu(x))),
    "EXP": by_floats(lambda e, n, x: e(op.exp(x))),
    "LOG": by_floats(_logarithm),
    "RSQRT": by_integers(_rsqrt),
    "ABS": by_integers(_absolute),
    "LEAKY_RELU": by_integers(_leaky_relu),
    "HARD_SWISH": by_integers(_hard_swish),
    **{name: _limited(name) for name in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")},
    "QUANTIZE": convert_quantise,
    "DEQUANTIZE": convert_dequantise,
}
