"""Matrix products, convolutions and pooling of Relax as canonical operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical.convert_context import Context, Converter, Value, attributes, integers
from gensyn_tvm.canonical.window_rules import window_extent


def pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(low, high) of each axis from all lows followed by all highs."""
    n = len(flat) // 2
    return tuple((flat[k], flat[n + k]) for k in range(n))


def _check_out_dtype(ctx: Context, call: Any, x: int) -> None:
    wanted = call.attrs.out_dtype
    if wanted is not None and str(wanted) not in ("", "void", ctx.type(x).dtype):
        raise ctx.refuse(f"out_dtype {wanted} of {ctx.type(x).dtype} inputs", expected="the dtype of the inputs")


# ---- matmul ---------------------------------------------------------------------------------------------------------


def _matmul(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """A one-dimensional operand is a row (left) or a column (right), whose axis is dropped from the result."""
    a, b = args
    _check_out_dtype(ctx, call, a)
    row, column = len(ctx.shape(a)) == 1, len(ctx.shape(b)) == 1
    if row:
        a = ctx.reshape(a, (1, *ctx.shape(a)))
    if column:
        b = ctx.reshape(b, (*ctx.shape(b), 1))
    y = ctx.emit("matmul", a, b)
    shape = ctx.shape(y)
    if column:
        shape = shape[:-1]
    if row:
        shape = (*shape[:-2], shape[-1]) if not column else shape[:-1]
    return ctx.reshape(y, shape)


def _outer(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    a, b = args
    return ctx.mul(ctx.reshape(a, (*ctx.shape(a), 1)), ctx.reshape(b, (1, *ctx.shape(b))))


# ---- convolution ----------------------------------------------------------------------------------------------------

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def _permutation(ctx: Context, layout: str, wanted: str) -> list[int]:
    if sorted(layout) != sorted(wanted):
        raise ctx.refuse(f"layout {layout}", expected=f"a permutation of {wanted}", remedy=f"transpose to {wanted}")
    return [layout.index(letter) for letter in wanted]


def _conv(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """Other layouts than NC… and OI… by transposes around the convolution."""
    x, w = args
    _check_out_dtype(ctx, call, x)
    spatial = _SPATIAL[len(ctx.shape(x)) - 2]
    x = ctx.transpose(x, _permutation(ctx, str(call.attrs.data_layout), "NC" + spatial))
    w = ctx.transpose(w, _permutation(ctx, str(call.attrs.kernel_layout), "OI" + spatial))
    y = ctx.emit(
        "conv",
        x,
        w,
        strides=integers(call.attrs.strides),
        padding=pairs(integers(call.attrs.padding)),
        dilations=integers(call.attrs.dilation),
        groups=int(call.attrs.groups),
    )
    out_layout = str(call.attrs.out_layout) or str(call.attrs.data_layout)
    _permutation(ctx, out_layout, "NC" + spatial)
    return ctx.transpose(y, [("NC" + spatial).index(letter) for letter in out_layout])


def _conv_backward(op: str, extra: str) -> Converter:
    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        a = attributes(call)
        return ctx.emit(
            op,
            *args,
            strides=a["strides"],
            padding=pairs(a["padding"]),
            dilations=a["dilations"],
            groups=a["groups"],
            **{extra: a[extra]},
        )

    return convert


# ---- pooling --------------------------------------------------------------------------------------------------------


def _pool(op: str) -> Converter:
    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        (x,) = args
        spatial = _SPATIAL[len(ctx.shape(x)) - 2]
        x = ctx.transpose(x, _permutation(ctx, str(call.attrs.layout), "NC" + spatial))
        y = ctx.emit(op, x, **_pool_attributes(ctx, call, ctx.shape(x)[2:], op))
        out_layout = str(call.attrs.out_layout) or str(call.attrs.layout)
        _permutation(ctx, out_layout, "NC" + spatial)
        return ctx.transpose(y, [("NC" + spatial).index(letter) for letter in out_layout])

    return convert


def pool_window(attrs: Any, extents: Sequence[int]) -> tuple[dict[str, Any], bool]:
    """A Relax pooling's kernel, strides, dilations and flat padding (lows, highs), and whether ceil mode added padding.

    Ceil mode becomes padding at the high ends.
    """
    kernel, strides, dilations = integers(attrs.pool_size), integers(attrs.strides), integers(attrs.dilation)
    padding = pairs(integers(attrs.padding))
    extra = [0] * len(kernel)
    for k, extent in enumerate(extents if bool(attrs.ceil_mode) else ()):
        extra[k] = -(extent + sum(padding[k]) - dilations[k] * (kernel[k] - 1) - 1) % strides[k]
    flat = tuple(low for low, _ in padding) + tuple(high + more for (_, high), more in zip(padding, extra, strict=True))
    return {"kernel": kernel, "strides": strides, "padding": flat, "dilations": dilations}, any(extra)


def _pool_attributes(ctx: Context, call: Any, extents: Sequence[int], op: str) -> dict[str, Any]:
    """Attributes of a canonical pooling; ceil mode may not change the count by which an average divides."""
    window, more = pool_window(call.attrs, extents)
    result = _window(window)
    if op == "avg_pool":
        result["count_include_pad"] = bool(call.attrs.count_include_pad)
        if result["count_include_pad"] and more:
            found = "ceil_mode with count_include_pad, and a last window that reaches beyond the padded input"
            raise ctx.refuse(found, expected="windows inside the padded input", remedy="use ceil_mode=False or pad explicitly")
    return result


def _max_pool_backward(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    a = attributes(call)
    return ctx.emit("max_pool_backward", *args, **_window(a))


def _avg_pool_backward(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    a = attributes(call)
    extra = {"count_include_pad": a["count_include_pad"], "input_spatial": a["input_spatial"]}
    return ctx.emit("avg_pool_backward", *args, **_window(a), **extra)


def _window(a: Any) -> dict[str, Any]:
    return {"kernel": a["kernel"], "strides": a["strides"], "padding": pairs(a["padding"]), "dilations": a["dilations"]}


def _relax_pool_backward(op: str) -> Converter:
    """``relax.grad.*_pool2d_backward`` (dy, x); layout NCHW."""

    def convert(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
        dy, x = args
        if str(call.attrs.layout) != "NCHW":
            raise ctx.refuse(f"layout {call.attrs.layout}", expected="NCHW")
        a = _pool_attributes(ctx, call, ctx.shape(x)[2:], op)
        if op == "max_pool":
            return ctx.emit("max_pool_backward", dy, x, **a)
        return ctx.emit("avg_pool_backward", dy, **a, input_spatial=ctx.shape(x)[2:])

    return convert


def _adaptive_avg_pool(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """To one element: a mean. Otherwise an average pooling, where the output divides the input."""
    (x,) = args
    shape = ctx.shape(x)
    spatial = shape[2:]
    if str(call.attrs.layout) != "NC" + _SPATIAL[len(spatial)]:
        raise ctx.refuse(f"layout {call.attrs.layout}", expected="NC" + _SPATIAL[len(spatial)])
    sizes = spatial if call.attrs.output_size is None else integers(call.attrs.output_size)
    if set(sizes) == {1}:
        return ctx.mean(x, range(2, len(shape)), keepdims=True)
    if any(s < 1 or n % s for n, s in zip(spatial, sizes, strict=True)):
        remedy = "use average pooling with a fixed kernel, or inputs of another size"
        raise ctx.refuse(f"{spatial} to {sizes}", expected="output extents that divide the input's", remedy=remedy)
    kernel = tuple(n // s for n, s in zip(spatial, sizes, strict=True))
    none = tuple((0, 0) for _ in kernel)
    ones = tuple(1 for _ in kernel)
    return ctx.emit("avg_pool", x, kernel=kernel, strides=kernel, padding=none, dilations=ones, count_include_pad=False)


def _conv_transpose(ctx: Context, call: Any, args: Sequence[Value]) -> Value:
    """The gradient of a convolution's input; weights (I, O / groups, kernel…) are that convolution's weights."""
    dy, w = args
    _check_out_dtype(ctx, call, dy)
    n = len(ctx.shape(dy)) - 2
    layouts = (str(call.attrs.data_layout), str(call.attrs.kernel_layout))
    if layouts != ("NC" + _SPATIAL[n], "IO" + _SPATIAL[n]):
        raise ctx.refuse(f"layouts {layouts}", expected=f"NC{_SPATIAL[n]} and IO{_SPATIAL[n]}")
    strides, dilations = integers(call.attrs.strides), integers(call.attrs.dilation)
    padding, more = pairs(integers(call.attrs.padding)), integers(call.attrs.output_padding)
    kernel, extents = ctx.shape(w)[2:], ctx.shape(dy)[2:]
    spatial = tuple(
        (extents[k] - 1) * strides[k] - sum(padding[k]) + dilations[k] * (kernel[k] - 1) + 1 + more[k] for k in range(n)
    )
    reached = tuple(window_extent(spatial[k], kernel[k], strides[k], padding[k], dilations[k]) for k in range(n))
    if reached != ctx.shape(dy)[2:]:
        raise ctx.refuse(f"output_padding {more} with strides {strides}", expected="output_padding below the stride")
    return ctx.emit(
        "conv_backward_data",
        dy,
        w,
        strides=strides,
        padding=padding,
        dilations=dilations,
        groups=int(call.attrs.groups),
        input_spatial=spatial,
    )


CONVERTERS: dict[str, Converter] = {
    "relax.matmul": _matmul,
    "relax.outer": _outer,
    **{f"relax.nn.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"relax.nn.conv{n}d_transpose": _conv_transpose for n in (1, 2, 3)},
    **{f"relax.nn.max_pool{n}d": _pool("max_pool") for n in (1, 2, 3)},
    **{f"relax.nn.avg_pool{n}d": _pool("avg_pool") for n in (1, 2, 3)},
    **{f"relax.nn.adaptive_avg_pool{n}d": _adaptive_avg_pool for n in (1, 2, 3)},
    "relax.grad.max_pool2d_backward": _relax_pool_backward("max_pool"),
    "relax.grad.avg_pool2d_backward": _relax_pool_backward("avg_pool"),
    "gensyn.conv_backward_data": _conv_backward("conv_backward_data", "input_spatial"),
    "gensyn.conv_backward_weight": _conv_backward("conv_backward_weight", "kernel"),
    "gensyn.max_pool_backward": _max_pool_backward,
    "gensyn.avg_pool_backward": _avg_pool_backward,
}
