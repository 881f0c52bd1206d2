"""Gradients of convolutions and poolings, made of our own backward operators."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.canonical.convert_context import integers
from gensyn_tvm.canonical.convert_windows import pool_window
from gensyn_tvm.training import ops
from gensyn_tvm.training.emit import Expr, dtype_of, number, op, shape_of

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def _moved(bb: Any, x: Expr, layout: str, wanted: str) -> Expr:
    """x with its axes in the order ``wanted``."""
    return x if layout == wanted else bb.emit(op.permute_dims(x, [layout.index(letter) for letter in wanted]))


def conv(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Gradients of a convolution's input and weight, in any layout."""
    attrs = call.attrs
    n = len(shape_of(call.args[0])) - 2
    data, kernel = "NC" + _SPATIAL[n], "OI" + _SPATIAL[n]
    data_layout, kernel_layout = str(attrs.data_layout), str(attrs.kernel_layout)
    x = _moved(bb, call.args[0], data_layout, data)
    w = _moved(bb, call.args[1], kernel_layout, kernel)
    g = _moved(bb, g, str(attrs.out_layout) or data_layout, data)
    common = {
        "strides": list(integers(attrs.strides)),
        "padding": list(integers(attrs.padding)),
        "dilations": list(integers(attrs.dilation)),
        "groups": int(attrs.groups),
    }
    dx = bb.emit(ops.conv_backward_data(g, w, **common, input_spatial=shape_of(x)[2:]))
    dw = bb.emit(ops.conv_backward_weight(x, g, **common, kernel=shape_of(w)[2:]))
    return [_moved(bb, dx, data, data_layout), _moved(bb, dw, kernel, kernel_layout)]


def max_pool(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Each window's gradient goes to its first largest element."""
    return [_pool(call, g, bb, average=False)]


def avg_pool(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """Each window's gradient is divided among its elements."""
    return [_pool(call, g, bb, average=True)]


def _pool(call: Any, g: Any, bb: Any, *, average: bool) -> Expr:
    layout = str(call.attrs.layout)
    data = "NC" + _SPATIAL[len(layout) - 2]
    x = _moved(bb, call.args[0], layout, data)
    g = _moved(bb, g, str(call.attrs.out_layout) or layout, data)
    window = {name: list(value) for name, value in pool_window(call.attrs, shape_of(x)[2:])[0].items()}
    if average:
        spatial = shape_of(x)[2:]
        dx = ops.avg_pool_backward(g, **window, count_include_pad=bool(call.attrs.count_include_pad), input_spatial=spatial)
    else:
        dx = ops.max_pool_backward(g, x, **window)
    return _moved(bb, bb.emit(dx), data, layout)


def adaptive_avg_pool(var: Any, call: Any, g: Any, bb: Any) -> list[Expr]:
    """To one element: g / count everywhere. Otherwise an average pooling's gradient."""
    (x,) = call.args
    spatial, sizes = shape_of(x)[2:], shape_of(var)[2:]
    if set(sizes) == {1}:
        return [op.broadcast_to(op.divide(g, number(math.prod(spatial), dtype_of(g))), shape_of(x))]
    kernel = [n // s for n, s in zip(spatial, sizes, strict=True)]
    none = [0] * (2 * len(kernel))
    ones = [1] * len(kernel)
    dx = ops.avg_pool_backward(
        g, kernel=kernel, strides=kernel, padding=none, dilations=ones, count_include_pad=False, input_spatial=spatial
    )
    return [dx]
