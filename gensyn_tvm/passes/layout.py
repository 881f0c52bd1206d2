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
from typing import Any

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Node, Output, eliminate_dead_nodes
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.matmul import logical_shape
from gensyn_tvm.passes import layout_convolutions
from gensyn_tvm.passes.layout_costs import COPY, FMA, SCATTER, TRANSPOSE
from gensyn_tvm.schedules.cpu.tiles import Tile, best_tile
from gensyn_tvm.targets.cpu import CpuTarget

#: A vectorised operand of at most so many bytes is read where it is.
_IN_PLACE_BYTES = 32 * 1024
_FEW_ROWS = 4
#: Rows that are a multiple of so many bytes apart share the same few lines of a first-level cache.
_CACHE_PERIOD, _CACHE_WAYS = 4096, 8
#: With fewer bytes of the other operand in each matrix, panels are used by several matrices in turn.
_FEW_BYTES = 64 * 1024


@dataclass(frozen=True)
class Operand:
    """A matrix operand: the value that is stored, its type, and the permutation through which it is read (none: ())."""

    value: int
    type: TensorType
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents as the product sees them."""
        return logical_shape(self.type, self.axes)

    def views(self) -> list[tuple[int, int]]:
        """(extent, stride in elements) of each axis as the product sees them."""
        strides = [math.prod(self.type.shape[k + 1 :]) for k in range(self.type.rank)]
        order = self.axes or range(self.type.rank)
        return [(self.type.shape[a], strides[a]) for a in order]


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

    def run(self) -> Graph:
        updated = {o.name for o in self.graph.outputs if o.updates}
        for k, i in enumerate(self.graph.inputs):
            self.types.append(i.type)
            self.renumber[k] = k
            if i.role in STATE_ROLES and i.name not in updated:
                self.fixed.add(k)
        number = len(self.graph.inputs)
        for node in self.graph.nodes:
            inputs = tuple(self.renumber[i] for i in node.inputs)
            mapped = Node(node.op, inputs, node.attrs, node.types, node.source)
            result = RULES[node.op](self, mapped) if self._applies(mapped) else self.emit(mapped)
            for k in range(len(node.types)):
                self.renumber[number + k] = result + k
            number += len(node.types)
        outputs = tuple(
            Output(o.name, self.renumber[o.value], o.updates, tuple((axis, self.renumber[v]) for axis, v in o.extents))
            for o in self.graph.outputs
        )
        return eliminate_dead_nodes(Graph(self.graph.name, self.graph.inputs, tuple(self.nodes), outputs))

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
    ) -> int:
        """The value that holds another one in panels; axes are (extent, stride) of the value's elements."""
        t = self.types[value]
        flat = TensorType((t.size,), t.dtype)
        if t.rank != 1:
            value = self.shared(Node("reshape", (value,), {"shape": flat.shape}, (flat,), source))
        attrs = {
            "batch": tuple(batch),
            "terms": tuple(terms),
            "columns": columns,
            "width": width,
            "lanes": self.lanes(t),
        }
        shape = (*(e for e, _ in batch), math.ceil(columns[0] / width), math.prod(e for e, _ in terms), width)
        return self.shared(Node("pack", (value,), attrs, (TensorType(shape, t.dtype),), source))


@dataclass(frozen=True)
class MatmulPlan:
    """How a matrix product is computed.

    Attributes:
        transposed: whether the columns of the register tile are rows of the result.
        panel: width of the panels of the operand in vectors; 0: it is read in place.
        tile: the register tile.
    """

    transposed: bool
    panel: int
    tile: Tile


def plan_matmul(a: Operand, b: Operand, output: TensorType, target: CpuTarget, fixed: set[int]) -> MatmulPlan:
    """The cheaper of both orientations by a rough model of time."""
    lanes = target.lanes(8 * output.itemsize)
    *batch, m, n = output.shape
    k = a.shape[-1]
    repeats = math.prod(batch)

    def cost(rows: int, columns: int, scalar: Operand, vector: Operand, scatter: bool) -> tuple[float, Tile]:
        row, stride = (
            (scalar.views()[-1][1], vector.views()[-2][1]) if scatter else (scalar.views()[-2][1], vector.views()[-1][1])
        )
        crowded = row * output.itemsize % _CACHE_PERIOD == 0
        tile = best_tile(rows, columns, lanes, target, most_rows=_CACHE_WAYS if crowded else 14)
        total = repeats * k * tile.padded(rows, columns) * FMA * tile.slowness
        if vector.value not in fixed:
            total += vector.type.size * (COPY if stride == 1 else TRANSPOSE)
        return total + (repeats * m * n * SCATTER if scatter else 0.0), tile

    normal, tile = cost(m, n, a, b, False)
    exchanged, other = cost(n, m, b, a, True)
    if exchanged < normal:
        return MatmulPlan(True, other.columns, other)
    in_place = (
        b.views()[-1][1] == 1 and b.value not in fixed and (m <= _FEW_ROWS or b.type.size * b.type.itemsize <= _IN_PLACE_BYTES)
    )
    return MatmulPlan(False, 0 if in_place and n % lanes == 0 else tile.columns, tile)


def matmul(layouts: Layouts, node: Node) -> int:
    """(…, M, K) x (…, K, N) in the cheaper orientation, its operands read through their transpositions."""
    (output,) = node.types
    a, b = (layouts.operand(v) for v in node.inputs)
    plan = plan_matmul(a, b, output, layouts.target, layouts.fixed)
    inputs, attrs = [a.value, b.value], dict(node.attrs)
    attrs |= {"left_axes": a.axes, "right_axes": b.axes, "transposed": plan.transposed, "in_place": not plan.panel}
    if plan.panel:
        number = 0 if plan.transposed else 1
        operand = (a, b)[number]
        *batch, rows, columns = operand.views()
        terms, vector = (columns, rows) if plan.transposed else (rows, columns)
        inputs[number] = layouts.pack(operand.value, batch, (terms,), vector, plan.panel, node.source)
        # Panels without leading axes serve them all, and stay near while the loops over those run if there are few rows.
        left = plan.tile.padded(output.shape[-1 if plan.transposed else -2], 1) * terms[0] * output.itemsize
        shared = all(e == 1 for e, _ in batch) and left < _FEW_BYTES
        around = 0 if shared else output.rank - 2
        attrs |= {"panel": plan.panel, "tile": plan.tile.rows, "around": around}
    return layouts.emit(Node("matmul", tuple(inputs), attrs, node.types, node.source))


#: Operators with a choice of layouts.
RULES: dict[str, Callable[[Layouts, Node], int]] = {
    "matmul": matmul,
    "conv": layout_convolutions.conv,
    "conv_backward_data": layout_convolutions.conv_backward_data,
    "conv_backward_weight": layout_convolutions.conv_backward_weight,
}


def choose_layouts(graph: Graph, target: CpuTarget) -> Graph:
    """The graph with packed operands; it computes the same values, but is no canonical graph any more."""
    return Layouts(graph, target).run()
