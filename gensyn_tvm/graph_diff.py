"""How two canonical graphs differ: inputs and their names, operators, the first node that has no counterpart.

Nodes are matched by what they compute: operator, attributes, types and, in turn, the nodes they read. The order of nodes is no
difference of theirs, and neither are the numbers of values; both are part of the digest.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, Input, Node
from gensyn_tvm.canonical.normal_emit import COMMUTATIVE

#: Longest attribute that is shown in full; constants hold whole arrays.
_SHOWN = 60
_MANY = 8
_MOVING = ("reshape", "transpose", "broadcast_to", "slice", "constant")
#: How many operators deep formulas go.
_DEPTH = 4


@dataclass(frozen=True)
class NodeDifference:
    """The first nodes of both graphs that have no counterpart.

    Attributes:
        first, second: lines of the listing, with the place in the source model; empty where all nodes have counterparts.
        reasons: in what they differ.
        formulas: what both compute, a few operators deep.
    """

    first: str
    second: str
    reasons: tuple[str, ...]
    formulas: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class GraphDiff:
    """The differences of two graphs.

    Attributes:
        digests: of both; equal digests are one program.
        inputs: lines about inputs that only one graph has, or whose types differ.
        renamed: names of the inputs in the same place that are called differently: no part of the program.
        operators: operator → number of nodes in the first and in the second, where the numbers differ.
        unmatched, nodes: nodes without a counterpart and all nodes, in the first and in the second.
        node: the first difference of the nodes.
        outputs: lines about outputs.
        order: whether everything has a counterpart, but in another order.
    """

    digests: tuple[str, str]
    inputs: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    operators: Mapping[str, tuple[int, int]]
    unmatched: tuple[int, int]
    nodes: tuple[int, int]
    node: NodeDifference | None
    outputs: tuple[str, ...]
    order: bool

    @property
    def equal(self) -> bool:
        """Whether both are the same program."""
        return self.digests[0] == self.digests[1]

    def as_lines(self, names: tuple[str, str]) -> list[str]:
        """For people."""
        lines = [
            f"{name}: {digest}, {count:,} nodes" for name, digest, count in zip(names, self.digests, self.nodes, strict=True)
        ]
        if self.renamed:
            shown = ", ".join(f"{a} | {b}" for a, b in self.renamed[:_MANY])
            more = f", … ({len(self.renamed)} in all)" if len(self.renamed) > _MANY else ""
            lines.append(f"other names, which are no part of the program: {shown}{more}")
        if self.equal:
            return [*lines, "the same program"]
        lines += [f"input {line}" for line in self.inputs]
        only = [[op for op, counts in self.operators.items() if not counts[1 - k]] for k in (0, 1)]
        lines += [f"operators only in {name}: {', '.join(ops)}" for name, ops in zip(names, only, strict=True) if ops]
        lines += [f"operator {op}: {a:,} | {b:,} nodes" for op, (a, b) in self.operators.items() if a and b]
        if self.node:
            lines.append("first difference:")
            lines += [f"  {side} {text}" for side, text in zip("-+", (self.node.first, self.node.second), strict=True) if text]
            lines += [f"  {reason}" for reason in self.node.reasons]
            lines += [f"  {side} {text}" for side, text in zip("-+", self.node.formulas, strict=True) if text]
            lines.append(
                f"nodes without a counterpart, because of themselves or of what they read: {self.unmatched[0]:,} | "
                f"{self.unmatched[1]:,}"
            )
        lines += [f"output {line}" for line in self.outputs]
        return [*lines, "the same nodes in another order"] if self.order else lines


class _Side:
    """A graph with an identity for each value, the same number for the same computation in both graphs."""

    def __init__(self, graph: Graph, inputs: list[Hashable], table: dict[Hashable, int], normal: bool) -> None:
        self.graph = graph
        self.ids = [table.setdefault(key, len(table)) for key in inputs]
        self.nodes: list[int] = []
        self.first: list[int] = []
        for node in graph.nodes:
            self.first.append(len(self.ids))
            reads = tuple(self.ids[i] for i in node.inputs)
            if normal and node.op in COMMUTATIVE:
                reads = tuple(sorted(reads))
            whole = table.setdefault((node.op, tuple(sorted(node.attrs.items())), node.types, reads), len(table))
            self.nodes.append(whole)
            self.ids += [table.setdefault((whole, k), len(table)) for k in range(len(node.types))]

    def without(self, other: _Side) -> list[int]:
        """Indices of the nodes that have no counterpart."""
        left = Counter(other.nodes)
        found = []
        for index, identity in enumerate(self.nodes):
            if left[identity]:
                left[identity] -= 1
            else:
                found.append(index)
        return found

    def line(self, index: int) -> str:
        """A node as the listing shows it."""
        from gensyn_tvm.commands import node_line

        return node_line(self.graph.nodes[index], self.first[index])

    def formula(self, number: int, depth: int = _DEPTH) -> str:
        """What a value is: operators and names, ``…`` where it goes deeper."""
        if number < len(self.graph.inputs):
            return self.graph.inputs[number].name
        index = bisect_right(self.first, number) - 1
        node = self.graph.nodes[index]
        if node.op == "constant":
            return _constant(node)
        if not depth:
            return "…"
        return f"{node.op}({', '.join(self.formula(i, depth - 1) for i in node.inputs)})"

    def outputs(self) -> list[tuple[Any, ...]]:
        """What each output is, without its name."""
        return [(self.ids[o.value], o.updates, tuple((a, self.ids[v]) for a, v in o.extents)) for o in self.graph.outputs]


def diff_graphs(a: Graph, b: Graph, *, normal: bool = False) -> GraphDiff:
    """Compare two graphs; of normal forms the operands of operators that commute have no order, and movement is no start."""
    keys, lines, renamed = _inputs(a, b)
    table: dict[Hashable, int] = {}
    first, second = _Side(a, keys[0], table, normal), _Side(b, keys[1], table, normal)
    missing = (first.without(second), second.without(first))
    counts = (Counter(n.op for n in a.nodes), Counter(n.op for n in b.nodes))
    digests = (serialise.digest(a), serialise.digest(b))
    outputs = _outputs(first, second)
    node = _first_node(first, second, _computing(first, second, missing) if normal else missing) if any(missing) else None
    return GraphDiff(
        digests=digests,
        inputs=lines,
        renamed=renamed,
        operators={
            op: (counts[0][op], counts[1][op]) for op in sorted({*counts[0], *counts[1]}) if counts[0][op] != counts[1][op]
        },
        unmatched=(len(missing[0]), len(missing[1])),
        nodes=(len(a.nodes), len(b.nodes)),
        node=node,
        outputs=outputs,
        order=digests[0] != digests[1] and not (lines or node or outputs),
    )


# ---- inputs and outputs ---------------------------------------------------------------------------------------------


def _inputs(a: Graph, b: Graph) -> tuple[tuple[list[Hashable], list[Hashable]], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """A key for each input of both graphs, equal for inputs that correspond; what differs; pairs of other names.

    Inputs of one name and role correspond; the others in their order, if the types are equal.
    """
    common = {(i.name, i.role) for i in a.inputs} & {(i.name, i.role) for i in b.inputs}
    rest = [[i for i in g.inputs if (i.name, i.role) not in common] for g in (a, b)]
    pairs: dict[tuple[int, str], int] = {}
    lines, renamed = [], []
    waiting = list(rest[1])
    for number, left in enumerate(rest[0]):
        match = next((i for i in waiting if (i.role, i.type) == (left.role, left.type)), None)
        if match is None:
            lines.append(f"only in the first: {_input_text(left)}")
            continue
        waiting.remove(match)
        pairs[0, left.name] = pairs[1, match.name] = number
        renamed.append((left.name, match.name))
    lines += [f"only in the second: {_input_text(i)}" for i in waiting]
    types = {i.name: i for i in b.inputs}
    for i in a.inputs:
        if (i.name, i.role) in common and types[i.name].type != i.type:
            lines.append(f"{i.role} {i.name!r}: {i.type} | {types[i.name].type}")

    def key(side: int, declared: Input) -> Hashable:
        name: Any = declared.name if (declared.name, declared.role) in common else (side, declared.name)
        pair = pairs.get((side, declared.name))
        return ("input", declared.role, declared.type, name if pair is None else pair)

    keys = [key(0, i) for i in a.inputs], [key(1, i) for i in b.inputs]
    if not lines and not renamed and [i.name for i in a.inputs] != [i.name for i in b.inputs]:
        lines.append("order: the same inputs in another order")
    return keys, tuple(lines), tuple(renamed)


def _input_text(declared: Input) -> str:
    return f"{declared.role} {declared.name!r} {declared.type}"


def _outputs(first: _Side, second: _Side) -> tuple[str, ...]:
    ours, theirs = first.outputs(), second.outputs()
    if len(ours) != len(theirs):
        return (f"number: {len(ours)} | {len(theirs)}",)
    names = [(a.name, b.name) for a, b in zip(first.graph.outputs, second.graph.outputs, strict=True)]
    return tuple(f"{k}, {a} | {b}: another value" for k, (a, b) in enumerate(names) if ours[k] != theirs[k])


# ---- nodes ----------------------------------------------------------------------------------------------------------


def _computing(first: _Side, second: _Side, missing: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """Without the nodes that move elements only, if others are left on both sides."""
    left = [
        [k for k in found if side.graph.nodes[k].op not in _MOVING]
        for side, found in zip((first, second), missing, strict=True)
    ]
    return (left[0], left[1]) if all(left) else missing


def _first_node(first: _Side, second: _Side, missing: tuple[list[int], list[int]]) -> NodeDifference:
    if not missing[0] or not missing[1]:
        side, index = (first, missing[0][0]) if missing[0] else (second, missing[1][0])
        line, where = side.line(index), "first" if missing[0] else "second"
        return NodeDifference(*((line, "") if missing[0] else ("", line)), (f"only in the {where}",))
    index = missing[0][0]
    ours = first.graph.nodes[index]
    reads = [first.ids[i] for i in ours.inputs]

    def distance(other: int) -> tuple[bool, int, bool]:
        node = second.graph.nodes[other]
        theirs = [second.ids[i] for i in node.inputs]
        return theirs != reads, -len(set(reads) & set(theirs)), node.op != ours.op

    # Of those that come first, the one that is most like ours.
    match = min(missing[1][:_MANY], key=distance)
    theirs = second.graph.nodes[match]
    reasons = _reasons(ours, theirs, reads == [second.ids[i] for i in theirs.inputs])
    formulas = first.formula(first.first[index]), second.formula(second.first[match])
    return NodeDifference(first.line(index), second.line(match), reasons, formulas)


def _reasons(a: Node, b: Node, same_inputs: bool) -> tuple[str, ...]:
    if a.op != b.op:
        return (f"operator: {a.op} | {b.op}",)
    reasons = [
        f"attribute {name}: {_short(a.attrs.get(name))} | {_short(b.attrs.get(name))}"
        for name in sorted({*a.attrs, *b.attrs})
        if a.attrs.get(name) != b.attrs.get(name)
    ]
    if a.types != b.types:
        reasons.append(f"type: {', '.join(map(str, a.types))} | {', '.join(map(str, b.types))}")
    return tuple(reasons if same_inputs else [*reasons, "they read other values"])


def _constant(node: Node) -> str:
    """A scalar's value, the type of a larger constant."""
    type_ = node.types[0]
    if type_.shape:
        return f"constant {type_}"
    return str(np.frombuffer(base64.b64decode(node.attrs["data"]), type_.numpy_dtype())[0])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
