"""ONNX matrix products, convolutions and poolings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, INTEGERS, NARROW_FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, optional


def in_float32(convert: Converter) -> Converter:
    """The converter, computing narrow floats in float32; its float32 results are rounded once, to the first input's dtype."""

    def widened(e: Emitter, x: Inputs, a: Attributes) -> Any:
        dtype = dtype_of(x[0])
        if dtype not in NARROW_FLOATS:
            return convert(e, x, a)
        wide = [v if v is None or dtype_of(v) not in NARROW_FLOATS else e.cast(v, "float32") for v in x]
        result = convert(e, wide, a)
        many = result if isinstance(result, list) else [result]
        back = [y if y is None or dtype_of(y) != "float32" else e.cast(y, dtype) for y in many]
        return back if isinstance(result, list) else back[0]

    return widened


# ---- matrix products ------------------------------------------------------------------------------------------------


def _scaled(e: Emitter, x: Expr, factor: float) -> Expr:
    """x times an attribute, which integers only take whole."""
    if factor == 1.0:
        return x
    if dtype_of(x) in INTEGERS and factor != int(factor):
        raise e.refuse(f"a factor {factor} of {dtype_of(x)}", expected="a whole number")
    return e.mul(x, factor)


def convert_gemm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """alpha * A B + beta * C, in that order."""
    left = e.transpose(x[0], [1, 0]) if a.get("transA") else x[0]
    right = e.transpose(x[1], [1, 0]) if a.get("transB") else x[1]
    y = _scaled(e, e(op.matmul(left, right)), a.get("alpha", 1.0))
    bias, beta = optional(x, 2), a.get("beta", 1.0)
    return y if bias is None or beta == 0.0 else e.add(y, _scaled(e, bias, beta))


# ---- windows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Where the windows of a convolution or pooling lie, ``auto_pad`` resolved.

    Attributes:
        kernel, strides, dilation: for each spatial axis.
        lows, highs: padding.
        extra: what ceil mode adds to the high padding; windows never start there.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    dilation: Sequence[int]
    lows: Sequence[int]
    highs: Sequence[int]
    extra: Sequence[int]

    @staticmethod
    def of(extents: Sequence[int], kernel: Sequence[int], a: Attributes) -> Window:
        """From a node's attributes."""
        n = len(extents)
        strides, dilation = list(a.get("strides", [1] * n)), list(a.get("dilations", [1] * n))
        pads, mode = list(a.get("pads", [0] * (2 * n))), a.get("auto_pad", "NOTSET")
        lows, highs = pads[:n], pads[n:]
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            lows, highs = halves(blocks.same_padding(extents, kernel, strides, dilation), upper=mode == "SAME_UPPER")
        elif mode == "VALID":
            lows, highs = [0] * n, [0] * n
        extra = blocks.ceil_extra(extents, kernel, strides, lows, highs, dilation) if a.get("ceil_mode") else [0] * n
        return Window(list(kernel), strides, dilation, lows, highs, extra)

    def canonical(self) -> dict[str, Any]:
        """Attributes of a canonical pooling."""
        highs = [h + more for h, more in zip(self.highs, self.extra, strict=True)]
        return {
            "kernel": tuple(self.kernel),
            "strides": tuple(self.strides),
            "padding": tuple(zip(self.lows, highs, strict=True)),
            "dilations": tuple(self.dilation),
        }


def halves(totals: Sequence[int], *, upper: bool) -> tuple[list[int], list[int]]:
    """Low and high padding; an odd element goes to the high side with ``upper``."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if upper else (large, small)


def convert_conv(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Convolution; see ``blocks.conv``."""
    w = Window.of(shape_of(x[0])[2:], shape_of(x[1])[2:], a)
    return blocks.conv(
        e,
        x[0],
        x[1],
        optional(x, 2),
        strides=w.strides,
        lows=w.lows,
        highs=w.highs,
        dilation=w.dilation,
        groups=int(a.get("group", 1)),
    )


