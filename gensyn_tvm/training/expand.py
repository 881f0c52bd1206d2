"""Relax operators written out in canonical operators, still in Relax: what the freeze would make of them, before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical.from_relax import convert_call
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.operators.movement import constant_array
from gensyn_tvm.training.emit import Emitter, Expr, constant


def expand(e: Emitter, call: Any, arguments: Sequence[Expr]) -> Any:
    """The canonical operators of a call applied to ``arguments``; a Python tuple of results where it has several.

    Raises:
        UnsupportedOperatorError: the call has no canonical form.
    """
    normalised = e.builder.normalize(relax.Call(call.op, list(arguments), call.attrs, call.ty_args, call.span))
    graph, variables, result = convert_call(normalised, e.place)
    return _replay(e, graph, variables, result)


def _replay(e: Emitter, graph: Graph, variables: Mapping[Any, int], result: Any) -> Any:
    values: dict[int, Expr] = {number: variable for variable, number in variables.items()}
    first = len(graph.inputs)
    for k in sorted(_needed(graph, result)):
        node = graph.nodes[k]
        values[first + k] = _emit(e, node, [values[i] for i in node.inputs])
    return _structure(result, values)


def _needed(graph: Graph, result: Any) -> set[int]:
    """The nodes that the result depends on: a converter may have looked at constants that it has no use for."""
    first = len(graph.inputs)
    pending, needed = list(_numbers(result)), set()
    while pending:
        k = pending.pop() - first
        if k >= 0 and k not in needed:
            needed.add(k)
            pending.extend(graph.nodes[k].inputs)
    return needed


def _numbers(result: Any) -> list[int]:
    return [n for part in result for n in _numbers(part)] if isinstance(result, tuple) else [result]


def _emit(e: Emitter, node: Node, inputs: Sequence[Expr]) -> Expr:
    if node.op == "constant":
        return constant(np.array(constant_array(node.attrs)))
    return e(canonical(node.op, *inputs, **node.attrs))


def _structure(result: Any, values: Mapping[int, Expr]) -> Any:
    return tuple(_structure(part, values) for part in result) if isinstance(result, tuple) else values[result]
