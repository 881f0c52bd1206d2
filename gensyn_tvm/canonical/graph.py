"""The canonical graph: a closed operator set in single-assignment form.

Values are numbered: the graph's inputs first, then the outputs of the nodes in order. A node may only read values that
have a smaller number than its own outputs, so the list of nodes is an execution order. Names and source locations are
for people; the digest (``serialise.digest``) leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gensyn_tvm.canonical.types import TensorType

#: What an input is for. ``input`` and ``target`` come with each batch; ``parameter`` is trained, ``buffer`` is state that
#: the model itself updates (running statistics), ``optimizer`` is state of the optimizer; ``seed`` (int64 scalar),
#: ``step`` (int64 scalar) and ``learning_rate`` (float32 scalar) come with each call of a training step.
ROLES = ("input", "target", "parameter", "buffer", "optimizer", "seed", "step", "learning_rate")
STATE_ROLES = ("parameter", "buffer", "optimizer")

#: An attribute is an integer, a boolean, a string, or a (nested) tuple of those. Floats never appear: they are constants.
Attribute = Any


@dataclass(frozen=True)
class Input:
    """A graph input.

    Attributes:
        name: unique among the inputs; for parameters and buffers the framework's name.
        role: one of ``ROLES``.
        type: shape and dtype.
    """

    name: str
    role: str
    type: TensorType


@dataclass(frozen=True)
class Node:
    """One operator application.

    Attributes:
        op: a key of ``rules.RULES``.
        inputs: numbers of the values read.
        attrs: attributes, see ``rules.RULES`` for each operator's.
        types: types of the outputs, one value each.
        source: place in the user's model, for error messages and traces.
    """

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, Attribute]
    types: tuple[TensorType, ...]
    source: str = ""


@dataclass(frozen=True)
class Output:
    """A graph output.

    Attributes:
        name: unique among the outputs; for updated state the name of the input that it replaces.
        value: number of the value.
        updates: whether this output is the next value of the state input of the same name.
        extents: axes whose extent is only known at run time, each with the number of the int64 scalar that holds it; the
            output is the leading part of the value along these axes. The value itself has the largest possible extent.
    """

    name: str
    value: int
    updates: bool = False
    extents: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Graph:
    """A canonical graph; build it with ``GraphBuilder``, check a foreign one with ``rules.validate``."""

    name: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def value_types(self) -> list[TensorType]:
        """Types of all values in the order of their numbers."""
        types = [i.type for i in self.inputs]
        for node in self.nodes:
            types.extend(node.types)
        return types

    def input_named(self, name: str) -> Input:
        """The input called ``name``; KeyError if there is none."""
        for i in self.inputs:
            if i.name == name:
                return i
        raise KeyError(name)


@dataclass
class GraphBuilder:
    """Appends nodes to a graph, inferring and checking every output type.

    Equal applications (same operator, inputs and attributes) are shared, so a graph does not depend on how often a
    frontend wrote the same expression.
    """

    name: str
    inputs: list[Input] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    types: list[TensorType] = field(default_factory=list)
    source: str = ""
    _seen: dict[Any, int] = field(default_factory=dict)

    def add_input(self, name: str, role: str, type_: TensorType) -> int:
        """Declare an input; all inputs must be declared before the first node. Returns its value number."""
        if self.nodes:
            raise ValueError("inputs must be declared before nodes")
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}")
        self.inputs.append(Input(name, role, type_))
        self.types.append(type_)
        return len(self.types) - 1

    def emit(self, op: str, *inputs: int, **attrs: Attribute) -> int:
        """Append one single-output node and return the number of its value.

        Raises:
            UnsupportedOperatorError: the operator does not exist or not for these dtypes.
            InvalidProgramError: shapes or attributes do not fit together.
        """
        from gensyn_tvm.canonical import rules

        key = (op, inputs, tuple(sorted(attrs.items())))
        if key in self._seen:
            return self._seen[key]
        types = rules.infer(op, [self.types[i] for i in inputs], attrs, where=self.source)
        self.nodes.append(Node(op, tuple(inputs), dict(sorted(attrs.items())), types, self.source))
        self.types.extend(types)
        self._seen[key] = len(self.types) - 1
        return self._seen[key]

    def add_output(self, name: str, value: int, *, updates: bool = False, extents: tuple[tuple[int, int], ...] = ()) -> None:
        """Declare an output; ``extents`` as in ``Output``."""
        self.outputs.append(Output(name, value, updates, extents))

    def finish(self) -> Graph:
        """The finished graph, without nodes that no output depends on."""
        return eliminate_dead_nodes(Graph(self.name, tuple(self.inputs), tuple(self.nodes), tuple(self.outputs)))


def eliminate_dead_nodes(graph: Graph) -> Graph:
    """Remove nodes that no output depends on and renumber the rest; inputs always stay."""
    first_value: list[int] = []
    number = len(graph.inputs)
    for node in graph.nodes:
        first_value.append(number)
        number += len(node.types)
    live = {v for o in graph.outputs for v in (o.value, *(extent for _, extent in o.extents))}
    keep: list[int] = []
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if any(first_value[index] + k in live for k in range(len(node.types))):
            keep.append(index)
            live.update(node.inputs)
    renumber = {i: i for i in range(len(graph.inputs))}
    nodes: list[Node] = []
    number = len(graph.inputs)
    for index in reversed(keep):
        node = graph.nodes[index]
        nodes.append(Node(node.op, tuple(renumber[i] for i in node.inputs), node.attrs, node.types, node.source))
        for k in range(len(node.types)):
            renumber[first_value[index] + k] = number
            number += 1
    outputs = tuple(
        Output(o.name, renumber[o.value], o.updates, tuple((axis, renumber[v]) for axis, v in o.extents)) for o in graph.outputs
    )
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)
