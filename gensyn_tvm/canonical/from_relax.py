"""The freeze: one Relax function becomes a canonical graph.

``CONVERTERS`` says what each Relax operator becomes; whatever is not in it is refused. From here on nothing changes
arithmetic. All operators of a program that cannot be converted are reported in one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm.canonical import (
    convert_elementwise,
    convert_indexing,
    convert_movement,
    convert_norms,
    convert_reductions,
    convert_windows,
)
from gensyn_tvm.canonical.convert_context import Context, Converter, Value, type_of
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.relax_ops import PREFIX, canonical_attributes
from gensyn_tvm.canonical.rules import RULES
from gensyn_tvm.canonical.types import NARROW_FLOATS, TensorType
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError

CONVERTERS: dict[str, Converter] = {
    **convert_elementwise.CONVERTERS,
    **convert_reductions.CONVERTERS,
    **convert_norms.CONVERTERS,
    **convert_windows.CONVERTERS,
    **convert_movement.CONVERTERS,
    **convert_indexing.CONVERTERS,
}

#: Operators that only move elements, so that narrow floats need not be widened for them.
_MOVES = {
    *("relax.astype", "relax.broadcast_to", "relax.concat", "relax.expand_dims", "relax.flatten", "relax.permute_dims"),
    *("relax.repeat", "relax.reshape", "relax.split", "relax.squeeze", "relax.stack", "relax.strided_slice", "relax.take"),
    *("relax.tile", "relax.flip", "relax.full", "relax.zeros", "relax.ones", "relax.where", "relax.nn.batch_flatten"),
    *("relax.gather_elements", "relax.gather_nd", "gensyn.stop_gradient"),
}

#: Operators that earlier stages rewrite; left over, they mean that a stage was skipped.
_REWRITTEN = {
    "gensyn.batch_norm": "build an inference graph or a training step of the program",
    "gensyn.dropout": "build an inference graph or a training step of the program",
}


def freeze(
    module: Any,
    *,
    name: str,
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, bool]],
    extents: Sequence[tuple[int, int]] = (),
) -> Graph:
    """The canonical graph of a module's function ``main``.

    Args:
        module: an IRModule; ``main`` has dataflow blocks of plain bindings and returns a flat tuple of tensors, or a tensor.
        name: the graph's name.
        inputs: name and role for each parameter of ``main``, in order.
        outputs: name, and whether it is the next value of the state of that name, for each result, in order.
        extents: for each further result of ``main`` (int64 scalars) the output and the axis whose extent it is.

    Raises:
        UnsupportedOperatorError: everything in the program that has no canonical form, in one error.
        InvalidProgramError: ``inputs`` or ``outputs`` do not fit ``main``.
    """
    function = module["main"]
    results = _results(function)
    if len(inputs) != len(function.params) or len(outputs) + len(extents) != len(results):
        raise InvalidProgramError(
            f"main of {name} has {len(function.params)} parameters and {len(results)} results, "
            f"expected {len(inputs)} and {len(outputs) + len(extents)}"
        )
    builder = GraphBuilder(name)
    freezer = _Freezer(builder)
    for (input_name, role), parameter in zip(inputs, function.params, strict=True):
        freezer.declare(input_name, role, parameter)
    for binding in _live_bindings(function, results):
        freezer.convert(binding)
    values = [freezer.value(r) for r in results]
    raise_all(freezer.errors)
    sized: dict[int, list[tuple[int, int]]] = {}
    for (output, axis), value in zip(extents, values[len(outputs) :], strict=True):
        sized.setdefault(output, []).append((axis, value))
    for k, ((output_name, updates), value) in enumerate(zip(outputs, values, strict=False)):
        builder.add_output(output_name, value, updates=updates, extents=tuple(sorted(sized.get(k, []))))
    return builder.finish()


def convert_call(call: Any, place: str) -> tuple[Graph, dict[Any, int], Value]:
    """What the freeze makes of one normalised Relax call.

    Returns:
        A graph without outputs; the number of its input for every variable of the call; the numbers of the results.

    Raises:
        UnsupportedOperatorError: the call has no canonical form.
    """
    builder = GraphBuilder("call")
    freezer = _Freezer(builder)
    variables = {v: k for k, v in enumerate(dict.fromkeys(variables_of(call)))}
    for variable, k in variables.items():
        freezer.declare(f"x{k}", "input", variable)
    result = relax.Var(place, call.ty)
    freezer.convert(relax.VarBinding(result, call))
    raise_all(freezer.errors)
    return Graph("call", tuple(builder.inputs), tuple(builder.nodes), ()), variables, freezer.environment[result]


def _results(function: Any) -> list[Any]:
    body = function.body.body
    bound = {b.var: b.value for block in function.body.blocks for b in block.bindings}
    while body in bound and (isinstance(bound[body], tvm.ir.Var | relax.Tuple)):
        body = bound[body]
    return list(body.fields) if isinstance(body, relax.Tuple) else [body]


def variables_of(expr: Any) -> list[Any]:
    """The variables that a Relax expression reads, in order, repeated where it reads them again."""
    if isinstance(expr, tvm.ir.Var):
        return [expr]
    if isinstance(expr, relax.TupleGetItem):
        return variables_of(expr.tuple_value)
    children = expr.fields if isinstance(expr, relax.Tuple) else getattr(expr, "args", ())
    return [v for child in children for v in variables_of(child)]


def _live_bindings(function: Any, results: Sequence[Any]) -> list[Any]:
    """The bindings that the results depend on: gradients leave many that nothing needs."""
    needed = {v for r in results for v in variables_of(r)}
    live = []
    for block in reversed(list(function.body.blocks)):
        for binding in reversed(list(block.bindings)):
            if binding.var in needed:
                live.append(binding)
                needed.update(variables_of(binding.value))
    return live[::-1]


class _Freezer:
    def __init__(self, builder: GraphBuilder) -> None:
        self.context = Context(builder)
        self.environment: dict[Any, Value] = {}
        self.errors: list[UnsupportedOperatorError] = []

    def declare(self, name: str, role: str, parameter: Any) -> None:
        try:
            type_ = type_of(parameter)
        except (ValueError, InvalidProgramError) as error:
            remedy = "fix every dimension on import"
            raise UnsupportedOperatorError(
                "input", where=name, found=str(error), expected="a tensor of static shape", remedy=remedy
            ) from error
        self.environment[parameter] = self.context.builder.add_input(name, role, type_)

    def convert(self, binding: Any) -> None:
        """Convert one binding; an unsupported one is noted and stands in for a value of its type, so that the rest is seen."""
        self.context.place = self.context.builder.source = str(binding.var.name)
        try:
            result = self.value(binding.value)
            self._check(binding, result)
        except UnsupportedOperatorError as error:
            self.errors.append(error)
            result = self._stand_in(binding)
        except (InvalidProgramError, ValueError) as error:
            found = str(error).replace("\n", "; ")
            self.errors.append(self.context.refuse(found, expected="what docs/operators.md allows"))
            result = self._stand_in(binding)
        self.environment[binding.var] = result

    def value(self, expr: Any) -> Value:
        """The value number of an expression, a tuple of them, or None for what is not a tensor."""
        if isinstance(expr, tvm.ir.Var):
            return self.environment.get(expr)
        if isinstance(expr, GenericConst):
            return self.context.array(expr.value.numpy())
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(f) for f in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            parts = self.value(expr.tuple_value)
            return None if parts is None else parts[expr.index]
        if isinstance(expr, tvm.ir.Call):
            return self._call(expr)
        return None

    def _call(self, call: Any) -> Value:
        name = str(getattr(call.op, "name", call.op))
        self.context.operator = name
        if name.startswith(PREFIX):
            return self._canonical(name.removeprefix(PREFIX), call)
        if name not in CONVERTERS:
            remedy = _REWRITTEN.get(name, "write the model with supported operators")
            found = "an operator without a deterministic variant"
            raise self.context.refuse(found, expected="one of docs/operators.md", remedy=remedy)
        args = [self.value(a) for a in call.args]
        self.context.operator = name
        if name in _MOVES or not any(self._is_narrow(a) for a in args):
            return CONVERTERS[name](self.context, call, args)
        # Narrow floats are for storage: the operator computes in float32 and its results are rounded once.
        result = CONVERTERS[name](self.context, call, [self._widened(a) for a in args])
        return self._narrowed(result, call.ty)

    def _canonical(self, op: str, call: Any) -> Value:
        if op not in RULES:
            raise self.context.refuse("no such canonical operator")
        attrs = canonical_attributes(op, call)
        if op == "constant":
            return self.context.stored_constant(attrs)
        return self.context.emit(op, *(self.value(a) for a in call.args), **attrs)

    def _is_narrow(self, value: Value) -> bool:
        if isinstance(value, tuple):
            return any(self._is_narrow(v) for v in value)
        return isinstance(value, int) and self.context.type(value).dtype in NARROW_FLOATS

    def _widened(self, value: Value) -> Value:
        if isinstance(value, tuple):
            return tuple(self._widened(v) for v in value)
        return self.context.cast(value, "float32") if self._is_narrow(value) else value

    def _narrowed(self, value: Value, ty: Any) -> Value:
        if isinstance(value, tuple):
            return tuple(self._narrowed(v, field) for v, field in zip(value, ty.fields, strict=True))
        dtype = str(ty.dtype.dtype)
        wide = isinstance(value, int) and self.context.type(value).dtype == "float32"
        return self.context.cast(value, dtype) if wide and dtype in NARROW_FLOATS else value

    def _check(self, binding: Any, result: Value) -> None:
        """A conversion that changes a type would be a mistake of ours; it must never pass silently."""
        if isinstance(result, int) and self.context.type(result) != type_of(binding.var):
            raise self.context.refuse(
                f"a conversion to {self.context.type(result)}",
                expected=str(type_of(binding.var)),
                remedy="report this as a bug of gensyn_tvm",
            )

    def _stand_in(self, binding: Any) -> Value:
        fields = getattr(binding.var.ty, "fields", None)
        if fields is not None:
            return tuple(self._zero(relax.Var("field", f)) for f in fields)
        return self._zero(binding.var)

    def _zero(self, variable: Any) -> int:
        try:
            type_ = type_of(variable)
        except (ValueError, InvalidProgramError):
            type_ = TensorType((), "float32")
        return self.context.broadcast(self.context.scalar(0, type_.dtype), type_.shape)


def raise_all(errors: Sequence[UnsupportedOperatorError]) -> None:
    """Raise what was noted: one error as it is, several as one."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        error = UnsupportedOperatorError(
            ", ".join(sorted({e.operator for e in errors})),
            found=f"{len(errors)} places:\n" + "\n".join(_indented(e) for e in errors),
            remedy="write the model with supported operators",
        )
        error.places = tuple(place for e in errors for place in e.places)
        raise error


def _indented(error: UnsupportedOperatorError) -> str:
    return "\n".join("    " + line for line in str(error).splitlines())
