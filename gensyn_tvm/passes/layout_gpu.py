"""The layout of products on GPUs: a transposed operand of a matrix product is read where it is.

Tiles bring operands in any order into shared memory, so a ``transpose`` in front of a product need not be computed.
"""

from __future__ import annotations

from dataclasses import replace

from gensyn_tvm.canonical.graph import Graph, Node, eliminate_dead_nodes


def read_transposed(graph: Graph) -> Graph:
    """The graph without transpositions that only products read; it computes the same, but is no canonical graph any more."""
    producers: dict[int, Node] = {}
    nodes: list[Node] = []
    number = len(graph.inputs)
    for node in graph.nodes:
        if node.op == "matmul":
            (left, left_axes), (right, right_axes) = (_source(value, producers) for value in node.inputs)
            attrs = {**node.attrs, "left_axes": left_axes, "right_axes": right_axes}
            node = replace(node, inputs=(left, right), attrs=attrs)
        for k in range(len(node.types)):
            producers[number + k] = node
        number += len(node.types)
        nodes.append(node)
    return eliminate_dead_nodes(replace(graph, nodes=tuple(nodes)))


def _source(value: int, producers: dict[int, Node]) -> tuple[int, tuple[int, ...]]:
    """The value that a value is a transposition of, and for each of its axes that of the source; none if it is no such."""
    axes: tuple[int, ...] = ()
    while (node := producers.get(value)) is not None and node.op == "transpose":
        inner = tuple(node.attrs["perm"])
        axes = tuple(inner[a] for a in axes) if axes else inner
        (value,) = node.inputs
    return value, axes
