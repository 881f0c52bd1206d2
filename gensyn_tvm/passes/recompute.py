"""Recomputation: nodes of the forward part are written a second time for the gradients, each just before its first use there.

The originals then die after their last use in the forward part, and the copies live only while the gradients need them. The
result is executed, never stored: it is the same program, with the same digest and the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from gensyn_tvm.canonical.graph import Graph, Node, Output


def first_values(graph: Graph) -> list[int]:
    """The number of each node's first output."""
    firsts, number = [], len(graph.inputs)
    for node in graph.nodes:
        firsts.append(number)
        number += len(node.types)
    return firsts


def value_bytes(graph: Graph) -> list[int]:
    """The bytes that each value takes in memory, in the order of their numbers."""
    return [t.size * np.dtype(t.carrier).itemsize for t in graph.value_types()]


def backward_nodes(graph: Graph) -> frozenset[int]:
    """Indices of the nodes of a training step that updates of parameters or of optimizer state depend on, but not the loss.

    Updates of buffers (running statistics) are not among them: they happen beside the forward part.
    """
    if not any(o.updates for o in graph.outputs):
        return frozenset()
    roles = {i.name: i.role for i in graph.inputs}
    updates = [o.value for o in graph.outputs if o.updates and roles.get(o.name) != "buffer"]
    return frozenset(_ancestors(graph, updates) - _ancestors(graph, [graph.outputs[0].value]))


def _ancestors(graph: Graph, values: Sequence[int]) -> set[int]:
    needed, found, firsts = set(values), set(), first_values(graph)
    for k in reversed(range(len(graph.nodes))):
        node = graph.nodes[k]
        if any(firsts[k] + i in needed for i in range(len(node.types))):
            found.add(k)
            needed.update(node.inputs)
    return found


def recompute(graph: Graph, nodes: Collection[int]) -> Graph:
    """The graph with copies of the given nodes, which its backward part reads instead of the originals.

    A copy reads copies of the other given nodes and the originals of all else. Random bits are a function of their counters, so
    that copies draw the same; updates of buffers stay single.
    """
    return _Copier(graph, frozenset(nodes)).run() if nodes else graph


class _Copier:
    def __init__(self, graph: Graph, chosen: frozenset[int]) -> None:
        self.graph = graph
        self.backward = backward_nodes(graph)
        self.chosen = chosen - self.backward
        self.firsts = first_values(graph)
        self.producer = {self.firsts[k] + i: k for k in range(len(graph.nodes)) for i in range(len(graph.nodes[k].types))}
        self.originals = {v: v for v in range(len(graph.inputs))}
        self.copies: dict[int, int] = {}
        self.nodes: list[Node] = []
        self.next = len(graph.inputs)

    def run(self) -> Graph:
        """The graph with copies."""
        for k, node in enumerate(self.graph.nodes):
            if k in self.backward:
                for copied in sorted(self.missing(node)):
                    self.write(copied, self.copies, as_copy=True)
            self.write(k, self.originals, as_copy=k in self.backward)
        outputs = tuple(
            Output(o.name, self.originals[o.value], o.updates, tuple((axis, self.originals[v]) for axis, v in o.extents))
            for o in self.graph.outputs
        )
        return Graph(self.graph.name, self.graph.inputs, tuple(self.nodes), outputs)

    def missing(self, node: Node) -> set[int]:
        """The chosen nodes without a copy yet that a node of the backward part depends on through chosen ones."""
        found: set[int] = set()
        pending = list(node.inputs)
        while pending:
            v = pending.pop()
            k = self.producer.get(v)
            if k in self.chosen and k not in found and v not in self.copies:
                found.add(k)
                pending.extend(self.graph.nodes[k].inputs)
        return found

    def write(self, k: int, numbers: dict[int, int], *, as_copy: bool) -> None:
        """Append node k, reading copies where there are some if ``as_copy``, and note the numbers of its values."""
        node = self.graph.nodes[k]
        inputs = tuple(self.copies.get(v, self.originals[v]) if as_copy else self.originals[v] for v in node.inputs)
        self.nodes.append(Node(node.op, inputs, node.attrs, node.types, node.source))
        for i in range(len(node.types)):
            numbers[self.firsts[k] + i] = self.next
            self.next += 1


def estimated_peak(graph: Graph) -> int:
    """The most bytes of computed values alive at once if the nodes run in order, one by one; inputs do not count."""
    sizes = value_bytes(graph)
    last = {v: k for k, node in enumerate(graph.nodes) for v in node.inputs}
    last.update((v, len(graph.nodes)) for o in graph.outputs for v in (o.value, *(e for _, e in o.extents)))
    live = peak = 0
    number = len(graph.inputs)
    for k, node in enumerate(graph.nodes):
        outputs = range(number, number + len(node.types))
        number += len(node.types)
        live += sum(sizes[v] for v in outputs)
        peak = max(peak, live)
        dead = {v for v in (*node.inputs, *outputs) if v >= len(graph.inputs) and last.get(v, k) == k}
        live -= sum(sizes[v] for v in dead)
    return peak
