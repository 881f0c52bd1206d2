"""What each ONNX operator becomes in Relax. The list is closed: an operator that is not here is refused.

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
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, constant_of, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_reader import element_type
from gensyn_tvm.training import ops as gensyn

Inputs = Sequence[Any]
Attributes = dict[str, Any]
Converter = Callable[[Emitter, Inputs, Attributes], Any]


class Node(dict[str, Any]):
    """A node's attributes, with the opset's version and the number of outputs that the node names."""

    opset: int
    outputs: int


def known(e: Emitter, value: Expr, what: str) -> np.ndarray:
    """The array of an input that has to be constant."""
    array = None if value is None else constant_of(value)
    if array is None:
        raise e.refuse(f"{what} is computed or given at run time", expected="a constant or an initializer")
    return array


def _integers(e: Emitter, inputs: Inputs, attributes: Attributes, position: int, name: str) -> list[int] | None:
    """A list that is an attribute in old opsets and a constant input in new ones; None if left out."""
    if name in attributes:
        return [int(v) for v in attributes[name]]
    if len(inputs) > position and inputs[position] is not None:
        return [int(v) for v in known(e, inputs[position], name).reshape(-1)]
    return None


def _axis(value: int, rank: int) -> int:
    return value % max(rank, 1)


def _input(inputs: Inputs, position: int) -> Any:
    return inputs[position] if position < len(inputs) else None


# ---- elementwise ----------------------------------------------------------------------------------------------------


def _unary(function: Callable[[Expr], Expr]) -> Converter:
    return lambda e, x, a: e(function(x[0]))


def _binary(function: Callable[[Expr, Expr], Expr]) -> Converter:
    return lambda e, x, a: e(function(x[0], x[1]))


def _chain(function: Callable[[Expr, Expr], Expr], *, mean: bool = False) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        result = x[0]
        for item in x[1:]:
            result = e(function(result, item))
        return e.div(result, float(len(x))) if mean else result

    return convert


def _clip(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    low, high = a.get("min"), a.get("max")
    low = known(e, x[1], "min").item() if _input(x, 1) is not None else low
    high = known(e, x[2], "max").item() if _input(x, 2) is not None else high
    return e.clip(x[0], low, high)


def _pow(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    exponent = known(e, x[1], "the exponent")
    if exponent.size != 1:
        raise e.refuse(f"an exponent of shape {exponent.shape}", expected="one number")
    if dtype_of(x[0]) not in FLOATS:
        raise e.refuse(f"a base of {dtype_of(x[0])}", expected="float32 or float64")
    y = blocks.power(e, x[0], exponent.item())
    return e.reshape(y, [1] * (exponent.ndim - rank_of(y)) + shape_of(y)) if exponent.ndim > rank_of(y) else y


def _prelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(0, dtype_of(x[0])))), x[0], e.mul(x[0], x[1]))


def _gelu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e({"none": nn.gelu, "tanh": nn.gelu_tanh}[a.get("approximate", "none")](x[0]))


def _hard_sigmoid(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.clip(e.add(e.mul(x[0], a.get("alpha", 0.2)), a.get("beta", 0.5)), 0.0, 1.0)


def _thresholded_relu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.where(e(op.greater(x[0], number(a.get("alpha", 1.0), dtype_of(x[0])))), x[0], 0.0)


def _div(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.div(x[0], x[1])


def _cast(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.cast(x[0], element_type(a["to"], e.place))


# ---- reductions -----------------------------------------------------------------------------------------------------


def _axes(e: Emitter, x: Inputs, a: Attributes) -> list[int]:
    axes = _integers(e, x, a, 1, "axes")
    if not axes:
        return [] if a.get("noop_with_empty_axes") else list(range(rank_of(x[0])))
    return sorted(_axis(v, rank_of(x[0])) for v in axes)


def _reduce(
    function: Callable[..., Expr], *, before: Callable[..., Expr] | None = None, after: Callable[..., Expr] | None = None
) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axes = _axes(e, x, a)
        y = x[0] if before is None else before(e, x[0])
        y = e(function(y, axes, bool(a.get("keepdims", 1)))) if axes else y
        return y if after is None else e(after(y))

    return convert


def _search(function: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        if a.get("select_last_index"):
            raise e.refuse("select_last_index=1", expected="0: the first of equal elements")
        return e(function(x[0], _axis(a.get("axis", 0), rank_of(x[0])), bool(a.get("keepdims", 1))))

    return convert


def _softmax(function: Callable[..., Expr]) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        shape, rank = shape_of(x[0]), rank_of(x[0])
        if a.opset >= 13:  # type: ignore[attr-defined]
            return e(function(x[0], _axis(a.get("axis", -1), rank)))
        axis = _axis(a.get("axis", 1), rank)
        flat = e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])
        return e.reshape(e(function(flat, 1)), shape)

    return convert


# ---- linear algebra, convolution, pooling ---------------------------------------------------------------------------


def _gemm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    left = e.transpose(x[0], [1, 0]) if a.get("transA") else x[0]
    right = e.transpose(x[1], [1, 0]) if a.get("transB") else x[1]
    y = e(op.matmul(left, right))
    y = y if a.get("alpha", 1.0) == 1.0 else e.mul(y, a["alpha"])
    bias = _input(x, 2)
    if bias is None or a.get("beta", 1.0) == 0.0:
        return y
    return e.add(y, bias if a.get("beta", 1.0) == 1.0 else e.mul(bias, a["beta"]))


def _window(e: Emitter, x: Expr, a: Attributes, kernel: Sequence[int]) -> dict[str, list[int]]:
    """Strides, dilation and padding of a convolution or pooling, ``auto_pad`` resolved."""
    n = blocks.spatial(e, x)
    strides, dilation = list(a.get("strides", [1] * n)), list(a.get("dilations", [1] * n))
    pads, mode = list(a.get("pads", [0] * (2 * n))), a.get("auto_pad", "NOTSET")
    lows, highs = pads[:n], pads[n:]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = blocks.same_padding(shape_of(x)[2:], kernel, strides, dilation)
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        lows, highs = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        lows, highs = [0] * n, [0] * n
    return {"strides": strides, "dilation": dilation, "lows": lows, "highs": highs}


def _conv(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    window = _window(e, x[0], a, shape_of(x[1])[2:])
    return blocks.conv(e, x[0], x[1], _input(x, 2), groups=int(a.get("group", 1)), **window)


def _pool(kind: str) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Any:
        kernel = list(a["kernel_shape"])
        y = blocks.pool(
            e,
            kind,
            x[0],
            kernel=kernel,
            ceil_mode=bool(a.get("ceil_mode", 0)),
            count_include_pad=bool(a.get("count_include_pad", 0)),
            **_window(e, x[0], a, kernel),
        )
        return [y, None]

    return convert


def _global_pool(function: Callable[..., Expr]) -> Converter:
    return lambda e, x, a: e(function(x[0], list(range(2, rank_of(x[0]))), True))


# ---- normalisation, dropout -----------------------------------------------------------------------------------------


def _shortest(value: float) -> float:
    """The decimal number that a float32 attribute was written as: 0.9 rather than 0.89999998."""
    return float(str(np.float32(value)))


def _batch_norm(e: Emitter, x: Inputs, a: Attributes) -> Any:
    from tvm import relax

    if not a.get("spatial", 1):
        raise e.refuse("spatial=0", expected="statistics for each channel")
    # ONNX weights the old value with momentum, we weight the new one.
    momentum = 1.0 - _shortest(a.get("momentum", 0.9))
    value = e(
        gensyn.batch_norm(*x[:5], epsilon=_shortest(a.get("epsilon", 1e-5)), momentum=momentum, unbiased=False, frozen=False)
    )
    return [e(relax.TupleGetItem(value, k)) for k in range(3)]


def _dropout(e: Emitter, x: Inputs, a: Attributes) -> Any:
    ratio = _shortest(known(e, x[1], "the ratio").item()) if _input(x, 1) is not None else _shortest(a.get("ratio", 0.5))
    if not 0.0 <= ratio < 1.0:
        raise e.refuse(f"ratio {ratio}", expected="0 <= ratio < 1")
    return [e(gensyn.dropout(x[0], p=ratio)) if ratio else x[0], None]


def _layer_norm(e: Emitter, x: Inputs, a: Attributes) -> Any:
    rank = rank_of(x[0])
    axes = list(range(_axis(a.get("axis", -1), rank), rank))
    return [blocks.affine(e, blocks.normalise(e, x[0], axes, _shortest(a.get("epsilon", 1e-5))), x[1], _input(x, 2)), None, None]


def _instance_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return blocks.group_norm(e, x[0], shape_of(x[0])[1], x[1], x[2], _shortest(a.get("epsilon", 1e-5)))


def _group_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    if a.opset < 21:  # type: ignore[attr-defined]
        raise e.refuse("GroupNormalization of opset 18", expected="opset 21 or newer", remedy="export with a newer opset")
    return blocks.group_norm(e, x[0], int(a["num_groups"]), x[1], x[2], _shortest(a.get("epsilon", 1e-5)))


# ---- data movement --------------------------------------------------------------------------------------------------


def _reshape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape, target = shape_of(x[0]), [int(v) for v in known(e, x[1], "the shape")]
    if not a.get("allowzero"):
        target = [shape[k] if d == 0 else d for k, d in enumerate(target)]
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(target) != math.prod(shape):
        raise e.refuse(f"a reshape of {tuple(shape)} to {tuple(target)}", expected="the same number of elements")
    return e.reshape(x[0], target)


def _flatten(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape = shape_of(x[0])
    axis = a.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def _transpose(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.transpose(x[0], a.get("perm", list(range(rank_of(x[0])))[::-1]))


def _squeeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = _integers(e, x, a, 1, "axes"), shape_of(x[0])
    gone = {k for k, d in enumerate(shape) if d == 1} if axes is None else {_axis(v, len(shape)) for v in axes}
    return e.reshape(x[0], [d for k, d in enumerate(shape) if k not in gone])


def _unsqueeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = _integers(e, x, a, 1, "axes") or [], shape_of(x[0])
    for axis in sorted(v % (len(shape) + len(axes)) for v in axes):
        shape.insert(axis, 1)
    return e.reshape(x[0], shape)


def _split(e: Emitter, x: Inputs, a: Attributes) -> Any:
    axis = _axis(a.get("axis", 0), rank_of(x[0]))
    extent, sizes = shape_of(x[0])[axis], _integers(e, x, a, 1, "split")
    if sizes is None:
        size = -(-extent // a.outputs)  # type: ignore[attr-defined]
        sizes = [min(size, extent - size * k) for k in range(a.outputs)]  # type: ignore[attr-defined]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x[0], axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _slice(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    starts, ends = _integers(e, x, a, 1, "starts") or [], _integers(e, x, a, 2, "ends") or []
    axes = _integers(e, x, a, 3, "axes") or list(range(len(starts)))
    steps = _integers(e, x, a, 4, "steps") or [1] * len(starts)
    y = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = _axis(axis, rank_of(y))
        if step < 0:
            raise e.refuse(f"step {step}", expected="a positive step")
        first, last, _ = slice(start, end, step).indices(shape_of(y)[axis])
        y = e.slice(y, axis, first, max(first, last), step)
    return y


def _pad(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    if a.get("mode", "constant") != "constant":
        raise e.refuse(f"mode {a['mode']}", expected="constant")
    value = known(e, x[2], "the padding value").item() if _input(x, 2) is not None else a.get("value", 0.0)
    pads, rank = _integers(e, x, a, 1, "pads") or [], rank_of(x[0])
    axes = [_axis(int(v), rank) for v in known(e, x[3], "axes")] if _input(x, 3) is not None else list(range(rank))
    lows, highs = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        lows[axis], highs[axis] = pads[k], pads[k + len(axes)]
    return blocks.pad(e, x[0], lows, highs, value)


def _expand(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.broadcast(x[0], list(np.broadcast_shapes(tuple(shape_of(x[0])), tuple(int(v) for v in known(e, x[1], "shape")))))


def _tile(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    y = x[0]
    for axis, count in enumerate(int(v) for v in known(e, x[1], "repeats")):
        y = e.concat([y] * count, axis) if count else e.slice(y, axis, 0, 0)
    return y


def _depth_to_space(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    n, c, h, w = shape_of(x[0])
    b = int(a["blocksize"])
    if a.get("mode", "DCR") == "DCR":
        y = e.transpose(e.reshape(x[0], [n, b, b, c // b**2, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        y = e.transpose(e.reshape(x[0], [n, c // b**2, b, b, h, w]), [0, 1, 4, 2, 5, 3])
    return e.reshape(y, [n, c // b**2, h * b, w * b])


def _constant(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    for name, dtype in (("value_int", "int64"), ("value_ints", "int64"), ("value_float", "float32"), ("value_floats", "float32")):
        if name in a:
            return constant(np.array(a[name], dtype=dtype))
    if "value" not in a:
        raise e.refuse(f"attribute {', '.join(a)}", expected="a dense tensor of numbers")
    return constant(a["value"])


def _constant_of_shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    value = a.get("value", np.zeros(1, dtype="float32"))
    return e.full([int(v) for v in known(e, x[0], "the shape")], value.item(), str(value.dtype))


def _shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return constant(np.array(shape_of(x[0])[a.get("start", 0) : a.get("end")], dtype="int64"))


CONVERTERS: dict[str, Converter] = {
    # elementwise
    "Add": _binary(op.add),
    "Sub": _binary(op.subtract),
    "Mul": _binary(op.multiply),
    "Div": _div,
    "Pow": _pow,
    "Max": _chain(op.maximum),
    "Min": _chain(op.minimum),
    "Sum": _chain(op.add),
    "Mean": _chain(op.add, mean=True),
    "Equal": _binary(op.equal),
    "Less": _binary(op.less),
    "LessOrEqual": _binary(op.less_equal),
    "Greater": _binary(op.greater),
    "GreaterOrEqual": _binary(op.greater_equal),
    "And": _binary(op.logical_and),
    "Or": _binary(op.logical_or),
    "Xor": _binary(op.not_equal),
    "Not": _unary(op.logical_not),
    "Where": lambda e, x, a: e(op.where(x[0], x[1], x[2])),
    "Abs": _unary(op.abs),
    "Neg": _unary(op.negative),
    "Sign": _unary(op.sign),
    "Floor": _unary(op.floor),
    "Ceil": _unary(op.ceil),
    "Round": _unary(op.round),
    "Exp": _unary(op.exp),
    "Log": _unary(op.log),
    "Sqrt": _unary(op.sqrt),
    "Erf": _unary(op.erf),
    "Tanh": _unary(op.tanh),
    "Sigmoid": _unary(op.sigmoid),
    "IsNaN": _unary(op.isnan),
    "Reciprocal": lambda e, x, a: e.div(1.0, x[0]),
    "Relu": _unary(nn.relu),
    "LeakyRelu": lambda e, x, a: e(nn.leakyrelu(x[0], _shortest(a.get("alpha", 0.01)))),
    "PRelu": _prelu,
    "ThresholdedRelu": _thresholded_relu,
    "Elu": lambda e, x, a: blocks.elu(e, x[0], _shortest(a.get("alpha", 1.0))),
    "Celu": lambda e, x, a: blocks.elu(
        e, x[0], _shortest(a.get("alpha", 1.0)), input_scale=1.0 / _shortest(a.get("alpha", 1.0))
    ),
    "Selu": lambda e, x, a: blocks.elu(e, x[0], a.get("alpha", 1.6732631921768188), scale=a.get("gamma", 1.0507010221481323)),
    "Gelu": _gelu,
    "Swish": lambda e, x, a: e.mul(x[0], e(op.sigmoid(e.mul(x[0], a.get("alpha", 1.0))))),
    "Mish": lambda e, x, a: e.mul(x[0], e(op.tanh(blocks.softplus(e, x[0])))),
    "Softplus": lambda e, x, a: blocks.softplus(e, x[0]),
    "Softsign": lambda e, x, a: e.div(x[0], e.add(e(op.abs(x[0])), 1.0)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda e, x, a: e.mul(x[0], blocks.hard_sigmoid(e, x[0])),
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": lambda e, x, a: e.cast(x[0], dtype_of(x[1])),
    "Identity": lambda e, x, a: x[0],
    # reductions
    "ReduceSum": _reduce(op.sum),
    "ReduceMean": _reduce(op.mean),
    "ReduceProd": _reduce(op.prod),
    "ReduceMax": _reduce(op.max),
    "ReduceMin": _reduce(op.min),
    "ReduceL1": _reduce(op.sum, before=lambda e, x: e(op.abs(x))),
    "ReduceL2": _reduce(op.sum, before=lambda e, x: e.mul(x, x), after=op.sqrt),
    "ReduceSumSquare": _reduce(op.sum, before=lambda e, x: e.mul(x, x)),
    "ReduceLogSum": _reduce(op.sum, after=op.log),
    "ArgMax": _search(op.argmax),
    "ArgMin": _search(op.argmin),
    "Softmax": _softmax(nn.softmax),
    "LogSoftmax": _softmax(nn.log_softmax),
    # linear algebra, convolution, pooling
    "MatMul": _binary(op.matmul),
    "Gemm": _gemm,
    "Conv": _conv,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": _global_pool(op.mean),
    "GlobalMaxPool": _global_pool(op.max),
    # normalisation, dropout
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "Dropout": _dropout,
    # data movement and sources
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": lambda e, x, a: e.concat(x, _axis(a["axis"], rank_of(x[0]))),
    "Split": _split,
    "Slice": _slice,
    "Gather": lambda e, x, a: blocks.take(e, x[0], x[1], _axis(a.get("axis", 0), rank_of(x[0]))),
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": lambda e, x, a: number(math.prod(shape_of(x[0])), "int64"),
}

# Integer and bool operators that are computed at import when all of their inputs are constant.
FOLDED = frozenset(
    "Add Sub Mul Div Mod Neg Abs Max Min Equal Less LessOrEqual Greater GreaterOrEqual And Or Not Where Cast CastLike Identity "
    "ReduceSum ReduceProd ReduceMax ReduceMin Reshape Flatten Transpose Squeeze Unsqueeze Concat Split Slice Gather Expand "
    "Tile Range ConstantOfShape".split()
)

# Inputs that have to be constants: an initializer there is no parameter.
CONSTANT_INPUTS = {"Clip": (1, 2), "Pad": (2,), "Dropout": (1,), "Pow": (1,)}
