"""What each ATen operator becomes in Relax (data movement is in ``torch_movement``); ``torch_operators`` says which is what.

A converter gets the emitter and the node's arguments by their schema names (see ``torch_operators.arguments``), and returns
the result, or a sequence of them, in which None is one that must not be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from tvm import relax

from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.training import ops as gensyn

Arguments = Any
Converter = Callable[[FoldingEmitter, Arguments], Any]


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` → ``float32``."""
    return str(dtype).removeprefix("torch.")


def in_float32(convert: Converter) -> Converter:
    """The converter, computing narrow floats in float32; its float32 results are rounded once, to the node's dtype."""

    def widened(e: FoldingEmitter, a: Arguments) -> Any:
        if a.out_dtype not in NARROW_FLOATS:
            return convert(e, a)
        wide = {name: e.cast(v, "float32") if _is_narrow(v) else v for name, v in vars(a).items()}
        result = convert(e, SimpleNamespace(**{**wide, "out_dtype": "float32"}))
        many = result if isinstance(result, list | tuple) else [result]
        back = [e.cast(y, a.out_dtype) if y is not None and dtype_of(y) == "float32" else y for y in many]
        return back if isinstance(result, list | tuple) else back[0]

    return widened


def _is_narrow(value: Any) -> bool:
    return hasattr(value, "ty") and dtype_of(value) in NARROW_FLOATS


# ---- elementwise ----------------------------------------------------------------------------------------------------


def convert_common(e: Emitter, a: Arguments, dtype: str) -> list[Expr]:
    """Both operands as tensors of one dtype."""
    pair = (a.self, a.other)
    return [number(v, dtype) if isinstance(v, bool | int | float) else e.cast(v, dtype) for v in pair]


def _promoted(a: Arguments) -> str:
    """The dtype in which PyTorch compares or combines two operands."""
    return dtype_name(torch.result_type(*(v.meta["val"] if isinstance(v, torch.fx.Node) else v for v in a.nodes[:2])))


def convert_arithmetic(function: Callable[[Expr, Expr], Expr]) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x, y = convert_common(e, a, a.out_dtype)
        alpha = getattr(a, "alpha", 1)
        return e(function(x, y if alpha == 1 else e.mul(y, alpha)))

    return convert


def convert_rsub(e: FoldingEmitter, a: Arguments) -> Expr:
    x, y = convert_common(e, a, a.out_dtype)
    return e.sub(y, x if a.alpha == 1 else e.mul(x, a.alpha))


def convert_div(e: FoldingEmitter, a: Arguments) -> Expr:
    x, y = convert_common(e, a, a.out_dtype)
    return e.div(x, y)


def convert_compare(function: Callable[[Expr, Expr], Expr]) -> Converter:
    return lambda e, a: e(function(*convert_common(e, a, _promoted(a))))


def convert_logical(function: Callable[[Expr, Expr], Expr]) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        if a.out_dtype != "bool":
            raise e.refuse(f"operands of {a.out_dtype}", expected="bool")
        return e(function(*convert_common(e, a, "bool")))

    return convert


def convert_unary(function: Callable[[Expr], Expr], *, floats: bool = True) -> Converter:
    return lambda e, a: e(function(e.cast(a.self, a.out_dtype) if floats else a.self))


def convert_gelu(e: FoldingEmitter, a: Arguments) -> Expr:
    return e({"none": nn.gelu, "tanh": nn.gelu_tanh}[a.approximate](a.self))


def convert_clamp(e: FoldingEmitter, a: Arguments) -> Expr:
    x = e.cast(a.self, a.out_dtype)
    low, high = getattr(a, "min", None), getattr(a, "max", None)
    if any(isinstance(v, float) and math.isnan(v) for v in (low, high)):
        raise e.refuse("a NaN bound", expected="numbers")
    return e.clip(x, low, high)


def convert_clamp_tensor(e: FoldingEmitter, a: Arguments) -> Expr:
    x = e.cast(a.self, a.out_dtype)
    for bound, function in ((getattr(a, "min", None), op.maximum), (getattr(a, "max", None), op.minimum)):
        x = x if bound is None else e(function(x, e.cast(bound, a.out_dtype)))
    return x


def convert_prelu(e: FoldingEmitter, a: Arguments) -> Expr:
    slope = a.weight
    if shape_of(slope) != [1]:
        slope = blocks.per_channel(e, slope, rank_of(a.self))
    return e.where(e(op.greater(a.self, number(0, dtype_of(a.self)))), a.self, e.mul(a.self, slope))


def convert_where(e: FoldingEmitter, a: Arguments) -> Expr:
    x, y = convert_common(e, a, a.out_dtype)
    return e(op.where(a.condition, x, y))


