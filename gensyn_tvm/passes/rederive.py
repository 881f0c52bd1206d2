"""Values that the gradients read and that follow by cheap arithmetic from others that they need anyway.

They are not kept from the forward part but computed again (``passes.recompute``) in the kernels that read them: a kernel of the
forward part then stores less, and one of the gradients reads one array instead of several made of it. What an operator reads
that is computed apart has to be stored again: it is kept, unless it is a product of matrices beside which that is nothing. What
takes elementary functions or reductions is kept in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.normal_movement import ELEMENTWISE
from gensyn_tvm.passes.recompute import backward_nodes, estimated_peak, first_values, recompute

#: Operators that a kernel repeats at little cost where it reads their result.
_MOVES = frozenset(("reshape", "broadcast_to", "slice"))
_CHEAP = _MOVES | {
    *("abs", "add", "bit_and", "bit_not", "bit_or", "bit_xor", "bitcast", "cast", "ceil", "div", "equal", "floor", "greater"),
    *("greater_equal", "is_nan", "less", "less_equal", "logical_and", "logical_not", "logical_or", "maximum", "minimum", "mul"),
    *("neg", "not_equal", "sign", "sub", "where"),
}
#: Operators whose operand is read as a whole if their result is.
_WHOLE_THROUGH = _MOVES | {"transpose", "pad", "concat"}
#: Operators that read their operands element by element, or row by row, in one kernel with what computes these.
_READERS = ELEMENTWISE | _CHEAP | _WHOLE_THROUGH | {"sum", "reduce_max", "reduce_min"}
#: So many multiplications with each element of what a product reads take much longer than to compute and store the element.
_REUSE = 256
#: Operators computed again one after the other; a value further away is kept.
_FAR = 6


def rederived(graph: Graph, beside: Collection[int] = ()) -> frozenset[int]:
    """Indices of forward nodes that a step computes again, unless more is alive at once then; none for other programs.

    ``beside``: nodes that are computed again anyway.
    """
    backward = backward_nodes(graph)
    if not backward:
        return frozenset()
    found = _Derivation(graph, backward).run()
    together = found | frozenset(beside)
    return found if estimated_peak(recompute(graph, together)) <= estimated_peak(recompute(graph, beside)) else frozenset()


class _Derivation:
    def __init__(self, graph: Graph, backward: frozenset[int]) -> None:
        self.graph, self.backward = graph, backward
        self.firsts = firsts = first_values(graph)
        self.producer = {firsts[k] + i: k for k, node in enumerate(graph.nodes) for i in range(len(node.types))}
        self.read = {v for k in backward for v in graph.nodes[k].inputs if self.producer.get(v) not in backward}
        #: Cheap operators between a value and what is in memory; values that need others are not in it.
        self.distance = dict.fromkeys(range(len(graph.inputs)), 0)

    def run(self) -> frozenset[int]:
        """The nodes of the values that are read and follow from others, and of those in between."""
        reuse, derived = self.reuse(), []
        for v, k in self.producer.items():
            if k in self.backward:
                continue
            far = self.distance_of(k)
            if v in self.read and (reuse.get(v, _REUSE) < _REUSE or far > _FAR):
                self.distance[v] = 0  # is kept
            elif far <= _FAR:
                self.distance[v] = far
                derived += [v] if v in self.read else []
        return self.between(derived)

    def distance_of(self, k: int) -> int:
        node = self.graph.nodes[k]
        if node.op == "constant":
            return 0
        near = [self.distance.get(v, _FAR) for v in node.inputs]
        return 1 + max(near) if node.op in _CHEAP else _FAR + 1

    def reuse(self) -> dict[int, int]:
        """How often an operator that is computed apart reads an element of a value, at least, also through moves."""
        types = self.graph.value_types()
        found: dict[int, int] = {}
        for k in sorted(self.backward, reverse=True):
            node = self.graph.nodes[k]
            mine = [found[self.firsts[k] + i] for i in range(len(node.types)) if self.firsts[k] + i in found]
            for v in node.inputs:
                if node.op == "matmul":
                    count = node.types[0].size * types[node.inputs[0]].shape[-1] // max(types[v].size, 1)
                elif node.op not in _READERS:
                    count = 0
                elif node.op in _WHOLE_THROUGH and mine:
                    count = min(mine)
                else:
                    continue
                found[v] = min(found.get(v, count), count)
        return found

    def between(self, derived: Sequence[int]) -> frozenset[int]:
        """The nodes of values and of all that lies between them and what is in memory."""
        found: set[int] = set()
        pending = list(derived)
        while pending:
            v = pending.pop()
            k = self.producer.get(v)
            if k is not None and k not in found and self.distance[v] and self.graph.nodes[k].op != "constant":
                found.add(k)
                pending.extend(self.graph.nodes[k].inputs)
        return frozenset(found)
