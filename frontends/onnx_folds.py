"""ONNX operators on windows that are sums: LpPool and LRN as convolutions with ones, Col2Im and MaxUnpool as scatters; Det."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_shortest, known, optional
from gensyn_tvm.frontends.onnx_windows import Window


def _power(e: Emitter, x: Expr, p: int) -> Expr:
    """|x|^p"""
    size = e(op.abs(x))
    if p == 1:
        return size
    return e.mul(x, x) if p == 2 else e.canonical("pow", size, e.full([], float(p), dtype_of(x)))


def _root(e: Emitter, x: Expr, p: int) -> Expr:
    """x^(1/p)"""
    if p == 1:
        return x
    return e(op.sqrt(x)) if p == 2 else e.canonical("pow", x, e.full([], 1.0 / p, dtype_of(x)))


def _window_sums(e: Emitter, x: Expr, w: Window) -> Expr:
    """Sums of the windows of x (N, C, spatial…): a convolution of each channel with ones."""
    shape, n = shape_of(x), len(w.kernel)
    flat = e.reshape(x, [shape[0] * shape[1], 1, *shape[2:]])
    highs = [high + more for high, more in zip(w.highs, w.extra, strict=True)]
    y = blocks.conv(
        e,
        flat,
        e.full([1, 1, *w.kernel], 1.0, dtype_of(x)),
        None,
        strides=w.strides,
        lows=w.lows,
        highs=highs,
        dilation=w.dilation,
        groups=1,
    )
    return e.reshape(y, [*shape[:2], *shape_of(y)[-n:]])


def convert_lp_pool(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """(sum of |x|^p)^(1/p) of each window; padding adds nothing."""
    p = int(a.get("p", 2))
    if dtype_of(x[0]) not in FLOATS or p < 1:
        raise e.refuse(f"p={p} of {dtype_of(x[0])}", expected="a positive p, and floats")
    w = Window.of(shape_of(x[0])[2:], list(a["kernel_shape"]), a)
    return _root(e, _window_sums(e, _power(e, x[0], p), w), p)


def convert_global_lp_pool(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    p = int(a.get("p", 2))
    return _root(e, e(op.sum(_power(e, x[0], p), list(range(2, rank_of(x[0]))), True)), p)


def convert_lrn(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x / (bias + alpha / size * sum of x^2 over size channels around)^beta"""
    size, shape = int(a["size"]), shape_of(x[0])
    rows = e.reshape(e.mul(x[0], x[0]), [shape[0], 1, shape[1], math.prod(shape[2:])])
    low = (size - 1) // 2
    w = Window([size, 1], [1, 1], [1, 1], [low, 0], [size - 1 - low, 0], [0, 0])
    total = e.reshape(_window_sums(e, rows, w), shape)
    alpha, beta, bias = (convert_shortest(a.get(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    base = e.add(e.mul(total, alpha / size), bias)
    return e.div(x[0], e.canonical("pow", base, e.full([], beta, dtype_of(x[0]))))


# ---- scatters -------------------------------------------------------------------------------------------------------


def _places(image: Sequence[int], block: Sequence[int], a: Attributes) -> tuple[np.ndarray, list[int], list[int]]:
    """Flat positions in the padded image, (taps, blocks), with its extents and the low padding."""
    n = len(image)
    dilations, strides = list(a.get("dilations", [1] * n)), list(a.get("strides", [1] * n))
    pads = list(a.get("pads", [0] * (2 * n)))
    padded = [i + pads[k] + pads[k + n] for k, i in enumerate(image)]
    flat = np.zeros((1, 1), np.int64)
    for k, extent in enumerate(padded):
        count = (extent - dilations[k] * (block[k] - 1) - 1) // strides[k] + 1
        along = np.add.outer(np.arange(block[k]) * dilations[k], np.arange(count) * strides[k])
        flat = (flat[:, None, :, None] * extent + along[None, :, None, :]).reshape(flat.shape[0] * block[k], -1)
    return flat, padded, pads[:n]


def convert_col2im(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The sum of all blocks at their places, in the order of the scatter; what lies in the padding is dropped."""
    image, block = ([int(v) for v in known(e, x[k], what)] for k, what in ((1, "the image's shape"), (2, "the block's shape")))
    places, padded, lows = _places(image, block, a)
    batch, rows, columns = shape_of(x[0])
    taps = math.prod(block)
    if rows % taps or columns != places.shape[1]:
        raise e.refuse(f"columns {shape_of(x[0])} for {image}", expected=f"(batch, channels * {taps}, {places.shape[1]})")
    channels = rows // taps
    updates = e.reshape(x[0], [batch, channels, taps * columns])
    index = e.broadcast(constant(places.reshape(1, 1, -1)), [batch, channels, taps * columns])
    zeros = e.full([batch, channels, math.prod(padded)], 0, dtype_of(x[0]))
    y = e.canonical("scatter_elements", zeros, index, updates, axis=2, reduction="add")
    y = e.reshape(y, [batch, channels, *padded])
    for axis, (low, extent) in enumerate(zip(lows, image, strict=True)):
        y = e.slice(y, axis + 2, low, low + extent)
    return y


def convert_max_unpool(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Elements at their flat positions in the tensor that was pooled, zero elsewhere; a larger output shape adds zeros."""
    shape, kernel = shape_of(x[0]), list(a["kernel_shape"])
    n = len(kernel)
    strides, pads = list(a.get("strides", [1] * n)), list(a.get("pads", [0] * (2 * n)))
    extents = [(d - 1) * strides[k] - pads[k] - pads[k + n] + kernel[k] for k, d in enumerate(shape[2:])]
    inner = [*shape[:2], *extents]
    zeros = e.full([math.prod(inner)], 0, dtype_of(x[0]))
    index, updates = (e.reshape(v, [math.prod(shape)]) for v in (x[1], x[0]))
    y = e.reshape(e.canonical("scatter_elements", zeros, index, updates, axis=0, reduction="none"), inner)
    if optional(x, 2) is None:
        return y
    wanted = [int(v) for v in known(e, x[2], "the output's shape")]
    highs = [w - d for w, d in zip(wanted, inner, strict=True)]
    return blocks.pad(e, y, [0] * len(inner), highs, 0.0)


# ---- determinants ---------------------------------------------------------------------------------------------------

_MAX_ROWS = 4


def _minor(e: Emitter, element: dict[tuple[int, int], Expr], rows: Sequence[int], columns: Sequence[int]) -> Expr:
    """The determinant of some rows and columns, expanded along its first row, from left to right."""
    total = None
    for k, column in enumerate(columns):
        term = element[rows[0], column]
        if len(rows) > 1:
            term = e.mul(term, _minor(e, element, rows[1:], [c for c in columns if c != column]))
        total = term if total is None else (e.sub(total, term) if k % 2 else e.add(total, term))
    return total


def convert_det(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Determinants of matrices with few rows by expansion along the first."""
    *batch, rows, columns = shape_of(x[0])
    if rows != columns or not 1 <= rows <= _MAX_ROWS or dtype_of(x[0]) not in FLOATS:
        raise e.refuse(f"{dtype_of(x[0])}{shape_of(x[0])}", expected=f"float matrices with 1 to {_MAX_ROWS} rows and columns")
    axis = len(batch)
    element = {}
    for r in range(rows):
        row = e.slice(x[0], axis, r, r + 1)
        for c in range(columns):
            element[r, c] = e.reshape(e.slice(row, axis + 1, c, c + 1), batch)
    return _minor(e, element, range(rows), range(columns))


FOLDS: dict[str, Converter] = {
    "LpPool": convert_lp_pool,
    "GlobalLpPool": convert_global_lp_pool,
    "LRN": convert_lrn,
    "Col2Im": convert_col2im,
    "MaxUnpool": convert_max_unpool,
    "Det": convert_det,
}
