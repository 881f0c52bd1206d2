"""Canonical graph → Relax: every canonical operator is a Relax operator of ours, so that Relax's own passes can work on it.

Tensors of narrow dtypes are their bit patterns from here on (``TensorType.carrier``); the canonical types travel with each
call as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr

from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.relax_ops import nested_lists
from gensyn_tvm.canonical.types import NARROW_FLOATS, TensorType, to_carrier
from gensyn_tvm.operators.movement import constant_array
from gensyn_tvm.training.ops import attrs_of

PREFIX = "gensyn.canonical."
#: Not an operator of the graph: what the compiler puts before each float output.
CANONICAL_NAN = "canonical_nan"
#: Not operators of the graph either: what ``passes.layout`` puts before and after products.
MOVES = ("pack", "image", "weave")

#: Attribute of a product: (name, value) of what a tuned record tells its schedule; not the operator's.
HINTS = "hints"

_SOURCE, _SIGNATURE = "gensyn.source", "gensyn.signature"

#: The single Relax function of a lifted program.
ENTRY = "main"


@dataclass(frozen=True)
class Signature:
    """Canonical types of a lifted call."""

    inputs: tuple[TensorType, ...]
    output: TensorType

    def dumps(self) -> str:
        """The text that travels in the call's attributes."""
        return json.dumps([[t.dtype, *t.shape] for t in (*self.inputs, self.output)])

    @staticmethod
    @lru_cache(maxsize=4096)
    def loads(text: str) -> Signature:
        """The inverse of ``dumps``."""
        *inputs, output = (TensorType(tuple(shape), dtype) for dtype, *shape in json.loads(text))
        return Signature(tuple(inputs), output)


def relax_type(t: TensorType) -> Any:
    """The Relax type that carries a canonical tensor type."""
    return relax.TensorType(list(t.shape), t.carrier)


def call_attrs(call: Any) -> dict[str, Any]:
    """The operator's attributes of a lifted node."""
    attrs = attrs_of(call)
    return {name: v for name, v in attrs.items() if name not in (_SOURCE, _SIGNATURE)}


def call_source(call: Any) -> str:
    """The place in the user's model that a lifted node came from."""
    return str(attrs_of(call).get(_SOURCE, ""))


def call_signature(call: Any) -> Signature:
    """The canonical types of a lifted node."""
    return Signature.loads(str(attrs_of(call)[_SIGNATURE]))


def _infer_type(call: Any, _builder: Any) -> Any:
    return relax_type(call_signature(call).output)


for _name in (*rules.RULES, CANONICAL_NAN, *MOVES):
    register_op_attr(PREFIX + _name, "FInferType", _infer_type)
    register_op_attr(PREFIX + _name, "FPurity", True)
    Op.get(PREFIX + _name).set_num_inputs(-1)


def _call(op: str, args: list[Any], attrs: dict[str, Any], signature: Signature, source: str = "") -> Any:
    values = {k: nested_lists(v) for k, v in attrs.items()}
    node = tvm.ir.make_node("ir.DictAttrs", **values, **{_SOURCE: source, _SIGNATURE: signature.dumps()})
    return relax.Call(Op.get(PREFIX + op), args, node)


def _is_data(node: Node) -> bool:
    """Whether a constant is an array to be stored with the program rather than a value repeated by code."""
    if node.op != "constant":
        return False
    array = constant_array(node.attrs)
    raw = array.reshape(-1).view(f"V{array.dtype.itemsize}")
    return bool((raw != raw[0]).any())


def _nothing(node: Node) -> Any:
    """A value without elements needs no computation, and TVM's passes stumble over loops that never run."""
    (t,) = node.types
    attrs = {"dtype": t.dtype, "shape": t.shape, "data": ""}
    return _call("constant", [], attrs, Signature((), t), node.source)


def lift(graph: Graph) -> Any:
    """The Relax module of a graph: ``main`` takes the inputs in order and returns a tuple of the outputs in order, and after
    them the extents of outputs that have some, in order.

    Every float output passes through ``canonical_nan``, so no NaN payload leaves the program; right behind its value, so that
    the two can become one kernel whatever reads other results of that kernel later.
    """
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{k}", relax_type(i.type)) for k, i in enumerate(graph.inputs)]
    with builder.function(ENTRY, params):
        with builder.dataflow():
            types = graph.value_types()
            values: list[Any] = list(params)
            results: dict[int, Any] = {}
            shown = _outputs_of_values(graph)
            for number in range(len(types)):
                if number >= len(params):
                    values.append(_value(builder, graph.nodes[number - len(params)], values, types))
                results |= {k: _result(builder, values[number], types[number]) for k in shown.get(number, ())}
            extents = [values[v] for o in graph.outputs for _, v in o.extents]
            result = builder.emit_output(relax.Tuple([*(results[k] for k in range(len(graph.outputs))), *extents]))
        builder.emit_func_output(result)
    return builder.get()


def _outputs_of_values(graph: Graph) -> dict[int, list[int]]:
    """The outputs that show each value."""
    shown: dict[int, list[int]] = {}
    for k, o in enumerate(graph.outputs):
        shown.setdefault(o.value, []).append(k)
    return shown


def _value(builder: Any, node: Node, values: Sequence[Any], types: Sequence[TensorType]) -> Any:
    if not node.types[0].size:
        return builder.emit(_nothing(node))
    if _is_data(node):
        return relax.const(to_carrier(constant_array(node.attrs)), node.types[0].carrier)
    signature = Signature(tuple(types[i] for i in node.inputs), node.types[0])
    return builder.emit(_call(node.op, [values[i] for i in node.inputs], dict(node.attrs), signature, node.source))


def _result(builder: Any, value: Any, t: TensorType) -> Any:
    if not t.is_float and t.dtype not in NARROW_FLOATS:
        return value
    return builder.emit(_call(CANONICAL_NAN, [value], {}, Signature((t,), t)))
