"""TFLite's float products, convolutions and poolings: channels are last, filters (O, H, W, I)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tensorflow_windows import channels_first, channels_last
from gensyn_tvm.frontends.tflite_nodes import Converter, LiteNode, activated, like_tensorflow, padding, unquantised


@dataclass(frozen=True)
class Window:
    """Where windows lie over the spatial axes."""

    kernel: list[int]
    strides: list[int]
    dilation: list[int]
    lows: list[int]
    highs: list[int]

    @staticmethod
    def of(e: Emitter, n: LiteNode, extents: Sequence[int], kernel: Sequence[int]) -> Window:
        """The window that the options of an operator say."""
        axes = ("h", "w") if len(extents) == 2 else ("d", "h", "w")
        strides, dilation = ([int(n.attr(f"{key}_{a}", 1)) for a in axes] for key in ("stride", "dilation"))
        if min([*kernel, *strides, *dilation]) < 1:
            found = f"kernel {list(kernel)}, strides {strides}, dilation {dilation}"
            raise e.refuse(found, expected="positive numbers")
        totals = [0] * len(extents)
        if padding(e, n.attr("padding")) == "SAME":
            totals = blocks.same_padding(extents, kernel, strides, dilation)
        return Window(list(kernel), strides, dilation, [t // 2 for t in totals], [t - t // 2 for t in totals])


def filters_first(e: Emitter, w: Expr) -> Expr:
    """(O, spatial…, I) as (O, I, spatial…)."""
    return channels_first(e, w)


def depthwise_filters(e: Emitter, w: Expr, channels: int) -> Expr:
    """(1, H, W, C * multiplier) as (C * multiplier, 1, H, W)."""
    if rank_of(w) != 4 or shape_of(w)[0] != 1 or not channels or shape_of(w)[3] % channels:
        raise e.refuse(f"a filter {tuple(shape_of(w))} for {channels} channels", expected="(1, H, W, channels * multiplier)")
    return e.transpose(w, [3, 0, 1, 2])


def groups_of(e: Emitter, x: Expr, w: Expr) -> int:
    """Groups of a convolution of x (N, spatial…, C) with w (O, spatial…, C / groups)."""
    if rank_of(x) != rank_of(w) or rank_of(x) not in (4, 5):
        raise e.refuse(f"an input {tuple(shape_of(x))} and a filter {tuple(shape_of(w))}", expected="four or five axes each")
    channels, part, filters = shape_of(x)[-1], shape_of(w)[-1], shape_of(w)[0]
    if not part or channels % part or filters % (channels // part):
        raise e.refuse(f"{channels} channels, a filter {tuple(shape_of(w))}", expected="groups that divide both")
    return channels // part


def convert_conv(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """CONV_2D."""
    n.options(e, "Conv2D")
    unquantised(e, n)
    groups, w = groups_of(e, x[0], x[1]), filters_first(e, x[1])
    return _conv(e, x, w, n, groups)


def convert_conv_3d(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """CONV_3D, whose filter is (D, H, W, I, O)."""
    n.options(e, "Conv3D")
    unquantised(e, n)
    rank = rank_of(x[1])
    return _conv(e, x, e.transpose(x[1], [rank - 1, rank - 2, *range(rank - 2)]), n, shape_of(x[0])[-1] // shape_of(x[1])[-2])


def convert_depthwise(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """DEPTHWISE_CONV_2D: a group for each channel."""
    n.options(e, "DepthwiseConv2D")
    unquantised(e, n)
    channels = shape_of(x[0])[-1]
    return _conv(e, x, depthwise_filters(e, x[1], channels), n, channels)


def _conv(e: FoldingEmitter, x: list[Value], w: Expr, n: LiteNode, groups: int) -> Expr:
    image = channels_first(e, x[0])
    window = Window.of(e, n, shape_of(image)[2:], shape_of(w)[2:])
    bias = x[2] if n.has(2) else None
    y = blocks.conv(
        e,
        image,
        w,
        bias,
        strides=window.strides,
        lows=window.lows,
        highs=window.highs,
        dilation=window.dilation,
        groups=groups,
    )
    return activated(e, channels_last(e, y), n)


def convert_transpose_conv(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """TRANSPOSE_CONV: (shape of the output, filter (O, H, W, I), input, bias)."""
    options = n.options(e, "TransposeConv")
    unquantised(e, n)
    attributes = {
        "strides": [1, options["stride_h"], options["stride_w"], 1],
        "dilations": [1, 1, 1, 1],
        "padding": padding(e, options["padding"]),
    }
    w = e.transpose(x[1], [1, 2, 0, 3])  # TensorFlow's filter is (H, W, O, I)
    y = like_tensorflow("Conv2DBackpropInput", **attributes)(e, [x[0], w, x[2]], n)
    return activated(e, y if not n.has(3) else e.add(y, x[3]), n)


def flattened(e: Emitter, x: Expr, w: Expr) -> Expr:
    """The input of a fully connected layer as a matrix whose rows are as long as those of w."""
    if rank_of(w) != 2 or not shape_of(w)[1] or math.prod(shape_of(x)) % shape_of(w)[1]:
        raise e.refuse(
            f"an input {tuple(shape_of(x))} and weights {tuple(shape_of(w))}", expected="rows as long as the weights'"
        )
    return e.reshape(x, [math.prod(shape_of(x)) // shape_of(w)[1], shape_of(w)[1]])


def connected_shape(e: Emitter, x: Expr, w: Expr, n: LiteNode) -> list[int]:
    """Shape of the result of a fully connected layer."""
    options = n.options(e, "FullyConnected")
    if options["weights_format"] != 0:
        raise e.refuse(f"weights_format {options['weights_format']}", expected="0", remedy="convert the model again")
    rows, units = math.prod(shape_of(x)) // shape_of(w)[1], shape_of(w)[0]
    return [*shape_of(x)[:-1], units] if options["keep_num_dims"] else [rows, units]


def convert_fully_connected(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """FULLY_CONNECTED: x times the transpose of w (O, I), plus the bias."""
    unquantised(e, n)
    rows = flattened(e, x[0], x[1])
    shape = connected_shape(e, x[0], x[1], n)
    y = blocks.linear(e, rows, x[1], x[2] if n.has(2) else None)
    return activated(e, e.reshape(y, shape), n)


def convert_batch_matmul(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """BATCH_MATMUL of floats."""
    n.options(e, "BatchMatMul")
    unquantised(e, n)
    return like_tensorflow("BatchMatMulV2")(e, x, n)


def convert_pool(kind: str) -> Converter:
    """Padding takes no part in an average."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        options = n.options(e, "Pool2D")
        image = channels_first(e, x[0])
        window = Window.of(e, n, shape_of(image)[2:], [options["filter_h"], options["filter_w"]])
        return activated(e, channels_last(e, pooled(e, kind, image, window)), n)

    return convert


