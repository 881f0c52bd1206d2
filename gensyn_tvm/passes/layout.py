"""The layout of products: which operand is read in vectors, and whether it is packed into panels for that first.

Works on the canonical graph before it is lifted. A ``transpose`` of an operand is not computed: the product or its packing
reads through it. Packing is a node of its own (``pack``), so that what depends on parameters alone is packed once for all runs,
and two products that read the same panels share them. Nothing here can change a bit: each element of a product sees the same
terms in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Node, Output, eliminate_dead_nodes
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.matmul import logical_shape
from gensyn_tvm.schedules.cpu.tiles import Tile, best_tile
from gensyn_tvm.targets.cpu import CpuTarget

#: Nanoseconds for each element on one core, measured on AVX-512; only their proportions matter.
_FMA, _COPY, _TRANSPOSE, _SCATTER = 0.019, 0.10, 0.22, 0.30
#: A vectorised operand of at most so many bytes is read where it is.
_IN_PLACE_BYTES = 32 * 1024
_FEW_ROWS = 4


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
class _Layouts:
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
            result = self._matmul(mapped) if node.op == "matmul" else self.emit(mapped)
            for k in range(len(node.types)):
                self.renumber[number + k] = result + k
            number += len(node.types)
        outputs = tuple(
            Output(o.name, self.renumber[o.value], o.updates, tuple((axis, self.renumber[v]) for axis, v in o.extents))
            for o in self.graph.outputs
        )
        return eliminate_dead_nodes(Graph(self.graph.name, self.graph.inputs, tuple(self.nodes), outputs))

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

    def _matmul(self, node: Node) -> int:
        (output,) = node.types
        if not output.size or not self.types[node.inputs[0]].size or not self.target.vector_bits:
            return self.emit(node)
        a, b = (self.operand(v) for v in node.inputs)
        plan = plan_matmul(a, b, output, self.target, self.fixed)
        inputs, attrs = [a.value, b.value], dict(node.attrs)
        attrs |= {"left_axes": a.axes, "right_axes": b.axes, "transposed": plan.transposed, "in_place": not plan.panel}
        if plan.panel:
            number = 0 if plan.transposed else 1
            attrs |= {"panel": plan.panel, "tile": plan.tile.rows}
            inputs[number] = self._pack_matrix((a, b)[number], plan.transposed, plan.panel, node.source)
        return self.emit(Node("matmul", tuple(inputs), attrs, node.types, node.source))

    def _pack_matrix(self, operand: Operand, transposed: bool, width: int, source: str) -> int:
        *batch, rows, columns = operand.views()
        terms, vector = (columns, rows) if transposed else (rows, columns)
        return self.pack(operand, tuple(batch), (terms,), vector, width, source)

    def pack(
        self,
        operand: Operand,
        batch: Sequence[tuple[int, int]],
        terms: Sequence[tuple[int, int]],
        columns: tuple[int, int],
        width: int,
        source: str,
    ) -> int:
        """The value that holds the operand in panels."""
        t = operand.type
        lanes = min(16, self.target.lanes(8 * t.itemsize))
        attrs = {"batch": tuple(batch), "terms": tuple(terms), "columns": columns, "width": width, "lanes": lanes}
        key = (operand.value, *attrs.items())
        if key not in self.packed:
            flat = TensorType((t.size,), t.dtype)
            value = operand.value
            if t.rank != 1:
                value = self.emit(Node("reshape", (value,), {"shape": flat.shape}, (flat,), source))
            shape = (*(e for e, _ in batch), math.ceil(columns[0] / width), math.prod(e for e, _ in terms), width)
            self.packed[key] = self.emit(Node("pack", (value,), attrs, (TensorType(shape, t.dtype),), source))
        return self.packed[key]


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

    def cost(rows: int, columns: int, vector: Operand, stride: int, scatter: bool) -> tuple[float, Tile]:
        tile = best_tile(rows, columns, lanes, target)
        total = repeats * k * tile.padded(rows, columns) * _FMA * tile.slowness
        if vector.value not in fixed:
            total += vector.type.size * (_COPY if stride == 1 else _TRANSPOSE)
        return total + (repeats * m * n * _SCATTER if scatter else 0.0), tile

    normal, tile = cost(m, n, b, b.views()[-1][1], False)
    exchanged, other = cost(n, m, a, a.views()[-2][1], True)
    if exchanged < normal:
        return MatmulPlan(True, other.columns, other)
    in_place = (
        b.views()[-1][1] == 1 and b.value not in fixed and (m <= _FEW_ROWS or b.type.size * b.type.itemsize <= _IN_PLACE_BYTES)
    )
    return MatmulPlan(False, 0 if in_place and n % lanes == 0 else tile.columns, tile)


def choose_layouts(graph: Graph, target: CpuTarget) -> Graph:
    """The graph with packed operands; it computes the same values, but is no canonical graph any more."""
    return _Layouts(graph, target).run()
