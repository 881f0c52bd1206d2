"""From the outputs of a graph back to its inputs: which array each operator is asked for, and what it asks its operands for.

Movement (``transpose``, ``reshape``, ``slice``, ``broadcast_to``) makes no node: it changes the access. Elementwise operators,
reductions, products and ``concat`` pass an access on to their operands; all others are computed as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from gensyn_tvm.canonical.access import (
    NOWHERE,
    Access,
    Dim,
    Loop,
    elements,
    renamed,
    through_broadcast,
    tidy,
    whole,
)
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.normal_emit import Emitter, Leaf
from gensyn_tvm.canonical.normal_movement import ELEMENTWISE, REDUCTIONS, constant_of, kept_axes, starts_of
from gensyn_tvm.canonical.normal_order import Orders
from gensyn_tvm.canonical.types import TensorType


class Demand(NamedTuple):
    """An array of a value. ``loose``: dims that run nowhere alone may have extent 1 instead."""

    value: int
    access: Access
    loose: bool = False


#: Yields demands, receives the entries that answer them, returns the entry of its own array.
Steps = Generator[Demand, int, int]


class Demands(Orders):
    """Answers demands with entries of an emitter; each once."""

    def __init__(self, graph: Graph, emitter: Emitter) -> None:
        super().__init__(graph)
        self.emitter = emitter
        self._answers: dict[Demand, int] = {}

    def answer(self, demand: Demand) -> int:
        """The entry of an array; with a stack of its own, because graphs are deeper than Python's."""
        stack: list[tuple[Demand, Steps]] = [(demand, self._steps(demand))]
        result: int | None = None
        while stack:
            current, steps = stack[-1]
            try:
                wanted = steps.send(result) if result is not None else next(steps)
            except StopIteration as done:
                result = self._answers[current] = done.value
                stack.pop()
                continue
            result = self._answers.get(wanted)
            if result is None:
                stack.append((wanted, self._steps(wanted)))
        assert result is not None
        return result

    # ---- one demand -------------------------------------------------------------------------------------------------

    def _steps(self, demand: Demand) -> Steps:
        value, access, loose = demand
        node = self.node_of(value)
        if node is not None and node.op == "constant":
            return self._constant(node, access, loose)
        core = _without_nowhere(access)
        if core != access:
            pure = all(len({loop.axis == NOWHERE for loop in dim}) <= 1 for dim in access.dims)
            entry = yield Demand(value, core, loose and pure)
            return entry if loose and pure else self.emitter.loose(entry, access.dims)
        if not all(access.dims):
            # Axes of extent 1 are no part of a computation: they are added where an operator wants them.
            entry = yield Demand(value, Access(access.starts, tuple(dim for dim in access.dims if dim)))
            leading = next((k for k, dim in enumerate(access.dims) if dim), len(access.dims)) if loose else 0
            return self.emitter.reshape(entry, access.shape[leading:])
        if node is None:
            declared = self.graph.inputs[value]
            return self.emitter.leaf(Leaf(value, access), declared.role, declared.type.dtype)
        moved = self.moved(node, self.types[value], access)
        if moved is not None:
            # The operand's shape may be smaller where it runs nowhere.
            return (yield Demand(*moved, loose))
        if node.op in ELEMENTWISE:
            return (yield from self._elementwise(node, self.types[value], access))
        if node.op in REDUCTIONS:
            return (yield from self._reduction(node, access))
        if node.op == "matmul":
            return (yield from self._product(node, self.types[value], access))
        if node.op == "concat":
            passed = self._part(node, access)
            if passed is not None:
                return (yield passed)
            if _runs_whole(access, node.attrs["axis"], self.types[value].shape):
                return (yield from self._concat(node, access))
        return (yield from self._as_it_is(value, node, access))

    def _constant(self, node: Node, access: Access, loose: bool) -> int:
        """Its elements in the demanded order; those that are equal along whole dims are stored once."""
        array = elements(constant_of(node), access)
        # Equal as bits: the zeros are different, and equal NaNs are one.
        bits = np.ascontiguousarray(array).reshape(*array.shape, 1).view(np.uint8)
        for k in range(array.ndim):
            if (bits == bits.take([0], axis=k)).all():
                array, bits = array.take([0], axis=k), bits.take([0], axis=k)
        entry = self.emitter.constant(array.squeeze(), node.attrs["dtype"])
        if loose:
            leading = next((k for k, extent in enumerate(array.shape) if extent > 1), array.ndim)
            return self.emitter.reshape(entry, array.shape[leading:])
        return self.emitter.broadcast(entry if array.size == 1 else self.emitter.reshape(entry, array.shape), access.shape)

    # ---- operators that pass accesses on -----------------------------------------------------------------------------

    def _elementwise(self, node: Node, type_: TensorType, access: Access) -> Steps:
        depends = [_depends(self.types[i], type_) for i in node.inputs]
        # No dim may hold a loop that an operand has beside one that it has not.
        dims: list[list[Loop]] = []
        for dim in access.dims:
            dims.append([])
            for loop in dim:
                if dims[-1] and any((loop.axis in axes) != (dims[-1][-1].axis in axes) for axes in depends):
                    dims.append([])
                dims[-1].append(loop)
        refined = Access(access.starts, tuple(tuple(dim) for dim in dims))
        entries = []
        for value in node.inputs:
            entries.append((yield Demand(value, through_broadcast(refined, type_.shape, self.types[value].shape), True)))
        entry = self.emitter.emit(node.op, *entries, source=node.source, **node.attrs)
        return self.emitter.reshape(self.emitter.broadcast(entry, refined.shape), access.shape)

    def _reduction(self, node: Node, access: Access) -> Steps:
        """The kept axes as demanded, the reduced ones in one dim at the end, which is their row-major order."""
        shape = self.types[node.inputs[0]].shape
        kept = kept_axes(node, len(shape))
        reduced = tidy([Loop(shape[k], k, 1) for k in node.attrs["axes"]])
        passed = renamed(access, kept, starts_of(access, kept, len(shape)))
        entry = yield Demand(node.inputs[0], Access(passed.starts, (*passed.dims, reduced)))
        attrs = {"axes": (len(access.dims),), "keepdims": False}
        return self.emitter.emit(node.op, entry, source=node.source, **attrs)

    def _product(self, node: Node, type_: TensorType, access: Access) -> Steps:
        """(batch), rows, inner times (batch), inner, columns: rows is what comes first in what is demanded."""
        a, b = (self.types[i] for i in node.inputs)
        rank = type_.rank
        axes = {rank - 2: "a", rank - 1: "b"}
        for k in range(rank - 2):
            sides = [name for name, t in (("a", a), ("b", b)) if k in _depends(t, type_, rank - 2)]
            axes[k] = "".join(sides)
        groups = {side: tuple(loop for loop in access.loops if axes[loop.axis] == side) for side in ("ab", "a", "b")}
        order = [axes[loop.axis] for loop in access.loops if axes[loop.axis] != "ab"]
        first, second = ("a", "b") if not order or order[0] == "a" else ("b", "a")
        inner = tidy([Loop(a.shape[-1], -2, 1)])
        entries = {}
        for side, t, value in (("a", a, node.inputs[0]), ("b", b, node.inputs[1])):
            own, k_axis = groups[side], t.rank - 1 if side == "a" else t.rank - 2
            dims = (own, inner) if side == first else (inner, own)
            placed = [k - rank + t.rank for k in range(rank)]
            starts = _operand_starts(access, type_, t, side)
            with_batch = (groups["ab"], *dims) if groups["ab"] else dims
            read = Access(starts, tuple(tidy(_placed(dim, placed, k_axis)) for dim in with_batch))
            entries[side] = yield Demand(value, read)
        entry = self.emitter.emit("matmul", entries[first], entries[second], source=node.source)
        have = (groups["ab"], groups[first], groups[second]) if groups["ab"] else (groups[first], groups[second])
        return self.emitter.regroup(entry, have, access.dims)

    def _part(self, node: Node, access: Access) -> Demand | None:
        """The operand of a ``concat`` that has all elements of the access, if one has."""
        axis = node.attrs["axis"]
        low = access.starts[axis]
        high = low + sum((loop.extent - 1) * loop.stride for loop in access.loops if loop.axis == axis)
        for value in node.inputs:
            extent = self.types[value].shape[axis]
            if low >= 0 and high < extent:
                return Demand(value, Access((*access.starts[:axis], low, *access.starts[axis + 1 :]), access.dims))
            low, high = low - extent, high - extent
            if low < 0:
                return None
        return None

    def _concat(self, node: Node, access: Access) -> Steps:
        """The joined axis in a dim of its own, the others as demanded."""
        axis = node.attrs["axis"]
        dims: list[list[Loop]] = []
        for dim in access.dims:
            dims.append([])
            for loop in dim:
                if dims[-1] and axis in (loop.axis, dims[-1][-1].axis):
                    dims.append([])
                dims[-1].append(loop)
        place = next(k for k, dim in enumerate(dims) if dim and dim[0].axis == axis)
        entries = []
        for value in node.inputs:
            part = tidy([Loop(self.types[value].shape[axis], axis, 1)])
            read = tuple(part if k == place else tuple(dim) for k, dim in enumerate(dims))
            entries.append((yield Demand(value, Access(access.starts, read))))
        entry = self.emitter.emit("concat", *entries, source=node.source, axis=place)
        return self.emitter.reshape(entry, access.shape)

    def _as_it_is(self, value: int, node: Node, access: Access) -> Steps:
        """The operator on whole operands; the access is made of its result."""
        order: Sequence[int] = range(self.types[value].rank)
        attrs = dict(node.attrs)
        if node.op == "avg_pool" and not any(pad for pads in attrs["padding"] for pad in pads):
            # No window holds padding, so it does not matter whether padding counts.
            attrs["count_include_pad"] = False
        if node.op == "pad":
            order = self.order_of(value)
            attrs["padding"] = tuple(attrs["padding"][k] for k in order)
        entries = []
        for position, operand in enumerate(node.inputs):
            placed = order if node.op == "pad" and position == 0 else None
            entries.append((yield Demand(operand, whole(self.types[operand].shape, placed))))
        entry = self.emitter.emit(node.op, *entries, source=node.source, **attrs)
        axes = [list(order).index(k) for k in range(len(order))]
        starts = [access.starts[k] for k in order]
        return self.emitter.access(entry, renamed(access, axes, starts))


