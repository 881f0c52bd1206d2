"""Normalisations and attention of Relax as canonical operators, each decomposition in the order that is written here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical import convert_float64
from gensyn_tvm.canonical.convert_context import Context, Converter, Value, attributes


def normalise(ctx: Context, x: int, axes: Sequence[int], epsilon: float) -> int:
    """(x - mean) / sqrt(variance + epsilon), the variance two-pass"""
    centred = ctx.sub(x, ctx.mean(x, axes, keepdims=True))
    variance = ctx.mean(ctx.mul(centred, centred), axes, keepdims=True)
    return ctx.div(centred, ctx.emit("sqrt", ctx.add(variance, ctx.number(epsilon, x))))


def _affine(ctx: Context, call: Any, y: int, gamma: int, beta: int, beside: Sequence[int]) -> int:
    """y * gamma + beta, both reshaped to ``beside``, each only if the call asks for it."""
    if bool(call.attrs.scale):
        y = ctx.mul(y, ctx.reshape(gamma, beside))
    return ctx.add(y, ctx.reshape(beta, beside)) if bool(call.attrs.center) else y


def _layer_norm(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """((x - mean) / sqrt(variance + epsilon)) * gamma + beta"""
    x, gamma, beta = args
    shape = ctx.shape(x)
    axes = ctx.axes(call.attrs.axes, len(shape))
    y = normalise(ctx, x, axes, float(call.attrs.epsilon))
    return _affine(ctx, call, y, gamma, beta, [n if a in axes else 1 for a, n in enumerate(shape)])


def _batch_normalise(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """((x - mean) / sqrt(variance + epsilon)) * gamma + beta over every axis but 1"""
    x, gamma, beta = args
    rank = len(ctx.shape(x))
    beside = [1, ctx.shape(x)[1], *[1] * (rank - 2)]
    y = normalise(ctx, x, (0, *range(2, rank)), attributes(call)["epsilon"])
    return ctx.add(ctx.mul(y, ctx.reshape(gamma, beside)), ctx.reshape(beta, beside))


def _group_norm(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """((x - mean) / sqrt(variance + epsilon)) * gamma + beta over the given axes and the channels of each group"""
    x, gamma, beta = args
    shape, groups = ctx.shape(x), int(call.attrs.num_groups)
    (channel,) = ctx.axes(call.attrs.channel_axis, len(shape))
    axes = [a if a < channel else a + 1 for a in ctx.axes(call.attrs.axes, len(shape)) if a != channel]
    grouped = ctx.reshape(x, (*shape[:channel], groups, shape[channel] // groups, *shape[channel + 1 :]))
    y = ctx.reshape(normalise(ctx, grouped, sorted([*axes, channel + 1]), float(call.attrs.epsilon)), shape)
    return _affine(ctx, call, y, gamma, beta, [n if a == channel else 1 for a, n in enumerate(shape)])


def _instance_norm(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """((x - mean) / sqrt(variance + epsilon)) * gamma + beta over the given axes"""
    x, gamma, beta = args
    shape = ctx.shape(x)
    (channel,) = ctx.axes(call.attrs.channel_axis, len(shape))
    y = normalise(ctx, x, ctx.axes(call.attrs.axes, len(shape)), float(call.attrs.epsilon))
    return _affine(ctx, call, y, gamma, beta, [n if a == channel else 1 for a, n in enumerate(shape)])


def _rms_norm(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """(x / sqrt(mean(x * x) + epsilon)) * weight"""
    x, weight = args
    shape = ctx.shape(x)
    axes = ctx.axes(call.attrs.axes, len(shape))
    square = ctx.mean(ctx.mul(x, x), axes, keepdims=True)
    y = ctx.div(x, ctx.emit("sqrt", ctx.add(square, ctx.number(float(call.attrs.epsilon), x))))
    return ctx.mul(y, ctx.reshape(weight, [n if a in axes else 1 for a, n in enumerate(shape)]))


def _attention(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """softmax(mask(q k^T * scale + bias)) v of (batch, sequence, heads, features); without a scale, / sqrt(features).

    A causal mask puts -inf where key > query + offset, offset 0 (TopLeft) or the difference of the lengths (BottomRight).
    """
    if call.attrs.window_size is not None:
        raise ctx.refuse(f"window_size {call.attrs.window_size}", expected="no window", remedy="give the window as a bias")
    q, k, v = (ctx.transpose(a, (0, 2, 1, 3)) for a in args[:3])
    scores = ctx.emit("matmul", q, ctx.transpose(k, (0, 1, 3, 2)))
    if call.attrs.scale is None:
        scores = ctx.div(scores, ctx.number(math.sqrt(ctx.shape(q)[3]), q))
    else:
        scores = ctx.mul(scores, ctx.number(float(getattr(call.attrs.scale, "value", call.attrs.scale)), q))
    if len(args) > 3 and args[3] is not None:
        scores = ctx.add(scores, args[3])
    if call.attrs.causal_mask is not None:
        scores = _causal(ctx, scores, str(call.attrs.causal_mask))
    exps = convert_float64.exp(ctx, ctx.sub(scores, ctx.emit("reduce_max", scores, axes=(3,), keepdims=True)))
    weights = ctx.div(exps, ctx.sum(exps, (3,), keepdims=True))
    return ctx.transpose(ctx.emit("matmul", weights, v), (0, 2, 1, 3))


def _causal(ctx: Context, scores: int, kind: str) -> int:
    queries, keys = ctx.shape(scores)[2:]
    if kind not in ("TopLeft", "BottomRight"):
        raise ctx.refuse(f"causal_mask {kind}", expected="TopLeft or BottomRight")
    offset = ctx.scalar(0 if kind == "TopLeft" else abs(queries - keys), "int64")
    last = ctx.add(ctx.iota((queries, 1), 0, "int64"), offset)
    visible = ctx.emit("less_equal", ctx.iota((1, keys), 1, "int64"), last)
    return ctx.where(visible, scores, ctx.number(-math.inf, scores))


CONVERTERS: dict[str, Converter] = {
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.rms_norm": _rms_norm,
    "relax.nn.attention": _attention,
    "relax.nn.attention_bias": _attention,
    "gensyn.batch_normalise": _batch_normalise,
}
