"""In which order the axes of a value are computed, however a graph moves them: the order of the normal form's outputs."""

from __future__ import annotations

from functools import cached_property

from gensyn_tvm.canonical.access import NOWHERE, Access, renamed, through_broadcast, whole
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.normal_movement import ELEMENTWISE, REDUCTIONS, Movement, kept_axes, starts_of
from gensyn_tvm.canonical.types import TensorType


class Orders(Movement):
    """Orders of the axes of a graph's values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._orders: dict[int, tuple[int, ...]] = {}

    def order_of(self, value: int) -> tuple[int, ...]:
        """The axes of a value in the order that the operators which compute it give them, however they were moved since."""
        if value not in self._orders:
            self._orders[value] = self._order_of(value)
        return self._orders[value]

    def _order_of(self, value: int) -> tuple[int, ...]:
        rank = self.types[value].rank
        access = whole(self.types[value].shape)
        # (group, place in it): joined axes, those of the operator that orders them, others, columns of products.
        places: list[tuple[int, ...]] = [(2, k) for k in range(rank)]
        while True:
            node = self.node_of(value)
            step = None if node is None else self._towards(node, value, access, places)
            if step is None:
                break
            value, access = step
        # An input has the order that its user likes: the smaller axes before the larger ones, to be the same for all users.
        sizes = self.types[value].shape if self.node_of(value) is None else (0,) * self.types[value].rank
        for k, dim in enumerate(access.dims):
            loops = [loop for loop in dim if loop.axis != NOWHERE]
            if loops and places[k][0] == 2:
                places[k] = (1, sizes[loops[0].axis], loops[0].axis, -loops[0].stride)
        return tuple(sorted(range(rank), key=lambda k: places[k]))

    def _towards(self, node: Node, value: int, access: Access, places: list[tuple[int, ...]]) -> tuple[int, Access] | None:
        """The operand that decides the order of the axes and the access there; axes that this operator orders are noted."""
        type_ = self.types[value]
        moved = self.moved(node, type_, access)
        if moved is not None:
            return moved
        if node.op in ELEMENTWISE:
            full = [i for i in node.inputs if self.types[i].shape == type_.shape]
            # What is computed by most: inputs have no order of their own, and which operand comes first may be chance.
            return (max(full, key=lambda i: self._heights[i]), access) if full else None
        source = node.inputs[0] if node.inputs else -1
        if node.op in REDUCTIONS:
            kept = kept_axes(node, self.types[source].rank)
            return source, renamed(access, kept, starts_of(access, kept, self.types[source].rank))
        if node.op not in ("matmul", "concat", "pad"):
            return None
        if node.op != "pad":
            axis = type_.rank - 1 if node.op == "matmul" else node.attrs["axis"]
            if node.op == "matmul" and self._from_batch[node.inputs[1]] and not self._from_batch[source]:
                # What comes with each batch has the rows, whichever way the product is written.
                source, axis = node.inputs[1], type_.rank - 2
            for k, dim in enumerate(access.dims):
                if places[k][0] == 2 and any(loop.axis == axis for loop in dim):
                    places[k] = (3, k) if node.op == "matmul" else (0, len([p for p in places if p[0] == 0]))
            # What is ordered now needs no element of the operand, and where the others start makes no difference.
            access = _dropped(access, axis)
        return source, through_broadcast(_from_start(access), type_.shape, _padded(self.types[source].shape, type_))

    @cached_property
    def _from_batch(self) -> list[bool]:
        """For each value whether it depends on what comes with each batch."""
        found = [i.role in ("input", "target") for i in self.graph.inputs]
        for node in self.graph.nodes:
            found.append(any(found[i] for i in node.inputs))
        return found

    @cached_property
    def _heights(self) -> list[int]:
        """For each value how many operators one after another lead to it; 0 where none of them orders its axes."""
        found = [0] * self.count
        moving = {"transpose", "reshape", "slice", "broadcast_to"}
        for node in self.graph.nodes:
            below = max((found[i] for i in node.inputs), default=0)
            if node.op in moving or node.op == "constant":
                found.append(below)
            else:
                found.append(0 if node.op in ELEMENTWISE and not below else below + 1)
        return found


def _dropped(access: Access, axis: int) -> Access:
    """Without the loops over one axis."""
    return Access(access.starts, tuple(tuple(loop for loop in dim if loop.axis != axis) for dim in access.dims))


def _from_start(access: Access) -> Access:
    return Access((0,) * len(access.starts), access.dims)


def _padded(shape: tuple[int, ...], result: TensorType) -> tuple[int, ...]:
    """The shape of an operand with the result's extents where it has more than one element."""
    missing = result.rank - len(shape)
    return tuple(result.shape[k + missing] if extent > 1 else 1 for k, extent in enumerate(shape))