def _without_nowhere(access: Access) -> Access:
    return Access(access.starts, tuple(tuple(loop for loop in dim if loop.axis != NOWHERE) for dim in access.dims))


def _depends(operand: TensorType, result: TensorType, axes: int | None = None) -> set[int]:
    """The axes of the result (the first ``axes``) on which an operand that is broadcast depends."""
    missing = result.rank - operand.rank
    return {k for k in range(result.rank if axes is None else axes) if k >= missing and operand.shape[k - missing] > 1}


def _operand_starts(access: Access, result: TensorType, operand: TensorType, side: str) -> tuple[int, ...]:
    """Where an operand of a product is read from: along its inner axis from the beginning."""
    missing = result.rank - operand.rank
    starts = [access.starts[k + missing] if operand.shape[k] > 1 else 0 for k in range(operand.rank)]
    starts[-1 if side == "a" else -2] = 0
    return tuple(starts)


def _placed(dim: Dim, axes: Sequence[int], inner: int) -> Dim:
    """Loops over a product's result and its inner axis (-2) as loops over an operand."""
    return tuple(loop._replace(axis=inner if loop.axis == -2 else axes[loop.axis]) for loop in dim)


def _runs_whole(access: Access, axis: int, shape: Sequence[int]) -> bool:
    """Whether all of an axis is demanded by one loop."""
    return [loop for loop in access.loops if loop.axis == axis] == [Loop(shape[axis], axis, 1)]
