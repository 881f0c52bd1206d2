"""Relax operators of our own that exist before the freeze.

``gensyn.batch_norm`` and ``gensyn.dropout`` mean different things in training and in inference; a frontend emits them once
and ``training.modes`` rewrites them. ``gensyn.batch_normalise`` is batch normalisation in training as one operator, for the
sake of its gradient. ``gensyn.random_bits`` and the ``gensyn.*_backward*`` operators are canonical operators
that stock Relax lacks; gradients are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr

Expr = Any


def attrs_of(call: Any) -> dict[str, Any]:
    """Attributes of one of our operators as a dictionary of Python values."""
    return {str(k): _python(v) for k, v in call.attrs.items()}


def _python(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if hasattr(value, "value") and not isinstance(value, str):
        return value.value
    if isinstance(value, str):
        return str(value)
    return tuple(_python(v) for v in value)


def _call(name: str, args: list[Expr], **attrs: Any) -> Expr:
    return relax.Call(Op.get(name), args, tvm.ir.make_node("ir.DictAttrs", **attrs))


def batch_norm(
    x: Expr, gamma: Expr, beta: Expr, mean: Expr, var: Expr, *, epsilon: float, momentum: float, unbiased: bool, frozen: bool
) -> Expr:
    """Batch normalisation of x (N, C, …) over every axis but 1; a tuple (y, new running mean, new running variance).

    new = (1 - momentum) * old + momentum * batch statistic; ``unbiased``: the variance that enters the running variance is
    divided by count - 1 (PyTorch) instead of count (ONNX). ``frozen``: uses the running statistics in training too.
    """
    return _call(
        "gensyn.batch_norm",
        [x, gamma, beta, mean, var],
        epsilon=float(epsilon),
        momentum=float(momentum),
        unbiased=bool(unbiased),
        frozen=bool(frozen),
    )


def dropout(x: Expr, *, p: float, shared_axes: Sequence[int] = ()) -> Expr:
    """Each element is 0 with probability p, else multiplied by 1 / (1 - p), in training; the identity in inference.

    Elements that differ only in their indices along ``shared_axes`` share one decision: all axes but 0 is stochastic depth of
    whole samples, all axes but 0 and 1 is dropout of channels.
    """
    return _call("gensyn.dropout", [x], p=float(p), shared_axes=[int(a) for a in shared_axes])


def stop_gradient(x: Expr) -> Expr:
    """x itself, through which no gradient passes."""
    return _call("gensyn.stop_gradient", [x])


def batch_normalise(x: Expr, gamma: Expr, beta: Expr, *, epsilon: float) -> Expr:
    """((x - mean) / sqrt(variance + epsilon)) * gamma + beta with the batch's statistics over every axis of x but 1."""
    return _call("gensyn.batch_normalise", [x, gamma, beta], epsilon=float(epsilon))


def random_bits(seed: Expr, step: Expr, *, op_id: int, shape: tuple[int, ...]) -> Expr:
    """Philox bits (uint32), see docs/numerics.md; seed and step are int64 scalars."""
    return _call("gensyn.random_bits", [seed, step], op_id=int(op_id), shape=list(shape))


def conv_backward_data(dy: Expr, w: Expr, **attrs: Any) -> Expr:
    """Gradient of a convolution's input; attributes as the canonical ``conv_backward_data``, flat padding (lows, highs)."""
    return _call("gensyn.conv_backward_data", [dy, w], **attrs)


def conv_backward_weight(x: Expr, dy: Expr, **attrs: Any) -> Expr:
    """Gradient of a convolution's weight; attributes as the canonical ``conv_backward_weight``, flat padding (lows, highs)."""
    return _call("gensyn.conv_backward_weight", [x, dy], **attrs)


def max_pool_backward(dy: Expr, x: Expr, **attrs: Any) -> Expr:
    """Gradient of a max pooling's input; attributes as the canonical ``max_pool_backward``, flat padding (lows, highs)."""
    return _call("gensyn.max_pool_backward", [dy, x], **attrs)


def avg_pool_backward(dy: Expr, **attrs: Any) -> Expr:
    """Gradient of an average pooling's input; attributes as the canonical ``avg_pool_backward``, flat padding (lows, highs)."""
    return _call("gensyn.avg_pool_backward", [dy], **attrs)


def _shape(expr: Expr) -> list[int]:
    return [int(extent) for extent in expr.ty.shape]


def _dtype(expr: Expr) -> str:
    return str(expr.ty.dtype.dtype)


def _batch_norm_type(call: Any, _builder: Any) -> Any:
    x, _, _, mean, var = call.args
    return relax.TupleType([x.ty, mean.ty, var.ty])


def _random_bits_type(call: Any, _builder: Any) -> Any:
    return relax.TensorType(list(attrs_of(call)["shape"]), "uint32")


def _conv_backward_data_type(call: Any, _builder: Any) -> Any:
    dy, w = call.args
    a = attrs_of(call)
    return relax.TensorType([_shape(dy)[0], _shape(w)[1] * a["groups"], *a["input_spatial"]], _dtype(dy))


def _conv_backward_weight_type(call: Any, _builder: Any) -> Any:
    x, dy = call.args
    a = attrs_of(call)
    return relax.TensorType([_shape(dy)[1], _shape(x)[1] // a["groups"], *a["kernel"]], _dtype(x))


def _avg_pool_backward_type(call: Any, _builder: Any) -> Any:
    (dy,) = call.args
    return relax.TensorType([*_shape(dy)[:2], *attrs_of(call)["input_spatial"]], _dtype(dy))


_TYPES = {
    "gensyn.batch_norm": (5, _batch_norm_type),
    "gensyn.batch_normalise": (3, lambda call, _builder: call.args[0].ty),
    "gensyn.dropout": (1, lambda call, _builder: call.args[0].ty),
    "gensyn.stop_gradient": (1, lambda call, _builder: call.args[0].ty),
    "gensyn.random_bits": (2, _random_bits_type),
    "gensyn.conv_backward_data": (2, _conv_backward_data_type),
    "gensyn.conv_backward_weight": (2, _conv_backward_weight_type),
    "gensyn.max_pool_backward": (2, lambda call, _builder: call.args[1].ty),
    "gensyn.avg_pool_backward": (1, _avg_pool_backward_type),
}

for _name, (_count, _infer) in _TYPES.items():
    register_op_attr(_name, "FInferType", _infer)
    register_op_attr(_name, "FPurity", True)
    Op.get(_name).set_num_inputs(_count)
    for _k in range(_count):
        Op.get(_name).add_argument(f"arg{_k}", "Tensor", "")
