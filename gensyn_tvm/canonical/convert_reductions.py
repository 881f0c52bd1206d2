"""Reductions and softmax of Relax as canonical operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical import convert_float64
from gensyn_tvm.canonical.convert_context import Context, Converter, Value, attributes, integers


def _reduce(op: str) -> Converter:
    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        axes = ctx.axes(call.attrs.axis, len(ctx.shape(args[0])))
        return ctx.emit(op, args[0], axes=axes, keepdims=bool(call.attrs.keepdims))

    return convert


def _mean(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    axes = ctx.axes(call.attrs.axis, len(ctx.shape(args[0])))
    return ctx.mean(args[0], axes, keepdims=bool(call.attrs.keepdims))


def _variance(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """mean((x - mean(x)) * (x - mean(x)))"""
    axes = ctx.axes(call.attrs.axis, len(ctx.shape(args[0])))
    centred = ctx.sub(args[0], ctx.mean(args[0], axes, keepdims=True))
    return ctx.mean(ctx.mul(centred, centred), axes, keepdims=bool(call.attrs.keepdims))


def _std(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """sqrt(variance)"""
    return ctx.emit("sqrt", _variance(ctx, call, args))


def _arg(op: str) -> Converter:
    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        (x,) = args
        rank = len(ctx.shape(x))
        keepdims = bool(call.attrs.keepdims)
        if call.attrs.axis is None:
            index = ctx.emit(op, ctx.reshape(x, [ctx.type(x).size]), axes=(0,), keepdims=False)
            return ctx.reshape(index, [1] * rank if keepdims else [])
        return ctx.emit(op, x, axes=ctx.axes(call.attrs.axis, rank), keepdims=keepdims)

    return convert


def _shifted(ctx: Context, call: Any, x: int) -> tuple[int, tuple[int, ...]]:
    axes = ctx.axes(int(call.attrs.axis), len(ctx.shape(x)))
    return ctx.sub(x, ctx.emit("reduce_max", x, axes=axes, keepdims=True)), axes


def _softmax(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """exp(x - max) / sum(exp(x - max))"""
    shifted, axes = _shifted(ctx, call, args[0])
    exps = convert_float64.exp(ctx, shifted)
    return ctx.div(exps, ctx.sum(exps, axes, keepdims=True))


def _log_softmax(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """(x - max) - log(sum(exp(x - max)))"""
    shifted, axes = _shifted(ctx, call, args[0])
    total = ctx.sum(convert_float64.exp(ctx, shifted), axes, keepdims=True)
    return ctx.sub(shifted, convert_float64.log(ctx, total))


def _collapse_sum_to(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return _collapse(ctx, args[0], integers(call.args[1]))


def _collapse_sum_like(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return _collapse(ctx, args[0], ctx.shape(args[1]))


def _collapse(ctx: Context, x: int, target: Sequence[int]) -> int:
    """One sum over every axis along which ``target`` was broadcast to the shape of x."""
    shape = ctx.shape(x)
    lead = len(shape) - len(target)
    axes = tuple(a for a, n in enumerate(shape) if a < lead or (target[a - lead] == 1 and n != 1))
    return ctx.reshape(ctx.sum(x, axes, keepdims=False) if axes else x, target)


def _cross_entropy_with_logits(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """-(sum(predictions * labels)), divided by the batch size for rank 2 and more"""
    product = ctx.mul(args[0], args[1])
    shape = ctx.shape(args[0])
    total = ctx.emit("neg", ctx.sum(product, range(len(shape)), keepdims=False))
    return ctx.div(total, ctx.number(shape[0], args[0])) if len(shape) > 1 else total


def _random_bits(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    a = attributes(call)
    return ctx.emit("random_bits", *args, op_id=a["op_id"], shape=a["shape"])


CONVERTERS: dict[str, Converter] = {
    "relax.sum": _reduce("sum"),
    "relax.prod": _reduce("prod"),
    "relax.max": _reduce("reduce_max"),
    "relax.min": _reduce("reduce_min"),
    "relax.mean": _mean,
    "relax.variance": _variance,
    "relax.std": _std,
    "relax.argmax": _arg("argmax"),
    "relax.argmin": _arg("argmin"),
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _log_softmax,
    "relax.collapse_sum_to": _collapse_sum_to,
    "relax.collapse_sum_like": _collapse_sum_like,
    "relax.nn.cross_entropy_with_logits": _cross_entropy_with_logits,
    "gensyn.random_bits": _random_bits,
}
