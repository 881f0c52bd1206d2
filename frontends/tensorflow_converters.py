"""TensorFlow operators that compute element by element, reduce or multiply matrices; see ``tensorflow_operators``.

A converter gets the emitter, the values of the operator's inputs and its ``Node``, and returns the result or a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, INTEGERS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.division import floor_quotient, remainder
from gensyn_tvm.frontends.einsum import einsum
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_nodes import Converter, Node, Value
from gensyn_tvm.training import ops as gensyn

Inputs = list[Value]


def known(e: FoldingEmitter, x: Value, what: str) -> Any:
    """The array of an input that has to be known at import.

    Raises:
        UnsupportedOperatorError: it depends on inputs or parameters.
    """
    array = e.fold(x)
    if array is None:
        origins = ", ".join(sorted(name for name, _ in e.origins_of(x)))
        raise e.refuse(
            f"{what} that depends on {origins}",
            expected="a value that is known at import",
            remedy="give every input a static shape, and compute shapes and axes of nothing but shapes",
        )
    return array.reshape(-1) if array.ndim else array


def scalar(e: FoldingEmitter, x: Value, what: str) -> Any:
    """The number in an input that has to be known at import."""
    return known(e, x, what).item()


# ---- elementwise ----------------------------------------------------------------------------------------------------


def unary(function: Callable[[Expr], Expr]) -> Converter:
    return lambda e, x, n: e(function(x[0]))


def binary(function: Callable[[Expr, Expr], Expr]) -> Converter:
    return lambda e, x, n: e(function(x[0], x[1]))


def canonical(name: str) -> Converter:
    """The canonical operator of that name, of all inputs."""
    return lambda e, x, n: e.canonical(name, *x)


def convert_same(e: FoldingEmitter, x: Inputs, n: Node) -> Value:
    return x[0]


def convert_real_div(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.div(x[0], x[1])


def convert_div_no_nan(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """x / y, and 0 where y is 0."""
    zero = e(op.equal(x[1], number(0, dtype_of(x[1]))))
    return e.where(zero, 0.0, e.div(x[0], e.where(zero, 1.0, x[1])))


def convert_minimum(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """min(a, max(b, …)) is a if a <= b: tf.math.bincount writes its number of classes so."""
    for limit, other in (x, x[::-1]):
        known_limit = e.fold(limit) if not rank_of(limit) and dtype_of(limit) in INTEGERS else None
        least = e.at_least(other)
        if known_limit is not None and least is not None and known_limit <= least:
            return limit
    return e.minimum(x[0], x[1])


def convert_squared_difference(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    difference = e.sub(x[0], x[1])
    return e.mul(difference, difference)


def convert_add_n(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """From left to right."""
    total = x[0]
    for value in x[1:]:
        total = e.add(total, value)
    return total


def convert_pow(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """Small whole and half exponents of floats as products and roots, others as ``pow``."""
    base, dtype = x[0], dtype_of(x[0])
    power = e.fold(x[1]) if dtype in FLOATS and not rank_of(x[1]) else None
    if power is not None and (abs(power) == 0.5 or (float(power).is_integer() and abs(power) <= 4)):
        return blocks.power(e, base, float(power))
    return e.canonical("pow", base, x[1])


def convert_cast(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.cast(x[0], n.dtype())


def convert_sign(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    if dtype_of(x[0]) in FLOATS:
        return e(op.sign(x[0]))
    zero = number(0, dtype_of(x[0]))
    low = e.where(e(op.less(x[0], zero)), e.sub(zero, e.full([], 1, dtype_of(x[0]))), zero)
    return e.where(e(op.greater(x[0], zero)), 1, low)


def convert_select(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """Select (v1) takes a vector of conditions for the rows of its operands."""
    condition, rank = x[0], rank_of(x[1])
    if n.kind == "Select" and rank_of(condition) == 1 and rank > 1:
        condition = e.reshape(condition, [*shape_of(condition), *[1] * (rank - 1)])
    return e.where(condition, x[1], x[2])


def convert_clip(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.minimum(e.maximum(x[0], x[1]), x[2])


def convert_leaky_relu(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e(nn.leakyrelu(x[0], float(f"{n.attr('alpha'):.7g}")))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def convert_softmax(function: Callable[..., Expr]) -> Converter:
    return lambda e, x, n: e(function(x[0], rank_of(x[0]) - 1))


# ---- reductions -----------------------------------------------------------------------------------------------------


def axes_of(e: FoldingEmitter, x: Expr, axes: Value) -> list[int]:
    """Ascending axes of a reduction; a scalar is one axis."""
    return sorted({int(a) % max(rank_of(x), 1) for a in np.atleast_1d(known(e, axes, "the axes"))})


def convert_reduce(function: Callable[..., Expr]) -> Converter:
    def convert(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
        axes = axes_of(e, x[0], x[1])
        return e(function(x[0], axes, bool(n.attr("keep_dims")))) if axes and rank_of(x[0]) else x[0]

    return convert


def convert_quantifier(function: Callable[..., Expr]) -> Converter:
    """Any and All, as the maximum and minimum of 0 and 1."""
    reduce = convert_reduce(function)
    return lambda e, x, n: e.cast(reduce(e, [e.cast(x[0], "int32"), x[1]], n), "bool")


def convert_euclidean_norm(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e(op.sqrt(convert_reduce(op.sum)(e, [e.mul(x[0], x[0]), x[1]], n)))


def convert_l2_loss(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """sum(x * x) / 2"""
    return e.div(e(op.sum(e.mul(x[0], x[0]))), 2.0)


def convert_arg(search: Callable[..., Expr]) -> Converter:
    def convert(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
        axis = int(scalar(e, x[1], "the axis")) % rank_of(x[0])
        return e.cast(e(search(x[0], axis, False)), n.dtype())

    return convert


def convert_cumulative(name: str) -> Converter:
    def convert(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
        axis = int(scalar(e, x[1], "the axis")) % rank_of(x[0])
        return e.canonical(name, x[0], axis=axis, exclusive=bool(n.attr("exclusive")), reverse=bool(n.attr("reverse")))

    return convert


def convert_bucketize(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """How many boundaries are at most x; all for a NaN."""
    dtype = "float64" if dtype_of(x[0]) == "float64" else "float32"
    value = e.reshape(e.cast(x[0], dtype), [*shape_of(x[0]), 1])
    boundaries = constant(np.array(n.attr("boundaries"), dtype))
    below = e(op.logical_not(e(op.less(value, boundaries))))
    return e(op.sum(e.cast(below, "int32"), [rank_of(x[0])]))


def convert_bincount(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """How often each class occurs in x, or in each row of x; the sum of weights there, or whether it occurs at all."""
    size, axis, weights = int(scalar(e, x[1], "the number of classes")), rank_of(x[0]) - 1, x[2]
    e.positions(size * shape_of(x[0])[axis], 0, 1)  # refuses what is too large for memory
    classes = constant(np.arange(size, dtype=dtype_of(x[0])))
    hits = e.cast(e(op.equal(e.reshape(x[0], [*shape_of(x[0]), 1]), classes)), n.dtype())
    if n.attr("binary_output"):
        return e(op.max(hits, [axis]))
    if math.prod(shape_of(weights)):
        hits = e.mul(hits, e.reshape(weights, [*shape_of(weights), 1]))
    return e(op.sum(hits, [axis]))


# ---- products -------------------------------------------------------------------------------------------------------


def _turned(e: Emitter, x: Expr, turn: bool) -> Expr:
    """x with its last two axes exchanged."""
    rank = rank_of(x)
    return e.transpose(x, [*range(rank - 2), rank - 1, rank - 2]) if turn else x


def convert_matmul(first: str, second: str) -> Converter:
    """A product of matrices, either of which the named attributes transpose."""
    return lambda e, x, n: e(op.matmul(_turned(e, x[0], bool(n.attr(first))), _turned(e, x[1], bool(n.attr(second)))))


def convert_einsum(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return einsum(e, str(n.attr("equation")), x)


# ---- losses ---------------------------------------------------------------------------------------------------------


def convert_cross_entropy(e: FoldingEmitter, x: Inputs, n: Node) -> list[Value]:
    """-sum(labels * log_softmax(logits)); labels are probabilities or, in the sparse form, classes. No second result."""
    logits = e(nn.log_softmax(x[0], rank_of(x[0]) - 1))
    labels = x[1]
    if n.kind.startswith("Sparse"):
        classes = number(list(range(shape_of(logits)[-1])), dtype_of(labels))
        labels = e.cast(e(op.equal(e.reshape(labels, [*shape_of(labels), 1]), classes)), dtype_of(logits))
    return [e(op.negative(e(op.sum(e.mul(labels, logits), [rank_of(logits) - 1])))), None]


ELEMENTWISE: dict[str, Converter] = {
    **{name: binary(op.add) for name in ("Add", "AddV2")},
    "Sub": binary(op.subtract),
    "Mul": binary(op.multiply),
    **{name: convert_real_div for name in ("RealDiv", "Div")},
    "DivNoNan": convert_div_no_nan,
    "FloorDiv": lambda e, x, n: floor_quotient(e, x[0], x[1]),
    "FloorMod": lambda e, x, n: remainder(e, x[0], x[1], sign_of_x=False),
    "Maximum": binary(op.maximum),
    "Minimum": convert_minimum,
    "SquaredDifference": convert_squared_difference,
    "AddN": convert_add_n,
    "Pow": convert_pow,
    "Less": binary(op.less),
    "LessEqual": binary(op.less_equal),
    "Greater": binary(op.greater),
    "GreaterEqual": binary(op.greater_equal),
    "Equal": binary(op.equal),
    "NotEqual": binary(op.not_equal),
    "LogicalAnd": binary(op.logical_and),
    "LogicalOr": binary(op.logical_or),
    "LogicalNot": unary(op.logical_not),
    **{name: convert_select for name in ("Select", "SelectV2")},
    "ClipByValue": convert_clip,
    "Cast": convert_cast,
    "Neg": unary(op.negative),
    "Abs": unary(op.abs),
    "Sign": convert_sign,
    "Square": lambda e, x, n: e.mul(x[0], x[0]),
    "Reciprocal": lambda e, x, n: e.div(1.0, x[0]),
    "Sqrt": unary(op.sqrt),
    "Rsqrt": unary(op.rsqrt),
    "Exp": unary(op.exp),
    "Log": unary(op.log),
    "Sin": canonical("sin"),
    "Cos": canonical("cos"),
    "Tan": canonical("tan"),
    "Asin": canonical("asin"),
    "Acos": canonical("acos"),
    "Atan": unary(op.atan),
    "Sinh": unary(op.sinh),
    "Cosh": unary(op.cosh),
    "Expm1": canonical("expm1"),
    "Log1p": canonical("log1p"),
    "Erf": unary(op.erf),
    "Erfc": canonical("erfc"),
    "Tanh": unary(op.tanh),
    "Sigmoid": unary(op.sigmoid),
    "Floor": unary(op.floor),
    "Ceil": unary(op.ceil),
    **{name: unary(op.round) for name in ("Round", "Rint")},
    "IsNan": unary(op.isnan),
    "IsInf": unary(op.isinf),
    "IsFinite": unary(op.isfinite),
    "Relu": unary(nn.relu),
    "Relu6": lambda e, x, n: e.clip(x[0], 0.0, 6.0),
    "LeakyRelu": convert_leaky_relu,
    "Elu": lambda e, x, n: blocks.elu(e, x[0], 1.0),
    "Selu": lambda e, x, n: blocks.elu(e, x[0], SELU_ALPHA, scale=SELU_SCALE),
    "Softplus": lambda e, x, n: blocks.softplus(e, x[0], 1.0, math.inf),
    "Softsign": lambda e, x, n: e.div(x[0], e.add(e(op.abs(x[0])), 1.0)),
    "Softmax": convert_softmax(nn.softmax),
    "LogSoftmax": convert_softmax(nn.log_softmax),
    **{name: convert_same for name in ("Identity", "EnsureShape", "CheckNumerics", "Snapshot")},
    **{name: lambda e, x, n: e(gensyn.stop_gradient(x[0])) for name in ("StopGradient", "PreventGradient")},
}

REDUCTIONS: dict[str, Converter] = {
    "Mean": convert_reduce(op.mean),
    "Sum": convert_reduce(op.sum),
    "Max": convert_reduce(op.max),
    "Min": convert_reduce(op.min),
    "Prod": convert_reduce(op.prod),
    "Any": convert_quantifier(op.max),
    "All": convert_quantifier(op.min),
    "EuclideanNorm": convert_euclidean_norm,
    "L2Loss": convert_l2_loss,
    "ArgMax": convert_arg(op.argmax),
    "ArgMin": convert_arg(op.argmin),
    "Cumsum": convert_cumulative("cumsum"),
    "Cumprod": convert_cumulative("cumprod"),
    "Bucketize": convert_bucketize,
    "DenseBincount": convert_bincount,
}

PRODUCTS: dict[str, Converter] = {
    "MatMul": convert_matmul("transpose_a", "transpose_b"),
    **{name: convert_matmul("adj_x", "adj_y") for name in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")},
    "Einsum": convert_einsum,
    "SoftmaxCrossEntropyWithLogits": convert_cross_entropy,
    "SparseSoftmaxCrossEntropyWithLogits": convert_cross_entropy,
}
