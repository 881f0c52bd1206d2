"""Canonical graph → Relax: every canonical operator is a Relax operator of ours, so that Relax's own passes can work on it."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr

from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.movement import constant_array
from gensyn_tvm.training.ops import attrs_of

PREFIX = "gensyn.canonical."
#: Not an operator of the graph: what the compiler puts before each float output.
CANONICAL_NAN = "canonical_nan"

#: The single Relax function of a lifted program.
ENTRY = "main"


def relax_type(t: TensorType) -> Any:
    """The Relax type of a canonical tensor type."""
    return relax.TensorType(list(t.shape), t.dtype)


def canonical_type(ty: Any) -> TensorType:
    """The canonical type of a Relax tensor type with a static shape."""
    return TensorType(tuple(int(e) for e in ty.shape), str(ty.dtype.dtype))


def call_attrs(call: Any) -> dict[str, Any]:
    """Attributes of a lifted node, without the source location."""
    attrs = attrs_of(call)
    attrs.pop("source", None)
    return attrs


def call_source(call: Any) -> str:
    """The place in the user's model that a lifted node came from."""
    return str(attrs_of(call).get("source", ""))


def _infer_type(call: Any, _builder: Any) -> Any:
    op = call.op.name.removeprefix(PREFIX)
    inputs = [canonical_type(a.ty) for a in call.args]
    if op == CANONICAL_NAN:
        return call.args[0].ty
    return relax_type(rules.infer(op, inputs, call_attrs(call), where=call_source(call))[0])


for _name in (*rules.RULES, CANONICAL_NAN):
    register_op_attr(PREFIX + _name, "FInferType", _infer_type)
    register_op_attr(PREFIX + _name, "FPurity", True)
    Op.get(PREFIX + _name).set_num_inputs(-1)


def _nested_lists(value: Any) -> Any:
    return [_nested_lists(v) for v in value] if isinstance(value, tuple) else value


def _call(op: str, args: list[Any], attrs: dict[str, Any]) -> Any:
    values = {k: _nested_lists(v) for k, v in attrs.items()}
    return relax.Call(Op.get(PREFIX + op), args, tvm.ir.make_node("ir.DictAttrs", **values))


def _is_data(node: Node) -> bool:
    """Whether a constant is an array to be stored with the program rather than a value repeated by code."""
    if node.op != "constant":
        return False
    array = constant_array(node.attrs)
    raw = array.reshape(-1).view(f"V{array.dtype.itemsize}")
    return array.size == 0 or bool((raw != raw[0]).any())


def lift(graph: Graph) -> Any:
    """The Relax module of a graph: ``main`` takes the inputs in order and returns a tuple of the outputs in order.

    Every float output passes through ``canonical_nan``, so no NaN payload leaves the program.
    """
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{k}", relax_type(i.type)) for k, i in enumerate(graph.inputs)]
    with builder.function(ENTRY, params):
        with builder.dataflow():
            values: list[Any] = list(params)
            for node in graph.nodes:
                if _is_data(node):
                    values.append(relax.const(constant_array(node.attrs), node.types[0].dtype))
                else:
                    attrs = {**node.attrs, "source": node.source}
                    values.append(builder.emit(_call(node.op, [values[i] for i in node.inputs], attrs)))
            types = graph.value_types()
            results = [
                builder.emit(_call(CANONICAL_NAN, [values[o.value]], {})) if types[o.value].is_float else values[o.value]
                for o in graph.outputs
            ]
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.get()
