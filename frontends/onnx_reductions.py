"""ONNX reductions, positions of extrema, and the softmax family; how sums run is in docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, INTEGERS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, integers

Step = Callable[[Emitter, Expr], Expr]


def _axes(e: Emitter, x: Inputs, a: Attributes) -> list[int]:
    axes = integers(e, x, a, 1, "axes")
    if not axes:
        return [] if a.get("noop_with_empty_axes") else list(range(rank_of(x[0])))
    return sorted(convert_axis(v, rank_of(x[0])) for v in axes)


def _square(e: Emitter, x: Expr) -> Expr:
    return e.mul(x, x)


def convert_reduce(function: Callable[..., Expr], *, before: Step | None = None, after: Step | None = None) -> Converter:
    """``before`` each element, ``after`` the reduction."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axes = _axes(e, x, a)
        y = x[0] if before is None else before(e, x[0])
        y = e(function(y, axes, bool(a.get("keepdims", 1)))) if axes else y
        return y if after is None else after(e, y)

    return convert


def _reduced_shape(x: Expr, axes: list[int], keepdims: bool) -> list[int]:
    return [1 if k in axes else n for k, n in enumerate(shape_of(x)) if keepdims or k not in axes]


def _lowest(dtype: str, *, largest: bool) -> bool | int | float:
    """The least (or ``largest``) value of a dtype: what the maximum (or minimum) of nothing is."""
    if dtype == "bool":
        return largest
    if dtype in FLOATS:
        return math.inf if largest else -math.inf
    return int(np.iinfo(dtype).max if largest else np.iinfo(dtype).min)


def convert_extremum(function: Callable[..., Expr], *, largest: bool) -> Converter:
    """Maximum, or minimum (where nothing gives the ``largest`` value); of bools as of 0 and 1."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axes, keepdims, dtype = _axes(e, x, a), bool(a.get("keepdims", 1)), dtype_of(x[0])
        if any(shape_of(x[0])[axis] == 0 for axis in axes):
            return e.full(_reduced_shape(x[0], axes, keepdims), _lowest(dtype, largest=largest), dtype)
        if not axes:
            return x[0]
        y = e(function(e.cast(x[0], "uint8") if dtype == "bool" else x[0], axes, keepdims))
        return e.cast(y, dtype)

    return convert


def convert_mean(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The sum divided by the count; of integers the quotient without its fraction."""
    axes, keepdims, dtype = _axes(e, x, a), bool(a.get("keepdims", 1)), dtype_of(x[0])
    if not axes:
        return x[0]
    if dtype in FLOATS:
        return e(op.mean(x[0], axes, keepdims))
    count = math.prod(shape_of(x[0])[axis] for axis in axes)
    return e(op.divide(e(op.sum(x[0], axes, keepdims)), number(max(count, 1), dtype)))


def convert_log_sum_exp(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """See ``blocks.log_sum_exp``; of nothing -inf."""
    axes, keepdims, dtype = _axes(e, x, a), bool(a.get("keepdims", 1)), dtype_of(x[0])
    if any(shape_of(x[0])[axis] == 0 for axis in axes):
        return e.full(_reduced_shape(x[0], axes, keepdims), -math.inf, dtype)
    if not axes:
        return x[0]
    return e.reshape(blocks.log_sum_exp(e, x[0], axes), _reduced_shape(x[0], axes, keepdims))


def convert_search(function: Callable[..., Expr], extremum: Callable[..., Expr]) -> Converter:
    """The position of the extremum: of equal ones the first, or the last with ``select_last_index``."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axis, keepdims = convert_axis(a.get("axis", 0), rank_of(x[0])), bool(a.get("keepdims", 1))
        if not a.get("select_last_index"):
            return e(function(x[0], axis, keepdims))
        best = e(extremum(x[0], [axis], True))
        hit = e(op.equal(x[0], best))
        if dtype_of(x[0]) in FLOATS:
            hit = e(op.logical_or(hit, e(op.isnan(x[0]))))
        places = e.positions(shape_of(x[0])[axis], axis, rank_of(x[0]))
        return e(op.max(e.where(hit, places, -1), [axis], keepdims))

    return convert


# ---- softmax --------------------------------------------------------------------------------------------------------


def along_axis(function: Callable[[Emitter, Expr, int], Expr]) -> Converter:
    """``function`` along an axis; before opset 13 along all axes from it on, as one."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        shape, rank = shape_of(x[0]), rank_of(x[0])
        if a.opset >= 13:
            return function(e, x[0], convert_axis(a.get("axis", -1), rank))
        axis = convert_axis(a.get("axis", 1), rank)
        flat = e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])
        return e.reshape(function(e, flat, 1), shape)

    return convert


def _hardmax(e: Emitter, x: Expr, axis: int) -> Expr:
    """1 at the first of the largest elements, 0 elsewhere."""
    best = e(op.argmax(x, axis, True))
    places = e.positions(shape_of(x)[axis], axis, rank_of(x))
    return e.cast(e(op.equal(best, places)), dtype_of(x))


def _absolute(e: Emitter, x: Expr) -> Expr:
    return e(op.abs(x))


def _root(e: Emitter, x: Expr) -> Expr:
    """The square root; of an integer that of the float64, without its fraction."""
    return e.cast(e(op.sqrt(e.cast(x, "float64"))), dtype_of(x)) if dtype_of(x) in INTEGERS else e(op.sqrt(x))


REDUCTIONS: dict[str, Converter] = {
    "ReduceSum": convert_reduce(op.sum),
    "ReduceMean": convert_mean,
    "ReduceProd": convert_reduce(op.prod),
    "ReduceMax": convert_extremum(op.max, largest=False),
    "ReduceMin": convert_extremum(op.min, largest=True),
    "ReduceL1": convert_reduce(op.sum, before=_absolute),
    "ReduceL2": convert_reduce(op.sum, before=_square, after=_root),
    "ReduceSumSquare": convert_reduce(op.sum, before=_square),
    "ReduceLogSum": convert_reduce(op.sum, after=lambda e, x: e(op.log(x))),
    "ReduceLogSumExp": convert_log_sum_exp,
    "ArgMax": convert_search(op.argmax, op.max),
    "ArgMin": convert_search(op.argmin, op.min),
    "Softmax": along_axis(lambda e, x, axis: e(nn.softmax(x, axis))),
    "LogSoftmax": along_axis(lambda e, x, axis: e(nn.log_softmax(x, axis))),
    "Hardmax": along_axis(_hardmax),
}
