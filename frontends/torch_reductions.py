"""ATen reductions and normalisations beyond the common ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import (
    Arguments,
    Converter,
    convert_deviation,
    convert_layer_norm,
    convert_reduce,
    in_float32,
    reduced_axes,
)

# ---- reductions -----------------------------------------------------------------------------------------------------


def convert_quantifier(function: Callable[..., Expr]) -> Converter:
    """any, all: the largest or smallest truth value."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x = e.cast(e.cast(a.self, "bool"), "uint8")
        axes, keepdims = reduced_axes(a), bool(getattr(a, "keepdim", False))
        if 0 in shape_of(x):
            return e.full(a.out_shape, function is op.min, a.out_dtype)
        return e.cast(e(function(x, axes, keepdims)) if rank_of(x) else x, a.out_dtype)

    return convert


def convert_aminmax(e: FoldingEmitter, a: Arguments) -> Any:
    axes = reduced_axes(a)
    return [e(f(a.self, axes, a.keepdim)) if rank_of(a.self) else a.self for f in (op.min, op.max)]


def convert_mean_beside(root: bool) -> Converter:
    """var_mean, std_mean"""

    def convert(e: FoldingEmitter, a: Arguments) -> Any:
        return [convert_deviation(root)(e, a), convert_reduce(op.mean)(e, a)]

    return convert


def convert_logsumexp(e: FoldingEmitter, a: Arguments) -> Expr:
    """log(sum(exp(x - m))) + m, m the maximum where it is finite and 0 elsewhere."""
    x = e.cast(a.self, a.out_dtype)
    if not rank_of(x):
        return x
    axes = reduced_axes(a)
    return e.reshape(blocks.log_sum_exp(e, x, axes), a.out_shape)


def convert_norm(e: FoldingEmitter, a: Arguments) -> Expr:
    """The p-norm: a maximum or minimum of |x|, a count, sum(|x|), sqrt(sum(x * x)) or a power of a sum of powers."""
    p = getattr(a, "ord", getattr(a, "p", 2))
    p = 2.0 if p is None else float(p)
    x, axes, keepdims = e.cast(a.self, a.out_dtype), reduced_axes(a), bool(getattr(a, "keepdim", False))
    if not rank_of(x):
        return e(op.abs(x)) if p else e.cast(e(op.not_equal(x, number(0, a.out_dtype))), a.out_dtype)
    return _norm(e, x, p, axes, keepdims)


def _norm(e: FoldingEmitter, x: Expr, p: float, axes: Sequence[int], keepdims: bool) -> Expr:
    dtype, axes = dtype_of(x), list(axes)
    if p == 0:
        return e(op.sum(e.cast(e(op.not_equal(x, number(0, dtype))), dtype), axes, keepdims))
    if p == 2:
        return _root(e, e(op.sum(e.mul(x, x), axes, keepdims)), op.sqrt)
    size = e(op.abs(x))
    if math.isinf(p):
        return e((op.max if p > 0 else op.min)(size, axes, keepdims))
    if p == 1:
        return e(op.sum(size, axes, keepdims))
    total = e(op.sum(e.canonical("pow", size, number(p, dtype)), axes, keepdims))
    root = lambda y: canonical("pow", y, number(1.0 / p, dtype))  # noqa: E731
    return _root(e, total, root) if p > 0 else e(root(total))


def _root(e: FoldingEmitter, x: Expr, function: Callable[[Expr], Expr]) -> Expr:
    """A root, 0 of 0, through which no gradient reaches a 0, where the root has none; PyTorch's norms do so."""
    apart = e(op.not_equal(x, number(0, dtype_of(x))))
    return e.where(apart, e(function(e.where(apart, x, 1.0))), 0.0)


# ---- distances ------------------------------------------------------------------------------------------------------


def _distance(e: FoldingEmitter, x: Expr, p: float) -> Expr:
    """The p-norm over the last axis."""
    if not shape_of(x)[-1]:
        return e.full(shape_of(x)[:-1], 0, dtype_of(x))
    return _norm(e, x, p, [rank_of(x) - 1], False)


