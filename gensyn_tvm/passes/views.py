"""Reshapes, and slices of memory without gaps, that no kernel took into itself are views of memory, not kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tvm import relax

from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.rebuild import with_bindings
from gensyn_tvm.runtime.plan import ALIGNMENT, nbytes

#: Attribute of a kernel that is nothing but a reshape.
VIEW = "gensyn.view"
#: Attribute of a kernel that is nothing but a slice whose elements lie one after the other: how many bytes into its operand.
PART = "gensyn.part"
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


def part_offset(whole: TensorType, part: TensorType, attrs: Mapping[str, Any]) -> int | None:
    """How many bytes into an array a slice of it begins; None if its elements don't lie one after the other.

    Also None where kernels could not read it like an array of its own, because of its alignment.
    """
    starts, strides = attrs["starts"], attrs["strides"]
    cut = [k for k, (w, p) in enumerate(zip(whole.shape, part.shape, strict=True)) if w != p]
    if not part.size or not cut or any(e != 1 for e in part.shape[: cut[-1]]):
        return None
    if any(d != 1 for d, e in zip(strides, part.shape, strict=True) if e > 1):
        return None
    first = sum(start * math.prod(whole.shape[k + 1 :]) for k, start in enumerate(starts))
    offset = first * (nbytes(whole) // whole.size)
    return None if offset % ALIGNMENT else offset


def by_views(module: Any) -> Any:
    """``relax.reshape`` and ``relax.memory.view`` in place of calls of such kernels.

    TVM's ``RewriteDataflowReshape`` looks for kernels whose indices it can prove to be those of a reshape, which it cannot for
    many extents that are no powers of two. A part of an array that the caller gets is copied: the caller owns whole arrays.
    """
    (block,) = module[_ENTRY].body.blocks
    kernels = {b.var: dict(module[b.value.args[0]].attrs) for b in block.bindings if _is_call(b.value)}
    shown = _shown(module[_ENTRY], kernels)
    bindings = []
    for b in block.bindings:
        value, attrs = b.value, kernels.get(b.var, {})
        if VIEW in attrs:
            b = relax.VarBinding(b.var, relax.op.reshape(value.args[1].fields[0], [int(e) for e in b.var.ty.shape]))
        elif PART in attrs and b.var not in shown:
            (argument,) = value.args[1].fields
            shape, dtype = [int(e) for e in b.var.ty.shape], str(b.var.ty.dtype.dtype)
            b = relax.VarBinding(b.var, relax.op.memory.view(argument, shape, dtype, relax.prim_value(int(attrs[PART]))))
        bindings.append(b)
    return with_bindings(module, bindings)


def _is_call(value: Any) -> bool:
    return getattr(getattr(value, "op", None), "name", "") == _CALL_TIR


def _shown(function: Any, kernels: Mapping[Any, Mapping[str, Any]]) -> set[Any]:
    """The variables whose memory the caller gets, if reshapes are views."""
    (block,) = function.body.blocks
    shown: set[Any] = {function.body.body}
    for b in reversed(block.bindings):
        if b.var in shown and (VIEW in kernels.get(b.var, {}) or not _is_call(b.value)):
            shown.update(_variables(b.value))
    return shown


def _variables(expr: Any) -> list[Any]:
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return [v for a in expr.args[1].fields for v in _variables(a)]
    return [expr] if isinstance(expr, relax.Var) else []
