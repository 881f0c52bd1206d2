"""Makes a failing graph small: fewer outputs, fewer nodes, smaller extents, as long as it still fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph, Input, Node, Output, eliminate_dead_nodes
from gensyn_tvm.canonical.rule_basics import Refused
from gensyn_tvm.canonical.rules import infer
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.interpreter import evaluate

from .check import Case, Way, problem
from .generate import Arrays

#: Attributes that speak of extents.
_EXTENTS = ("shape", "limits", "input_spatial")


def reduced(case: Case, way: Way, attempts: int = 400) -> Case:
    """The smallest case found, with at most so many attempts, that fails as ``case`` does; the process must survive it."""
    wanted = _symptom(problem(case, way))
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(case):
            if attempts == 0:
                return case
            attempts -= 1
            if _symptom(problem(smaller, way)) == wanted:
                case, progress = smaller, True
                break
    return case


def _symptom(text: str) -> str:
    """What two failures of the same kind have in common."""
    if not text or " differ; (index, " in text:
        return "mismatch" if text else ""
    message = text.split("Check failed:")[-1] if "Check failed:" in text else text.split("): ", 1)[-1]
    return message.strip()[:60]


def _smaller(case: Case) -> Iterator[Case]:
    """Cases that are one step smaller, the largest steps first."""
    graph = case.graph
    if len(graph.outputs) > 1:
        for output in graph.outputs:
            yield _cleaned(replace(graph, outputs=(output,)), case.given)
    values: list[Any] = []
    evaluate(graph, case.given, lambda number, value: values.append(np.array(value)))
    first = len(graph.inputs)
    for index in range(len(graph.nodes) - 1):  # an early node takes all that is before it along
        yield _cleaned(*_cut(graph, case.given, index, values[first + index]))
    for index, node in enumerate(graph.nodes):
        for operand in node.inputs:
            if graph.value_types()[operand] == node.types[0]:
                yield _cleaned(_bypassed(graph, index, operand), case.given)
        yield from _with_output_before(case, index)
    yield from _with_smaller_extents(case)


def _with_output_before(case: Case, index: int) -> Iterator[Case]:
    """The operands of the only output's node as outputs, without the node."""
    graph = case.graph
    first = len(graph.inputs)
    if len(graph.outputs) == 1 and graph.outputs[0].value == first + index:
        for k, operand in enumerate(dict.fromkeys(graph.nodes[index].inputs)):
            if operand >= first:
                yield _cleaned(replace(graph, outputs=(Output(f"o{k}", operand),)), case.given)


def _cut(graph: Graph, given: Arrays, index: int, value: np.ndarray) -> tuple[Graph, Arrays]:
    """A node becomes an input that has the node's value."""
    count = len(graph.inputs)
    name = f"v{len(graph.nodes)}_{index}_{count}"
    renumber = {i: i for i in range(count)} | {count + index: count}
    renumber |= {count + k: count + 1 + k - (k > index) for k in range(len(graph.nodes)) if k != index}
    nodes = tuple(n for k, n in enumerate(graph.nodes) if k != index)
    inputs = (*graph.inputs, Input(name, "input", graph.nodes[index].types[0]))
    return _renumbered(graph, inputs, nodes, renumber), {**given, name: value}


def _bypassed(graph: Graph, index: int, operand: int) -> Graph:
    """Everything that reads a node reads one of its operands instead."""
    own = len(graph.inputs) + index
    renumber = {i: i for i in range(len(graph.inputs) + len(graph.nodes))} | {own: operand}
    return _renumbered(graph, graph.inputs, graph.nodes, renumber)


def _renumbered(graph: Graph, inputs: tuple[Input, ...], nodes: tuple[Node, ...], renumber: Mapping[int, int]) -> Graph:
    return Graph(
        graph.name,
        inputs,
        tuple(replace(n, inputs=tuple(renumber[i] for i in n.inputs)) for n in nodes),
        tuple(replace(o, value=renumber[o.value]) for o in graph.outputs),
    )


def _cleaned(graph: Graph, given: Arrays) -> Case:
    """Without what no output depends on."""
    graph = eliminate_dead_nodes(graph)
    used = {i for n in graph.nodes for i in n.inputs} | {o.value for o in graph.outputs}
    kept = [k for k in range(len(graph.inputs)) if k in used]
    renumber = {old: new for new, old in enumerate(kept)}
    dropped = len(graph.inputs) - len(kept)
    renumber |= {len(graph.inputs) + k: len(graph.inputs) + k - dropped for k in range(len(graph.nodes))}
    inputs = tuple(graph.inputs[k] for k in kept)
    return Case(_renumbered(graph, inputs, graph.nodes, renumber), {i.name: given[i.name] for i in inputs})


def _with_smaller_extents(case: Case) -> Iterator[Case]:
    """One extent smaller, wherever the graph speaks of it."""
    extents = sorted({e for t in case.graph.value_types() for e in t.shape if e > 1}, reverse=True)
    for extent in extents:
        for smaller in sorted({1, 2, extent // 2, extent - 1} - {extent}):
            result = _substituted(case, extent, smaller)
            if result is not None:
                yield result


def _substituted(case: Case, extent: int, smaller: int) -> Case | None:
    def shape(value: Any) -> Any:
        return tuple(smaller if e == extent else e for e in value)

    inputs = tuple(replace(i, type=TensorType(shape(i.type.shape), i.type.dtype)) for i in case.graph.inputs)
    types = [i.type for i in inputs]
    nodes = []
    try:
        for node in case.graph.nodes:
            attrs = {k: shape(v) if k in _EXTENTS and node.op != "constant" else v for k, v in node.attrs.items()}
            nodes.append(replace(node, attrs=attrs, types=infer(node.op, [types[i] for i in node.inputs], attrs)))
            types.extend(nodes[-1].types)
    except (InvalidProgramError, Refused):
        return None
    given = {i.name: case.given[i.name][tuple(slice(e) for e in i.type.shape)].copy() for i in inputs}
    return Case(Graph(case.graph.name, inputs, tuple(nodes), case.graph.outputs), given)
