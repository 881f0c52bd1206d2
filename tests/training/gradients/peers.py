"""What PyTorch calls the canonical operators, for autograd; floats are float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gensyn_tvm.canonical.graph import Graph

from . import reference
from .reference import Array, Attrs, Meaning, evaluate

#: Canonical operators without a counterpart.
WITHOUT = ("cast_saturating",)


def _named(f: Callable[..., Array]) -> Meaning:
    return lambda v, a: f(*v)


def _padded(x: Array, a: Attrs, value: float = 0.0) -> Array:
    """x with its spatial axes padded, which PyTorch's own padding only does on both sides alike."""
    return F.pad(x, [n for pair in reversed(a["padding"]) for n in pair], value=value)


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _conv(v: Sequence[Array], a: Attrs) -> Array:
    x, w = v
    f = _CONV[x.ndim - 2]
    return f(_padded(x, a), w, None, a["strides"], 0, a["dilations"], a["groups"])


def _backward(f: Callable[[Array], Array], x: Array, dy: Array) -> Array:
    """The gradient that autograd gives, itself differentiable."""
    (dx,) = torch.autograd.grad(f(x), x, dy, create_graph=True)
    return dx


def _zeros(*shape: int) -> Array:
    return torch.zeros(shape, dtype=torch.float64, requires_grad=True)


def _conv_backward_data(v: Sequence[Array], a: Attrs) -> Array:
    dy, w = v
    x = _zeros(dy.shape[0], w.shape[1] * a["groups"], *a["input_spatial"])
    return _backward(lambda x: _conv([x, w], a), x, dy)


