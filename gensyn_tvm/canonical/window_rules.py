"""Type rules of matrix products, convolutions and pooling."""

from __future__ import annotations

from typing import Any

from gensyn_tvm.canonical.rule_basics import Attrs, Rule, Types, arity, broadcast_shapes, ints, need, pairs, show
from gensyn_tvm.canonical.types import FLOATS, INTEGERS, TensorType

#: Dtypes of products: floats, and integers wide enough to accumulate in.
PRODUCTS = (*FLOATS, "int32", "int64", "uint32", "uint64")


def matmul(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """(…, M, K), (…, K, N) -> (…, M, N)."""
    arity(inputs, 2)
    a, b = inputs
    need(a.dtype == b.dtype and a.dtype in PRODUCTS, show(inputs), f"two inputs of one dtype in {PRODUCTS}")
    need(a.rank >= 2 and b.rank >= 2, show(inputs), "two inputs of rank >= 2")
    need(a.shape[-1] == b.shape[-2], show(inputs), "equal inner extents")
    return (TensorType((*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype),)


def window_extent(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Number of window positions along one axis: floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1."""
    return (size + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1


def _conv_attrs(n: int, attrs: Attrs) -> tuple[Any, Any, Any, int]:
    strides = ints(attrs["strides"], n, "strides", 1)
    padding = pairs(attrs["padding"], n, "padding")
    dilations = ints(attrs["dilations"], n, "dilations", 1)
    groups = attrs["groups"]
    need(type(groups) is int and groups >= 1, f"groups={groups!r}", "groups: a positive integer")
    return strides, padding, dilations, groups


def conv_output_shape(x: tuple[int, ...], w: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    """Shape of ``conv``: x is (N, C, spatial...), w is (O, C / groups, kernel...)."""
    n = len(x) - 2
    need(n >= 1 and len(w) == n + 2, f"{x} and {w}", "x (N, C, spatial...) and w (O, C / groups, kernel...)")
    strides, padding, dilations, groups = _conv_attrs(n, attrs)
    need(x[1] == w[1] * groups and w[0] % groups == 0, f"{x}, {w}, groups={groups}", "C = w.shape[1] * groups, O % groups = 0")
    need(all(k >= 1 for k in w[2:]), w, "a kernel of at least one element")
    out = tuple(window_extent(x[2 + k], w[2 + k], strides[k], padding[k], dilations[k]) for k in range(n))
    need(all(o >= 1 for o in out), f"{x}, {w}", "a kernel that fits into the padded input")
    return (x[0], w[0], *out)


def conv(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, w -> y."""
    arity(inputs, 2)
    x, w = inputs
    need(x.dtype == w.dtype and x.dtype in PRODUCTS, show(inputs), f"two inputs of one dtype in {PRODUCTS}")
    return (TensorType(conv_output_shape(x.shape, w.shape, attrs), x.dtype),)


def conv_backward_data(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """dy, w -> dx."""
    arity(inputs, 2)
    dy, w = inputs
    need(dy.dtype == w.dtype and dy.is_float, show(inputs), "two float inputs of one dtype")
    spatial = ints(attrs["input_spatial"], dy.rank - 2, "input_spatial", 1)
    shape = (dy.shape[0], w.shape[1] * attrs["groups"], *spatial)
    need(conv_output_shape(shape, w.shape, attrs) == dy.shape, show(inputs), "dy of the convolution's output shape")
    return (TensorType(shape, dy.dtype),)


def conv_backward_weight(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, dy -> dw."""
    arity(inputs, 2)
    x, dy = inputs
    need(x.dtype == dy.dtype and x.is_float and x.rank == dy.rank >= 3, show(inputs), "two float inputs (N, C, spatial...)")
    kernel = ints(attrs["kernel"], x.rank - 2, "kernel", 1)
    _conv_attrs(x.rank - 2, attrs)
    need(x.shape[1] % attrs["groups"] == 0, show(inputs), "C % groups = 0")
    shape = (dy.shape[1], x.shape[1] // attrs["groups"], *kernel)
    need(conv_output_shape(x.shape, shape, attrs) == dy.shape, show(inputs), "dy of the convolution's output shape")
    return (TensorType(shape, x.dtype),)


def pool_output_shape(x: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    """Shape of a pooling of x (N, C, spatial...); every window must contain at least one real element."""
    n = len(x) - 2
    need(n >= 1, x, "x (N, C, spatial...)")
    kernel = ints(attrs["kernel"], n, "kernel", 1)
    strides = ints(attrs["strides"], n, "strides", 1)
    padding = pairs(attrs["padding"], n, "padding")
    dilations = ints(attrs["dilations"], n, "dilations", 1)
    out = []
    for k in range(n):
        o = window_extent(x[2 + k], kernel[k], strides[k], padding[k], dilations[k])
        need(o >= 1, x, "a window that fits into the padded input")
        # Without dilation only the outermost windows can miss the input.
        for position in range(o) if dilations[k] > 1 else (0, o - 1):
            start = position * strides[k] - padding[k][0]
            inside = any(0 <= start + j * dilations[k] < x[2 + k] for j in range(kernel[k]))
            need(inside, f"padding={padding}", "padding that leaves an input element in every window")
        out.append(o)
    return (*x[:2], *out)


def max_pool(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x -> y."""
    arity(inputs, 1)
    (x,) = inputs
    need(x.dtype in FLOATS + INTEGERS, show(inputs), "a number dtype")
    return (TensorType(pool_output_shape(x.shape, attrs), x.dtype),)


def max_pool_indices(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x -> int64 indices of the maxima."""
    (y,) = max_pool(inputs, attrs)
    need(type(attrs["column_major"]) is bool, attrs["column_major"], "column_major: a boolean")
    return (TensorType(y.shape, "int64"),)


def avg_pool(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x -> y."""
    arity(inputs, 1)
    (x,) = inputs
    need(x.is_float, show(inputs), f"dtype in {FLOATS}")
    need(type(attrs["count_include_pad"]) is bool, attrs["count_include_pad"], "count_include_pad: a boolean")
    return (TensorType(pool_output_shape(x.shape, attrs), x.dtype),)


def max_pool_backward(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """dy, x -> dx."""
    arity(inputs, 2)
    dy, x = inputs
    need(dy.dtype == x.dtype and x.is_float, show(inputs), "two float inputs of one dtype")
    need(pool_output_shape(x.shape, attrs) == dy.shape, show(inputs), "dy of the pool's output shape")
    return (x,)


def avg_pool_backward(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """dy -> dx."""
    arity(inputs, 1)
    (dy,) = inputs
    spatial = ints(attrs["input_spatial"], dy.rank - 2, "input_spatial", 1)
    shape = (*dy.shape[:2], *spatial)
    need(dy.is_float and pool_output_shape(shape, attrs) == dy.shape, show(inputs), "dy of the pool's output shape")
    return (TensorType(shape, dy.dtype),)


_CONV = {"strides", "padding", "dilations", "groups"}
_POOL = {"kernel", "strides", "padding", "dilations"}

RULES: dict[str, Rule] = {
    "matmul": matmul,
    "conv": conv,
    "conv_backward_data": conv_backward_data,
    "conv_backward_weight": conv_backward_weight,
    "max_pool": max_pool,
    "max_pool_indices": max_pool_indices,
    "max_pool_backward": max_pool_backward,
    "avg_pool": avg_pool,
    "avg_pool_backward": avg_pool_backward,
}

ATTRIBUTES: dict[str, set[str]] = {
    "conv": _CONV,
    "conv_backward_data": _CONV | {"input_spatial"},
    "conv_backward_weight": _CONV | {"kernel"},
    "max_pool": _POOL,
    "max_pool_indices": _POOL | {"column_major"},
    "max_pool_backward": _POOL,
    "avg_pool": _POOL | {"count_include_pad"},
    "avg_pool_backward": _POOL | {"count_include_pad", "input_spatial"},
}
