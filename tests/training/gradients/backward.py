"""From a canonical graph of a forward computation to the canonical graph of its gradients, the way a training step goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.relax_ops import canonical, relax_type
from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.training.differentiate import differentiate
from gensyn_tvm.training.emit import Emitter, build_function, constant, inline, op

from .reference import constant as constant_array


def backward(graph: Graph, wanted: Sequence[int]) -> Graph:
    """The inputs of ``graph`` and ``w`` of its output's shape → the gradients of sum(output * w) for the inputs ``wanted``."""
    order = [*wanted, *(k for k in range(len(graph.inputs)) if k not in wanted)]
    out = graph.value_types()[graph.outputs[0].value]
    dtype = out.dtype if out.dtype in FLOATS else "float32"
    types = [*((graph.inputs[k].name, graph.inputs[k].type) for k in order), ("w", TensorType(out.shape, dtype))]
    parameters = [relax.Var(name, relax_type(t)) for name, t in types]

    def forward(e: Emitter) -> Sequence[Any]:
        e.place = "forward"
        values: dict[int, Any] = dict(zip(order, parameters, strict=False))
        for k, node in enumerate(graph.nodes):
            inputs = [values[i] for i in node.inputs]
            made = constant(constant_array(node.attrs)) if node.op == "constant" else canonical(node.op, *inputs, **node.attrs)
            values[len(graph.inputs) + k] = e(made)
        y = e.cast(values[graph.outputs[0].value], dtype)
        return [e(op.sum(e.mul(y, parameters[-1])))]

    among = slice(0, len(wanted))
    return frozen(
        differentiate(build_function(parameters, forward), among), [name for name, _ in types], len(wanted), graph.name
    )


def frozen(adjoint: Any, names: Sequence[str], wanted: int, name: str) -> Graph:
    """The canonical graph of the gradients of a function that ``differentiate`` made."""
    outer = [relax.Var(n, p.ty) for n, p in zip(names, adjoint.params, strict=True)]
    flat = build_function(outer, lambda e: inline(e, adjoint, outer)[1])
    return freeze(flat, name=name, inputs=[(n, "input") for n in names], outputs=[(f"d{n}", False) for n in names[:wanted]])


def given(graph: Graph, arrays: Sequence[np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of ``backward(graph, …)`` by name."""
    return {**{i.name: a for i, a in zip(graph.inputs, arrays, strict=True)}, "w": weights}