def convert_masked_fill(e: FoldingEmitter, a: Arguments) -> Expr:
    value = number(a.value, a.out_dtype) if isinstance(a.value, bool | int | float) else e.cast(a.value, a.out_dtype)
    return e(op.where(a.mask, value, a.self))


def convert_cast(e: FoldingEmitter, a: Arguments) -> Expr:
    return e.cast(a.self, a.out_dtype)


def convert_reciprocal(e: FoldingEmitter, a: Arguments) -> Expr:
    return e.div(1.0, e.cast(a.self, a.out_dtype))


# ---- reductions -----------------------------------------------------------------------------------------------------


def reduced_axes(a: Arguments) -> list[int]:
    """Ascending axes of a reduction; all of them if it names none."""
    dim = getattr(a, "dim", None)
    rank = rank_of(a.self)
    if dim is None or dim == []:
        return list(range(rank))
    return sorted(d % max(rank, 1) for d in ([dim] if isinstance(dim, int) else dim))


def convert_reduce(function: Callable[..., Expr]) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        x = e.cast(a.self, a.out_dtype)
        return e(function(x, reduced_axes(a), bool(getattr(a, "keepdim", False)))) if rank_of(x) else x

    return convert


def convert_max_dim(reduce: Callable[..., Expr], search: Callable[..., Expr]) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Any:
        axis = reduced_axes(a)[0]
        return e(reduce(a.self, [axis], a.keepdim)), e(search(a.self, axis, a.keepdim))

    return convert


def convert_arg(search: Callable[..., Expr]) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        if a.dim is None:
            index = e(search(e.reshape(a.self, [math.prod(shape_of(a.self))]), 0, False))
            return e.reshape(index, [1] * rank_of(a.self)) if a.keepdim else index
        return e(search(a.self, a.dim % rank_of(a.self), a.keepdim))

    return convert


def convert_deviation(root: bool) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        correction = getattr(a, "correction", None)
        if hasattr(a, "unbiased"):
            correction = 1 if a.unbiased else 0
        return blocks.standard_deviation(
            e, a.self, reduced_axes(a), bool(getattr(a, "keepdim", False)), 1 if correction is None else correction, root=root
        )

    return convert


def convert_softmax(function: Callable[..., Expr]) -> Converter:
    return lambda e, a: e(function(e.cast(a.self, a.out_dtype), a.dim % max(rank_of(a.self), 1)))


# ---- linear algebra, convolution, pooling ---------------------------------------------------------------------------


def convert_addmm(e: FoldingEmitter, a: Arguments) -> Expr:
    left, right = (a.mat1, a.mat2) if hasattr(a, "mat1") else (a.batch1, a.batch2)
    y = e(op.matmul(left, right))
    if a.alpha != 1:
        y = e.mul(y, a.alpha)
    if a.beta == 0:
        return y
    return e.add(a.self if a.beta == 1 else e.mul(a.self, a.beta), y)


def each(values: Any, n: int) -> list[int]:
    """A setting of n axes, which may be given once for all of them."""
    values = [values] if isinstance(values, int) else list(values)
    return values * n if len(values) == 1 else values


def with_batch(n: int, convert: Converter) -> Converter:
    """The converter of an operator of images (N, C, n axes), for those without N, too."""

    def converted(e: FoldingEmitter, a: Arguments) -> Any:
        name = "input" if hasattr(a, "input") else "self"
        x = getattr(a, name)
        if rank_of(x) != n + 1:
            return convert(e, a)
        one = {name: e.reshape(x, [1, *shape_of(x)]), "out_shape": [1, *a.out_shape]}
        result = convert(e, SimpleNamespace(**{**vars(a), **one}))
        many = result if isinstance(result, list | tuple) else [result]
        parts = [y if y is None else e.reshape(y, shape_of(y)[1:]) for y in many]
        return parts if isinstance(result, list | tuple) else parts[0]

    return converted


