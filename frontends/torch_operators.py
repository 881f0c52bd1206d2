"""The ATen operators that can be imported. The list is closed: an operator that is not here is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends import torch_converters as c
from gensyn_tvm.frontends import torch_movement as m
from gensyn_tvm.frontends.emit import nn, op
from gensyn_tvm.frontends.torch_attention import ATTENTION
from gensyn_tvm.frontends.torch_backward import BACKWARD
from gensyn_tvm.frontends.torch_composites import COMPOSITES
from gensyn_tvm.frontends.torch_converters import Arguments, Converter, dtype_name
from gensyn_tvm.frontends.torch_indexing import INDEXING
from gensyn_tvm.frontends.torch_losses import LOSSES
from gensyn_tvm.frontends.torch_numbers import NUMBERS
from gensyn_tvm.frontends.torch_recurrent import RECURRENT
from gensyn_tvm.frontends.torch_reductions import REDUCTIONS
from gensyn_tvm.frontends.torch_resampling import RESAMPLING
from gensyn_tvm.training import ops as gensyn

CONVERTERS: dict[str, Converter] = {
    "getitem": m.convert_getitem,
    # elementwise
    **{f"add.{k}": c.convert_arithmetic(op.add) for k in ("Tensor", "Scalar")},
    **{f"sub.{k}": c.convert_arithmetic(op.subtract) for k in ("Tensor", "Scalar")},
    **{f"mul.{k}": c.convert_arithmetic(op.multiply) for k in ("Tensor", "Scalar")},
    **{f"div.{k}": c.convert_div for k in ("Tensor", "Scalar")},
    **{f"rsub.{k}": c.convert_rsub for k in ("Tensor", "Scalar")},
    "maximum.default": c.convert_arithmetic(op.maximum),
    "minimum.default": c.convert_arithmetic(op.minimum),
    "max.other": c.convert_arithmetic(op.maximum),
    "min.other": c.convert_arithmetic(op.minimum),
    **{f"eq.{k}": c.convert_compare(op.equal) for k in ("Tensor", "Scalar")},
    **{f"ne.{k}": c.convert_compare(op.not_equal) for k in ("Tensor", "Scalar")},
    **{f"lt.{k}": c.convert_compare(op.less) for k in ("Tensor", "Scalar")},
    **{f"le.{k}": c.convert_compare(op.less_equal) for k in ("Tensor", "Scalar")},
    **{f"gt.{k}": c.convert_compare(op.greater) for k in ("Tensor", "Scalar")},
    **{f"ge.{k}": c.convert_compare(op.greater_equal) for k in ("Tensor", "Scalar")},
    "logical_and.default": lambda e, a: e(op.logical_and(*c.convert_common(e, a, "bool"))),
    "logical_or.default": lambda e, a: e(op.logical_or(*c.convert_common(e, a, "bool"))),
    "logical_not.default": lambda e, a: e(op.logical_not(e.cast(a.self, "bool"))),
    "abs.default": c.convert_unary(op.abs),
    "neg.default": c.convert_unary(op.negative),
    "exp.default": c.convert_unary(op.exp),
    "log.default": c.convert_unary(op.log),
    "sqrt.default": c.convert_unary(op.sqrt),
    "rsqrt.default": c.convert_unary(op.rsqrt),
    "erf.default": c.convert_unary(op.erf),
    "sinh.default": c.convert_unary(op.sinh),
    "sin.default": c.convert_unary(op.sin),
    "cos.default": c.convert_unary(op.cos),
    "tan.default": c.convert_unary(op.tan),
    "asin.default": c.convert_unary(op.asin),
    "acos.default": c.convert_unary(op.acos),
    "asinh.default": c.convert_unary(op.asinh),
    "acosh.default": c.convert_unary(op.acosh),
    "atanh.default": c.convert_unary(op.atanh),
    "cosh.default": c.convert_unary(op.cosh),
    "atan.default": c.convert_unary(op.atan),
    "tanh.default": c.convert_unary(op.tanh),
    "sigmoid.default": c.convert_unary(op.sigmoid),
    "relu.default": c.convert_unary(nn.relu),
    "silu.default": c.convert_unary(nn.silu),
    "gelu.default": c.convert_gelu,
    "square.default": lambda e, a: e.mul(a.self, a.self),
    "reciprocal.default": c.convert_reciprocal,
    "leaky_relu.default": lambda e, a: e(nn.leakyrelu(a.self, float(a.negative_slope))),
    "elu.default": lambda e, a: blocks.elu(e, a.self, a.alpha, scale=a.scale, input_scale=a.input_scale),
    "selu.default": lambda e, a: blocks.elu(e, a.self, 1.6732632423543772, scale=1.0507009873554805),
    "celu.default": lambda e, a: blocks.elu(e, a.self, a.alpha, input_scale=1.0 / a.alpha),
    "softplus.default": lambda e, a: blocks.softplus(e, a.self, a.beta, a.threshold),
    "mish.default": lambda e, a: e.mul(a.self, e(op.tanh(blocks.softplus(e, a.self)))),
    "prelu.default": c.convert_prelu,
    "hardtanh.default": lambda e, a: e.clip(a.self, a.min_val, a.max_val),
    "relu6.default": lambda e, a: e.clip(a.self, 0.0, 6.0),
    "hardsigmoid.default": lambda e, a: blocks.hard_sigmoid(e, a.self),
    "hardswish.default": lambda e, a: e.mul(a.self, blocks.hard_sigmoid(e, a.self)),
    "clamp.default": c.convert_clamp,
    **{f"{name}.Tensor": c.convert_clamp_tensor for name in ("clamp", "clamp_min", "clamp_max")},
    "clamp_min.default": c.convert_clamp,
    "clamp_max.default": c.convert_clamp,
    "where.self": c.convert_where,
    "where.ScalarSelf": c.convert_where,
    "where.ScalarOther": c.convert_where,
    "masked_fill.Scalar": c.convert_masked_fill,
    "masked_fill.Tensor": c.convert_masked_fill,
    # reductions
    "sum.default": c.convert_reduce(op.sum),
    "sum.dim_IntList": c.convert_reduce(op.sum),
    "mean.default": c.convert_reduce(op.mean),
    "mean.dim": c.convert_reduce(op.mean),
    "prod.default": c.convert_reduce(op.prod),
    "prod.dim_int": c.convert_reduce(op.prod),
    "amax.default": c.convert_reduce(op.max),
    "amin.default": c.convert_reduce(op.min),
    "max.default": c.convert_reduce(op.max),
    "min.default": c.convert_reduce(op.min),
    "max.dim": c.convert_max_dim(op.max, op.argmax),
    "min.dim": c.convert_max_dim(op.min, op.argmin),
    "argmax.default": c.convert_arg(op.argmax),
    "argmin.default": c.convert_arg(op.argmin),
    **{f"var.{k}": c.convert_deviation(False) for k in ("default", "dim", "correction")},
    **{f"std.{k}": c.convert_deviation(True) for k in ("default", "dim", "correction")},
    "softmax.int": c.convert_softmax(nn.softmax),
    "_softmax.default": c.convert_softmax(nn.softmax),
    "log_softmax.int": c.convert_softmax(nn.log_softmax),
    "_log_softmax.default": c.convert_softmax(nn.log_softmax),
    # linear algebra, convolution, pooling
    "linear.default": lambda e, a: blocks.linear(e, a.input, a.weight, a.bias),
    "matmul.default": lambda e, a: e(op.matmul(a.self, a.other)),
    "mm.default": lambda e, a: e(op.matmul(a.self, a.mat2)),
    "bmm.default": lambda e, a: e(op.matmul(a.self, a.mat2)),
    "addmm.default": c.convert_addmm,
    "baddbmm.default": c.convert_addmm,
    **{f"conv{n}d.{k}": c.with_batch(n, c.convert_conv) for n in (1, 2, 3) for k in ("default", "padding")},
    "convolution.default": c.convert_conv,
    "conv_transpose1d.default": c.with_batch(1, c.convert_conv_transpose),
    **{f"conv_transpose{n}d.input": c.with_batch(n, c.convert_conv_transpose) for n in (2, 3)},
    **{f"max_pool{n}d.default": c.with_batch(n, c.convert_pool("max")) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices.default": c.with_batch(n, c.convert_pool_with_indices) for n in (2, 3)},
    **{f"avg_pool{n}d.default": c.with_batch(n, c.convert_pool("avg")) for n in (1, 2, 3)},
    **{f"{k}adaptive_avg_pool{n}d.default": c.with_batch(n, c.convert_adaptive) for n in (1, 2, 3) for k in ("", "_")},
    # normalisation, dropout
    "_native_batch_norm_legit_functional.default": c.convert_batch_norm_training,
    "_native_batch_norm_legit_no_training.default": c.convert_batch_norm_frozen,
    "_native_batch_norm_legit.no_stats": c.convert_batch_norm_alone,
    "layer_norm.default": c.convert_layer_norm,
    "group_norm.default": c.convert_group_norm,
    "instance_norm.default": c.convert_instance_norm,
    "dropout.default": c.convert_dropout,
    "native_dropout.default": c.convert_native_dropout,
    # data movement and sources
    **{f"{name}.default": m.convert_to_shape for name in ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")},
    **{f"{name}": m.convert_to_shape for name in ("squeeze.dim", "squeeze.dims", "flatten.using_ints", "unflatten.int")},
    "permute.default": lambda e, a: e.transpose(a.self, a.dims),
    "transpose.int": m.convert_transpose,
    "t.default": m.convert_transpose,
    "expand.default": lambda e, a: e.broadcast(a.self, a.out_shape),
    "broadcast_to.default": lambda e, a: e.broadcast(a.self, a.out_shape),
    "cat.default": m.convert_cat,
    "stack.default": m.convert_stack,
    "slice.Tensor": m.convert_slice,
    "select.int": m.convert_select,
    "split.Tensor": m.convert_split,
    "split_with_sizes.default": m.convert_split,
    "chunk.default": m.convert_split,
    "unbind.int": m.convert_unbind,
    "repeat.default": m.convert_repeat,
    "tile.default": m.convert_repeat,
    "constant_pad_nd.default": m.convert_pad,
    "pad.default": m.convert_pad,
    "flip.default": m.convert_flip,
    "roll.default": m.convert_roll,
    "slice_scatter.default": m.convert_slice_scatter,
    "select_scatter.default": m.convert_select_scatter,
    "copy.default": m.convert_copy,
    "fill.Scalar": m.convert_fill(None),
    "diagonal.default": m.convert_diagonal,
    "unfold.default": m.convert_windows,
    "tril.default": m.convert_triangle(np.tril),
    "triu.default": m.convert_triangle(np.triu),
    **{f"{name}.default": m.convert_same for name in ("alias", "clone", "contiguous", "lift_fresh_copy")},
    "detach.default": lambda e, a: e(gensyn.stop_gradient(a.self)),
    "_to_copy.default": c.convert_cast,
    "to.dtype": c.convert_cast,
    "type_as.default": c.convert_cast,
    **{f"{name}.default": m.convert_fill(None) for name in ("full", "full_like", "new_full", "scalar_tensor")},
    **{f"{name}.default": m.convert_fill(0) for name in ("zeros", "zeros_like", "new_zeros")},
    # PyTorch leaves open what is in them; here it is zeros
    **{f"{k}.default": m.convert_fill(0) for k in ("empty_like", "empty_strided", "empty_permuted", "new_empty")},
    **{k: m.convert_fill(0) for k in ("empty.memory_format", "new_empty_strided.default")},
    "as_strided.default": m.convert_as_strided,
    **{f"{name}.default": m.convert_fill(1) for name in ("ones", "ones_like", "new_ones")},
    "arange.default": m.convert_arange,
    "arange.start": m.convert_arange,
    "arange.start_step": m.convert_arange,
    **ATTENTION,
    **BACKWARD,
    **COMPOSITES,
    **INDEXING,
    **LOSSES,
    **NUMBERS,
    **RECURRENT,
    **REDUCTIONS,
    **RESAMPLING,
}


def arguments(node: torch.fx.Node, lookup: Callable[[Any], Any]) -> Arguments:
    """The node's arguments by their schema names with defaults filled in, tensors as Relax expressions.

    ``out_shape`` and ``out_dtype`` are those that PyTorch gives the (first) result; ``nodes`` the tensor or number arguments
    as the FX graph has them, ``used`` the positions of those of several results that something reads.
    """
    if getattr(node.target, "__name__", "") == "getitem":
        source, index = node.args
        return SimpleNamespace(values=lookup(source), index=index, source=str(source))
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    raw = list(bound.values())
    values = {name: lookup(value) for name, value in bound.items()}
    out = node.meta["val"]
    out = out[0] if isinstance(out, list | tuple) else out
    used = {user.args[1] for user in node.users if getattr(user.target, "__name__", "") == "getitem"}
    values |= {"nodes": raw, "used": used, "out_shape": [int(d) for d in out.shape], "out_dtype": dtype_name(out.dtype)}
    return SimpleNamespace(**values)
