"""Reshapes that no kernel took into itself are views of memory, not kernels."""

from __future__ import annotations

from typing import Any

from tvm import relax

from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.rebuild import with_bindings

#: Attribute of a kernel that is nothing but a reshape.
VIEW = "gensyn.view"
#: Attribute of a ``reshape`` node, and of its kernel, that no other kernel may take into itself.
ALONE = "alone"
_REDUCTIONS = ("sum", "prod", "reduce_max", "reduce_min")
_ENTRY = "main"
_CALL_TIR = "relax.call_tir"


def keep_views(graph: Graph) -> Graph:
    """The graph with reshapes marked that cut lines anew for a reduction, which then reads a view from end to end.

    Within the kernel of the reduction, as a division of indices, a reshape would keep it from reading vectors.
    """
    types = graph.value_types()
    reduced = {v for node in graph.nodes if node.op in _REDUCTIONS for v in node.inputs}
    nodes, value = [], len(graph.inputs)
    for node in graph.nodes:
        if node.op == "reshape" and value in reduced and _line(types[node.inputs[0]]) != _line(types[value]):
            node = Node(node.op, node.inputs, {**node.attrs, ALONE: True}, node.types, node.source)
        nodes.append(node)
        value += len(node.types)
    return Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs)


def _line(t: TensorType) -> int:
    """The extent of the last axis, of those longer than one."""
    return next((e for e in reversed(t.shape) if e > 1), 1)


def reshape_by_views(module: Any) -> Any:
    """``relax.reshape`` in place of calls of such kernels.

    TVM's ``RewriteDataflowReshape`` looks for kernels whose indices it can prove to be those of a reshape, which it cannot for
    many extents that are no powers of two.
    """
    (block,) = module[_ENTRY].body.blocks
    bindings = []
    for b in block.bindings:
        value = b.value
        if getattr(getattr(value, "op", None), "name", "") == _CALL_TIR and VIEW in dict(module[value.args[0]].attrs):
            (argument,) = value.args[1].fields
            b = relax.VarBinding(b.var, relax.op.reshape(argument, [int(e) for e in b.var.ty.shape]))
        bindings.append(b)
    return with_bindings(module, bindings)