def convert_conv(e: FoldingEmitter, a: Arguments) -> Expr:
    n = blocks.spatial(e, a.input)
    if getattr(a, "transposed", False):
        return convert_conv_transpose(e, a)
    dilation, strides = each(a.dilation, n), each(a.stride, n)
    if a.padding == "valid":
        lows, highs = [0] * n, [0] * n
    elif a.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, shape_of(a.weight)[2:], strict=True)]
        lows, highs = [t // 2 for t in totals], [t - t // 2 for t in totals]
    else:
        lows = highs = each(a.padding, n)
    return blocks.conv(
        e, a.input, a.weight, a.bias, strides=strides, lows=lows, highs=highs, dilation=dilation, groups=a.groups
    )


def convert_conv_transpose(e: FoldingEmitter, a: Arguments) -> Expr:
    n = blocks.spatial(e, a.input)
    return blocks.conv_transpose(
        e,
        a.input,
        a.weight,
        a.bias,
        strides=each(a.stride, n),
        padding=each(a.padding, n),
        more=each(a.output_padding, n),
        dilation=each(a.dilation, n),
        groups=a.groups,
    )


def convert_pool(kind: str) -> Converter:
    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        n = blocks.spatial(e, a.self)
        if getattr(a, "divisor_override", None) is not None:
            raise e.refuse(f"divisor_override={a.divisor_override}", expected="None", remedy="multiply the result instead")
        kernel, padding = each(a.kernel_size, n), each(a.padding, n)
        return blocks.pool(
            e,
            kind,
            a.self,
            kernel=kernel,
            strides=each(a.stride, n) if a.stride else kernel,
            lows=padding,
            highs=padding,
            dilation=each(getattr(a, "dilation", 1), n),
            ceil_mode=a.ceil_mode,
            count_include_pad=getattr(a, "count_include_pad", False),
        )

    return convert


def convert_pool_with_indices(e: FoldingEmitter, a: Arguments) -> Any:
    """The maxima, and where they are among the spatial positions if something reads that."""
    y = convert_pool("max")(e, a)
    if 1 not in a.used:
        return y, None
    return y, e.canonical("max_pool_indices", a.self, **pool_attributes(e, a), column_major=False)


def pool_attributes(e: Emitter, a: Arguments) -> dict[str, Any]:
    """Attributes of a canonical pooling."""
    extents, n = shape_of(a.self)[2:], blocks.spatial(e, a.self)
    kernel, lows, dilation = each(a.kernel_size, n), each(a.padding, n), each(getattr(a, "dilation", 1), n)
    strides = each(a.stride, n) if a.stride else kernel
    extra = blocks.ceil_extra(extents, kernel, strides, lows, lows, dilation) if a.ceil_mode else [0] * n
    return {
        "kernel": tuple(kernel),
        "strides": tuple(strides),
        "padding": tuple((low, low + more) for low, more in zip(lows, extra, strict=True)),
        "dilations": tuple(dilation),
    }


def convert_adaptive(e: FoldingEmitter, a: Arguments) -> Expr:
    return blocks.adaptive_avg_pool(e, a.self, each(a.output_size, rank_of(a.self) - 2))


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
    return [relax.TupleGetItem(value, k) for k in range(count)]


def convert_batch_norm_training(e: FoldingEmitter, a: Arguments) -> Any:
    y, mean, var = _batch_norm_values(e, a, frozen=not a.training)
    return y, None, None, mean, var


def convert_batch_norm_frozen(e: FoldingEmitter, a: Arguments) -> Any:
    return _batch_norm_values(e, a, frozen=True)[0], None, None


def convert_batch_norm_alone(e: FoldingEmitter, a: Arguments) -> Any:
    """With the batch's statistics in training and inference; only the first result can be used."""
    channels, dtype = shape_of(a.input)[1], dtype_of(a.input)
    gamma = e.full([channels], 1, dtype) if a.weight is None else a.weight
    beta = e.full([channels], 0, dtype) if a.bias is None else a.bias
    return e(gensyn.batch_normalise(a.input, gamma, beta, epsilon=a.eps)), None, None


def convert_layer_norm(e: FoldingEmitter, a: Arguments) -> Expr:
    axes = list(range(rank_of(a.input) - len(a.normalized_shape), rank_of(a.input)))
    return blocks.layer_norm(e, a.input, axes, a.weight, a.bias, a.eps)


def convert_group_norm(e: FoldingEmitter, a: Arguments) -> Expr:
    return blocks.group_norm(e, a.input, a.num_groups, a.weight, a.bias, a.eps)


def convert_instance_norm(e: FoldingEmitter, a: Arguments) -> Expr:
    if not a.use_input_stats or a.running_mean is not None:
        raise e.refuse("running statistics", expected="track_running_stats=False")
    return blocks.group_norm(e, a.input, shape_of(a.input)[1], a.weight, a.bias, a.eps)


def convert_dropout(e: FoldingEmitter, a: Arguments) -> Expr:
    x = getattr(a, "input", None)
    x = a.self if x is None else x
    active = a.train is None or a.train
    if active and a.p == 1:
        raise e.refuse("p=1", expected="0 <= p < 1", remedy="multiply by 0")
    return e(gensyn.dropout(x, p=a.p)) if active and a.p > 0 else x


def convert_native_dropout(e: FoldingEmitter, a: Arguments) -> Any:
    return convert_dropout(e, a), None