def convert_cdist(e: FoldingEmitter, a: Arguments) -> Expr:
    """Distances of rows from differences, whatever ``compute_mode`` says."""
    (*_, p, width), (*_, r, _) = shape_of(a.x1), shape_of(a.x2)
    x = e.reshape(a.x1, [*shape_of(a.x1)[:-2], p, 1, width])
    return _distance(e, e.sub(x, e.reshape(a.x2, [*shape_of(a.x2)[:-2], 1, r, width])), float(a.p))


def convert_pdist(e: FoldingEmitter, a: Arguments) -> Expr:
    """Distances of each row from those behind it."""
    if not a.out_shape[0]:
        return e.full(a.out_shape, 0, a.out_dtype)
    first, second = (constant(k.astype(np.int64)) for k in np.triu_indices(shape_of(a.self)[0], 1))
    return _distance(e, e.sub(blocks.take(e, a.self, first, 0), blocks.take(e, a.self, second, 0)), float(a.p))


# ---- normalisations -------------------------------------------------------------------------------------------------


def convert_native_layer_norm(e: FoldingEmitter, a: Arguments) -> Any:
    """The result, and where something reads them the mean and the reciprocal of the deviation."""
    axes = list(range(rank_of(a.input) - len(a.normalized_shape), rank_of(a.input)))
    return [convert_layer_norm(e, a), *_statistics(e, a, a.input, axes)]


def _statistics(e: FoldingEmitter, a: Arguments, x: Expr, axes: list[int]) -> list[Expr | None]:
    if not a.used & {1, 2}:
        return [None, None]
    mean, _, divisor = blocks.deviation(e, x, axes, a.eps)
    return [mean, e.div(1.0, divisor)]


def convert_native_group_norm(e: FoldingEmitter, a: Arguments) -> Any:
    """The result, and where something reads them the mean and the reciprocal of the deviation."""
    y = blocks.group_norm(e, a.input, a.group, a.weight, a.bias, a.eps)
    n, channels, *rest = shape_of(a.input)
    groups = e.reshape(a.input, [n, a.group, channels // a.group * math.prod(rest)])
    return [y, *(v if v is None else e.reshape(v, [n, a.group]) for v in _statistics(e, a, groups, [2]))]


def convert_rms_norm(e: FoldingEmitter, a: Arguments) -> Expr:
    """By default epsilon is the distance from 1 to the next float."""
    axes = list(range(rank_of(a.input) - len(a.normalized_shape), rank_of(a.input)))
    epsilon = torch.finfo(getattr(torch, dtype_of(a.input))).eps if a.eps is None else a.eps
    return blocks.affine(e, blocks.rms_normalise(e, a.input, axes, epsilon), a.weight, None)


def convert_fused_rms_norm(e: FoldingEmitter, a: Arguments) -> Any:
    """Only the first result can be used."""
    return [convert_rms_norm(e, a), None]


REDUCTIONS: dict[str, Converter] = {
    **{f"any.{k}": convert_quantifier(op.max) for k in ("default", "dim", "dims")},
    **{f"all.{k}": convert_quantifier(op.min) for k in ("default", "dim", "dims")},
    "aminmax.default": convert_aminmax,
    **{f"var_mean.{k}": convert_mean_beside(False) for k in ("default", "dim", "correction")},
    **{f"std_mean.{k}": convert_mean_beside(True) for k in ("default", "dim", "correction")},
    "logsumexp.default": in_float32(convert_logsumexp),
    "linalg_vector_norm.default": in_float32(convert_norm),
    **{f"norm.{k}": in_float32(convert_norm) for k in ("Scalar", "ScalarOpt_dim", "ScalarOpt_dim_dtype", "ScalarOpt_dtype")},
    "_cdist_forward.default": convert_cdist,
    "_pdist_forward.default": convert_pdist,
    "native_layer_norm.default": convert_native_layer_norm,
    "native_group_norm.default": convert_native_group_norm,
    "rms_norm.default": in_float32(convert_rms_norm),
    "_fused_rms_norm.default": in_float32(convert_fused_rms_norm),
}
