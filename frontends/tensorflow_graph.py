"""Walking TensorFlow graphs: operators one after the other, functions they call, control flow, variables.

A value is a Relax expression, a list of values (a TensorList, whose elements that were never set are None), or a ``Handle``
of a variable. Programs are static: loops are unrolled, of branches the known one is taken or both are computed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import UnsupportedOperatorError, unsupported
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.frontends.emit import MAX_STEPS, Expr, constant, dtype_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_nodes import Converter, Value

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow loads: no advice about the machine's vector units
try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError("from_tensorflow needs TensorFlow: pip install 'gensyn_tvm[tensorflow]'") from error

from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

#: ``experimental_implements`` of functions that stand for an operator of ours starts with it.
COMPOSITE = "gensyn_tvm."

#: Operators without results that a program does not need: they check, print, or order.
_IGNORED = {"NoOp", "Assert", "Print", "PrintV2", "CheckNumericsV2"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_BRANCHES = {"If", "StatelessIf"}
_LOOPS = {"While", "StatelessWhile"}
_ASSIGNMENTS = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
_VARIABLES = _ASSIGNMENTS | {"ReadVariableOp", "ResourceGather", "VarIsInitializedOp"}
#: Operators that need no converter.
OWN = _IGNORED | _CALLS | _BRANCHES | _LOOPS | _VARIABLES | {"Const", "Placeholder"}


@dataclass(frozen=True)
class Handle:
    """A reference to the variable of that name."""

    name: str


@dataclass(frozen=True)
class GraphNode:
    """A ``Node`` of TensorFlow's."""

    op: Any

    @property
    def kind(self) -> str:
        return str(self.op.type)

    @property
    def outputs(self) -> int:
        return len(self.op.outputs)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, text as ``str``; ``default`` if the operator has none of that name."""
        try:
            value = self.op.get_attr(name)
        except ValueError:
            return default
        return value.decode() if isinstance(value, bytes) else value

    def dtype(self, position: int = 0) -> str:
        """Dtype name of an output."""
        return dtype_name(self.op.outputs[position].dtype)


def dtype_name(dtype: Any) -> str:
    """``tf.float32`` → ``float32``."""
    return str(tf.as_dtype(dtype).base_dtype.name)


def place_of(op: Any) -> str:
    """Where an operator is: its name."""
    return identifier(op.name)


class GraphConverter:
    """Converts graphs with one emitter.

    Attributes:
        emitter: where the bindings go.
        values: current values of variables by name.
        assigned: names of the variables that have got a new value.
        errors: operators that cannot be converted, in whose place values of their types stand.
    """

    def __init__(
        self, emitter: FoldingEmitter, converters: Mapping[str, Converter], composites: Mapping[str, Converter]
    ) -> None:
        self.emitter = emitter
        self.converters = converters
        self.composites = composites
        self.values: dict[str, Expr] = {}
        self.assigned: set[str] = set()
        self.errors: list[UnsupportedOperatorError] = []
        self._definitions: dict[str, Any] = {}
        self._graphs: dict[str, Any] = {}

    # ---- functions

    def load(self, graph: Any) -> None:
        """Learn the functions of a graph, and note all operators without a converter as one error."""
        self._definitions = {f.signature.name: f for f in graph.as_graph_def().library.function}
        unknown: dict[str, list[str]] = {}
        waiting, seen = [graph], set()
        for current in waiting:
            for op in _live(current):
                if op.type not in self.converters and op.type not in OWN:
                    unknown.setdefault(op.type, []).append(place_of(op))
                for name in _functions(op):
                    if name not in seen and not self._composite(name):
                        seen.add(name)
                        waiting.append(self._graph(name))
        if unknown:
            remedy = "build the model of supported operators; random operators of layers: import with train=False"
            self.errors.append(unsupported(unknown, remedy=remedy))

    def _graph(self, name: str) -> Any:
        if name not in self._graphs:
            self._graphs[name] = function_def_to_graph(self._definitions[name])
        return self._graphs[name]

    def _composite(self, name: str) -> str:
        """The operator of ours that a function stands for, empty if none."""
        definition = self._definitions.get(name)
        found = "" if definition is None else definition.attr["_implements"].s.decode()
        return found.removeprefix(COMPOSITE) if found.startswith(COMPOSITE) else ""

    # ---- one graph

    def run(self, graph: Any, arguments: Sequence[Value]) -> list[Value]:
        """The outputs of a graph for values of its inputs (captured ones included)."""
        env: dict[str, Value] = {t.name: v for t, v in zip(graph.inputs, arguments, strict=True)}
        for op in _live(graph):
            if op.type == "Placeholder" or op.type in _IGNORED:
                continue
            results = self._convert(op, [env.get(t.name) for t in op.inputs])
            for tensor, value in zip(op.outputs, results, strict=True):
                env[tensor.name] = value
        return [env[t.name] for t in graph.outputs]

    def _convert(self, op: Any, inputs: list[Value]) -> list[Value]:
        e, outer = self.emitter, (self.emitter.place, self.emitter.operator)
        e.place, e.operator = place_of(op), op.type
        if op.type == "Const":
            results = [self._constant(op)]
        elif op.type in _VARIABLES:
            results = self._variable(op, inputs)
        elif op.type in _CALLS:
            results = self._call(op, inputs)
        elif op.type in _BRANCHES:
            results = self._branches(op, inputs)
        elif op.type in _LOOPS:
            results = self._loop(op, inputs)
        elif op.type not in self.converters:
            results = self._stand_ins(op, self.errors[0])
        else:
            try:
                results = self._operator(op, inputs)
            except UnsupportedOperatorError as error:
                results = self._stand_ins(op, error)
        e.place, e.operator = outer
        return results

    def _operator(self, op: Any, inputs: list[Value]) -> list[Value]:
        made = self.converters[op.type](self.emitter, inputs, GraphNode(op))
        # A TensorList is one value.
        results = [made] if len(op.outputs) == 1 and not (isinstance(made, list) and not _is_list(op)) else made
        self._check(op, results)
        return list(results)

    def _stand_ins(self, op: Any, error: UnsupportedOperatorError) -> list[Value]:
        """Note an error, and give values of the results' types, so that the rest of the model is looked at, too."""
        if not all(t.shape.is_fully_defined() and dtype_name(t.dtype) in DTYPES for t in op.outputs):
            raise error
        # The steps of a loop that is unrolled have one place.
        if str(error) not in map(str, self.errors):
            self.errors.append(error)
        e, name = self.emitter, place_of(op)
        return [e.declare(name, t.shape.as_list(), dtype_name(t.dtype), stored=False) for t in op.outputs]

    def _constant(self, op: Any) -> Value:
        array = tf.make_ndarray(op.get_attr("value"))
        if dtype_name(op.outputs[0].dtype) == "string":
            return None
        if array.dtype.name not in DTYPES:
            raise self.emitter.refuse(f"dtype {array.dtype.name}", expected=", ".join(DTYPES))
        return self.emitter(constant(np.asarray(array)))

    def _check(self, op: Any, results: Sequence[Value]) -> None:
        """Compare what we emitted with what TensorFlow says about the operator."""
        for tensor, value in zip(op.outputs, results, strict=True):
            if value is None or isinstance(value, list | Handle):
                continue
            if dtype_of(value) != dtype_name(tensor.dtype) or not tensor.shape.is_compatible_with(shape_of(value)):
                raise self.emitter.refuse(
                    f"{dtype_of(value)}{shape_of(value)}",
                    expected=f"{dtype_name(tensor.dtype)}{tensor.shape}, as in TensorFlow",
                )

    # ---- variables

    def _variable(self, op: Any, inputs: list[Value]) -> list[Value]:
        e, handle = self.emitter, inputs[0]
        if not isinstance(handle, Handle):
            raise e.refuse("a resource that is no variable of the model", expected="a tf.Variable")
        value = self.values[handle.name]
        if op.type == "ReadVariableOp":
            return [value]
        if op.type == "VarIsInitializedOp":
            return [e(constant(np.array(True)))]
        if op.type == "ResourceGather":
            return [self.converters["Gather"](e, [value, inputs[1]], GraphNode(op))]
        new = {"AssignVariableOp": lambda: inputs[1], "AssignAddVariableOp": lambda: e.add(value, inputs[1])}.get(
            op.type, lambda: e.sub(value, inputs[1])
        )()
        self.values[handle.name] = new
        self.assigned.add(handle.name)
        return []

    # ---- functions and control flow

    def _call(self, op: Any, inputs: list[Value]) -> list[Value]:
        name = op.get_attr("f").name
        composite = self._composite(name)
        if composite:
            kind, *settings = composite.split(" ")
            made = self.composites[kind](self.emitter, [*inputs, *map(float, settings)], GraphNode(op))
            return made if isinstance(made, list) else [made]
        return self.run(self._graph(name), inputs)

    def _branches(self, op: Any, inputs: list[Value]) -> list[Value]:
        """The branch of a condition that is known; otherwise both, whose results and variables are selected."""
        e = self.emitter
        graphs = [self._graph(op.get_attr(k).name) for k in ("then_branch", "else_branch")]
        condition = e.fold(inputs[0])
        if condition is not None:
            return self.run(graphs[0 if condition.item() else 1], inputs[1:])
        before = dict(self.values)
        then, after = self.run(graphs[0], inputs[1:]), self.values
        self.values = before
        other = self.run(graphs[1], inputs[1:])
        e.place, e.operator = place_of(op), op.type
        chosen = e.reshape(inputs[0], [])
        for name, value in after.items():
            if value is not self.values[name]:
                self.values[name] = self._select(chosen, value, self.values[name])
        return [self._select(chosen, p, q) for p, q in zip(then, other, strict=True)]

    def _select(self, condition: Expr, p: Value, q: Value) -> Value:
        e = self.emitter
        if isinstance(p, list) and isinstance(q, list) and len(p) == len(q):
            return [self._select(condition, a, b) for a, b in zip(p, q, strict=True)]
        tensors = all(v is not None and not isinstance(v, list | Handle) for v in (p, q))
        if not tensors or (shape_of(p), dtype_of(p)) != (shape_of(q), dtype_of(q)):
            raise e.refuse(
                "a condition that is computed, and branches whose results differ in type",
                expected="tensors of one shape and dtype",
                remedy="give both branches' results one shape, or decide before the import",
            )
        return e.where(condition, p, q)

    def _loop(self, op: Any, inputs: list[Value]) -> list[Value]:
        e = self.emitter
        condition, body = (self._graph(op.get_attr(k).name) for k in ("cond", "body"))
        values = inputs
        for _ in range(MAX_STEPS):
            (more,) = self.run(condition, values)
            e.place, e.operator = place_of(op), op.type
            known = e.fold(more)
            if known is None:
                raise e.refuse(
                    "a loop whose number of steps depends on data",
                    expected="a number of steps that is known at import",
                    remedy="loop over a fixed range, and select inside of it with tf.where",
                )
            if not known.item():
                return values
            values = self.run(body, values)
            e.place, e.operator = place_of(op), op.type
        raise e.refuse(f"more than {MAX_STEPS:,} steps", expected=f"at most {MAX_STEPS:,}", remedy="use shorter sequences")


def _is_list(op: Any) -> bool:
    return bool(op.outputs[0].dtype == tf.variant)


def _functions(op: Any) -> list[str]:
    """Names of the functions that an operator runs."""
    if op.type in _CALLS:
        keys = ["f"]
    elif op.type in _BRANCHES:
        keys = ["then_branch", "else_branch"]
    else:
        keys = ["cond", "body"] if op.type in _LOOPS else []
    return [op.get_attr(key).name for key in keys]


def _live(graph: Any) -> list[Any]:
    """The operators that outputs or variables depend on, in order."""
    effects = _ASSIGNMENTS | {"StatefulPartitionedCall", "If", "While"}
    needed: set[str] = {t.op.name for t in graph.outputs}
    live = []
    for op in reversed(graph.get_operations()):
        if op.name in needed or op.type in effects:
            live.append(op)
            needed.update(t.op.name for t in op.inputs)
    return live[::-1]
