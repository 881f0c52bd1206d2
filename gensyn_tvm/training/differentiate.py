"""Reverse-mode differentiation of a Relax function.

The function is first written so that every operator on a path from a parameter to the loss has a gradient rule (``gradients``):
Relax operators without one are expanded into canonical operators. Then its calls are gone through from the last to the first;
where a value is used several times its gradients are added in that order. Nothing is differentiated that does not depend on a
parameter, so integer parts of a model (masks, indices) stay out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from gensyn_tvm.canonical.from_relax import raise_all, variables_of
from gensyn_tvm.canonical.relax_ops import PREFIX
from gensyn_tvm.canonical.types import FLOATS, NARROW_FLOATS
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError, describe
from gensyn_tvm.training.emit import Emitter, Expr, build_function, dtype_of, inline, op, shape_of
from gensyn_tvm.training.expand import expand
from gensyn_tvm.training.gradients import gradient_of, is_constant


def differentiate(module: Any, parameters: slice) -> Any:
    """The function (same arguments) → (results of ``main``, gradients of its first result for ``main.params[parameters]``).

    Raises:
        UnsupportedOperatorError: an operator between a parameter and the result without a gradient.
        InvalidProgramError: there is nothing to differentiate for.
    """
    main = module["main"]
    if not list(main.params)[parameters]:
        raise InvalidProgramError("the model has no trainable parameters; there is nothing to train")
    expanded = _expanded(main, parameters)
    _check_bits(expanded, parameters)
    variables = [relax.Var(p.name, p.ty) for p in expanded.params]

    def body(e: Emitter) -> Sequence[Any]:
        forward: dict[Any, Expr] = {}
        results = inline(e, expanded, variables, environment=forward)
        wanted = list(expanded.params)[parameters]
        gradients = _Reverse(e, expanded, forward, wanted).run()
        return [results, gradients]

    return build_function(variables, body)["main"]


def check_differentiable(function: Any, parameters: slice, names: Sequence[str]) -> None:
    """Check that the function's first result has a gradient for each of ``function.params[parameters]``.

    Raises:
        InvalidProgramError: parameters that the result does not depend on, or only through operators without a gradient, all
            in one error.
    """
    wanted = list(function.params)[parameters]
    reaching = _reaching(function, _passes)
    lost = [(name, p) for name, p in zip(names, wanted, strict=True) if p not in reaching]
    if not lost:
        return
    needed = _needed(function)
    blocked = {_operator(b.value): str(b.var.name) for _, p in lost for b in _blocking(function, p, needed)}
    ways = "; ".join(f"{name} at {place}" for name, place in blocked.items())
    missing = ", ".join(name for name, _ in lost)
    raise InvalidProgramError(
        describe(
            "the loss does not depend on every parameter",
            found=f"no path from {missing} to the loss"
            + (f" that can be differentiated (only through {ways}, constant but for jumps)" if blocked else ""),
            expected="parameters that are trained",
            remedy="freeze them (frozen=, or requires_grad=False before the import), or use them in the model's outputs",
        )
    )


# ---- which calls matter -----------------------------------------------------------------------------------------------


def _bindings(function: Any) -> list[Any]:
    return [b for block in function.body.blocks for b in block.bindings]


def _operator(value: Any) -> str:
    return str(value.op.name) if isinstance(value, tvm.ir.Call) else ""


def _passes(binding: Any) -> bool:
    """Whether a gradient can pass through a binding to what it reads."""
    return not is_constant(_operator(binding.value)) and _is_float(binding.var)


def _is_float(variable: Any) -> bool:
    fields = getattr(variable.ty, "fields", None)
    dtypes = [str(t.dtype.dtype) for t in (fields if fields is not None else [variable.ty])]
    return any(d in FLOATS or d in NARROW_FLOATS for d in dtypes)


def _reaching(function: Any, through: Callable[[Any], bool]) -> set[Any]:
    """The first result and the variables that it depends on through such bindings."""
    reaching = {function.body.body.fields[0]}
    for binding in reversed(_bindings(function)):
        if binding.var in reaching and through(binding):
            reaching.update(variables_of(binding.value))
    return reaching


def _needed(function: Any) -> set[Any]:
    """Variables that the first result depends on, whichever way."""
    return _reaching(function, lambda _: True)


def _depending(function: Any, sources: Sequence[Any]) -> set[Any]:
    """The sources and the variables that a change of them reaches through differentiable operators."""
    reached = set(sources)
    for binding in _bindings(function):
        if _passes(binding) and any(v in reached for v in variables_of(binding.value)):
            reached.add(binding.var)
    return reached


def _between(function: Any, sources: Sequence[Any]) -> set[Any]:
    """The variables on a differentiable path from a source to the first result."""
    return _reaching(function, _passes) & _depending(function, sources)


def _blocking(function: Any, source: Any, needed: set[Any]) -> list[Any]:
    """The bindings where paths from a source to the first result end."""
    depending = _depending(function, [source])
    return [
        b
        for b in _bindings(function)
        if b.var in needed and not _passes(b) and any(v in depending for v in variables_of(b.value))
    ]


def _expanded(function: Any, parameters: slice) -> Any:
    """The function with every call on a path from a parameter to the first result written in operators that have rules."""
    between = _between(function, list(function.params)[parameters])
    written_out = {b.value for b in _bindings(function) if b.var in between and gradient_of(_operator(b.value)) is None}
    variables = [relax.Var(p.name, p.ty) for p in function.params]
    errors: list[UnsupportedOperatorError] = []

    def rewrite(e: Emitter, call: Any, arguments: Sequence[Expr]) -> Any:
        if call not in written_out:
            return None
        try:
            return expand(e, call, arguments)
        except UnsupportedOperatorError as error:
            errors.append(error)
            return None

    result = build_function(variables, lambda e: inline(e, function, variables, rewrite))["main"]
    raise_all(errors)
    return result


def _check_bits(function: Any, parameters: slice) -> None:
    """Refuse to go on where a float that depends on a parameter is taken apart into its bits: the path would end silently."""
    needed, depending = _needed(function), _depending(function, list(function.params)[parameters])
    for binding in _bindings(function):
        if (
            _operator(binding.value) == PREFIX + "bitcast"
            and binding.var in needed
            and any(v in depending for v in variables_of(binding.value))
        ):
            raise UnsupportedOperatorError(
                "bitcast",
                where=str(binding.var.name),
                found="the bits of a value that is trained, for instance an elementary function of float64",
                expected="operators with a gradient",
                remedy="compute this part in float32, or stop the gradient before it",
            )


# ---- the pass -------------------------------------------------------------------------------------------------------


class _Reverse:
    """Goes through a function whose values have been emitted, from the last binding to the first.

    Attributes:
        forward: the emitted value of every variable of the function.
        gradients: what has been gathered for a variable so far: an expression, or for a tuple a list of them and None.
    """

    def __init__(self, e: Emitter, function: Any, forward: dict[Any, Expr], wanted: Sequence[Any]) -> None:
        self.e = e
        self.function = function
        self.forward = forward
        self.wanted = wanted
        self.between = _between(function, wanted)
        self.gradients: dict[Any, Any] = {}

    def run(self) -> tuple[Expr, ...]:
        """The gradients of the first result for each wanted parameter; zeros where there is no path."""
        result = self.function.body.body.fields[0]
        self.e.place = "gradient of the loss"
        self.add(result, self.e(op.ones([], dtype_of(result))))
        for binding in reversed(_bindings(self.function)):
            if binding.var in self.between and binding.var in self.gradients:
                self.e.place = f"gradient of {binding.var.name}"
                self.step(binding)
        return tuple(
            self.gradients[p] if p in self.gradients else self.e(op.zeros(shape_of(p), dtype_of(p))) for p in self.wanted
        )

    def step(self, binding: Any) -> None:
        """Hand the gradient of one binding on to what it reads."""
        gathered, value = self.gradients.pop(binding.var), binding.value
        if not isinstance(value, tvm.ir.Call):
            self.hand(value, gathered)
            return
        name = _operator(value)
        rule = gradient_of(name)
        if rule is None:
            raise UnsupportedOperatorError(
                name,
                where=str(binding.var.name),
                found="no gradient",
                expected="an operator that can be trained through",
                remedy="freeze the part of the model before it, or write it with other operators",
            )
        variable, call = self.forward[binding.var], _mapped(value, self.forward)
        gradient = self.filled(binding.var, gathered) if isinstance(gathered, list) else gathered
        widened = name.startswith(PREFIX) and not isinstance(gathered, list) and dtype_of(gradient) in NARROW_FLOATS
        if widened and name != PREFIX + "cast":
            # Only moves of elements have narrow gradients, which are gathered in float32 and rounded once.
            gradient = self.e.cast(gradient, "float32")
        for argument, part in zip(value.args, rule(variable, call, gradient, self.e), strict=True):
            if part is not None:
                self.hand(argument, part)

    def hand(self, argument: Any, part: Any) -> None:
        """Add ``part`` to the gradient of what an argument reads."""
        if isinstance(argument, relax.TupleGetItem):
            if argument.tuple_value in self.between:
                fields = self.gradients.setdefault(argument.tuple_value, [None] * len(argument.tuple_value.ty.fields))
                fields[argument.index] = self.sum(fields[argument.index], self.e(part))
        elif isinstance(argument, relax.Tuple):
            for k, field in enumerate(argument.fields):
                self.hand(field, self.part(part, k))
        elif argument in self.between:
            self.add(argument, self.narrowed(argument, self.e(part)))

    def part(self, value: Any, k: int) -> Expr | None:
        """Field k of the gradient of a tuple."""
        if isinstance(value, list):
            return value[k]
        return value.fields[k] if isinstance(value, relax.Tuple) else relax.TupleGetItem(value, k)

    def narrowed(self, argument: Any, part: Expr) -> Expr:
        """``part`` in the dtype of what it is the gradient of."""
        return self.e.cast(part, dtype_of(argument)) if hasattr(argument.ty, "dtype") else part

    def add(self, variable: Any, part: Expr) -> None:
        """Add to the gradient of a variable, a tuple's field by field."""
        if hasattr(variable.ty, "fields"):
            fields = self.gradients.setdefault(variable, [None] * len(variable.ty.fields))
            for k in range(len(fields)):
                fields[k] = self.sum(fields[k], self.e(self.part(part, k)))
        else:
            self.gradients[variable] = self.sum(self.gradients.get(variable), part)

    def sum(self, a: Expr | None, b: Expr) -> Expr:
        """a + b, or b where there is no a."""
        return b if a is None else self.e.add(a, b)

    def filled(self, variable: Any, fields: Sequence[Expr | None]) -> Expr:
        """The gradient of a tuple, zeros where a field was not used."""
        types = variable.ty.fields
        zeros = [
            self.e(op.zeros([int(n) for n in t.shape], str(t.dtype.dtype))) if f is None else f
            for f, t in zip(fields, types, strict=True)
        ]
        return relax.Tuple(zeros)


def _mapped(call: Any, forward: dict[Any, Expr]) -> Any:
    """A call with its variables replaced by what was emitted for them."""

    def value(expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([value(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(value(expr.tuple_value), expr.index)
        return forward.get(expr, expr)

    return relax.Call(call.op, [value(a) for a in call.args], call.attrs, call.ty_args, call.span)
