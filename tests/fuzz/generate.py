"""Random canonical graphs, their inputs, and several graphs side by side in one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from gensyn_tvm.canonical.graph import Graph, Input, Node, Output
from gensyn_tvm.canonical.rule_basics import Refused
from gensyn_tvm.canonical.rules import validate
from gensyn_tvm.errors import InvalidProgramError

from .draft import Draft, Unsuitable, values
from .samplers import SAMPLERS, WEIGHTS

_NAMES = tuple(SAMPLERS)
_SHARES = np.cumsum([WEIGHTS.get(name, 1.0) for name in _NAMES]) / sum(WEIGHTS.get(name, 1.0) for name in _NAMES)
Arrays = dict[str, np.ndarray]


def size_of(seed: int) -> int:
    """How many operators ``graph(seed)`` is asked for: 2 to 20, small ones more often."""
    return 2 + int(19 * np.random.default_rng([seed, 1]).random() ** 2.5)


def graph(seed: int, size: int | None = None) -> Graph:
    """The random graph of a seed: about ``size`` operators; the same one on every machine."""
    draft = Draft(np.random.default_rng([seed, 0]))
    wanted = size_of(seed) if size is None else size
    drawn = 0
    while drawn < wanted:
        op = _NAMES[int(np.searchsorted(_SHARES, draft.rng.random()))]
        try:
            inputs, attrs = SAMPLERS[op](draft, op)
            draft.emit(op, *inputs, **attrs)
        except (Unsuitable, Refused, InvalidProgramError):
            continue
        drawn += 1
    result = draft.finish(f"fuzz-{seed}")
    validate(result)
    return result


def inputs(graph: Graph) -> Arrays:
    """Values for a graph's inputs that depend on its name and theirs: half of the graphs get special values in half of them."""
    given = {}
    for i in graph.inputs:
        rng = np.random.default_rng(zlib.crc32(f"{graph.name} {i.name}".encode()))
        special = zlib.crc32(graph.name.encode()) % 2 == 0 and bool(rng.random() < 0.5)
        given[i.name] = values(i.type, rng, special=special)
    return given


def bundle(graphs: Sequence[Graph]) -> Graph:
    """One graph that holds others side by side, so that a target compiles once for all; names get the graph's position."""
    placed: list[Input] = []
    numbers: list[dict[int, int]] = []
    for k, g in enumerate(graphs):
        numbers.append({j: len(placed) + j for j in range(len(g.inputs))})
        placed += [Input(f"{k}.{i.name}", i.role, i.type) for i in g.inputs]
    nodes: list[Node] = []
    outputs: list[Output] = []
    for k, (g, number) in enumerate(zip(graphs, numbers, strict=True)):
        for j, node in enumerate(g.nodes):
            number[len(g.inputs) + j] = len(placed) + len(nodes)
            nodes.append(Node(node.op, tuple(number[i] for i in node.inputs), node.attrs, node.types, node.source))
        outputs += [Output(f"{k}.{o.name}", number[o.value]) for o in g.outputs]
    return Graph("bundle", tuple(placed), tuple(nodes), tuple(outputs))
