"""TFLite's operators of int8 and uint8 that stand for real numbers: the integers of TFLite's reference kernels.

Products are exact in int32 and wrap there; what they are multiplied by is a fixed-point number (``tflite_fixed``). Functions of
one operand are in ``tflite_tables``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_converters import axes_of, known
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tensorflow_windows import channels_first, channels_last
from gensyn_tvm.frontends.tflite_fixed import Multiplier, Wide, divide, exponential, high, multiplier, reciprocal
from gensyn_tvm.frontends.tflite_integers import (
    bounds_of,
    centred,
    check_moved,
    eight_bits,
    finished,
    in_range,
    rescaled,
    scale_of,
)
from gensyn_tvm.frontends.tflite_nodes import Converter, LiteNode, like_tensorflow
from gensyn_tvm.frontends.tflite_operators import space_to_batch
from gensyn_tvm.frontends.tflite_reader import Quantisation
from gensyn_tvm.frontends.tflite_tables import TABLES
from gensyn_tvm.frontends.tflite_windows import (
    Window,
    connected_shape,
    depthwise_filters,
    filters_first,
    flattened,
    groups_of,
    pooled,
)

# ---- products -------------------------------------------------------------------------------------------------------


def _weights(e: Emitter, n: LiteNode, position: int, axis: int) -> Quantisation:
    """Scales of weights; their zero points are one number."""
    tensor = n.input(e, position)
    eight_bits(e, tensor)
    found = n.quantisation(e, tensor, channels=True)
    if len(found.scales) > 1 and (found.axis != axis or len(set(found.zeros)) > 1):
        raise e.refuse(
            f"scales along axis {found.axis}, zero points {found.zeros[:4]}", expected=f"axis {axis}, one zero point"
        )
    return found


def _product_scale(e: Emitter, n: LiteNode, weights: Quantisation, *, wide: bool) -> Any:
    """Units of the result in a product; with one scale TFLite multiplies the scales of most operators in float32."""
    x, y = scale_of(e, n, n.input(e, 0))[0], scale_of(e, n, n.results[0])[0]
    if wide or len(weights.scales) > 1:
        return np.float64(x) * weights.scales.astype(np.float64) / np.float64(y)
    return np.float64(np.float32(x * weights.scales[0])) / np.float64(y)


def _bias(e: Emitter, x: list[Value], n: LiteNode, total: Expr) -> Expr:
    """A bias along the last axis, in int32."""
    if not n.has(2):
        return total
    if dtype_of(x[2]) != "int32":
        raise e.refuse(f"a bias of {dtype_of(x[2])}", expected="int32")
    return e.add(total, x[2])


def _conv(e: FoldingEmitter, x: list[Value], n: LiteNode, w: Expr, weights: Quantisation, groups: int) -> Expr:
    """A convolution with filters (O, I / groups, H, W); padding is the zero point."""
    image = channels_first(e, centred(e, x[0], scale_of(e, n, n.input(e, 0))[1]))
    window = Window.of(e, n, shape_of(image)[2:], shape_of(w)[2:])
    total = e.canonical(
        "conv",
        image,
        centred(e, w, int(weights.zeros[0])),
        strides=tuple(window.strides),
        padding=tuple(zip(window.lows, window.highs, strict=True)),
        dilations=tuple(window.dilation),
        groups=groups,
    )
    total = _bias(e, x, n, channels_last(e, total))
    return rescaled(e, n, total, _product_scale(e, n, weights, wide=n.input(e, 0).dtype == "int8"))


def convert_conv(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """CONV_2D."""
    n.options(e, "Conv2D")
    return _conv(e, x, n, filters_first(e, x[1]), _weights(e, n, 1, 0), groups_of(e, x[0], x[1]))


def convert_depthwise(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """DEPTHWISE_CONV_2D."""
    n.options(e, "DepthwiseConv2D")
    channels = shape_of(x[0])[-1]
    return _conv(e, x, n, depthwise_filters(e, x[1], channels), _weights(e, n, 1, 3), channels)


def convert_fully_connected(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """FULLY_CONNECTED: of int8 rescaled in float64, of uint8 by a fixed-point number."""
    weights = _weights(e, n, 1, 0)
    rows = centred(e, flattened(e, x[0], x[1]), scale_of(e, n, n.input(e, 0))[1])
    shape = connected_shape(e, x[0], x[1], n)
    w = centred(e, e.transpose(x[1], [1, 0]), int(weights.zeros[0]))
    total = _bias(e, x, n, e(op.matmul(rows, w)))
    if n.input(e, 0).dtype == "uint8":
        return e.reshape(rescaled(e, n, total, _product_scale(e, n, weights, wide=False)), shape)
    scaled = e.mul(e.cast(total, "float64"), constant(np.asarray(_product_scale(e, n, weights, wide=True))))
    return e.reshape(in_range(e, n, scaled, bounds_of(e, n)), shape)


def convert_batch_matmul(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """BATCH_MATMUL."""
    n.options(e, "BatchMatMul")
    scale_of(e, n, n.input(e, 1))
    second = n.quantisation(e, n.input(e, 1))
    operands = [centred(e, v, scale_of(e, n, n.input(e, k))[1]) for k, v in enumerate(x)]
    total = like_tensorflow("BatchMatMulV2")(e, operands, n)
    return rescaled(e, n, total, _product_scale(e, n, second, wide=False))


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def _both(e: Emitter, n: LiteNode, x: list[Value], bits: int) -> tuple[list[Wide], np.float64]:
    """Two operands in units of 2^-bits times the larger scale, twice, and that scale, twice."""
    scales = [scale_of(e, n, n.input(e, k))[0] for k in (0, 1)]
    unit = np.float64(2 * max(scales))
    parts = []
    for k in (0, 1):
        wide = Wide(e, e.cast(centred(e, x[k], scale_of(e, n, n.input(e, k))[1]), "int64"))
        parts.append(Multiplier.of(np.float64(scales[k]) / unit).apply(wide << bits))
    return parts, unit


def convert_sum(sign: int) -> Converter:
    """ADD and SUB."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        n.options(e, "Add" if sign > 0 else "Sub")
        (a, b), unit = _both(e, n, x, 20)
        total = a + b if sign > 0 else a - b
        real = unit / np.float64(np.float32(2**20) * scale_of(e, n, n.results[0])[0])
        return finished(e, n, Multiplier.of(real).apply(total), bounds_of(e, n))

    return convert


