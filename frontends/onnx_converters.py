"""What each ONNX operator becomes in Relax; ``onnx_operators`` says which is converted by what.

A converter gets the emitter, the node's inputs (None where left out) and its attributes, and returns the node's outputs
(a list, in which None is an output that must not be used) or its only output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends.emit import Emitter, Expr, constant_of, dtype_of, nn, number, op, shape_of
from gensyn_tvm.training import ops as gensyn

Inputs = Sequence[Any]


class Attributes(dict[str, Any]):
    """A node's attributes.

    Attributes:
        opset: version of the operator set that the node comes from.
        outputs: number of outputs that the node names.
        stateful: the running statistics of a BatchNormalization are stored with the model.
    """

    opset: int
    outputs: int
    stateful: bool


Converter = Callable[[Emitter, Inputs, Attributes], Any]


def known(e: Any, value: Expr | None, what: str) -> np.ndarray:
    """The array of an input that has to be known at import; see ``OnnxEmitter.known``."""
    array: np.ndarray = e.known(value, what)
    return array


def integers(e: Emitter, inputs: Inputs, attributes: Attributes, position: int, name: str) -> list[int] | None:
    """A list that is an attribute in old opsets and a constant input in new ones; None if left out."""
    if name in attributes:
        return [int(v) for v in attributes[name]]
    if len(inputs) > position and inputs[position] is not None:
        return [int(v) for v in known(e, inputs[position], name).reshape(-1)]
    return None


def convert_axis(value: int, rank: int) -> int:
    return value % max(rank, 1)


def optional(inputs: Inputs, position: int) -> Any:
    """An input that may be left out: None then."""
    return inputs[position] if position < len(inputs) else None


def padded_inputs(inputs: Inputs, count: int) -> list[Any]:
    """The inputs, with None for those that the node does not name, ``count`` in all."""
    return [optional(inputs, position) for position in range(count)]


# ---- elementwise ----------------------------------------------------------------------------------------------------


def convert_unary(function: Callable[[Expr], Expr]) -> Converter:
    return lambda e, x, a: e(function(x[0]))


def convert_binary(function: Callable[[Expr, Expr], Expr]) -> Converter:
    return lambda e, x, a: e(function(x[0], x[1]))


def convert_chain(function: Callable[[Expr, Expr], Expr], *, mean: bool = False) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        result = x[0]
        for item in x[1:]:
            result = e(function(result, item))
        return e.div(result, float(len(x))) if mean else result

    return convert


def convert_clip(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """minimum(maximum(x, low), high)"""
    given = [optional(x, 1), optional(x, 2)]
    known_limits = [None if v is None else constant_of(v) for v in given]
    if any(v is not None and k is None for v, k in zip(given, known_limits, strict=True)):
        y = x[0] if given[0] is None else e.maximum(x[0], given[0])
        return y if given[1] is None else e.minimum(y, given[1])
    low, high = (None if k is None else k.item() for k in known_limits)
    return e.clip(x[0], a.get("min", low), a.get("max", high))


def convert_prelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(0, dtype_of(x[0])))), x[0], e.mul(x[0], x[1]))


def convert_gelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e({"none": nn.gelu, "tanh": nn.gelu_tanh}[a.get("approximate", "none")](x[0]))


def convert_hard_sigmoid(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.clip(e.add(e.mul(x[0], a.get("alpha", 0.2)), a.get("beta", 0.5)), 0.0, 1.0)


def convert_thresholded_relu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(a.get("alpha", 1.0), dtype_of(x[0])))), x[0], 0.0)


def convert_shrink(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x < -lambd ? x + bias : (x > lambd ? x - bias : 0)"""
    lambd, bias = a.get("lambd", 0.5), a.get("bias", 0.0)
    high = e.where(e(op.greater(x[0], number(lambd, dtype_of(x[0])))), e.sub(x[0], bias), 0)
    return e.where(e(op.less(x[0], number(-lambd, dtype_of(x[0])))), e.add(x[0], bias), high)


def convert_is_inf(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    signs = [math.inf] * bool(a.get("detect_positive", 1)) + [-math.inf] * bool(a.get("detect_negative", 1))
    found = [e(op.equal(x[0], number(s, dtype_of(x[0])))) for s in signs]
    if not found:
        return e.full(shape_of(x[0]), False, "bool")
    return found[0] if len(found) == 1 else e(op.logical_or(*found))


def convert_sign(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Of integers: x > 0 ? 1 : (x < 0 ? -1 : 0)"""
    dtype = dtype_of(x[0])
    if dtype in FLOATS:
        return e(op.sign(x[0]))
    negative = 0 if dtype.startswith("u") else e.where(e(op.less(x[0], number(0, dtype))), number(-1, dtype), number(0, dtype))
    return e.where(e(op.greater(x[0], number(0, dtype))), number(1, dtype), negative)


# ---- dropout --------------------------------------------------------------------------------------------------------


def convert_shortest(value: float) -> float:
    """The decimal number that a float32 attribute was written as: 0.9 rather than 0.89999998."""
    return float(str(np.float32(value)))


def convert_dropout(e: Emitter, x: Inputs, a: Attributes) -> Any:
    ratio = (
        convert_shortest(known(e, x[1], "the ratio").item())
        if optional(x, 1) is not None
        else convert_shortest(a.get("ratio", 0.5))
    )
    if not 0.0 <= ratio < 1.0:
        raise e.refuse(f"ratio {ratio}", expected="0 <= ratio < 1")
    if a.outputs < 2 or (a.opset >= 12 and optional(x, 2) is not None and known(e, x[2], "the mode").item() and ratio):
        return [e(gensyn.dropout(x[0], p=ratio)) if ratio else x[0], None]
    # Whoever uses the mask gets what the file says: inference, which keeps everything.
    return [x[0], e.full(shape_of(x[0]), 1, "bool" if a.opset >= 10 else dtype_of(x[0]))]
