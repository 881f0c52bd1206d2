"""Every canonical operator as a Relax operator ``gensyn.op.<name>``, for use before the freeze.

A frontend or a gradient that needs a canonical operator writes it with ``canonical``; its type is inferred by the operator's
rule and the freeze takes it over as it is.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr

from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.convert_context import attributes, type_of
from gensyn_tvm.canonical.types import TensorType

Expr = Any

PREFIX = "gensyn.op."


def relax_type(t: TensorType) -> Any:
    """The Relax type of a canonical tensor type."""
    return relax.TensorType(list(t.shape), t.dtype)


def canonical(op: str, *args: Expr, **attrs: Any) -> Expr:
    """The call of a canonical operator on Relax tensors of static shape, with exactly the attributes of ``rules.ATTRIBUTES``.

    Raises:
        UnsupportedOperatorError: no such operator.
        InvalidProgramError: the arguments or attributes break its rule (raised here, not inside TVM).
    """
    (result,) = rules.infer(op, [type_of(a) for a in args], attrs)
    values = {name: nested_lists(v) for name, v in attrs.items()}
    attributes_node = tvm.ir.make_node("ir.DictAttrs", **values)
    return relax.Call(Op.get(PREFIX + op), list(args), attributes_node, ret_ty=relax_type(result))


def canonical_attributes(op: str, call: Any) -> dict[str, Any]:
    """The attributes of a call made by ``canonical``, as the operator's rule takes them."""
    found = attributes(call)
    return {name: found[name] for name in rules.ATTRIBUTES[op]}


def nested_lists(value: Any) -> Any:
    """Tuples as lists, which is what TVM's attributes hold."""
    return [nested_lists(v) for v in value] if isinstance(value, tuple) else value


def _infer(call: Any, _builder: Any) -> Any:
    op = call.op.name.removeprefix(PREFIX)
    return relax_type(rules.infer(op, [type_of(a) for a in call.args], canonical_attributes(op, call))[0])


for _name in rules.RULES:
    register_op_attr(PREFIX + _name, "FInferType", _infer)
    register_op_attr(PREFIX + _name, "FPurity", True)
    Op.get(PREFIX + _name).set_num_inputs(-1)
