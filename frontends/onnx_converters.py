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
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_reader import element_type
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


def _integers(e: Emitter, inputs: Inputs, attributes: Attributes, position: int, name: str) -> list[int] | None:
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
    low, high = a.get("min"), a.get("max")
    low = known(e, x[1], "min").item() if optional(x, 1) is not None else low
    high = known(e, x[2], "max").item() if optional(x, 2) is not None else high
    return e.clip(x[0], low, high)


def convert_pow(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    exponent = known(e, x[1], "the exponent")
    if exponent.size != 1:
        raise e.refuse(f"an exponent of shape {exponent.shape}", expected="one number")
    if dtype_of(x[0]) not in FLOATS:
        raise e.refuse(f"a base of {dtype_of(x[0])}", expected="float32 or float64")
    y = blocks.power(e, x[0], exponent.item())
    return e.reshape(y, [1] * (exponent.ndim - rank_of(y)) + shape_of(y)) if exponent.ndim > rank_of(y) else y


def convert_prelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(0, dtype_of(x[0])))), x[0], e.mul(x[0], x[1]))


def convert_gelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e({"none": nn.gelu, "tanh": nn.gelu_tanh}[a.get("approximate", "none")](x[0]))


def convert_hard_sigmoid(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.clip(e.add(e.mul(x[0], a.get("alpha", 0.2)), a.get("beta", 0.5)), 0.0, 1.0)


def convert_thresholded_relu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(a.get("alpha", 1.0), dtype_of(x[0])))), x[0], 0.0)


def convert_div(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.div(x[0], x[1])


def convert_cast(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.cast(x[0], element_type(a["to"], e.place))


# ---- reductions -----------------------------------------------------------------------------------------------------


def _axes(e: Emitter, x: Inputs, a: Attributes) -> list[int]:
    axes = _integers(e, x, a, 1, "axes")
    if not axes:
        return [] if a.get("noop_with_empty_axes") else list(range(rank_of(x[0])))
    return sorted(convert_axis(v, rank_of(x[0])) for v in axes)


def convert_reduce(
    function: Callable[..., Expr], *, before: Callable[..., Expr] | None = None, after: Callable[..., Expr] | None = None
) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axes = _axes(e, x, a)
        y = x[0] if before is None else before(e, x[0])
        y = e(function(y, axes, bool(a.get("keepdims", 1)))) if axes else y
        return y if after is None else e(after(y))

    return convert


def convert_search(function: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        if a.get("select_last_index"):
            raise e.refuse("select_last_index=1", expected="0: the first of equal elements")
        return e(function(x[0], convert_axis(a.get("axis", 0), rank_of(x[0])), bool(a.get("keepdims", 1))))

    return convert


def convert_softmax(function: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        shape, rank = shape_of(x[0]), rank_of(x[0])
        if a.opset >= 13:
            return e(function(x[0], convert_axis(a.get("axis", -1), rank)))
        axis = convert_axis(a.get("axis", 1), rank)
        flat = e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])
        return e.reshape(e(function(flat, 1)), shape)

    return convert


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
    return [e(gensyn.dropout(x[0], p=ratio)) if ratio else x[0], None]


# ---- data movement --------------------------------------------------------------------------------------------------


def convert_reshape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape, target = shape_of(x[0]), [int(v) for v in known(e, x[1], "the shape")]
    if not a.get("allowzero"):
        target = [shape[k] if d == 0 else d for k, d in enumerate(target)]
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(target) != math.prod(shape):
        raise e.refuse(f"a reshape of {tuple(shape)} to {tuple(target)}", expected="the same number of elements")
    return e.reshape(x[0], target)


def convert_flatten(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape = shape_of(x[0])
    axis = a.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def convert_transpose(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.transpose(x[0], a.get("perm", list(range(rank_of(x[0])))[::-1]))


def convert_squeeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = _integers(e, x, a, 1, "axes"), shape_of(x[0])
    gone = {k for k, d in enumerate(shape) if d == 1} if axes is None else {convert_axis(v, len(shape)) for v in axes}
    return e.reshape(x[0], [d for k, d in enumerate(shape) if k not in gone])


def convert_unsqueeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = _integers(e, x, a, 1, "axes") or [], shape_of(x[0])
    for axis in sorted(v % (len(shape) + len(axes)) for v in axes):
        shape.insert(axis, 1)
    return e.reshape(x[0], shape)


def convert_split(e: Emitter, x: Inputs, a: Attributes) -> Any:
    axis = convert_axis(a.get("axis", 0), rank_of(x[0]))
    extent, sizes = shape_of(x[0])[axis], _integers(e, x, a, 1, "split")
    if sizes is None:
        size = -(-extent // a.outputs)
        sizes = [min(size, extent - size * k) for k in range(a.outputs)]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x[0], axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def convert_slice(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    starts, ends = _integers(e, x, a, 1, "starts") or [], _integers(e, x, a, 2, "ends") or []
    axes = _integers(e, x, a, 3, "axes") or list(range(len(starts)))
    steps = _integers(e, x, a, 4, "steps") or [1] * len(starts)
    y = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = convert_axis(axis, rank_of(y))
        if step < 0:
            raise e.refuse(f"step {step}", expected="a positive step")
        first, last, _ = slice(start, end, step).indices(shape_of(y)[axis])
        y = e.slice(y, axis, first, max(first, last), step)
    return y


def convert_pad(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    if a.get("mode", "constant") != "constant":
        raise e.refuse(f"mode {a['mode']}", expected="constant")
    value = known(e, x[2], "the padding value").item() if optional(x, 2) is not None else a.get("value", 0.0)
    pads, rank = _integers(e, x, a, 1, "pads") or [], rank_of(x[0])
    axes = [convert_axis(int(v), rank) for v in known(e, x[3], "axes")] if optional(x, 3) is not None else list(range(rank))
    lows, highs = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        lows[axis], highs[axis] = pads[k], pads[k + len(axes)]
    return blocks.pad(e, x[0], lows, highs, value)


def convert_expand(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.broadcast(x[0], list(np.broadcast_shapes(tuple(shape_of(x[0])), tuple(int(v) for v in known(e, x[1], "shape")))))


def convert_tile(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    y = x[0]
    for axis, count in enumerate(int(v) for v in known(e, x[1], "repeats")):
        y = e.concat([y] * count, axis) if count else e.slice(y, axis, 0, 0)
    return y


def convert_depth_to_space(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    n, c, h, w = shape_of(x[0])
    b = int(a["blocksize"])
    if a.get("mode", "DCR") == "DCR":
        y = e.transpose(e.reshape(x[0], [n, b, b, c // b**2, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        y = e.transpose(e.reshape(x[0], [n, c // b**2, b, b, h, w]), [0, 1, 4, 2, 5, 3])
    return e.reshape(y, [n, c // b**2, h * b, w * b])


def convert_constant(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        dtype = "int64" if "int" in name else "float32"
        if name in a:
            return constant(np.array(a[name], dtype=dtype))
    if "value" not in a:
        raise e.refuse(f"attribute {', '.join(a)}", expected="a dense tensor of numbers")
    return constant(a["value"])


def convert_constant_of_shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    value = a.get("value", np.zeros(1, dtype="float32"))
    return e.full([int(v) for v in known(e, x[0], "the shape")], value.item(), str(value.dtype))


def convert_shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return constant(np.array(shape_of(x[0])[a.get("start", 0) : a.get("end")], dtype="int64"))
