"""The TFLite operators of numbers that can be imported. The list is closed: an operator that is not here is refused.

Those of integers that stand for real numbers are in ``tflite_quantised``.
"""

from __future__ import annotations

import math

import numpy as np

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_converters import known
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tflite_nodes import LIMITS, Converter, LiteNode, activated, chosen, like_tensorflow
from gensyn_tvm.frontends.tflite_schema import MIRRORS
from gensyn_tvm.frontends.tflite_windows import WINDOWS

# ---- elementwise ----------------------------------------------------------------------------------------------------


def with_activation(kind: str, options: str) -> Converter:
    """TensorFlow's operator, and the activation in the options."""
    inner = like_tensorflow(kind)

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
        n.options(e, options)
        return activated(e, inner(e, x, n), n)

    return convert


def limited(name: str) -> Converter:
    """A standalone activation that limits its operand."""
    return lambda e, x, n: e.clip(x[0], *LIMITS[name])


def convert_hard_swish(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """x * clip(x + 3, 0, 6) / 6"""
    return e.mul(x[0], blocks.hard_sigmoid(e, x[0]))


def convert_gelu(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    return e(nn.gelu_tanh(x[0]) if n.attr("approximate", False) else nn.gelu(x[0]))


def convert_prelu(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """x where it is not negative, else alpha * x; alpha is broadcast."""
    negative = e(op.less(x[0], e.full([], 0, dtype_of(x[0]))))
    return e.where(negative, e.mul(x[0], x[1]), x[0])


def convert_softmax(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """The softmax of beta * x along the last axis."""
    beta = float(n.options(e, "Softmax")["beta"])
    return e(nn.softmax(x[0] if beta == 1.0 else e.mul(x[0], beta), rank_of(x[0]) - 1))


# ---- movement -------------------------------------------------------------------------------------------------------


def convert_reshape(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """To the shape of the second input, or where there is none of the options."""
    shape = x[1] if n.has(1) else constant(np.asarray(n.options(e, "Reshape")["new_shape"], np.int32))
    return like_tensorflow("Reshape")(e, [x[0], shape], n)


def convert_concatenation(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    axis = int(n.options(e, "Concatenation")["axis"]) % max(rank_of(x[0]), 1)
    return activated(e, e.concat(x, axis), n)


def convert_gather(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    axis = constant(np.array(n.attr("axis", 0), np.int32))
    return like_tensorflow("GatherV2")(e, [x[0], x[1], axis], n)


def convert_strided_slice(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    if n.options(e, "StridedSlice")["offset"]:
        raise e.refuse("ends that count from the begin (offset)", expected="ends that are positions")
    return like_tensorflow("StridedSlice")(e, x, n)


def convert_mirror_pad(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    mode = chosen(e, MIRRORS, n.options(e, "MirrorPad")["mode"], "mode")
    return like_tensorflow("MirrorPad", mode=mode)(e, x, n)


def _blocks(e: FoldingEmitter, x: list[Value]) -> tuple[list[int], list[int], list[int]]:
    """Block sizes of the axes after the first, and what the third input says of both ends of each."""
    sizes, ends = ([int(v) for v in known(e, v, what)] for v, what in ((x[1], "the block shape"), (x[2], "the padding")))
    if min(sizes, default=0) < 1 or len(ends) != 2 * len(sizes) or len(sizes) >= rank_of(x[0]) or min(ends) < 0:
        raise e.refuse(f"blocks {sizes}, padding {ends} of {tuple(shape_of(x[0]))}", expected="two numbers for each block")
    return sizes, ends[::2], ends[1::2]


def space_to_batch(e: FoldingEmitter, x: list[Value], value: float) -> Expr:
    """Every place inside of a block becomes a batch of its own; padding has a value."""
    sizes, lows, highs = _blocks(e, x)
    rest = rank_of(x[0]) - 1 - len(sizes)
    y = blocks.pad(e, x[0], [0, *lows, *[0] * rest], [0, *highs, *[0] * rest], value)
    batch, *extents = shape_of(y)
    if any(d % size for d, size in zip(extents, sizes, strict=False)):
        raise e.refuse(f"blocks {sizes} of {tuple(shape_of(y))}", expected="blocks that divide the padded input")
    split = [part for d, size in zip(extents, sizes, strict=False) for part in (d // size, size)]
    tail, count = extents[len(sizes) :], len(sizes)
    y = e.reshape(y, [batch, *split, *tail])
    y = e.transpose(y, [*range(2, 2 * count + 1, 2), 0, *range(1, 2 * count, 2), *range(2 * count + 1, rank_of(y))])
    outer = [d // size for d, size in zip(extents, sizes, strict=False)]
    return e.reshape(y, [batch * math.prod(sizes), *outer, *tail])


def convert_batch_to_space(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Expr:
    """The inverse of ``space_to_batch``, cropped."""
    sizes, lows, highs = _blocks(e, x)
    batch, *extents = shape_of(x[0])
    count, tail = len(sizes), extents[len(sizes) :]
    if batch % math.prod(sizes):
        raise e.refuse(f"a batch of {batch} in blocks {sizes}", expected="a batch that the blocks divide")
    y = e.reshape(x[0], [*sizes, batch // math.prod(sizes), *extents])
    order = [count, *(axis for k in range(count) for axis in (count + 1 + k, k)), *range(2 * count + 1, rank_of(y))]
    y = e.reshape(
        e.transpose(y, order), [batch // math.prod(sizes), *(d * s for d, s in zip(extents, sizes, strict=False)), *tail]
    )
    for axis, (low, high) in enumerate(zip(lows, highs, strict=True), 1):
        y = e.slice(y, axis, low, shape_of(y)[axis] - high)
    return y


def convert_embedding(e: Emitter, x: list[Value], n: LiteNode) -> Expr:
    return blocks.take(e, x[1], x[0], 0)


ELEMENTWISE: dict[str, Converter] = {
    **{name: with_activation(name.capitalize(), name.capitalize()) for name in ("ADD", "SUB", "MUL", "DIV")},
    "ABS": like_tensorflow("Abs"),
    "NEG": like_tensorflow("Neg"),
    "SIGN": like_tensorflow("Sign"),
    "SQUARE": like_tensorflow("Square"),
    "SQRT": like_tensorflow("Sqrt"),
    "RSQRT": like_tensorflow("Rsqrt"),
    "EXP": like_tensorflow("Exp"),
    "LOG": like_tensorflow("Log"),
    "SIN": like_tensorflow("Sin"),
    "COS": like_tensorflow("Cos"),
    "TANH": like_tensorflow("Tanh"),
    "LOGISTIC": like_tensorflow("Sigmoid"),
    "FLOOR": like_tensorflow("Floor"),
    "CEIL": like_tensorflow("Ceil"),
    "ROUND": like_tensorflow("Round"),
    "RELU": like_tensorflow("Relu"),
    "RELU6": limited("RELU6"),
    "RELU_N1_TO_1": limited("RELU_N1_TO_1"),
    "RELU_0_TO_1": limited("RELU_0_TO_1"),
    "ELU": like_tensorflow("Elu"),
    "GELU": convert_gelu,
    "HARD_SWISH": convert_hard_swish,
    "LEAKY_RELU": like_tensorflow("LeakyRelu"),
    "PRELU": convert_prelu,
    "POW": like_tensorflow("Pow"),
    "MAXIMUM": like_tensorflow("Maximum"),
    "MINIMUM": like_tensorflow("Minimum"),
    "SQUARED_DIFFERENCE": like_tensorflow("SquaredDifference"),
    "FLOOR_DIV": like_tensorflow("FloorDiv"),
    "FLOOR_MOD": like_tensorflow("FloorMod"),
    "ADD_N": like_tensorflow("AddN"),
    "LESS": like_tensorflow("Less"),
    "LESS_EQUAL": like_tensorflow("LessEqual"),
    "GREATER": like_tensorflow("Greater"),
    "GREATER_EQUAL": like_tensorflow("GreaterEqual"),
    "EQUAL": like_tensorflow("Equal"),
    "NOT_EQUAL": like_tensorflow("NotEqual"),
    "LOGICAL_AND": like_tensorflow("LogicalAnd"),
    "LOGICAL_OR": like_tensorflow("LogicalOr"),
    "LOGICAL_NOT": like_tensorflow("LogicalNot"),
    "CAST": like_tensorflow("Cast"),
    "SOFTMAX": convert_softmax,
    "LOG_SOFTMAX": like_tensorflow("LogSoftmax"),
}

REDUCTIONS: dict[str, Converter] = {
    "MEAN": like_tensorflow("Mean"),
    "SUM": like_tensorflow("Sum"),
    "REDUCE_MAX": like_tensorflow("Max"),
    "REDUCE_MIN": like_tensorflow("Min"),
    "REDUCE_PROD": like_tensorflow("Prod"),
    "REDUCE_ANY": like_tensorflow("Any"),
    "REDUCE_ALL": like_tensorflow("All"),
    "ARG_MAX": like_tensorflow("ArgMax"),
    "ARG_MIN": like_tensorflow("ArgMin"),
    "CUMSUM": like_tensorflow("Cumsum"),
}

#: Operators that compute no numbers: of quantised tensors they move the integers.
MOVEMENT: dict[str, Converter] = {
    "RESHAPE": convert_reshape,
    "TRANSPOSE": like_tensorflow("Transpose"),
    "SQUEEZE": like_tensorflow("Squeeze"),
    "EXPAND_DIMS": like_tensorflow("ExpandDims"),
    "CONCATENATION": convert_concatenation,
    "PACK": like_tensorflow("Pack"),
    "UNPACK": like_tensorflow("Unpack"),
    "SPLIT": like_tensorflow("Split"),
    "SPLIT_V": like_tensorflow("SplitV"),
    "SLICE": like_tensorflow("Slice"),
    "STRIDED_SLICE": convert_strided_slice,
    "REVERSE_V2": like_tensorflow("ReverseV2"),
    "TILE": like_tensorflow("Tile"),
    "BROADCAST_TO": like_tensorflow("BroadcastTo"),
    "MIRROR_PAD": convert_mirror_pad,
    "GATHER": convert_gather,
    "GATHER_ND": like_tensorflow("GatherNd"),
    "EMBEDDING_LOOKUP": convert_embedding,
    "SPACE_TO_DEPTH": like_tensorflow("SpaceToDepth"),
    "DEPTH_TO_SPACE": like_tensorflow("DepthToSpace"),
    "BATCH_TO_SPACE_ND": convert_batch_to_space,
    "SELECT": like_tensorflow("Select"),
    "SELECT_V2": like_tensorflow("SelectV2"),
    "TOPK_V2": like_tensorflow("TopKV2"),
    "RESIZE_NEAREST_NEIGHBOR": like_tensorflow("ResizeNearestNeighbor"),
}

OTHERS: dict[str, Converter] = {
    "PAD": like_tensorflow("Pad"),
    "PADV2": like_tensorflow("PadV2"),
    "SPACE_TO_BATCH_ND": lambda e, x, n: space_to_batch(e, x, 0.0),
    "RESIZE_BILINEAR": like_tensorflow("ResizeBilinear"),
    "SHAPE": like_tensorflow("Shape"),
    "RANK": like_tensorflow("Rank"),
    "RANGE": like_tensorflow("Range"),
    "FILL": like_tensorflow("Fill"),
    "ZEROS_LIKE": like_tensorflow("ZerosLike"),
    "BROADCAST_ARGS": like_tensorflow("BroadcastArgs"),
    "ONE_HOT": like_tensorflow("OneHot"),
    "SCATTER_ND": like_tensorflow("ScatterNd"),
}

CONVERTERS: dict[str, Converter] = {**ELEMENTWISE, **REDUCTIONS, **WINDOWS, **MOVEMENT, **OTHERS}
