"""Emitting Relax for ONNX: where values come from, and the arrays of those that depend on constants only.

What a model computes at import (shapes, scales, ranges …) is computed by the interpreter of canonical graphs, operator by
operator, and only where somebody asks for it; so it has the bits that the compiled program would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.from_relax import freeze, variables_of
from gensyn_tvm.errors import ImportModelError, describe
from gensyn_tvm.frontends.emit import Emitter, Expr, constant

_NOTHING: frozenset[Any] = frozenset()
#: Most elements of a value that is computed at import.
_LARGEST_FOLDED = 2**24


class ValuesNeededError(ImportModelError):
    """Shapes or attributes depend on the values of graph inputs.

    Attributes:
        inputs: the names of these inputs; ``values=`` fixes them.
    """

    def __init__(self, message: str, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        super().__init__(message)


class StoredNeededError(ImportModelError):
    """Shapes or attributes depend on initializers that are parameters or states.

    Attributes:
        names: these initializers.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(message)


class OnnxEmitter(Emitter):
    """Remembers every binding and what it depends on.

    Attributes:
        bindings: all bindings, in order.
        run_graph: runs a subgraph of the node being converted: (GraphProto, arguments) → its outputs.
        random_operators: how many random operators there are so far.
    """

    def __init__(self) -> None:
        super().__init__(relax.BlockBuilder())
        self.bindings: list[Any] = []
        self.run_graph: Any = None
        self.random_operators = 0
        self._definitions: dict[Any, Expr] = {}
        self._origins: dict[Any, frozenset[tuple[str, bool]]] = {}
        self._values: dict[Any, Any] = {}

    def declare(self, name: str, shape: Sequence[int], dtype: str, *, stored: bool) -> Any:
        """The variable of a graph input, or of a ``stored`` initializer that is a parameter or a state."""
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

    def known(self, value: Expr | None, what: str) -> np.ndarray:
        """The array of a value that has to be known at import.

        Raises:
            UnsupportedOperatorError: it is missing.
            ValuesNeededError: it depends on graph inputs.
            StoredNeededError: it depends on parameters or states.
        """
        if value is None:
            raise self.refuse(f"no {what}", expected="an input")
        array = self.fold(value)
        if array is None:
            raise self._unknown(value, what)
        return array

    def _unknown(self, value: Expr, what: str) -> ImportModelError:
        origins = self.origins_of(value).union(*(self.origins_of(x) for x in self.extents_of(value).values()))
        inputs = sorted(name for name, stored in origins if not stored)
        names = inputs or sorted(name for name, _ in origins)
        listed = ", ".join(f"{name!r}: …" for name in names)
        message = describe(
            f"{self.operator!r} needs {what} at import",
            where=self.place,
            found=f"a value that depends on {'the inputs' if inputs else 'the parameters'} {', '.join(names)}",
            expected="a value that depends on constants only",
            remedy=f"from_onnx(model, values={{{listed}}}) fixes inputs" if inputs else "do not name them in trainable=",
        )
        return ValuesNeededError(message, names) if inputs else StoredNeededError(message, names)

    def origins_of(self, value: Expr) -> frozenset[tuple[str, bool]]:
        """Names of the graph inputs (False) and of the parameters and states (True) that a value depends on."""
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
        if isinstance(expr, tvm.ir.Var):
            value = self._values[expr]
            return relax.Tuple([constant(v) for v in value]) if isinstance(value, tuple) else constant(value)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._with_constants(f) for f in expr.fields])
        if isinstance(expr, tvm.ir.Call):
            arguments = [self._with_constants(a) for a in expr.args]
            return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args, expr.span, ret_ty=expr.ty)
        return expr
