"""The layout of products: which operand is read in vectors, and whether it is packed into panels for that first.

Works on the canonical graph before it is lifted. A ``transpose`` of an operand is not computed: the product or its packing
reads through it. Packing is a node of its own (``pack``), so that what depends on parameters alone is packed once for all runs,
and two products that read the same panels share them. Nothing here can change a bit: each element of a product sees the same
terms in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Node, Output, eliminate_dead_nodes
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, ScheduleError, describe
from gensyn_tvm.passes import layout_blocks, layout_convolutions, layout_matmul, layout_windows
from gensyn_tvm.passes.layout_matmul import Operand
from gensyn_tvm.passes.layout_tasks import Read, Task
from gensyn_tvm.passes.lift import HINTS
from gensyn_tvm.passes.views import ALONE
from gensyn_tvm.schedules import records
from gensyn_tvm.schedules.parameters import ProductParameters
from gensyn_tvm.targets.cpu import CpuTarget

P = TypeVar("P", bound=ProductParameters)


@dataclass
class Layouts:
    graph: Graph
    target: CpuTarget
    nodes: list[Node] = field(default_factory=list)
    types: list[TensorType] = field(default_factory=list)
    renumber: dict[int, int] = field(default_factory=dict)
    producers: dict[int, Node] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)  # values that depend on parameters and constants only
    packed: dict[Any, int] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)  # what records were asked for, by key
    blocked: dict[int, int] = field(default_factory=dict)  # values that are kept in blocks, too

    def run(self) -> Graph:
        updated = {o.name for o in self.graph.outputs if o.updates}
        for k, i in enumerate(self.graph.inputs):
            self.types.append(i.type)
            self.renumber[k] = k
            if i.role in STATE_ROLES and i.name not in updated:
                self.fixed.add(k)
        number = len(self.graph.inputs)
        in_blocks = layout_blocks.Blocks(self.graph, self.target).chosen()
        for node in self.graph.nodes:
            inputs = tuple(self.renumber[i] for i in node.inputs)
            mapped = Node(node.op, inputs, node.attrs, node.types, node.source)
            if number in in_blocks:
                result = self._in_blocks(mapped)
            else:
                found = layout_blocks.sums(self, mapped)
                result = found if found is not None else self._laid_out(mapped) if self._applies(mapped) else self.emit(mapped)
            for k in range(len(node.types)):
                self.renumber[number + k] = result + k
            number += len(node.types)
        outputs = tuple(
            Output(o.name, self.renumber[o.value], o.updates, tuple((axis, self.renumber[v]) for axis, v in o.extents))
            for o in self.graph.outputs
        )
        return eliminate_dead_nodes(Graph(self.graph.name, self.graph.inputs, tuple(self.nodes), outputs))

    def _in_blocks(self, node: Node) -> int:
        """The value of a node whose result is kept in blocks, and of which a copy is made for those who want it as it was."""
        node = layout_blocks.without_pads(self, node)
        blocked = layout_blocks.emit(self, node)
        result = layout_blocks.plain(self, blocked, node.source)
        self.blocked[result] = blocked
        return result

    def _laid_out(self, node: Node) -> int:
        """The value of a product by its rule, which may add attributes of the layout and change none of the operator's own."""
        node = layout_blocks.without_pads(self, node)
        first = len(self.nodes)
        result = RULES[node.op](self, node)
        for new in self.nodes[first:]:
            if new.op in RULES and any(new.attrs.get(name) != value for name, value in node.attrs.items()):
                raise ScheduleError(f"the layout of {node.op} changes what it computes: {dict(node.attrs)}, {dict(new.attrs)}")
        return result

    def parameters(self, node: Node, operands: Sequence[Operand], kind: type[P]) -> P:
        """The parameters of a product's layout and schedule: those of its record, all left to the rules without one."""
        task = Task(node.op, node.attrs, tuple(Read(o.type, o.axes, o.value in self.fixed) for o in operands))
        self.tasks[task.key()] = task
        return records.active(self.target.name, self.target.maker).find(task.key(), kind)

    def refused(self, parameter: str, expected: str) -> InputError:
        """The error of a record that does not fit the product that asked last."""
        where = f"target {self.target.name}, record {list(self.tasks)[-1]!r}"
        remedy = "correct or remove the record, or tune again"
        return InputError(
            describe("a tuned record does not fit", where=where, found=parameter, expected=expected, remedy=remedy)
        )

    @staticmethod
    def hints(parameters: ProductParameters) -> dict[str, Any]:
        """The attribute by which ``legalise`` tells the schedule what is not part of the layout."""
        hints = parameters.hints()
        return {HINTS: tuple(hints.items())} if hints else {}

    def _applies(self, node: Node) -> bool:
        types = (*(self.types[i] for i in node.inputs), *node.types)
        return node.op in RULES and self.target.vector_bits > 0 and all(t.size for t in types)

    def lanes(self, t: TensorType) -> int:
        """Elements of a vector that moves bits."""
        return min(16, self.target.lanes(8 * t.itemsize))

    def shared(self, node: Node) -> int:
        """Append a node of one value, or find the equal one."""
        key = (node.op, node.inputs, *node.attrs.items())
        if key not in self.packed:
            self.packed[key] = self.emit(node)
        return self.packed[key]

    def emit(self, node: Node) -> int:
        """Append a node; the number of its first value."""
        first = len(self.types)
        self.nodes.append(node)
        self.types.extend(node.types)
        for k in range(len(node.types)):
            self.producers[first + k] = node
            if all(i in self.fixed for i in node.inputs) and node.op != "random_bits":
                self.fixed.add(first + k)
        return first

    def operand(self, value: int) -> Operand:
        """An operand, read through the transpositions that made it."""
        axes: tuple[int, ...] = ()
        while (node := self.producers.get(value)) is not None and node.op == "transpose":
            inner = tuple(node.attrs["perm"])
            axes = tuple(inner[a] for a in axes) if axes else inner
            (value,) = node.inputs
        return Operand(value, self.types[value], axes)

    def pack(
        self,
        value: int,
        batch: Sequence[tuple[int, int]],
        terms: Sequence[tuple[int, int]],
        columns: tuple[int, int],
        width: int,
        source: str,
        first: int = 0,
    ) -> int:
        """The value that holds another one in panels; axes are (extent, stride) of its elements from ``first`` on."""
        t = self.types[value]
        flat = TensorType((t.size,), t.dtype)
        if t.rank != 1:
            value = self.shared(Node("reshape", (value,), {"shape": flat.shape, ALONE: True}, (flat,), source))
        attrs = {
            "batch": tuple(batch),
            "terms": tuple(terms),
            "columns": columns,
            "width": width,
            "lanes": self.lanes(t),
            "first": first,
        }
        shape = (*(e for e, _ in batch), math.ceil(columns[0] / width), math.prod(e for e, _ in terms), width)
        return self.shared(Node("pack", (value,), attrs, (TensorType(shape, t.dtype),), source))


#: Operators with a choice of layouts.
RULES: dict[str, Callable[[Layouts, Node], int]] = {
    "matmul": layout_matmul.matmul,
    "conv": layout_convolutions.conv,
    "conv_backward_data": layout_convolutions.conv_backward_data,
    "conv_backward_weight": layout_convolutions.conv_backward_weight,
    "max_pool": layout_windows.pool,
    "avg_pool": layout_windows.pool,
}


def product_tasks(graph: Graph, target: CpuTarget) -> dict[str, Task]:
    """Every different product of a graph by the key of its record."""
    layouts = Layouts(graph, target)
    layouts.run()
    return layouts.tasks


def choose_layouts(graph: Graph, target: CpuTarget) -> Graph:
    """The graph with packed operands; it computes the same values, but is no canonical graph any more."""
    return Layouts(graph, target).run()
