"""What each ATen operator becomes in Relax. The list is closed: an operator that is not here is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.training import ops as gensyn

Arguments = Any
Converter = Callable[[Emitter, Arguments], Any]


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` → ``float32``."""
    return str(dtype).removeprefix("torch.")


# ---- elementwise ----------------------------------------------------------------------------------------------------


def _common(e: Emitter, a: Arguments, dtype: str) -> list[Expr]:
    """Both operands as tensors of one dtype."""
    pair = (a.self, a.other)
    return [number(v, dtype) if isinstance(v, bool | int | float) else e.cast(v, dtype) for v in pair]


def _promoted(a: Arguments) -> str:
    """The dtype in which PyTorch compares or combines two operands."""
    return dtype_name(torch.result_type(*(v.meta["val"] if isinstance(v, torch.fx.Node) else v for v in a.nodes[:2])))


def _arithmetic(function: Callable[[Expr, Expr], Expr]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        x, y = _common(e, a, a.out_dtype)
        alpha = getattr(a, "alpha", 1)
        return e(function(x, y if alpha == 1 else e.mul(y, alpha)))

    return convert


def _rsub(e: Emitter, a: Arguments) -> Expr:
    x, y = _common(e, a, a.out_dtype)
    return e.sub(y, x if a.alpha == 1 else e.mul(x, a.alpha))


def _div(e: Emitter, a: Arguments) -> Expr:
    x, y = _common(e, a, a.out_dtype)
    return e.div(x, y)


def _compare(function: Callable[[Expr, Expr], Expr]) -> Converter:
    return lambda e, a: e(function(*_common(e, a, _promoted(a))))


def _logical(function: Callable[[Expr, Expr], Expr]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        if a.out_dtype != "bool":
            raise e.refuse(f"operands of {a.out_dtype}", expected="bool")
        return e(function(*_common(e, a, "bool")))

    return convert


def _unary(function: Callable[[Expr], Expr], *, floats: bool = True) -> Converter:
    return lambda e, a: e(function(e.cast(a.self, a.out_dtype) if floats else a.self))


def _not(e: Emitter, a: Arguments) -> Expr:
    if dtype_of(a.self) != "bool":
        raise e.refuse(f"an operand of {dtype_of(a.self)}", expected="bool")
    return e(op.logical_not(a.self))


def _gelu(e: Emitter, a: Arguments) -> Expr:
    return e({"none": nn.gelu, "tanh": nn.gelu_tanh}[a.approximate](a.self))


def _clamp(e: Emitter, a: Arguments) -> Expr:
    x = e.cast(a.self, a.out_dtype)
    low, high = getattr(a, "min", None), getattr(a, "max", None)
    if any(isinstance(v, float) and math.isnan(v) for v in (low, high)):
        raise e.refuse("a NaN bound", expected="numbers")
    return e.clip(x, low, high)


def _clamp_tensor(e: Emitter, a: Arguments) -> Expr:
    x = e.cast(a.self, a.out_dtype)
    for bound, function in ((a.min, op.maximum), (a.max, op.minimum)):
        x = x if bound is None else e(function(x, e.cast(bound, a.out_dtype)))
    return x


def _prelu(e: Emitter, a: Arguments) -> Expr:
    slope = a.weight
    if shape_of(slope) != [1]:
        slope = blocks.per_channel(e, slope, rank_of(a.self))
    return e.where(e(op.greater(a.self, number(0, dtype_of(a.self)))), a.self, e.mul(a.self, slope))


def _where(e: Emitter, a: Arguments) -> Expr:
    x, y = _common(e, a, a.out_dtype)
    return e(op.where(a.condition, x, y))


def _masked_fill(e: Emitter, a: Arguments) -> Expr:
    value = number(a.value, a.out_dtype) if isinstance(a.value, bool | int | float) else e.cast(a.value, a.out_dtype)
    return e(op.where(a.mask, value, a.self))


# ---- reductions -----------------------------------------------------------------------------------------------------


def _axes(a: Arguments, name: str = "dim") -> list[int]:
    dim = getattr(a, name, None)
    rank = rank_of(a.self)
    if dim is None or dim == []:
        return list(range(rank))
    return sorted(d % max(rank, 1) for d in ([dim] if isinstance(dim, int) else dim))


def _reduce(function: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        x = e.cast(a.self, a.out_dtype)
        return e(function(x, _axes(a), bool(getattr(a, "keepdim", False)))) if rank_of(x) else x

    return convert


def _max_dim(reduce: Callable[..., Expr], search: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Any:
        axis = _axes(a)[0]
        return e(reduce(a.self, [axis], a.keepdim)), e(search(a.self, axis, a.keepdim))

    return convert


def _arg(search: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        if a.dim is None:
            index = e(search(e.reshape(a.self, [math.prod(shape_of(a.self))]), 0, False))
            return e.reshape(index, [1] * rank_of(a.self)) if a.keepdim else index
        return e(search(a.self, a.dim % rank_of(a.self), a.keepdim))

    return convert


def _deviation(root: bool) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        correction = getattr(a, "correction", None)
        if hasattr(a, "unbiased"):
            correction = 1 if a.unbiased else 0
        return blocks.standard_deviation(
            e, a.self, _axes(a), bool(getattr(a, "keepdim", False)), 1 if correction is None else correction, root=root
        )

    return convert


def _softmax(function: Callable[..., Expr]) -> Converter:
    return lambda e, a: e(function(e.cast(a.self, a.out_dtype), a.dim % max(rank_of(a.self), 1)))


# ---- linear algebra, convolution, pooling ---------------------------------------------------------------------------


def _addmm(e: Emitter, a: Arguments) -> Expr:
    left, right = (a.mat1, a.mat2) if hasattr(a, "mat1") else (a.batch1, a.batch2)
    y = e(op.matmul(left, right))
    if a.alpha != 1:
        y = e.mul(y, a.alpha)
    if a.beta == 0:
        return y
    return e.add(a.self if a.beta == 1 else e.mul(a.self, a.beta), y)


def _each(values: Any, n: int) -> list[int]:
    values = [values] if isinstance(values, int) else list(values)
    return values * n if len(values) == 1 else values


def _conv(e: Emitter, a: Arguments) -> Expr:
    n = blocks.spatial(e, a.input)
    if getattr(a, "transposed", False):
        raise e.refuse("a transposed convolution", expected="Conv1d, Conv2d or Conv3d")
    dilation, strides = _each(a.dilation, n), _each(a.stride, n)
    if a.padding == "valid":
        lows, highs = [0] * n, [0] * n
    elif a.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, shape_of(a.weight)[2:], strict=True)]
        lows, highs = [t // 2 for t in totals], [t - t // 2 for t in totals]
    else:
        lows = highs = _each(a.padding, n)
    return blocks.conv(
        e, a.input, a.weight, a.bias, strides=strides, lows=lows, highs=highs, dilation=dilation, groups=a.groups
    )


def _pool(kind: str) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        n = blocks.spatial(e, a.self)
        if getattr(a, "divisor_override", None) is not None:
            raise e.refuse(f"divisor_override={a.divisor_override}", expected="None", remedy="multiply the result instead")
        kernel, padding = _each(a.kernel_size, n), _each(a.padding, n)
        return blocks.pool(
            e,
            kind,
            a.self,
            kernel=kernel,
            strides=_each(a.stride, n) if a.stride else kernel,
            lows=padding,
            highs=padding,
            dilation=_each(getattr(a, "dilation", 1), n),
            ceil_mode=a.ceil_mode,
            count_include_pad=getattr(a, "count_include_pad", False),
        )

    return convert


def _pool_with_indices(e: Emitter, a: Arguments) -> Any:
    return _pool("max")(e, a), None


def _adaptive(e: Emitter, a: Arguments) -> Expr:
    return blocks.adaptive_avg_pool(e, a.self, _each(a.output_size, rank_of(a.self) - 2))


# ---- normalisation, dropout -----------------------------------------------------------------------------------------


def _batch_norm_values(e: Emitter, a: Arguments, *, frozen: bool) -> Any:
    x = a.input
    if a.running_mean is None or a.running_var is None:
        raise e.refuse("no running statistics (track_running_stats=False)", expected="track_running_stats=True")
    channels, dtype = shape_of(x)[1], dtype_of(x)
    gamma = e.full([channels], 1, dtype) if a.weight is None else a.weight
    beta = e.full([channels], 0, dtype) if a.bias is None else a.bias
    call = gensyn.batch_norm(
        x, gamma, beta, a.running_mean, a.running_var, epsilon=a.eps, momentum=a.momentum, unbiased=True, frozen=frozen
    )
    return [e(item) for item in _items(e(call), 3)]


def _items(value: Expr, count: int) -> list[Expr]:
    from tvm import relax

    return [relax.TupleGetItem(value, k) for k in range(count)]


def _batch_norm_training(e: Emitter, a: Arguments) -> Any:
    if not a.training:
        raise e.refuse("training=False", expected="training=True")
    y, mean, var = _batch_norm_values(e, a, frozen=False)
    return y, None, None, mean, var


def _batch_norm_frozen(e: Emitter, a: Arguments) -> Any:
    return _batch_norm_values(e, a, frozen=True)[0], None, None


def _layer_norm(e: Emitter, a: Arguments) -> Expr:
    axes = list(range(rank_of(a.input) - len(a.normalized_shape), rank_of(a.input)))
    return blocks.affine(e, blocks.normalise(e, a.input, axes, a.eps), a.weight, a.bias)


def _group_norm(e: Emitter, a: Arguments) -> Expr:
    return blocks.group_norm(e, a.input, a.num_groups, a.weight, a.bias, a.eps)


def _instance_norm(e: Emitter, a: Arguments) -> Expr:
    if not a.use_input_stats or a.running_mean is not None:
        raise e.refuse("running statistics", expected="track_running_stats=False")
    return blocks.group_norm(e, a.input, shape_of(a.input)[1], a.weight, a.bias, a.eps)


def _dropout(e: Emitter, a: Arguments) -> Expr:
    x = getattr(a, "input", None)
    x = a.self if x is None else x
    active = a.train is None or a.train
    if active and a.p == 1:
        raise e.refuse("p=1", expected="0 <= p < 1", remedy="multiply by 0")
    return e(gensyn.dropout(x, p=a.p)) if active and a.p > 0 else x


def _native_dropout(e: Emitter, a: Arguments) -> Any:
    return _dropout(e, a), None


# ---- data movement --------------------------------------------------------------------------------------------------


def _to_shape(e: Emitter, a: Arguments) -> Expr:
    return e.reshape(a.self, a.out_shape)


def _transpose(e: Emitter, a: Arguments) -> Expr:
    axes = list(range(rank_of(a.self)))
    one, two = (0, 1) if not hasattr(a, "dim0") else (a.dim0, a.dim1)
    if axes:
        axes[one], axes[two] = axes[two], axes[one]
    return e.transpose(a.self, axes)


def _cat(e: Emitter, a: Arguments) -> Expr:
    parts = [e.cast(t, a.out_dtype) for t in a.tensors if shape_of(t) != [0] or len(a.out_shape) == 1]
    return e.concat(parts, a.dim % len(a.out_shape))


def _stack(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % len(a.out_shape)
    shape = [1 if k == axis else d for k, d in enumerate(a.out_shape)]
    return e.concat([e.reshape(e.cast(t, a.out_dtype), shape) for t in a.tensors], axis)


def _slice(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    start, stop, step = slice(a.start, a.end, a.step).indices(shape_of(a.self)[axis])
    return e.slice(a.self, axis, start, max(start, stop), step)


def _select(e: Emitter, a: Arguments) -> Expr:
    axis = a.dim % rank_of(a.self)
    index = a.index % shape_of(a.self)[axis]
    return e.reshape(e.slice(a.self, axis, index, index + 1), a.out_shape)


def _pieces(e: Emitter, x: Expr, axis: int, sizes: list[int]) -> list[Expr]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x, axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _split(e: Emitter, a: Arguments) -> Any:
    axis = a.dim % rank_of(a.self)
    extent = shape_of(a.self)[axis]
    if hasattr(a, "split_sizes"):
        sizes = list(a.split_sizes)
    else:
        size = a.split_size if hasattr(a, "split_size") else -(-extent // a.chunks)
        sizes = [min(size, extent - start) for start in range(0, extent, size)] if extent else [0]
    return _pieces(e, a.self, axis, sizes)


def _unbind(e: Emitter, a: Arguments) -> Any:
    axis = a.dim % rank_of(a.self)
    shape = [d for k, d in enumerate(shape_of(a.self)) if k != axis]
    return [e.reshape(piece, shape) for piece in _pieces(e, a.self, axis, [1] * shape_of(a.self)[axis])]


def _repeat(e: Emitter, a: Arguments) -> Expr:
    repeats = a.repeats if hasattr(a, "repeats") else a.dims
    rank = max(rank_of(a.self), len(repeats))
    x = e.reshape(a.self, [1] * (rank - rank_of(a.self)) + shape_of(a.self))
    for axis, count in enumerate([1] * (rank - len(repeats)) + list(repeats)):
        x = e.concat([x] * count, axis) if count else e.slice(x, axis, 0, 0)
    return x


def _pad(e: Emitter, a: Arguments) -> Expr:
    if getattr(a, "mode", "constant") != "constant":
        raise e.refuse(f"mode={a.mode!r}", expected="constant padding")
    rank = rank_of(a.self)
    lows, highs = [0] * rank, [0] * rank
    for k in range(len(a.pad) // 2):
        lows[rank - 1 - k], highs[rank - 1 - k] = a.pad[2 * k], a.pad[2 * k + 1]
    return blocks.pad(e, a.self, lows, highs, a.value or 0.0)


def _fill(value: float | None) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        filling = value if value is not None else getattr(a, "fill_value", getattr(a, "s", 0))
        if not isinstance(filling, bool | int | float):
            raise e.refuse("a value computed at run time", expected="a number")
        return e.full(a.out_shape, filling, a.out_dtype)

    return convert


def _arange(e: Emitter, a: Arguments) -> Expr:
    start, step = getattr(a, "start", 0), getattr(a, "step", 1)
    if not float(start).is_integer() or not float(step).is_integer():
        raise e.refuse(f"start {start}, step {step}", expected="integers")
    return e.arange(int(start), a.out_shape[0], int(step), a.out_dtype)


def _triangle(function: Callable[[np.ndarray, int], np.ndarray]) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        from gensyn_tvm.frontends.emit import constant

        keep = constant(function(np.ones(shape_of(a.self)[-2:], dtype=bool), a.diagonal))
        return e.where(keep, a.self, number(0, dtype_of(a.self)))

    return convert


def _same(e: Emitter, a: Arguments) -> Expr:
    return a.self


def _cast(e: Emitter, a: Arguments) -> Expr:
    return e.cast(a.self, a.out_dtype)


def _float_power(e: Emitter, a: Arguments) -> Expr:
    if dtype_of(a.self) not in FLOATS or not isinstance(a.exponent, int | float):
        raise e.refuse("an integer base or an exponent that is a tensor", expected="a float tensor to a constant power")
    return blocks.power(e, e.cast(a.self, a.out_dtype), a.exponent)


def _reciprocal(e: Emitter, a: Arguments) -> Expr:
    return e.div(1.0, e.cast(a.self, a.out_dtype))


def _getitem(e: Emitter, a: Arguments) -> Expr:
    item = a.values[a.index]
    if item is None:
        raise e.refuse(f"a use of output {a.index} of {a.source}", expected="its first output only")
    return item


CONVERTERS: dict[str, Converter] = {
    "getitem": _getitem,
    # elementwise
    **{f"add.{k}": _arithmetic(op.add) for k in ("Tensor", "Scalar")},
    **{f"sub.{k}": _arithmetic(op.subtract) for k in ("Tensor", "Scalar")},
    **{f"mul.{k}": _arithmetic(op.multiply) for k in ("Tensor", "Scalar")},
    **{f"div.{k}": _div for k in ("Tensor", "Scalar")},
    **{f"rsub.{k}": _rsub for k in ("Tensor", "Scalar")},
    "maximum.default": _arithmetic(op.maximum),
    "minimum.default": _arithmetic(op.minimum),
    "max.other": _arithmetic(op.maximum),
    "min.other": _arithmetic(op.minimum),
    **{f"eq.{k}": _compare(op.equal) for k in ("Tensor", "Scalar")},
    **{f"ne.{k}": _compare(op.not_equal) for k in ("Tensor", "Scalar")},
    **{f"lt.{k}": _compare(op.less) for k in ("Tensor", "Scalar")},
    **{f"le.{k}": _compare(op.less_equal) for k in ("Tensor", "Scalar")},
    **{f"gt.{k}": _compare(op.greater) for k in ("Tensor", "Scalar")},
    **{f"ge.{k}": _compare(op.greater_equal) for k in ("Tensor", "Scalar")},
    "logical_and.default": lambda e, a: e(op.logical_and(*_common(e, a, "bool"))),
    "logical_or.default": lambda e, a: e(op.logical_or(*_common(e, a, "bool"))),
    "logical_not.default": lambda e, a: e(op.logical_not(e.cast(a.self, "bool"))),
    **{f"{name}.{k}": _logical(op.logical_and) for name in ("bitwise_and", "__and__") for k in ("Tensor", "Scalar")},
    **{f"{name}.{k}": _logical(op.logical_or) for name in ("bitwise_or", "__or__") for k in ("Tensor", "Scalar")},
    "bitwise_not.default": _not,
    "isnan.default": _unary(op.isnan, floats=False),
    "abs.default": _unary(op.abs),
    "neg.default": _unary(op.negative),
    "sign.default": _unary(op.sign),
    "floor.default": _unary(op.floor),
    "ceil.default": _unary(op.ceil),
    "round.default": _unary(op.round),
    "exp.default": _unary(op.exp),
    "log.default": _unary(op.log),
    "sqrt.default": _unary(op.sqrt),
    "rsqrt.default": _unary(op.rsqrt),
    "erf.default": _unary(op.erf),
    "tanh.default": _unary(op.tanh),
    "sigmoid.default": _unary(op.sigmoid),
    "relu.default": _unary(nn.relu),
    "silu.default": _unary(nn.silu),
    "gelu.default": _gelu,
    "square.default": lambda e, a: e.mul(a.self, a.self),
    "reciprocal.default": _reciprocal,
    "pow.Tensor_Scalar": _float_power,
    "leaky_relu.default": lambda e, a: e(nn.leakyrelu(a.self, float(a.negative_slope))),
    "elu.default": lambda e, a: blocks.elu(e, a.self, a.alpha, scale=a.scale, input_scale=a.input_scale),
    "selu.default": lambda e, a: blocks.elu(e, a.self, 1.6732632423543772, scale=1.0507009873554805),
    "celu.default": lambda e, a: blocks.elu(e, a.self, a.alpha, input_scale=1.0 / a.alpha),
    "softplus.default": lambda e, a: blocks.softplus(e, a.self, a.beta),
    "mish.default": lambda e, a: e.mul(a.self, e(op.tanh(blocks.softplus(e, a.self)))),
    "prelu.default": _prelu,
    "hardtanh.default": lambda e, a: e.clip(a.self, a.min_val, a.max_val),
    "relu6.default": lambda e, a: e.clip(a.self, 0.0, 6.0),
    "hardsigmoid.default": lambda e, a: blocks.hard_sigmoid(e, a.self),
    "hardswish.default": lambda e, a: e.mul(a.self, blocks.hard_sigmoid(e, a.self)),
    "clamp.default": _clamp,
    "clamp.Tensor": _clamp_tensor,
    "clamp_min.default": _clamp,
    "clamp_max.default": _clamp,
    "where.self": _where,
    "where.ScalarSelf": _where,
    "where.ScalarOther": _where,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    # reductions
    "sum.default": _reduce(op.sum),
    "sum.dim_IntList": _reduce(op.sum),
    "mean.default": _reduce(op.mean),
    "mean.dim": _reduce(op.mean),
    "prod.default": _reduce(op.prod),
    "prod.dim_int": _reduce(op.prod),
    "amax.default": _reduce(op.max),
    "amin.default": _reduce(op.min),
    "max.default": _reduce(op.max),
    "min.default": _reduce(op.min),
    "max.dim": _max_dim(op.max, op.argmax),
    "min.dim": _max_dim(op.min, op.argmin),
    "argmax.default": _arg(op.argmax),
    "argmin.default": _arg(op.argmin),
    **{f"var.{k}": _deviation(False) for k in ("default", "dim", "correction")},
    **{f"std.{k}": _deviation(True) for k in ("default", "dim", "correction")},
    "softmax.int": _softmax(nn.softmax),
    "_softmax.default": _softmax(nn.softmax),
    "log_softmax.int": _softmax(nn.log_softmax),
    "_log_softmax.default": _softmax(nn.log_softmax),
    # linear algebra, convolution, pooling
    "linear.default": lambda e, a: blocks.linear(e, a.input, a.weight, a.bias),
    "matmul.default": lambda e, a: e(op.matmul(a.self, a.other)),
    "mm.default": lambda e, a: e(op.matmul(a.self, a.mat2)),
    "bmm.default": lambda e, a: e(op.matmul(a.self, a.mat2)),
    "addmm.default": _addmm,
    "baddbmm.default": _addmm,
    **{f"conv{n}d.{k}": _conv for n in (1, 2, 3) for k in ("default", "padding")},
    "convolution.default": _conv,
    **{f"max_pool{n}d.default": _pool("max") for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices.default": _pool_with_indices for n in (2, 3)},
    **{f"avg_pool{n}d.default": _pool("avg") for n in (1, 2, 3)},
    **{f"{k}adaptive_avg_pool{n}d.default": _adaptive for n in (1, 2, 3) for k in ("", "_")},
    # normalisation, dropout
    "_native_batch_norm_legit_functional.default": _batch_norm_training,
    "_native_batch_norm_legit_no_training.default": _batch_norm_frozen,
    "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
    "instance_norm.default": _instance_norm,
    "dropout.default": _dropout,
    "native_dropout.default": _native_dropout,
    # data movement and sources
    **{f"{name}.default": _to_shape for name in ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")},
    **{f"{name}": _to_shape for name in ("squeeze.dim", "squeeze.dims", "flatten.using_ints", "unflatten.int")},
    "permute.default": lambda e, a: e.transpose(a.self, a.dims),
    "transpose.int": _transpose,
    "t.default": _transpose,
    "expand.default": lambda e, a: e.broadcast(a.self, a.out_shape),
    "broadcast_to.default": lambda e, a: e.broadcast(a.self, a.out_shape),
    "cat.default": _cat,
    "stack.default": _stack,
    "slice.Tensor": _slice,
    "select.int": _select,
    "split.Tensor": _split,
    "split_with_sizes.default": _split,
    "chunk.default": _split,
    "unbind.int": _unbind,
    "repeat.default": _repeat,
    "tile.default": _repeat,
    "constant_pad_nd.default": _pad,
    "pad.default": _pad,
    "index_select.default": lambda e, a: blocks.take(e, a.self, a.index, a.dim % rank_of(a.self)),
    "tril.default": _triangle(np.tril),
    "triu.default": _triangle(np.triu),
    **{f"{name}.default": _same for name in ("alias", "clone", "contiguous", "lift_fresh_copy", "detach")},
    "_to_copy.default": _cast,
    "to.dtype": _cast,
    "type_as.default": _cast,
    **{f"{name}.default": _fill(None) for name in ("full", "full_like", "new_full", "scalar_tensor")},
    **{f"{name}.default": _fill(0) for name in ("zeros", "zeros_like", "new_zeros")},
    **{f"{name}.default": _fill(1) for name in ("ones", "ones_like", "new_ones")},
    "arange.default": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
}


def arguments(node: torch.fx.Node, lookup: Callable[[Any], Any]) -> Arguments:
    """The node's arguments by their schema names with defaults filled in, tensors as Relax expressions.

    ``out_shape`` and ``out_dtype`` are those that PyTorch gives the (first) result; ``nodes`` the tensor or number arguments
    as the FX graph has them.
    """
    if getattr(node.target, "__name__", "") == "getitem":
        source, index = node.args
        return SimpleNamespace(values=lookup(source), index=index, source=str(source))
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
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
    values |= {"nodes": raw, "out_shape": [int(d) for d in out.shape], "out_dtype": dtype_name(out.dtype)}
    return SimpleNamespace(**values)
