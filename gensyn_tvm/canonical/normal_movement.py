"""Operators that move elements only, or change none, as changes of an access: they make no node of the normal form."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np

from gensyn_tvm.canonical.access import NOWHERE, Access, renamed, through_broadcast, through_reshape, tidy
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType

REDUCTIONS = frozenset(("sum", "prod", "reduce_max", "reduce_min", "argmax", "argmin"))
#: Operators whose result's element depends on the operands' elements at its place only.
ELEMENTWISE = frozenset(
    (
        *("neg", "abs", "sqrt", "floor", "ceil", "round", "sign", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf"),
        *("exp2", "log2", "log10", "sinh", "cosh", "sin", "cos", "tan", "asin", "acos", "atan", "asinh", "acosh", "erfc"),
        *("rsqrt", "cbrt", "atanh", "pow", "is_nan", "logical_not", "add", "sub", "mul", "div", "maximum", "minimum"),
        *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "where"),
        *("cast", "cast_saturating", "bitcast", "rem", "bit_and", "bit_or", "bit_xor", "bit_not", "shift_left"),
        "shift_right",
    )
)
#: (operator, position of the constant, its value): the other operand itself. Adding -0.0 changes no bit.
_NEUTRAL = {("mul", 0): 1.0, ("mul", 1): 1.0, ("div", 1): 1.0, ("add", 0): -0.0, ("add", 1): -0.0, ("sub", 1): 0.0}


class Movement:
    """A graph, and for each of its values the operand that it is, if it is one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types = graph.value_types()
        self.count = len(graph.inputs)

    def node_of(self, value: int) -> Node | None:
        """The node whose result it is; None for an input."""
        return None if value < self.count else self.graph.nodes[value - self.count]

    def moved(self, node: Node, type_: TensorType, access: Access) -> tuple[int, Access] | None:
        """The operand and its access, of an operator that moves elements only, or changes none."""
        source = node.inputs[0] if node.inputs else -1
        if node.op == "transpose":
            perm = node.attrs["perm"]
            return source, renamed(access, perm, [access.starts[perm.index(k)] for k in range(len(perm))])
        if node.op == "reshape":
            found = through_reshape(access, type_.shape, self.types[source].shape)
            return None if found is None else (source, found)
        if node.op == "slice":
            strides = node.attrs["strides"]
            starts = [b + s * d for b, s, d in zip(node.attrs["starts"], access.starts, strides, strict=True)]
            dims = tuple(tuple(loop._replace(stride=loop.stride * strides[loop.axis]) for loop in dim) for dim in access.dims)
            return source, Access(tuple(starts), tuple(tidy(dim) for dim in dims))
        if node.op == "take":
            return self._taken(node, access)
        if node.op == "broadcast_to":
            return source, through_broadcast(access, type_.shape, self.types[source].shape)
        if node.op == "concat" and len(node.inputs) == 1:
            return source, access
        if node.op in ("cast", "cast_saturating") and self.types[source].dtype == type_.dtype:
            return source, access
        if node.op in REDUCTIONS - {"argmax", "argmin"}:
            shape, kept = self.types[source].shape, kept_axes(node, self.types[source].rank)
            if math.prod(shape[k] for k in node.attrs["axes"]) == 1:
                return source, renamed(access, kept, starts_of(access, kept, len(shape)))
        other = self._neutral(node)
        return None if other is None else (other, through_broadcast(access, type_.shape, self.types[other].shape))

    def _neutral(self, node: Node) -> int | None:
        """The operand that is the result, because the other one is neutral."""
        for position, value in enumerate(node.inputs):
            wanted = _NEUTRAL.get((node.op, position))
            other = node.inputs[1 - position] if len(node.inputs) == 2 else -1
            if wanted is None or not self.types[value].is_float or self.types[other].shape != node.types[0].shape:
                continue
            array = self._array(value)
            if array is not None and (array == wanted).all() and (np.signbit(array) == np.signbit(wanted)).all():
                return other
        return None

    def _taken(self, node: Node, access: Access) -> tuple[int, Access] | None:
        """``take`` of one place that is known is a slice."""
        index = self._array(node.inputs[1])
        source, axis = node.inputs[0], node.attrs["axis"]
        extent = self.types[source].shape[axis]
        type_ = self.types[node.inputs[1]]
        if index is None or type_.size != 1:
            return None
        place = int(index.reshape(()))
        place = min(max(place + extent if place < 0 else place, 0), extent - 1)
        rank, more = self.types[source].rank, type_.rank
        axes = [k if k < axis else (NOWHERE if k < axis + more else k - more + 1) for k in range(rank - 1 + more)]
        starts = [*access.starts[:axis], place, *access.starts[axis + more :]]
        return source, renamed(access, axes, starts)

    def _array(self, value: int) -> np.ndarray | None:
        """The elements of a constant, narrow ones excepted."""
        node = self.node_of(value)
        while node is not None and node.op in ("broadcast_to", "reshape"):
            node = self.node_of(node.inputs[0])
        return constant_of(node) if node is not None and node.op == "constant" else None


def kept_axes(node: Node, rank: int) -> list[int]:
    """For each axis of a reduction's result the operand's."""
    axes = node.attrs["axes"]
    return list(range(rank)) if node.attrs["keepdims"] else [k for k in range(rank) if k not in axes]


def starts_of(access: Access, axes: Sequence[int], rank: int) -> list[int]:
    starts = [0] * rank
    for k, axis in enumerate(axes):
        starts[axis] = access.starts[k]
    return starts


def constant_of(node: Node) -> np.ndarray:
    dtype = TensorType((), node.attrs["dtype"]).numpy_dtype()
    return np.frombuffer(base64.b64decode(node.attrs["data"]), dtype).reshape(node.attrs["shape"])
