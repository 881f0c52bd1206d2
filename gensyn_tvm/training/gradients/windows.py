"""Gradients of canonical convolutions and poolings; each is again one of them."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.training.emit import Emitter, Expr, op, shape_of
from gensyn_tvm.training.gradients.basics import Gradient, attrs_of


def _spatial(x: Expr) -> tuple[int, ...]:
    return tuple(shape_of(x)[2:])


def _common(call: Any) -> dict[str, Any]:
    """The attributes that a convolution shares with its gradients."""
    return {k: v for k, v in attrs_of(call).items() if k in ("strides", "padding", "dilations", "groups")}


def _conv(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, w = call.args
    return [
        canonical("conv_backward_data", g, w, **_common(call), input_spatial=_spatial(x)),
        canonical("conv_backward_weight", x, g, **_common(call), kernel=_spatial(w)),
    ]


def _conv_backward_data(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """As the transposed convolution that it is."""
    dy, w = call.args
    return [
        canonical("conv", g, w, **_common(call)),
        canonical("conv_backward_weight", g, dy, **_common(call), kernel=_spatial(w)),
    ]


def _conv_backward_weight(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    x, dy = call.args
    return [
        canonical("conv_backward_data", dy, g, **_common(call), input_spatial=_spatial(x)),
        canonical("conv", x, g, **_common(call)),
    ]


def _max_pool(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """Each window's gradient goes to its first largest element."""
    return [canonical("max_pool_backward", g, call.args[0], **attrs_of(call))]


def _max_pool_backward(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """From where each window's dy went."""
    dy, x = call.args
    index = e(canonical("max_pool_indices", x, **attrs_of(call), column_major=False))
    lead = shape_of(x)[:2]
    flat = e(op.reshape(g, [*lead, math.prod(_spatial(x))]))
    picked = e(canonical("gather_elements", flat, e(op.reshape(index, [*lead, math.prod(_spatial(dy))])), axis=2))
    return [op.reshape(picked, shape_of(dy)), None]


def _avg_pool(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """Each window's gradient is divided among its elements."""
    return [canonical("avg_pool_backward", g, **attrs_of(call), input_spatial=_spatial(call.args[0]))]


def _avg_pool_backward(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    window = {k: v for k, v in attrs_of(call).items() if k != "input_spatial"}
    return [canonical("avg_pool", g, **window)]


WINDOWS: dict[str, Gradient] = {
    "conv": _conv,
    "conv_backward_data": _conv_backward_data,
    "conv_backward_weight": _conv_backward_weight,
    "max_pool": _max_pool,
    "max_pool_backward": _max_pool_backward,
    "avg_pool": _avg_pool,
    "avg_pool_backward": _avg_pool_backward,
}