def convert_conv_transpose(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The input gradient of the convolution with these weights; what an output shape adds beyond it is zero."""
    n, extents, kernel = blocks.spatial(e, x[0]), shape_of(x[0])[2:], shape_of(x[1])[2:]
    w = Window.of(extents, kernel, Attributes({k: v for k, v in a.items() if k != "auto_pad"}))
    more, mode, wanted = list(a.get("output_padding", [0] * n)), a.get("auto_pad", "NOTSET"), a.get("output_shape")
    lows, highs = list(w.lows), list(w.highs)
    natural = [(i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(extents, kernel, w.strides, w.dilation, strict=True)]
    if mode in ("SAME_UPPER", "SAME_LOWER") or wanted is not None:
        target = [i * s for i, s in zip(extents, w.strides, strict=True)] if wanted is None else list(wanted)[-n:]
        totals = [full + m - t for full, m, t in zip(natural, more, target, strict=True)]
        lows, highs = halves(totals, upper=mode == "SAME_UPPER")
    elif mode == "VALID":
        lows, highs = [0] * n, [0] * n
    highs = [high - m for high, m in zip(highs, more, strict=True)]
    if any(full - low - high < 1 for full, low, high in zip(natural, lows, highs, strict=True)):
        raise e.refuse(f"padding {lows}, {highs} of a result {natural}", expected="at least one element on each axis")
    y = _conv_backward(e, x[0], x[1], w, natural, int(a.get("group", 1)))
    y = blocks.pad(e, y, [0, 0, *(-low for low in lows)], [0, 0, *(-high for high in highs)], 0)
    bias = optional(x, 2)
    return y if bias is None else e.add(y, blocks.per_channel(e, bias, n + 2))


def _conv_backward(e: Emitter, x: Expr, w: Expr, window: Window, spatial: Sequence[int], groups: int) -> Expr:
    return e.canonical(
        "conv_backward_data",
        x,
        w,
        strides=tuple(window.strides),
        padding=tuple((0, 0) for _ in spatial),
        dilations=tuple(window.dilation),
        groups=groups,
        input_spatial=tuple(spatial),
    )


# ---- pooling --------------------------------------------------------------------------------------------------------


def convert_max_pool(e: Emitter, x: Inputs, a: Attributes) -> Any:
    """Maximum and, if asked for, its flat index in the whole tensor."""
    shape, n = shape_of(x[0]), blocks.spatial(e, x[0])
    w = Window.of(shape[2:], list(a["kernel_shape"]), a)
    if dtype_of(x[0]) in FLOATS:
        highs = [h + more for h, more in zip(w.highs, w.extra, strict=True)]
        kernel, strides, dilation = w.kernel, w.strides, w.dilation
        y = blocks.pool(e, "max", x[0], kernel=kernel, strides=strides, lows=w.lows, highs=highs, dilation=dilation)
    else:
        y = e.canonical("max_pool", x[0], **w.canonical())
    if a.outputs < 2:
        return [y, None]
    place = e.canonical("max_pool_indices", x[0], **w.canonical(), column_major=bool(a.get("storage_order", 0)))
    images = np.arange(shape[0] * shape[1], dtype=np.int64) * math.prod(shape[2:])
    return [y, e(op.add(place, constant(images.reshape(shape[0], shape[1], *[1] * n))))]


def convert_average_pool(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Mean of each window; with ``count_include_pad`` the padding counts, what ceil mode adds beyond it never does."""
    blocks.spatial(e, x[0])
    w = Window.of(shape_of(x[0])[2:], list(a["kernel_shape"]), a)
    include, plain = bool(a.get("count_include_pad", 0)), set(w.dilation) == {1}
    if plain and not (include and any(w.extra)):
        highs = [h + more for h, more in zip(w.highs, w.extra, strict=True)]
        return blocks.pool(
            e,
            "avg",
            x[0],
            kernel=w.kernel,
            strides=w.strides,
            lows=w.lows,
            highs=highs,
            dilation=w.dilation,
            count_include_pad=include,
        )
    y = x[0]
    if include:
        y = blocks.pad(e, y, [0, 0, *w.lows], [0, 0, *w.highs], 0.0)
        w = Window(w.kernel, w.strides, w.dilation, [0] * len(w.lows), [0] * len(w.lows), w.extra)
    return e.canonical("avg_pool", y, **w.canonical(), count_include_pad=False)


def convert_global_pool(function: Callable[..., Expr]) -> Converter:
    """A reduction over all spatial axes."""
    return lambda e, x, a: e(function(x[0], list(range(2, rank_of(x[0]))), True))


CONVERTERS: dict[str, Converter] = {
    "MatMul": lambda e, x, a: e(op.matmul(x[0], x[1])),
    "Gemm": convert_gemm,
    "Conv": convert_conv,
    "ConvTranspose": in_float32(convert_conv_transpose),
    "MaxPool": in_float32(convert_max_pool),
    "AveragePool": in_float32(convert_average_pool),
    "GlobalAveragePool": convert_global_pool(op.mean),
    "GlobalMaxPool": convert_global_pool(op.max),
}
