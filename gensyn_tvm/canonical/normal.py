"""The normal form of a canonical graph: one graph for all ways in which frameworks write the same computation.

Two graphs have the same normal form if they compute the same values from the same numbers, whatever their layouts, the order
and orientation of their parameters and their names (docs/one-digest.md lists the rewrites). It computes the same bits: every
rewrite moves elements, or is one that docs/numerics.md makes exact. It is for comparing; programs are not run by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.access import Access, Digit, Dim, covers, disjoint, elements, spread, tidy, whole
from gensyn_tvm.canonical.graph import Graph, Input, Node, Output
from gensyn_tvm.canonical.normal_demand import Demand, Demands
from gensyn_tvm.canonical.normal_emit import Emitter, Leaf, context


@dataclass(frozen=True)
class Part:
    """What an input of the normal form is: the array that ``access`` makes of the input ``name`` of the graph."""

    name: str
    access: Access

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of an array of that input."""
        return elements(array, self.access)


@dataclass(frozen=True)
class NormalForm:
    """The normal form of a graph and where everything in it comes from.

    Attributes:
        graph: the normal form; its outputs are the graph's, in order, without axes of extent 1 and with the axes in the order
            in which they are computed. The next value of a state is an output like any other.
        parts: what each input of ``graph`` is.
        orders: for each output the axes of the graph's output in the order of the normal form's.
        shapes: the shapes of the graph's outputs.
        updates: for each output the first input of the normal form that is part of the state which it updates; -1 if none.
    """

    graph: Graph
    parts: tuple[Part, ...]
    orders: tuple[tuple[int, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    updates: tuple[int, ...]

    def inputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the normal form, of those of the graph by name."""
        return {i.name: part.of(np.asarray(arrays[part.name])) for i, part in zip(self.graph.inputs, self.parts, strict=True)}

    def outputs(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs of the graph, of those of the normal form."""
        restored = []
        for array, order, shape in zip(arrays, self.orders, self.shapes, strict=True):
            moved = array.reshape([shape[k] for k in order])
            restored.append(moved.transpose([order.index(k) for k in range(len(order))]))
        return restored

    def digest(self) -> str:
        """SHA-256 (hex) of the normal form."""
        text = json.dumps(["gensyn_tvm.structure.1", serialise.digest(self.graph), list(self.updates)], separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def structure_digest(graph: Graph) -> str:
    """SHA-256 (hex) that is the same for all graphs of one normal form; ``serialise.digest`` names the graph itself."""
    return normalise(graph).digest()


def normalise(graph: Graph) -> NormalForm:
    """The normal form of a valid graph. One with values of no elements is its own."""
    if any(0 in t.shape for t in graph.value_types()):
        return _unchanged(graph)
    colours: dict[Leaf, str] = {}
    # Once to find out what becomes of each input, by which inputs of one type are told apart in operands that commute.
    for _ in range(2):
        emitter = Emitter(colours)
        results, orders = _results(graph, Demands(graph, emitter))
        colours = context(emitter, [(entry, k) for k, entries in enumerate(results) for entry in entries])
    return _finished(graph, emitter, results, orders)


def _unchanged(graph: Graph) -> NormalForm:
    types = graph.value_types()
    places = {i.name: k for k, i in enumerate(graph.inputs)}
    return NormalForm(
        Graph(graph.name, graph.inputs, graph.nodes, tuple(Output(_name(o), o.value, False, o.extents) for o in graph.outputs)),
        tuple(Part(i.name, whole(i.type.shape)) for i in graph.inputs),
        tuple(tuple(range(types[o.value].rank)) for o in graph.outputs),
        tuple(types[o.value].shape for o in graph.outputs),
        tuple(places[o.name] if o.updates else -1 for o in graph.outputs),
    )


def _results(graph: Graph, demands: Demands) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """For each output the entries of its value and its extents, and the order of its axes."""
    results, orders = [], []
    for output in graph.outputs:
        shape = demands.types[output.value].shape
        order = tuple(range(len(shape))) if output.extents else demands.order_of(output.value)
        access = whole(shape, order)
        if not output.extents:
            access = Access(access.starts, tuple(dim for dim in access.dims if dim))
        entries = [demands.answer(Demand(output.value, access))]
        entries += [demands.answer(Demand(number, whole(()))) for _, number in output.extents]
        results.append(entries)
        orders.append(order)
    return results, orders


# ---- inputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """How an input appears: as one array or as several that share no element; or as one, from which others are made.

    ``form``: the access of that one array; None if each leaf is an input of its own.
    """

    form: Access | None


def _stored(shape: tuple[int, ...], accesses: Sequence[Access]) -> _Stored:
    if len(accesses) == 1 or disjoint(accesses, len(shape)):
        return _Stored(None)
    complete = [a for a in accesses if covers(a, shape) and all(_remade(a, other, shape) for other in accesses)]
    # A choice that depends on the demands only, not on which of them came first.
    return _Stored(min(complete, key=lambda a: (len(a.dims), a.shape)) if complete else whole(shape))


def _remade(form: Access, access: Access, shape: tuple[int, ...]) -> Access | None:
    """An access of an input as one of the array that ``form``, which covers it, makes of it; None if there is none."""
    rank = len(form.dims)
    places = []
    for k in range(rank):
        weight = 1
        for loop in reversed(form.dims[k]):
            places.append((loop, k, weight))
            weight *= loop.extent
    dims: list[list[Dim]] = [[] for _ in access.dims]
    starts = [0] * rank
    for axis in range(len(shape)):
        own = sorted((place for place in places if place[0].axis == axis), key=lambda place: -place[0].stride)
        digits = [Digit(loop.extent, loop.stride, number) for number, (loop, _, _) in enumerate(own)]
        found = spread(
            [tuple(loop for loop in dim if loop.axis == axis) for dim in access.dims],
            access.starts[axis],
            [1] * len(shape),
            digits,
            len(own),
        )
        if found is None:
            return None
        for number, (_, k, weight) in enumerate(own):
            starts[k] += found.starts[number] * weight
        for position, dim in enumerate(found.dims):
            dims[position].append(
                tuple(loop._replace(axis=own[loop.axis][1], stride=loop.stride * own[loop.axis][2]) for loop in dim)
            )
    return _in_order(access, dims, starts)


def _in_order(access: Access, dims: Sequence[Sequence[Dim]], starts: Sequence[int]) -> Access | None:
    """The loops of each dim, which are given by axis of the input, in the order of ``access``; None if axes alternate."""
    result = []
    for dim, found in zip(access.dims, dims, strict=True):
        axes = [loop.axis for loop in dim]
        if len(set(axes)) != len(axes) and len(set(axes)) > 1:
            return None
        result.append(tidy([loop for axis in dict.fromkeys(axes) for loop in found[axis]]))
    return Access(tuple(starts), tuple(result))


# ---- the finished graph ---------------------------------------------------------------------------------------------


def _finished(graph: Graph, emitter: Emitter, results: list[list[int]], orders: list[tuple[int, ...]]) -> NormalForm:
    """The entries as a graph: inputs in the order of their first use, nodes in the order in which the outputs need them."""
    accesses: dict[int, list[Access]] = {}
    for entry in _ordered(emitter, results):
        leaf = emitter.entries[entry]
        if isinstance(leaf, Leaf):
            accesses.setdefault(leaf.number, []).append(leaf.access)
    stored = {k: _stored(graph.inputs[k].type.shape, found) for k, found in accesses.items()}
    final = Emitter(emitter.colours)
    translated: dict[int, int] = {}
    for entry in _ordered(emitter, results):
        item = emitter.entries[entry]
        if isinstance(item, Leaf):
            translated[entry] = _input(graph.inputs[item.number], item, stored[item.number], final)
        else:
            reads = [translated[i] for i in item.inputs]
            translated[entry] = final.emit(item.op, *reads, source=item.source, **item.attrs)
    return _assembled(graph, final, [[translated[e] for e in entries] for entries in results], orders)


def _input(declared: Input, leaf: Leaf, stored: _Stored, final: Emitter) -> int:
    if stored.form is None:
        return final.leaf(leaf, declared.role, declared.type.dtype)
    base = final.leaf(Leaf(leaf.number, stored.form), declared.role, declared.type.dtype)
    if leaf.access == stored.form:
        return base
    if stored.form == whole(declared.type.shape):
        return final.access(base, leaf.access)
    remade = _remade(stored.form, leaf.access, declared.type.shape)
    assert remade is not None
    return final.access(base, remade)


def _ordered(emitter: Emitter, results: list[list[int]]) -> list[int]:
    """Entries in the order in which the outputs need them, operands first."""
    order: dict[int, None] = {}
    for root in (entry for entries in results for entry in entries):
        stack = [(root, False)]
        while stack:
            entry, ready = stack.pop()
            if entry in order:
                continue
            item = emitter.entries[entry]
            if ready or isinstance(item, Leaf):
                order[entry] = None
                continue
            stack.append((entry, True))
            stack += [(i, False) for i in reversed(item.inputs)]
    return list(order)


def _assembled(graph: Graph, final: Emitter, results: list[list[int]], orders: list[tuple[int, ...]]) -> NormalForm:
    entries = _ordered(final, results)
    leaves = [(e, item) for e in entries if isinstance(item := final.entries[e], Leaf)]
    nodes = [(e, item) for e in entries if isinstance(item := final.entries[e], Node)]
    number = {e: k for k, e in enumerate([*(e for e, _ in leaves), *(e for e, _ in nodes)])}
    counts: dict[str, int] = {}
    inputs: list[Input] = []
    parts: list[Part] = []
    first: dict[str, int] = {}
    for entry, leaf in leaves:
        declared = graph.inputs[leaf.number]
        count = counts[declared.name] = counts.get(declared.name, 0) + 1
        first.setdefault(declared.name, len(inputs))
        name = declared.name if count == 1 else f"{declared.name} part {count}"
        inputs.append(Input(name, declared.role, final.types[entry]))
        parts.append(Part(declared.name, leaf.access))
    types = graph.value_types()
    normal = Graph(
        graph.name,
        tuple(inputs),
        tuple(Node(n.op, tuple(number[i] for i in n.inputs), n.attrs, n.types, n.source) for _, n in nodes),
        tuple(
            Output(_name(o), number[e[0]], False, tuple((a, number[x]) for (a, _), x in zip(o.extents, e[1:], strict=True)))
            for o, e in zip(graph.outputs, results, strict=True)
        ),
    )
    return NormalForm(
        normal,
        tuple(parts),
        tuple(orders),
        tuple(types[o.value].shape for o in graph.outputs),
        tuple(first.get(o.name, -1) if o.updates else -1 for o in graph.outputs),
    )


def _name(output: Output) -> str:
    return f"next {output.name}" if output.updates else output.name
