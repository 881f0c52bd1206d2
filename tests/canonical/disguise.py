"""The same computation written in another way, as another framework might: for tests of the normal form."""

from __future__ import annotations

import numpy as np

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.normal_emit import COMMUTATIVE

_MIRRORED = {"less": "greater", "greater": "less", "less_equal": "greater_equal", "greater_equal": "less_equal"}


def disguised(graph: Graph, seed: int) -> Graph:
    """Another graph of the same computation.

    Inputs in another order and with other names; operands that commute exchanged, comparisons mirrored; movement that cancels
    out; leading axes of products folded.
    """
    rng = np.random.default_rng(seed)
    builder = GraphBuilder(f"{graph.name} disguised")
    numbers: dict[int, int] = {}
    for k in (int(k) for k in rng.permutation(len(graph.inputs))):
        numbers[k] = builder.add_input(f"d{k}", graph.inputs[k].role, graph.inputs[k].type)
    for k, node in enumerate(graph.nodes, len(graph.inputs)):
        numbers[k] = _node(builder, node.op, [numbers[i] for i in node.inputs], dict(node.attrs), rng)
    for output in graph.outputs:
        extents = tuple((axis, numbers[v]) for axis, v in output.extents)
        builder.add_output(f"d {output.name}", numbers[output.value], extents=extents)
    return builder.finish()


def _node(builder: GraphBuilder, op: str, inputs: list[int], attrs: dict[str, object], rng: np.random.Generator) -> int:
    if op in COMMUTATIVE and rng.random() < 0.5:
        inputs = inputs[::-1]
    elif op in _MIRRORED and rng.random() < 0.5:
        op, inputs = _MIRRORED[op], inputs[::-1]
    if op == "matmul" and builder.types[inputs[1]].rank == 2 and rng.random() < 0.5:
        return _folded(builder, *inputs)
    value = builder.emit(op, *inputs, **attrs)
    shape = builder.types[value].shape
    if len(shape) > 1 and rng.random() < 0.3:
        perm = tuple(int(p) for p in rng.permutation(len(shape)))
        value = builder.emit("transpose", value, perm=perm)
        value = builder.emit("transpose", value, perm=tuple(perm.index(k) for k in range(len(perm))))
    if len(shape) > 1 and rng.random() < 0.3:
        value = builder.emit("reshape", builder.emit("reshape", value, shape=(builder.types[value].size,)), shape=shape)
    return value


def _folded(builder: GraphBuilder, a: int, b: int) -> int:
    """A product with a matrix as one of two matrices."""
    first, second = builder.types[a], builder.types[b]
    rows = builder.emit("reshape", a, shape=(first.size // first.shape[-1], first.shape[-1]))
    return builder.emit("reshape", builder.emit("matmul", rows, b), shape=(*first.shape[:-1], second.shape[-1]))
