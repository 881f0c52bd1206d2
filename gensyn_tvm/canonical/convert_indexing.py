"""Relax operators that index with data, sort or accumulate, as canonical operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical.convert_context import Context, Converter, Value, integer, type_of
from gensyn_tvm.canonical.convert_movement import index_value


def _axis(ctx: Context, call: Any, x: int) -> int:
    return integer(call.attrs.axis) % len(ctx.shape(x))


def _gather_elements(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    x, indices = args
    return ctx.emit("gather_elements", x, index_value(ctx, indices), axis=_axis(ctx, call, x))


def _gather_nd(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    x, indices = args
    return ctx.emit("gather_nd", x, index_value(ctx, indices), batch_dims=integer(call.attrs.batch_dims))


def _flip(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    return ctx.emit("reverse", args[0], axes=(_axis(ctx, call, args[0]),))


_REDUCTIONS = {"update": "none", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _reduction(ctx: Context, call: Any) -> str:
    name = str(call.attrs.reduction)
    if name not in _REDUCTIONS:
        raise ctx.refuse(f"reduction {name!r}", expected=", ".join(_REDUCTIONS))
    return _REDUCTIONS[name]


def _scatter_elements(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    x, indices, updates = args
    reduction = _reduction(ctx, call)
    return ctx.emit("scatter_elements", x, index_value(ctx, indices), updates, axis=_axis(ctx, call, x), reduction=reduction)


def _scatter_nd(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    x, indices, updates = args
    return ctx.emit("scatter_nd", x, index_value(ctx, indices), updates, reduction=_reduction(ctx, call))


def _argsort(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    order = ctx.emit("argsort", args[0], axis=_axis(ctx, call, args[0]), descending=bool(call.attrs.descending))
    return ctx.cast(order, type_of(call).dtype)


def _sort(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    axis = _axis(ctx, call, args[0])
    order = ctx.emit("argsort", args[0], axis=axis, descending=bool(call.attrs.descending))
    return ctx.emit("gather_elements", args[0], order, axis=axis)


CONVERTERS: dict[str, Converter] = {
    "relax.gather_elements": _gather_elements,
    "relax.gather_nd": _gather_nd,
    "relax.flip": _flip,
    "relax.scatter_elements": _scatter_elements,
    "relax.scatter_nd": _scatter_nd,
    "relax.argsort": _argsort,
    "relax.sort": _sort,
}
