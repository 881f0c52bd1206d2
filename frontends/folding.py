"""Emitting Relax with memory: every binding, what it depends on, and the arrays of those that depend on constants only.

What a model computes at import (shapes, scales, ranges, masks …) is computed by the interpreter of canonical graphs, operator
by operator, and only where somebody asks for it; so it has the bits that the compiled program would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.from_relax import freeze, variables_of
from gensyn_tvm.canonical.types import NATIVE
from gensyn_tvm.errors import ImportModelError, describe
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, shape_of

_NOTHING: frozenset[Any] = frozenset()
#: Most elements of a value that is computed at import because somebody asks for it, or because it saves work at run time.
_LARGEST_FOLDED, _LARGEST_STORED = 2**24, 2**20
#: Operators whose results are as cheap to make as to read.
_SOURCES = ("relax.full", "relax.zeros", "relax.ones", "relax.arange", "gensyn.op.constant", "gensyn.op.iota")
_SPREADS = ("relax.broadcast_to", "gensyn.op.broadcast_to")


class FoldingEmitter(Emitter):
    """Remembers every binding and what it depends on.

    Attributes:
        bindings: all bindings, in order.
    """

    def __init__(self) -> None:
        super().__init__(relax.BlockBuilder())
        self.bindings: list[Any] = []
        self._definitions: dict[Any, Expr] = {}
        self._origins: dict[Any, frozenset[tuple[str, bool]]] = {}
        self._values: dict[Any, Any] = {}
        self._small: dict[Any, bool] = {}

    def declare(self, name: str, shape: Sequence[int], dtype: str, *, stored: bool) -> Any:
        """The variable of an input, or of an array that is ``stored`` with the model: a parameter or a state."""
        variable = relax.Var(name, relax.TensorType(list(shape), dtype))
        self._origins[variable] = frozenset({(name, stored)})
        return variable

    def __call__(self, expr: Expr) -> Expr:
        """Bind ``expr`` and everything nested in it; variables and constants stay what they are."""
        if isinstance(expr, tvm.ir.Var | GenericConst):
            return expr
        value = self.builder.normalize(self._flattened(expr))
        if isinstance(value, tvm.ir.Var | GenericConst):
            return value
        variable = relax.DataflowVar(self.place, value.ty)
        self.bindings.append(relax.VarBinding(variable, value))
        self._definitions[variable] = value
        origins = [self._origins[v] for v in variables_of(value)]
        distinct = {id(o): o for o in origins if o}
        self._origins[variable] = next(iter(distinct.values())) if len(distinct) == 1 else _NOTHING.union(*distinct.values())
        return variable

    def _flattened(self, expr: Expr) -> Expr:
        """A call or tuple whose arguments are bound."""
        if isinstance(expr, tvm.ir.Call):
            arguments = [self._argument(a) for a in expr.args]
            if any(new is not old for new, old in zip(arguments, expr.args, strict=True)):
                return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args, expr.span)
        return expr

    def _argument(self, expr: Expr) -> Expr:
        if isinstance(expr, tvm.ir.Call | relax.TupleGetItem):
            return self(expr)
        if isinstance(expr, relax.Tuple) and any(isinstance(f, tvm.ir.Call) for f in expr.fields):
            return relax.Tuple([self._argument(f) for f in expr.fields])
        return expr

    # ---- constants

    def fold(self, value: Expr) -> np.ndarray | None:
        """The array of a value that depends on constants only, cut to its extents; None for any other."""
        if self.origins_of(value):
            return None
        array = self._evaluate(value)
        for axis, extent in self.extents_of(value).items():
            size = self.fold(extent)
            if size is None:
                return None
            array = array[(slice(None),) * axis + (slice(0, max(int(size), 0)),)]
        return np.asarray(array)

    def at_least(self, value: Expr) -> float | None:
        """What a scalar is never below because it is a maximum with a constant; None where nothing is known."""
        made = self._definitions.get(value) if isinstance(value, tvm.ir.Var) and not shape_of(value) else None
        if made is None or str(getattr(getattr(made, "op", None), "name", "")) != "relax.maximum":
            return None
        known = [self.fold(a) for a in made.args if not self.origins_of(a)]
        return max((float(k) for k in known if k is not None), default=None)

    def origins_of(self, value: Expr) -> frozenset[tuple[str, bool]]:
        """Names of the inputs (False) and of the parameters and states (True) that a value depends on."""
        return _NOTHING.union(*(self._origins[v] for v in variables_of(value)))

    def _evaluate(self, value: Expr) -> Any:
        if isinstance(value, GenericConst):
            return value.value.numpy()
        if not isinstance(value, tvm.ir.Var):
            value = self(value)
        waiting = [value]
        while waiting:
            variable = waiting[-1]
            missing = [v for v in variables_of(self._definitions[variable]) if v not in self._values]
            waiting.extend(missing)
            if not missing:
                self._values[waiting.pop()] = self._compute(variable)
        return self._values[value]

    def _compute(self, variable: Any) -> Any:
        """The value of one binding whose variables have values: an array, or a tuple of arrays."""
        value = self._definitions[variable]
        if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, tvm.ir.Var):
            return self._values[value.tuple_value][value.index]
        local = relax.Var(variable.name, variable.ty)
        fields = getattr(variable.ty, "fields", None)
        self._check_size([variable.ty] if fields is None else list(fields), str(variable.name))
        results = [local] if fields is None else [relax.TupleGetItem(local, k) for k in range(len(fields))]
        block = relax.DataflowBlock([relax.VarBinding(local, self._with_constants(value))])
        result_type = relax.TupleType([variable.ty] if fields is None else list(fields))
        main = relax.Function([], relax.SeqExpr([block], relax.Tuple(results)), result_type)
        names = [(str(k), False) for k in range(len(results))]
        graph = freeze(tvm.IRModule({"main": main}), name="import", inputs=(), outputs=names)
        arrays = interpreter.run(graph, {})
        return arrays[0] if fields is None else tuple(arrays)

    def _check_size(self, types: Sequence[Any], place: str) -> None:
        """Shapes and attributes are small; a file that says otherwise must not use up the memory."""
        for ty in types:
            size = math.prod(int(extent) for extent in ty.shape)
            if size > _LARGEST_FOLDED:
                raise ImportModelError(
                    describe(
                        f"{self.operator!r} needs a large value at import",
                        where=place,
                        found=f"{size:,} elements",
                        expected=f"at most {_LARGEST_FOLDED:,}",
                        remedy="let shapes and attributes depend on small tensors",
                    )
                )

    def _with_constants(self, expr: Expr) -> Expr:
        def known(variable: Any) -> Expr:
            value = self._values[variable]
            return relax.Tuple([constant(v) for v in value]) if isinstance(value, tuple) else constant(value)

        return _replaced(expr, known)

    # ---- constants in place of what gives them

    def bindings_with_constants(self) -> list[Any]:
        """The bindings; one that depends on more than constants reads constants in place of variables that do not."""
        kept: list[Any] = []
        for binding in self.bindings:
            value = binding.value
            if self._origins[binding.var]:
                value = _replaced(value, lambda v: self._stored(v, kept))
            kept.append(relax.VarBinding(binding.var, value))
        return kept

    def _stored(self, variable: Any, kept: list[Any]) -> Expr:
        """What stands for a variable: a constant if it is small and depends on constants only."""
        if self._origins[variable] or not self._is_small(variable):
            return variable
        value = self._definitions[variable]
        name = str(getattr(getattr(value, "op", None), "name", ""))
        if name in _SOURCES:
            return variable
        if name not in _SPREADS:
            return constant(self._evaluate(variable))
        spread = relax.DataflowVar(variable.name, variable.ty)
        arguments = [_replaced(a, lambda v: self._stored(v, kept)) for a in value.args]
        kept.append(relax.VarBinding(spread, relax.Call(value.op, arguments, value.attrs, value.ty_args, value.span)))
        return spread

    def _is_small(self, variable: Any) -> bool:
        """Whether it can be stored, and everything that it depends on."""
        if variable not in self._small:
            tensor = getattr(variable.ty, "shape", None) is not None and dtype_of(variable) in NATIVE
            fits = tensor and math.prod(shape_of(variable)) <= _LARGEST_STORED
            self._small[variable] = fits and all(self._is_small(v) for v in variables_of(self._definitions[variable]))
        return self._small[variable]


def _replaced(expr: Expr, replace: Callable[[Any], Expr]) -> Expr:
    """The value of a binding with its variables replaced."""
    if isinstance(expr, tvm.ir.Var):
        return replace(expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_replaced(f, replace) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_replaced(expr.tuple_value, replace), expr.index)
    if isinstance(expr, tvm.ir.Call):
        arguments = [_replaced(a, replace) for a in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args, expr.span, ret_ty=expr.ty)
    return expr