def _conv_backward_weight(v: Sequence[Array], a: Attrs) -> Array:
    x, dy = v
    w = _zeros(dy.shape[1], x.shape[1] // a["groups"], *a["kernel"])
    return _backward(lambda w: _conv([x, w], a), w, dy)


def _max_pool(v: Sequence[Array], a: Attrs) -> Array:
    f = _MAX_POOL[v[0].ndim - 2]
    return f(_padded(v[0], a, -math.inf), a["kernel"], a["strides"], 0, a["dilations"])


def _max_pool_backward(v: Sequence[Array], a: Attrs) -> Array:
    dy, x = v
    return _backward(lambda x: _max_pool([x], a), x, dy)


def _avg_pool(v: Sequence[Array], a: Attrs) -> Array:
    """As a convolution: PyTorch's own average pooling has no dilation."""
    (x,) = v
    ones = torch.ones(x.shape[1], 1, *a["kernel"], dtype=x.dtype)
    attrs = {**a, "groups": x.shape[1]}
    count = float(math.prod(a["kernel"])) if a["count_include_pad"] else _conv([torch.ones_like(x), ones], attrs)
    return _conv([x, ones], attrs) / count


def _avg_pool_backward(v: Sequence[Array], a: Attrs) -> Array:
    (dy,) = v
    return _backward(lambda x: _avg_pool([x], a), _zeros(*dy.shape[:2], *a["input_spatial"]), dy)


def _sum(v: Sequence[Array], a: Attrs) -> Array:
    return v[0].sum(a["axes"], a["keepdims"]) if a["axes"] else v[0] * 1


def _prod(v: Sequence[Array], a: Attrs) -> Array:
    x = v[0]
    for axis in reversed(a["axes"]):
        x = x.prod(axis, a["keepdims"])
    return x * 1


def _extreme(f: Callable[..., Array]) -> Meaning:
    return lambda v, a: f(v[0], a["axes"], a["keepdims"]) if a["axes"] else v[0] * 1


def _running(f: Callable[..., Array], neutral: float) -> Meaning:
    def meaning(v: Sequence[Array], a: Attrs) -> Array:
        x, axis = v[0], a["axis"]
        x = x.flip(axis) if a["reverse"] else x
        if a["exclusive"]:
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        y = f(x, axis)
        return y.flip(axis) if a["reverse"] else y

    return meaning


def _slice(v: Sequence[Array], a: Attrs) -> Array:
    return v[0][tuple(map(slice, a["starts"], a["limits"], a["strides"]))]


def _pad(v: Sequence[Array], a: Attrs) -> Array:
    x, value = v
    if not x.ndim:
        return x * 1
    return torch.where(_padded(torch.ones_like(x), a) > 0, _padded(x, a), value)


def _take(v: Sequence[Array], a: Attrs) -> Array:
    x, i = v
    index = torch.from_numpy(np.array(reference.inside(i, x.shape[a["axis"]])))
    y = x.index_select(a["axis"], index.reshape(-1))
    return y.reshape((*x.shape[: a["axis"]], *index.shape, *x.shape[a["axis"] + 1 :]))


def _gather_elements(v: Sequence[Array], a: Attrs) -> Array:
    return v[0].gather(a["axis"], torch.from_numpy(reference.inside(v[1], v[0].shape[a["axis"]])))


def _gather_nd(v: Sequence[Array], a: Attrs) -> Array:
    x, i = v
    index = reference.gather_nd_index(x.shape, np.asarray(i), a["batch_dims"])
    if not index:
        return x.expand(*i.shape[:-1], *x.shape)
    return x[tuple(torch.from_numpy(np.array(k)) for k in index)]


_COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "none": lambda old, new: new,
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _scatter(op: str) -> Meaning:
    """Element by element, as the specification has it."""

    def meaning(v: Sequence[Array], a: Attrs) -> Array:
        x, i, u = v
        cells = {p: x[p] for p in np.ndindex(*x.shape)}
        for j, p in reference.targets(op, x.shape, np.asarray(i), a):
            cells[p] = _COMBINE[a["reduction"]](cells[p], u[j])
        return torch.stack([cells[p] for p in np.ndindex(*x.shape)]).reshape(x.shape)

    return meaning


_UNARY: tuple[str, ...] = (
    *("neg", "abs", "sqrt", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "tanh", "sigmoid", "erf", "erfc", "rsqrt"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
)

#: By canonical operator.
TORCH: dict[str, Meaning] = {
    **{name: _named(getattr(torch, name)) for name in (*_UNARY, "pow", "add", "sub", "mul", "div", "maximum", "minimum")},
    "where": _named(torch.where),
    "cbrt": lambda v, a: v[0].sign() * v[0].abs() ** (1 / 3),
    "cast": lambda v, a: v[0] * 1,
    "sum": _sum,
    "prod": _prod,
    "reduce_max": _extreme(torch.amax),
    "reduce_min": _extreme(torch.amin),
    "cumsum": _running(torch.cumsum, 0.0),
    "cumprod": _running(torch.cumprod, 1.0),
    "matmul": _named(torch.matmul),
    "conv": _conv,
    "conv_backward_data": _conv_backward_data,
    "conv_backward_weight": _conv_backward_weight,
    "max_pool": _max_pool,
    "max_pool_backward": _max_pool_backward,
    "avg_pool": _avg_pool,
    "avg_pool_backward": _avg_pool_backward,
    "reshape": lambda v, a: v[0].reshape(a["shape"]),
    "transpose": lambda v, a: v[0].permute(a["perm"]),
    "broadcast_to": lambda v, a: v[0].expand(a["shape"]),
    "concat": lambda v, a: torch.cat(list(v), a["axis"]),
    "slice": _slice,
    "pad": _pad,
    "reverse": lambda v, a: v[0].flip(a["axes"]),
    "take": _take,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "scatter_elements": _scatter("scatter_elements"),
    "scatter_nd": _scatter("scatter_nd"),
}


def autograd(graph: Graph, arrays: Sequence[np.ndarray], weights: np.ndarray, wanted: Sequence[int]) -> list[np.ndarray]:
    """Gradients of sum(weights * output) for the inputs ``wanted``; zeros where autograd has none.

    What has no float among its inputs (the making of indices) is computed by NumPy.
    """
    values: list[Any] = [
        torch.from_numpy(np.asarray(a, np.float64)).requires_grad_() if k in wanted else torch.from_numpy(np.array(a))
        for k, a in enumerate(arrays)
    ]

    def on_indices(name: str) -> Meaning:
        return lambda v, a: torch.from_numpy(np.array(reference.FLOAT64[name]([np.asarray(x) for x in v], a)))

    def choose(name: str) -> Meaning:
        def meaning(v: Sequence[Array], a: Attrs) -> Array:
            return (TORCH if any(x.is_floating_point() for x in v) else indices)[name](v, a)

        return meaning

    names = {node.op for node in graph.nodes}
    indices = {name: on_indices(name) for name in names}
    (y,) = evaluate(graph, values, {name: choose(name) for name in names})
    (y * torch.from_numpy(np.asarray(weights, np.float64))).sum().backward()
    return [np.zeros(values[k].shape) if values[k].grad is None else values[k].grad.numpy() for k in wanted]
