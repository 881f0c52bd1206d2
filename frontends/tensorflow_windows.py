"""TensorFlow's convolutions, poolings, batch normalisation and resizing; channels that are last are moved around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from tvm import relax

from gensyn_tvm.frontends import blocks, resampling
from gensyn_tvm.frontends.emit import Emitter, Expr, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_converters import known
from gensyn_tvm.frontends.tensorflow_nodes import Converter, Node, Value
from gensyn_tvm.training import ops as gensyn


def _channels_last(n: Node, key: str = "data_format") -> bool:
    return bool(n.attr(key, "NHWC")[-1] == "C")


def channels_first(e: Emitter, x: Expr) -> Expr:
    """(N, spatial…, C) as (N, C, spatial…)."""
    return e.transpose(x, [0, rank_of(x) - 1, *range(1, rank_of(x) - 1)])


def channels_last(e: Emitter, x: Expr) -> Expr:
    """(N, C, spatial…) as (N, spatial…, C)."""
    return e.transpose(x, [0, *range(2, rank_of(x)), 1])


def around(convert: Callable[[FoldingEmitter, Expr, list[Value], Node], Expr]) -> Converter:
    """A converter that gets its first input with channels first; its result is put back into the node's layout."""

    def converted(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
        if not _channels_last(n):
            return convert(e, x[0], x, n)
        return channels_last(e, convert(e, channels_first(e, x[0]), x, n))

    return converted


def _spatial(n: Node, key: str, axes: int) -> list[int]:
    """The spatial part of an attribute with an entry for each axis."""
    values = [int(v) for v in n.attr(key) or [1] * (axes + 2)]
    return values[1:-1] if _channels_last(n) else values[2:]


def _padding(
    e: Emitter, n: Node, extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode, count = n.attr("padding"), len(extents)
    if mode == "VALID":
        return [0] * count, [0] * count
    if mode == "SAME":
        totals = blocks.same_padding(extents, kernel, strides, dilation)
        return [t // 2 for t in totals], [t - t // 2 for t in totals]
    if mode != "EXPLICIT":
        raise e.refuse(f"padding {mode!r}", expected="VALID, SAME or EXPLICIT")
    pairs = [int(v) for v in n.attr("explicit_paddings")]
    first = 2 if _channels_last(n) else 4
    inner = pairs[first : first + 2 * count]
    return inner[::2], inner[1::2]


def _kernel(e: Emitter, w: Expr) -> Expr:
    """(kernel…, I, O) as (O, I, kernel…)."""
    rank = rank_of(w)
    return e.transpose(w, [rank - 1, rank - 2, *range(rank - 2)])


def convert_conv(e: FoldingEmitter, x: Expr, inputs: list[Value], n: Node) -> Expr:
    """Conv2D and Conv3D; the filter's input channels say how many groups there are."""
    axes, w = blocks.spatial(e, x), inputs[1]
    strides, dilation = _spatial(n, "strides", axes), _spatial(n, "dilations", axes)
    lows, highs = _padding(e, n, shape_of(x)[2:], shape_of(w)[:axes], strides, dilation)
    groups = shape_of(x)[1] // shape_of(w)[axes]
    return blocks.conv(e, x, _kernel(e, w), None, strides=strides, lows=lows, highs=highs, dilation=dilation, groups=groups)


def convert_depthwise(e: FoldingEmitter, x: Expr, inputs: list[Value], n: Node) -> Expr:
    """A convolution with a group for each channel; the filter is (H, W, C, multiplier)."""
    height, width, channels, multiplier = shape_of(inputs[1])
    w = e.reshape(e.transpose(inputs[1], [2, 3, 0, 1]), [channels * multiplier, 1, height, width])
    strides, dilation = _spatial(n, "strides", 2), _spatial(n, "dilations", 2)
    lows, highs = _padding(e, n, shape_of(x)[2:], [height, width], strides, dilation)
    return blocks.conv(e, x, w, None, strides=strides, lows=lows, highs=highs, dilation=dilation, groups=channels)


def convert_conv_transpose(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """The input gradient of a convolution, which is what Keras' transposed convolutions are."""
    sizes, w, dy = [int(v) for v in known(e, x[0], "input_sizes")], x[1], x[2]
    last = _channels_last(n)
    dy, axes = (channels_first(e, dy) if last else dy), rank_of(dy) - 2
    extents = sizes[1:-1] if last else sizes[2:]
    strides, dilation = _spatial(n, "strides", axes), _spatial(n, "dilations", axes)
    lows, highs = _padding(e, n, extents, shape_of(w)[:axes], strides, dilation)
    channels = sizes[-1] if last else sizes[1]
    y = e.canonical(
        "conv_backward_data",
        dy,
        _kernel(e, w),
        strides=tuple(strides),
        padding=tuple(zip(lows, highs, strict=True)),
        dilations=tuple(dilation),
        groups=channels // shape_of(w)[axes],
        input_spatial=tuple(extents),
    )
    return channels_last(e, y) if last else y


def convert_pool(kind: str) -> Converter:
    """Padding takes no part in an average."""

    def convert(e: FoldingEmitter, x: Expr, inputs: list[Value], n: Node) -> Expr:
        axes = blocks.spatial(e, x)
        kernel, strides = _spatial(n, "ksize", axes), _spatial(n, "strides", axes)
        lows, highs = _padding(e, n, shape_of(x)[2:], kernel, strides, [1] * axes)
        return blocks.pool(e, kind, x, kernel=kernel, strides=strides, lows=lows, highs=highs, dilation=[1] * axes)

    return around(convert)


def convert_batch_norm(e: FoldingEmitter, x: list[Value], n: Node) -> list[Value]:
    """FusedBatchNorm: by given statistics, or by the batch's, of which the variance that it returns is unbiased."""
    last, (image, gamma, beta, mean, var) = _channels_last(n), x[:5]
    image = channels_first(e, image) if last else image
    epsilon, spare = _short(n.attr("epsilon")), n.outputs - 3
    if not n.attr("is_training"):
        value = e(gensyn.batch_norm(image, gamma, beta, mean, var, epsilon=epsilon, momentum=0.0, unbiased=False, frozen=True))
        y = e(relax.TupleGetItem(value, 0))
        return [channels_last(e, y) if last else y, mean, var, *[None] * spare]
    if float(n.attr("exponential_avg_factor", 1.0)) != 1.0:
        raise e.refuse(f"exponential_avg_factor {n.attr('exponential_avg_factor')}", expected="1")
    axes = [0, *range(2, rank_of(image))]
    y = e(gensyn.batch_normalise(image, gamma, beta, epsilon=epsilon))
    count = 1
    for axis in axes:
        count *= shape_of(image)[axis]
    centred = e.sub(image, e(op.mean(image, axes, True)))
    variance = e.div(e(op.sum(e.mul(centred, centred), axes, False)), float(max(1, count - 1)))
    return [channels_last(e, y) if last else y, e(op.mean(image, axes, False)), variance, *[None] * spare]


def _short(value: float) -> float:
    """A float32 attribute as the double with the fewest digits that rounds to it: 0.001, not 0.0010000000474974513."""
    return float(f"{value:.7g}")


def convert_resize(mode: str) -> Converter:
    """ResizeBilinear and ResizeNearestNeighbor along the axes 1 and 2."""

    def convert(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
        y = e.cast(x[0], "float32") if mode == "linear" else x[0]
        sizes = [int(v) for v in known(e, x[1], "the size")]
        half, aligned = bool(n.attr("half_pixel_centers")), bool(n.attr("align_corners"))
        places = "align_corners" if aligned else "half_pixel" if half else "asymmetric"
        rounding = "round_prefer_ceil" if aligned or half else "floor"
        for axis, count in zip((1, 2), sizes, strict=True):
            length = shape_of(y)[axis]
            where = resampling.coordinates(places, length, count, Fraction(count, length), (Fraction(0), Fraction(1)))
            taps = [
                resampling.interpolation(p, length, resampling.triangle, 1, Fraction(1), exclude=False)
                if mode == "linear"
                else resampling.nearest(p, length, rounding)
                for p in where
            ]
            y = resampling.resample(e, y, axis, taps)
        return y

    return convert


def convert_bicubic(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """ResizeBicubic along the axes 1 and 2; places are rounded to 1/1024 of a pixel, as TensorFlow reads its weights."""
    if not n.attr("half_pixel_centers") or n.attr("align_corners"):
        raise e.refuse("corners that are aligned", expected="half_pixel_centers", remedy="use tf.image.resize")
    kernel = resampling.keys(Fraction(-1, 2))

    def taps(length: int, count: int) -> list[resampling.Taps]:
        where = resampling.coordinates("half_pixel", length, count, Fraction(count, length), (Fraction(0), Fraction(1)))
        places = [Fraction(round(p * 1024), 1024) for p in where]
        return [resampling.interpolation(p, length, kernel, 2, Fraction(1), exclude=True) for p in places]

    return _resized(e, e.cast(x[0], "float32"), known(e, x[1], "the size"), taps)


def convert_area(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """ResizeArea along the axes 1 and 2: the mean over what an output element covers."""
    if n.attr("align_corners"):
        raise e.refuse("corners that are aligned", expected="align_corners=False", remedy="use tf.image.resize")

    def taps(length: int, count: int) -> list[resampling.Taps]:
        step = Fraction(length, count)
        made: list[resampling.Taps] = []
        for k in range(count):
            low, high = k * step, (k + 1) * step
            inside = range(math.floor(low), math.ceil(high))
            made.append({i: (min(high, Fraction(i + 1)) - max(low, Fraction(i))) / step for i in inside})
        return made

    return _resized(e, e.cast(x[0], "float32"), known(e, x[1], "the size"), taps)


def _resized(e: FoldingEmitter, x: Expr, sizes: Sequence[int], taps: Callable[[int, int], Sequence[resampling.Taps]]) -> Expr:
    for axis, count in zip((1, 2), sizes, strict=True):
        x = resampling.resample(e, x, axis, taps(shape_of(x)[axis], int(count)))
    return x


_KERNELS = {"triangle": (resampling.triangle, 1), "keyscubic": (resampling.keys(Fraction(-1, 2)), 2)}


def convert_scale_and_translate(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """ScaleAndTranslate along the axes 1 and 2, which is what resizing with antialias=True is."""
    if n.attr("kernel_type") not in _KERNELS:
        raise e.refuse(f"kernel_type {n.attr('kernel_type')}", expected=", ".join(_KERNELS), remedy="interpolate so")
    kernel, support = _KERNELS[n.attr("kernel_type")]
    sizes, scales, moves = (known(e, v, what) for v, what in zip(x[1:4], ("the size", "the scale", "the move"), strict=True))
    y = e.cast(x[0], "float32")
    for axis, count, scale, move in zip((1, 2), sizes, scales, moves, strict=True):
        length, step = shape_of(y)[axis], 1 / resampling.simplest(float(scale))
        squeeze = 1 / max(step, Fraction(1)) if n.attr("antialias") else Fraction(1)
        where = [(k + resampling.HALF - resampling.simplest(float(move))) * step for k in range(int(count))]
        if any(not 0 <= p <= length for p in where):
            raise e.refuse("places outside of the image", expected="scale and translation that stay inside")
        taps = [resampling.interpolation(p - resampling.HALF, length, kernel, support, squeeze, exclude=True) for p in where]
        y = resampling.resample(e, y, axis, taps)
    return y


def convert_bias(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """The bias is along the channels."""
    return e.add(x[0], x[1] if _channels_last(n) else blocks.per_channel(e, x[1], rank_of(x[0])))


def convert_depth_to_space(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """Channels to blocks of pixels, the block's position outermost in the channels."""
    if not _channels_last(n):
        raise e.refuse(f"data_format {n.attr('data_format')}", expected="NHWC")
    size, (batch, height, width, channels) = int(n.attr("block_size")), shape_of(x[0])
    y = e.reshape(x[0], [batch, height, width, size, size, channels // size**2])
    return e.reshape(e.transpose(y, [0, 1, 3, 2, 4, 5]), [batch, height * size, width * size, channels // size**2])


def convert_space_to_depth(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """The inverse of ``convert_depth_to_space``."""
    if not _channels_last(n):
        raise e.refuse(f"data_format {n.attr('data_format')}", expected="NHWC")
    size, (batch, height, width, channels) = int(n.attr("block_size")), shape_of(x[0])
    y = e.reshape(x[0], [batch, height // size, size, width // size, size, channels])
    return e.reshape(e.transpose(y, [0, 1, 3, 2, 4, 5]), [batch, height // size, width // size, channels * size**2])


# ---- layers in training ----------------------------------------------------------------------------------------------


def composite_batch_norm(e: FoldingEmitter, x: list[Value], n: Node) -> list[Value]:
    """(x, gamma, beta, mean, variance, axis, epsilon, momentum, frozen) → (y, next mean, next variance)"""
    epsilon, momentum, frozen = x[6:9]
    return blocks.batch_norm_along(e, x[:5], int(x[5]), epsilon=epsilon, momentum=momentum, frozen=bool(frozen))


def composite_dropout(e: FoldingEmitter, x: list[Value], n: Node) -> Expr:
    """(x, rate, shared axes…)"""
    return e(gensyn.dropout(x[0], p=x[1], shared_axes=[int(a) for a in x[2:]]))


COMPOSITES: dict[str, Converter] = {"batch_norm": composite_batch_norm, "dropout": composite_dropout}

WINDOWS: dict[str, Converter] = {
    "Conv2D": around(convert_conv),
    "Conv3D": around(convert_conv),
    "DepthwiseConv2dNative": around(convert_depthwise),
    "Conv2DBackpropInput": convert_conv_transpose,
    "Conv3DBackpropInputV2": convert_conv_transpose,
    "MaxPool": convert_pool("max"),
    "MaxPool3D": convert_pool("max"),
    "AvgPool": convert_pool("avg"),
    "AvgPool3D": convert_pool("avg"),
    "BiasAdd": convert_bias,
    **{f"FusedBatchNorm{v}": convert_batch_norm for v in ("", "V2", "V3")},
    "ResizeBilinear": convert_resize("linear"),
    "ResizeNearestNeighbor": convert_resize("nearest"),
    "ResizeBicubic": convert_bicubic,
    "ResizeArea": convert_area,
    "ScaleAndTranslate": convert_scale_and_translate,
    "DepthToSpace": convert_depth_to_space,
    "SpaceToDepth": convert_space_to_depth,
}