def convert_squared_difference(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """SQUARED_DIFFERENCE."""
    (a, b), unit = _both(e, n, x, 7)
    difference = a - b
    real = unit * unit / np.float64(np.float32(2**14) * scale_of(e, n, n.results[0])[0])
    return finished(e, n, Multiplier.of(real).apply(difference * difference), bounds_of(e, n))


def convert_mul(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """MUL."""
    n.options(e, "Mul")
    (p, u), (q, v) = (scale_of(e, n, n.input(e, k)) for k in (0, 1))
    total = e.mul(centred(e, x[0], u), centred(e, x[1], v))
    return rescaled(e, n, total, p * q / scale_of(e, n, n.results[0])[0])


def convert_extremum(kind: str) -> Converter:
    """MAXIMUM and MINIMUM of integers of one scale."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        check_moved(e, n)
        return like_tensorflow(kind)(e, x, n)

    return convert


# ---- windows and reductions -----------------------------------------------------------------------------------------


def convert_max_pool(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """MAX_POOL_2D."""
    options = n.options(e, "Pool2D")
    check_moved(e, n)
    image = channels_first(e, x[0])
    window = Window.of(e, n, shape_of(image)[2:], [options["filter_h"], options["filter_w"]])
    low, high_ = bounds_of(e, n)
    y = channels_last(e, pooled(e, "max", image, window))
    info = np.iinfo(n.dtype())
    return y if (low, high_) == (info.min, info.max) else e.clip(y, low, high_)


def convert_average_pool(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """AVERAGE_POOL_2D: the sum of the integers that are inside, divided by their number, halves away from 0."""
    options = n.options(e, "Pool2D")
    check_moved(e, n)
    image = channels_first(e, e.cast(x[0], "int32"))
    kernel = [options["filter_h"], options["filter_w"]]
    window = Window.of(e, n, shape_of(image)[2:], kernel)
    channels = shape_of(image)[1]
    total = e.canonical(
        "conv",
        image,
        e.full([channels, 1, *kernel], 1, "int32"),
        strides=tuple(window.strides),
        padding=tuple(zip(window.lows, window.highs, strict=True)),
        dilations=(1, 1),
        groups=channels,
    )
    counts = constant(_counts(window, shape_of(image)[2:], shape_of(total)[2:]))
    half = e.canonical("div", counts, number(2, "int32"))
    positive = e(op.greater(total, number(0, "int32")))
    y = e.canonical("div", e.where(positive, e.add(total, half), e.sub(total, half)), counts)
    low, high_ = bounds_of(e, n)
    return channels_last(e, e.cast(e.clip(y, low, high_), n.dtype()))


def _counts(window: Window, extents: Sequence[int], results: Sequence[int]) -> np.ndarray:
    """How many elements of the input are in each window."""
    axes = []
    for k, count in enumerate(results):
        starts = np.arange(count) * window.strides[k] - window.lows[k]
        inside = np.minimum(starts + window.kernel[k], extents[k]) - np.maximum(starts, 0)
        axes.append(np.maximum(inside, 1).astype(np.int32))
    return np.multiply.outer(axes[0], axes[1])


def convert_reduction(*, mean: bool) -> Converter:
    """MEAN and SUM: the number of elements is part of the multiplier."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        (scale, zero), (out, _) = scale_of(e, n, n.input(e, 0)), scale_of(e, n, n.results[0])
        axes = axes_of(e, x[0], x[1])
        count = math.prod(shape_of(x[0])[a] for a in axes)
        if not count:
            raise e.refuse(f"a reduction of {tuple(shape_of(x[0]))} along {axes}", expected="at least one element")
        factor, shift = multiplier(float(np.float64(scale) / np.float64(out)))
        if mean:
            bits = min(count.bit_length() - 1, 32, 31 + shift)
            factor, shift = (factor << bits) // count, shift - bits
        total = e.cast(x[0], "int32")
        total = e(op.sum(total, axes, bool(n.options(e, "Reducer")["keep_dims"]))) if axes and rank_of(x[0]) else total
        total = e.sub(total, zero * count) if zero else total
        scaled = Multiplier(np.int64(factor), np.int64(shift)).apply(Wide(e, e.cast(total, "int64")))
        return finished(e, n, scaled, bounds_of(e, n))

    return convert


def convert_softmax(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """SOFTMAX along the last axis: exponentials of differences from the largest element, and a reciprocal of their sum."""
    scale, _ = scale_of(e, n, n.input(e, 0))
    scale_of(e, n, n.results[0])
    beta, axis = float(n.options(e, "Softmax")["beta"]), rank_of(x[0]) - 1
    factor, shift = multiplier(min(beta * float(scale) * 2**26, 2**31 - 1.0))
    if shift < 0 or factor == 0:
        raise e.refuse(f"beta {beta} with the scale {scale}", expected="a product above 2^-26")
    differences = np.arange(-255, 1, dtype=np.int64)
    smallest = -math.floor(31 * 2**26 / 2**shift)
    powers = np.where(differences >= smallest, exponential(high(differences << shift, factor)), 0)
    wide = e.cast(x[0], "int32")
    index = e.add(e.sub(wide, e(op.max(wide, [axis], True))), 255)
    total = e(op.sum(blocks.take(e, constant(divide(powers, 12)), index, 0), [axis], True))
    double = e.canonical("bitcast", e.cast(total, "float64"), dtype="int64")
    zeros = 31 + 1023 - (Wide(e, double) >> 52)  # leading zeros of the sum in 32 bits
    inverse = reciprocal((Wide(e, total) << zeros) - 2**31)
    y = divide(high(inverse, Wide(e, blocks.take(e, constant(powers), index, 0))), 35 - zeros)
    info = np.iinfo(n.dtype())
    return e.cast((y + int(info.min)).clip(int(info.min), int(info.max)).expr, n.dtype())


def convert_pad(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """PAD and PADV2: with the zero point, or with an integer of the same scale."""
    check_moved(e, n)
    value = x[2] if n.has(2) else constant(np.array(scale_of(e, n, n.results[0])[1], n.dtype()))
    return like_tensorflow("PadV2")(e, [x[0], x[1], value], n)


def convert_space_to_batch(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """SPACE_TO_BATCH_ND, padded with the zero point."""
    check_moved(e, n)
    return space_to_batch(e, x, float(scale_of(e, n, n.results[0])[1]))


def convert_bilinear(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """RESIZE_BILINEAR: places and weights in units of 2^-10."""
    options = n.options(e, "ResizeBilinear")
    check_moved(e, n)
    if n.dtype() != "int8":
        raise e.refuse(n.dtype(), expected="int8", remedy="leave the operator in floats when you convert")
    y = e.cast(x[0], "int32")
    for axis, count in zip((1, 2), known(e, x[1], "the size"), strict=True):
        y = _interpolated(e, y, axis, int(count), aligned=options["align_corners"], half=options["half_pixel_centers"])
    info = np.iinfo(n.dtype())
    rounded = divide(Wide(e, e.cast(y, "int64")), 20)
    return e.cast(rounded.clip(int(info.min), int(info.max)).expr, n.dtype())


def _interpolated(e: Emitter, x: Expr, axis: int, count: int, *, aligned: bool, half: bool) -> Expr:
    """x with ``count`` elements along an axis, in units 2^10 times smaller."""
    length = shape_of(x)[axis]
    step = (1024 * length + count // 2) // count
    if aligned and count > 1:
        step = (1024 * (length - 1) + (count - 1) // 2) // (count - 1)
    places = np.arange(count) * step + (step // 2 - 512 if half else 0)
    low = np.maximum(places // 1024, 0)
    above = np.minimum((places + 1023) // 1024, length - 1)
    weights = (places - 1024 * low).astype(np.int32).reshape([-1 if k == axis else 1 for k in range(rank_of(x))])
    first, second = (blocks.take(e, x, constant(p.astype(np.int64)), axis) for p in (np.minimum(low, length - 1), above))
    return e.add(e.mul(first, constant(1024 - weights)), e.mul(second, constant(weights)))


CONVERTERS: dict[str, Converter] = {
    "CONV_2D": convert_conv,
    "DEPTHWISE_CONV_2D": convert_depthwise,
    "FULLY_CONNECTED": convert_fully_connected,
    "BATCH_MATMUL": convert_batch_matmul,
    "ADD": convert_sum(1),
    "SUB": convert_sum(-1),
    "MUL": convert_mul,
    "SQUARED_DIFFERENCE": convert_squared_difference,
    "MAXIMUM": convert_extremum("Maximum"),
    "MINIMUM": convert_extremum("Minimum"),
    "MAX_POOL_2D": convert_max_pool,
    "AVERAGE_POOL_2D": convert_average_pool,
    "MEAN": convert_reduction(mean=True),
    "SUM": convert_reduction(mean=False),
    "REDUCE_MAX": convert_extremum("Max"),
    "REDUCE_MIN": convert_extremum("Min"),
    "SOFTMAX": convert_softmax,
    "RESIZE_BILINEAR": convert_bilinear,
    **TABLES,
    "PAD": convert_pad,
    "PADV2": convert_pad,
    "SPACE_TO_BATCH_ND": convert_space_to_batch,
    "ARG_MAX": lambda e, x, n: like_tensorflow("ArgMax")(e, x, n),
    "ARG_MIN": lambda e, x, n: like_tensorflow("ArgMin")(e, x, n),
}
