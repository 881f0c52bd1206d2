"""ATen reductions and normalisations beyond the common ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Expr, dtype_of, number, op, rank_of, shape_of
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
    size = e(op.abs(x))
    if not rank_of(x):
        return size if p else e.cast(e(op.not_equal(x, number(0, a.out_dtype))), a.out_dtype)
    if math.isinf(p):
        return e((op.max if p > 0 else op.min)(size, axes, keepdims))
    if p == 0:
        return e(op.sum(e.cast(e(op.not_equal(x, number(0, a.out_dtype))), a.out_dtype), axes, keepdims))
    if p == 1:
        return e(op.sum(size, axes, keepdims))
    if p == 2:
        return e(op.sqrt(e(op.sum(e.mul(x, x), axes, keepdims))))
    total = e(op.sum(e.canonical("pow", size, number(p, a.out_dtype)), axes, keepdims))
    return e.canonical("pow", total, number(1.0 / p, a.out_dtype))


# ---- normalisations -------------------------------------------------------------------------------------------------


def convert_native_layer_norm(e: FoldingEmitter, a: Arguments) -> Any:
    """Only the first result can be used."""
    return [convert_layer_norm(e, a), None, None]


def convert_native_group_norm(e: FoldingEmitter, a: Arguments) -> Any:
    """Only the first result can be used."""
    return [blocks.group_norm(e, a.input, a.group, a.weight, a.bias, a.eps), None, None]


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
    "native_layer_norm.default": convert_native_layer_norm,
    "native_group_norm.default": convert_native_group_norm,
    "rms_norm.default": in_float32(convert_rms_norm),
    "_fused_rms_norm.default": in_float32(convert_fused_rms_norm),
}
