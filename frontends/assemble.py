"""The last step of every frontend: one tidy Relax function and the ``Program`` around it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from gensyn_tvm.errors import UnsupportedOperatorError, import_error
from gensyn_tvm.frontends.emit import Expr
from gensyn_tvm.program import Program


@dataclass
class Imported:
    """What a frontend knows when the whole model has been converted.

    Attributes:
        bindings: variable bindings in order of definition.
        inputs, parameters, states: names with the variables that stand for them in ``bindings``.
        outputs: names with the expressions of the model's outputs.
        updates: state names with the expressions of their next values.
        extents: (output, axis) with the int64 scalar that holds the extent of that axis, where it is known at run time only.
        parameter_values, state_values: the arrays that come with the model.
    """

    bindings: Sequence[Any]
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    states: Mapping[str, Any]
    outputs: Mapping[str, Expr]
    parameter_values: Mapping[str, np.ndarray]
    state_values: Mapping[str, np.ndarray]
    updates: Mapping[str, Expr] = field(default_factory=dict)
    extents: Mapping[tuple[int, int], Expr] = field(default_factory=dict)
    origin: str = ""


def to_program(model: Imported) -> Program:
    """Build ``main`` with the parameter order of ``Program``, without bindings that no output needs.

    Raises:
        ImportModelError: two inputs, parameters or states have one name.
        UnsupportedOperatorError: a binding is not a call of an operator.
    """
    names = [*model.inputs, *model.parameters, *model.states]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise import_error(
            f"{model.origin}: the names {', '.join(repeated)} are used twice among inputs, parameters and states",
            found=", ".join(repeated),
            expected="different names",
            remedy="rename the inputs (input_names=)",
        )
    variables = {**model.inputs, **model.parameters, **model.states}
    results = [*model.outputs.values(), *model.updates.values(), *model.extents.values()]
    module = relax.transform.Normalize()(tvm.IRModule({"main": _function(variables, model.bindings, results)}))
    relax.analysis.well_formed(module)
    return Program(
        module=module,
        inputs=tuple(model.inputs),
        outputs=tuple(model.outputs),
        parameters=dict(model.parameter_values),
        states=dict(model.state_values),
        state_updates=tuple(model.updates),
        extents=tuple(model.extents),
        origin=model.origin,
    )


def _function(variables: Mapping[str, Any], bindings: Sequence[Any], results: Sequence[Expr]) -> Any:
    """The Relax function (variables) -> results, its bindings rebuilt in one dataflow block."""
    params = {old: relax.Var(name, old.ty) for name, old in variables.items()}
    aliases = {b.var: b.value for b in bindings if isinstance(b.value, tvm.ir.Var)}

    def resolve(expr: Expr) -> Expr:
        while expr in aliases:
            expr = aliases[expr]
        return expr

    results = [resolve(r) for r in results]
    live = _live(bindings, resolve, results)
    escaping = set(results)
    renamed: dict[Any, Any] = dict(params)
    kept = []
    for binding in live:
        value = _rebuild(binding.value, lambda v: renamed[resolve(v)])
        kind = relax.Var if binding.var in escaping else relax.DataflowVar
        renamed[binding.var] = kind(binding.var.name, binding.var.ty)
        kept.append(relax.VarBinding(renamed[binding.var], value))
    fields = []
    for number, result in enumerate(results):
        if result not in renamed:
            renamed[result] = relax.Var(f"output_{number}", result.ty)
            kept.append(relax.VarBinding(renamed[result], result))
        fields.append(renamed[result])
    body = relax.SeqExpr([relax.DataflowBlock(kept)], relax.Tuple(fields))
    function = relax.Function(list(params.values()), body, relax.TupleType([f.ty for f in fields]))
    return function.with_attr("global_symbol", "main")


def _live(bindings: Sequence[Any], resolve: Any, results: Sequence[Expr]) -> list[Any]:
    """The bindings that the results depend on, in order."""
    needed = set(results)
    live = []
    for binding in reversed(bindings):
        if binding.var in needed and not isinstance(binding.value, tvm.ir.Var):
            live.append(binding)
            needed.update(resolve(v) for v in _variables(binding.value))
    return live[::-1]


def _variables(expr: Expr) -> list[Any]:
    found: list[Any] = []

    def note(variable: Any) -> Any:
        found.append(variable)
        return variable

    _rebuild(expr, note)
    return found


def _rebuild(expr: Expr, replace: Any) -> Expr:
    """``expr`` with its variables replaced; its arguments are variables, constants and tuples of them."""
    if isinstance(expr, tvm.ir.Var):
        return replace(expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_rebuild(f, replace) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_rebuild(expr.tuple_value, replace), expr.index)
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op) and not expr.op.name.startswith("relax.call_"):
        arguments = [_rebuild(a, replace) for a in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args, expr.span, ret_ty=expr.ty)
    if isinstance(expr, tvm.ir.Call):
        raise UnsupportedOperatorError(str(expr.op), expected="an operator of Relax or of gensyn_tvm")
    return expr


def identifier(text: str) -> str:
    """``text`` as part of a name: letters, digits, ``_``, ``.``, ``/``, ``:`` and ``-`` stay."""
    return re.sub(r"[^\w./:-]", "_", text)
