"""How much a canonical graph computes and moves, for comparison with the machine's roof."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType


def _matmul(types: Sequence[TensorType], node: Node) -> int:
    return math.prod(node.types[0].shape) * types[0].shape[-1]


def _conv(types: Sequence[TensorType], node: Node) -> int:
    """Inputs x, w: each output element has a term for every element of one filter."""
    return math.prod(node.types[0].shape) * math.prod(types[1].shape[1:])


def _conv_backward_data(types: Sequence[TensorType], node: Node) -> int:
    """Inputs dy, w: as many terms as the convolution has, whose output has dy's shape."""
    return math.prod(types[0].shape) * math.prod(types[1].shape[1:])


def _conv_backward_weight(types: Sequence[TensorType], node: Node) -> int:
    """Inputs x, dy; the output has the weight's shape."""
    return math.prod(types[1].shape) * math.prod(node.types[0].shape[1:])


#: Multiply-adds by operator; the others have few operations for each element that they move.
PRODUCTS: dict[str, Callable[[Sequence[TensorType], Node], int]] = {
    "matmul": _matmul,
    "conv": _conv,
    "conv_backward_data": _conv_backward_data,
    "conv_backward_weight": _conv_backward_weight,
}


def float_operations(graph: Graph) -> int:
    """Operations of all products, a multiply-add counted as two."""
    types = graph.value_types()
    return sum(2 * PRODUCTS[node.op]([types[i] for i in node.inputs], node) for node in graph.nodes if node.op in PRODUCTS)


def _size(type_: TensorType) -> int:
    return math.prod(type_.shape) * type_.itemsize


def bytes_moved(graph: Graph) -> int:
    """Bytes of all inputs and outputs, once each: the least that a run reads and writes."""
    types = graph.value_types()
    return sum(_size(i.type) for i in graph.inputs) + sum(_size(types[o.value]) for o in graph.outputs)