def pooled(e: Emitter, kind: str, image: Expr, window: Window) -> Expr:
    """``max`` or ``avg`` pooling of (N, C, H, W)."""
    if kind == "max" and dtype_of(image) in ("int8", "uint8"):
        widths = tuple(zip(window.lows, window.highs, strict=True))
        kernel, strides, ones = tuple(window.kernel), tuple(window.strides), (1,) * len(window.kernel)
        return e.canonical("max_pool", image, kernel=kernel, strides=strides, padding=widths, dilations=ones)
    return blocks.pool(
        e,
        kind,
        image,
        kernel=window.kernel,
        strides=window.strides,
        lows=window.lows,
        highs=window.highs,
        dilation=[1] * len(window.kernel),
    )


def convert_l2_norm(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """L2_NORMALIZATION along the last axis: x / max(sqrt(sum(x * x)), 1e-6)."""
    axis = rank_of(x[0]) - 1
    norm = e(op.sqrt(e(op.sum(e.mul(x[0], x[0]), [axis], True))))
    return activated(e, e.div(x[0], e.maximum(norm, 1e-6)), n)


WINDOWS: dict[str, Converter] = {
    "CONV_2D": convert_conv,
    "CONV_3D": convert_conv_3d,
    "DEPTHWISE_CONV_2D": convert_depthwise,
    "TRANSPOSE_CONV": convert_transpose_conv,
    "FULLY_CONNECTED": convert_fully_connected,
    "BATCH_MATMUL": convert_batch_matmul,
    "MAX_POOL_2D": convert_pool("max"),
    "AVERAGE_POOL_2D": convert_pool("avg"),
    "L2_NORMALIZATION": convert_l2_norm,
}
