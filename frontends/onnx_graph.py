"""Converting the nodes of ONNX graphs, one after the other, with the scopes of subgraphs and the bodies of functions.

A value is a Relax expression, a list of values (a sequence), or None (an empty optional, an input that is left out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gensyn_tvm.canonical.from_relax import raise_all
from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.errors import GensynError, UnsupportedOperatorError, import_error, unsupported
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.frontends.emit import constant, dtype_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter, StoredNeededError
from gensyn_tvm.frontends.onnx_operators import CONVERTERS
from gensyn_tvm.frontends.onnx_reader import DOMAINS, element_type, onnx

Value = Any

#: Nodes that unrolled loops and functions may come to.
MAX_NODES = 10_000

#: Operators that take narrow floats as they are: they move elements, convert them, or compute nothing themselves.
_TAKES_NARROW = {
    *("Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear", "Identity", "Shape", "Size", "If", "Loop", "Scan"),
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather", "GatherElements"),
    *("GatherND", "Expand", "Tile", "Where", "SpaceToDepth", "DepthToSpace", "ReverseSequence", "Compress", "Trilu"),
    *("EyeLike", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength", "SequenceMap"),
    *("SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "Dropout"),
    "LinearAttention",
}

#: Operators of one input that work element by element: extents known at run time only stay what they are.
_KEEPS_EXTENTS = {"Cast", "Neg", "Abs", "Sqrt", "Not", "Relu", "Sign", "Floor", "Ceil", "Round", "Exp", "Log"}

#: Operators whose result may be an empty optional.
_OPTIONAL_RESULTS = {"Optional", "OptionalGetElement", "Identity", "If", "Loop", "SequenceAt"}


class _Unusable:
    """What stands for an output without a value."""


#: An output that a converter does not give, and one of a node that could not be converted.
_UNUSABLE, _FAILED = _Unusable(), _Unusable()


class _DependentError(GensynError):
    """A node has no converter, or reads what could not be converted; the reason has been noted."""


@dataclass
class Scope:
    """Values by name: those of a graph, then of the graphs around it.

    Attributes:
        versions: operator set versions by domain.
        attributes: what ``ref_attr_name`` refers to inside of a function.
    """

    versions: Mapping[str, int]
    outer: Scope | None = None
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value:
        """The value called ``name``; KeyError if there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        raise KeyError(name)


def domain_of(node: onnx.NodeProto) -> str:
    """The node's domain, the default one as an empty string."""
    return "" if node.domain in DOMAINS else node.domain


def operator_name(node: onnx.NodeProto) -> str:
    """The node's key in ``CONVERTERS``."""
    return ".".join(part for part in (domain_of(node), node.op_type) if part)


def place_of(node: onnx.NodeProto) -> str:
    """Where a node is: its name, or operator and first output."""
    return identifier(node.name or f"{node.op_type}:{node.output[0] if node.output else ''}")


def schema_of(node: onnx.NodeProto, versions: Mapping[str, int]) -> Any:
    """The operator's schema in this version, None if onnx does not know it."""
    domain = domain_of(node)
    version = versions.get(domain, versions.get("ai.onnx", 1) if not domain else 1)
    try:
        return onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else []) + list(a.graphs)]


def unknown_operators(graph: onnx.GraphProto, versions: Mapping[str, int]) -> UnsupportedOperatorError | None:
    """The error of all nodes that have neither a converter nor a function body; None if there are none."""
    unknown: dict[str, list[str]] = {}
    waiting = list(graph.node)
    for node in waiting:
        schema = None if operator_name(node) in CONVERTERS else schema_of(node, versions)
        if operator_name(node) not in CONVERTERS and not _has_body(schema):
            unknown.setdefault(operator_name(node), []).append(place_of(node))
        waiting.extend(n for g in subgraphs(node) for n in g.node)
    return unsupported(unknown, remedy="export the model with supported operators") if unknown else None


def _has_body(schema: Any) -> bool:
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


class GraphConverter:
    """Converts graphs with one emitter.

    Attributes:
        emitter: where the bindings go.
        scope: that of the graph being converted.
        updates: next values of states by name.
    """

    def __init__(self, emitter: OnnxEmitter, versions: Mapping[str, int], states: Mapping[str, Any]) -> None:
        self.emitter = emitter
        self.states = states
        self.scope = Scope(versions)
        self.updates: dict[str, Any] = {}
        self._nodes = 0
        emitter.run_graph = self.run_graph

    def run_graph(self, graph: onnx.GraphProto, arguments: Sequence[Value]) -> list[Value]:
        """The outputs of a subgraph of the node being converted."""
        place, operator, outer = self.emitter.place, self.emitter.operator, self.scope
        self.scope = Scope(outer.versions, outer, outer.attributes)
        try:
            for tensor in graph.initializer:
                element_type(tensor.data_type, f"initializer {tensor.name}")
                self.scope.values[tensor.name] = constant(np.array(onnx.numpy_helper.to_array(tensor), order="C"))
            self.scope.values.update(zip((i.name for i in graph.input), arguments, strict=True))
            return self.run(graph.node, [o.name for o in graph.output])
        finally:
            self.emitter.place, self.emitter.operator, self.scope = place, operator, outer

    def run(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[Value]:
        """Convert nodes in the current scope; the values of ``outputs``."""
        for node in nodes:
            self._node(node)
        return [self._find(name) for name in outputs]

    def run_model(
        self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], unknown: UnsupportedOperatorError | None = None
    ) -> list[Value]:
        """Like ``run``, of the model itself.

        Args:
            unknown: the error of all its operators without a converter.

        Raises:
            UnsupportedOperatorError: of all nodes that cannot be converted; nodes that depend on them are not looked at.
        """
        errors = [] if unknown is None else [unknown]
        for node in nodes:
            try:
                self._node(node)
                continue
            except UnsupportedOperatorError as error:
                errors.append(error)
            except _DependentError:
                pass
            except StoredNeededError:
                raise  # the import begins again with them as constants
            except GensynError:
                if unknown is None:
                    raise
            if self._nodes > MAX_NODES:
                break
            self.scope.values.update(dict.fromkeys(filter(None, node.output), _FAILED))
        raise_all(errors)
        return [self._find(name) for name in outputs]

    def _node(self, node: onnx.NodeProto) -> None:
        """Convert a node in the current scope."""
        self._nodes += 1
        self.emitter.place, self.emitter.operator = place_of(node), node.op_type
        if self._nodes > MAX_NODES:
            raise self.emitter.refuse(f"more than {MAX_NODES} nodes in unrolled loops", expected="fewer iterations")
        results = self._results(node)
        keeps_none = node.op_type in _OPTIONAL_RESULTS
        for k, name in enumerate(node.output):
            value = results[k] if k < len(results) else _UNUSABLE
            if name:
                self.scope.values[name] = _UNUSABLE if value is None and not keeps_none else value
        if self._stateful(node):
            self.updates |= {node.input[3]: results[1], node.input[4]: results[2]}

    def _stateful(self, node: onnx.NodeProto) -> bool:
        """Whether the node normalises by running statistics that are states."""
        whole = self.scope.outer is None and node.op_type == "BatchNormalization"
        return whole and all(name in self.states for name in node.input[3:5])

    def _find(self, name: str) -> Value:
        if not name:
            return None
        try:
            value = self.scope.find(name)
        except KeyError:
            raise import_error(
                "a value that nothing defines",
                where=self.emitter.place,
                found=repr(name),
                expected="a graph input, an initializer or the output of a node",
                remedy="repair the model at this place, or export it again",
            ) from None
        if value is _FAILED:
            raise _DependentError(name)
        if value is _UNUSABLE:
            raise self.emitter.refuse(f"a use of {name!r}, an output that has no deterministic variant")
        return value

    # ---- one node

    def _results(self, node: onnx.NodeProto) -> list[Value]:
        e, schema = self.emitter, schema_of(node, self.scope.versions)
        inputs = [self._find(name) for name in node.input]
        kept: dict[int, Any] = {}
        if any(_is_tensor(x) and e.extents_of(x) for x in inputs) and node.op_type != "Identity":
            if node.op_type in _KEEPS_EXTENTS:
                kept = e.extents_of(inputs[0])
            else:
                inputs = [self._cut(x) for x in inputs]
        narrow = {} if node.op_type in _TAKES_NARROW else _narrow_types(schema, inputs)
        if narrow:
            inputs = [e.cast(x, "float32") if _is_tensor(x) and dtype_of(x) in NARROW_FLOATS else x for x in inputs]
        results = self._guarded(node, schema, inputs)
        if narrow:
            results = [self._narrowed(y, _type_name(schema, k), narrow) for k, y in enumerate(results)]
        for axis, extent in kept.items():
            e.set_extent(results[0], axis, extent)
        return results

    def _cut(self, value: Value) -> Value:
        """A value that has its extents, for operators that know nothing of them."""
        if not _is_tensor(value) or not self.emitter.extents_of(value):
            return value
        return constant(self.emitter.known(value, "the extents of its input"))

    def _narrowed(self, value: Value, type_name: str, narrow: Mapping[str, str]) -> Value:
        """A float32 result in the narrow dtype that its type parameter stands for, rounded once."""
        dtype = narrow.get(type_name)
        if dtype is None or not _is_tensor(value) or dtype_of(value) != "float32":
            return value
        result = self.emitter.cast(value, dtype)
        for axis, extent in self.emitter.extents_of(value).items():
            self.emitter.set_extent(result, axis, extent)
        return result

    def _guarded(self, node: onnx.NodeProto, schema: Any, inputs: list[Value]) -> list[Value]:
        try:
            return self._convert(node, schema, inputs)
        except (GensynError, RecursionError, MemoryError):
            raise
        except Exception as error:  # TVM's type inference raises many kinds
            raise import_error(
                f"cannot import {node.op_type!r}",
                where=place_of(node),
                found=f"{type(error).__name__}: {error}",
                expected="inputs and attributes that fit each other",
                remedy="compare the node with ONNX' specification of it; if it fits that, report it",
            ) from error

    def _convert(self, node: onnx.NodeProto, schema: Any, inputs: list[Value]) -> list[Value]:
        name = operator_name(node)
        if name not in CONVERTERS and not _has_body(schema):
            raise _DependentError(name)
        if name not in CONVERTERS:
            return self._expand(node, schema, inputs)
        attributes = Attributes({a.name: _attribute(a) for a in self._attributes(node)})
        versions = self.scope.versions
        attributes.opset = versions.get(domain_of(node), versions.get("ai.onnx", 1))
        attributes.outputs, attributes.stateful = len(node.output), self._stateful(node)
        if attributes.opset < 7 and attributes.get("broadcast"):
            raise self.emitter.refuse("broadcast=1", expected="opset 7 or newer", remedy="convert with onnx.version_converter")
        result = CONVERTERS[name](self.emitter, inputs, attributes)
        return result if isinstance(result, list) else [result]

    def _attributes(self, node: onnx.NodeProto) -> list[onnx.AttributeProto]:
        """A node's attributes, references to those of the function around it resolved."""
        found = []
        for attribute in node.attribute:
            given = attribute
            if attribute.ref_attr_name:
                if attribute.ref_attr_name not in self.scope.attributes:
                    continue
                given = onnx.AttributeProto()
                given.CopyFrom(self.scope.attributes[attribute.ref_attr_name])
                given.name = attribute.name
            found.append(given)
        return found

    # ---- functions

    def _expand(self, node: onnx.NodeProto, schema: Any, inputs: list[Value]) -> list[Value]:
        """The outputs of an operator that is defined by a function, which is converted in a scope of its own."""
        function = self._body(node, schema, inputs)
        place, operator, outer = self.emitter.place, self.emitter.operator, self.scope
        given = {a.name: a for a in self._attributes(node)}
        defaults = {n: a.default_value for n, a in schema.attributes.items() if a.default_value.name}
        defaults |= {a.name: a for a in function.attribute_proto}
        versions = {**outer.versions, **{o.domain: o.version for o in function.opset_import}}
        self.scope = Scope(versions, None, {**defaults, **given})
        missing = [None] * (len(function.input) - len(inputs))
        self.scope.values.update(zip(function.input, [*inputs, *missing], strict=False))
        try:
            return self.run(function.node, function.output[: len(node.output)])
        finally:
            self.emitter.place, self.emitter.operator, self.scope = place, operator, outer

    def _body(self, node: onnx.NodeProto, schema: Any, inputs: list[Value]) -> onnx.FunctionProto:
        versions = self.scope.versions
        version = versions.get(domain_of(node), 1)
        function = onnx.FunctionProto()
        if schema is not None and schema.has_function:
            function.CopyFrom(schema.function_body)
        elif schema is not None and schema.has_context_dependent_function:
            resolved = onnx.NodeProto()
            resolved.CopyFrom(node)
            del resolved.attribute[:]
            resolved.attribute.extend(self._attributes(node))
            types = [_type_proto(x).SerializeToString() for x in inputs]
            known = [v for v in schema.context_dependent_function_opset_versions if v <= versions.get("", version)]
            chosen = max(known, default=schema.since_version)
            body = schema.get_context_dependent_function_with_opset_version(chosen, resolved.SerializeToString(), types)
            function.ParseFromString(body)
        if not function.node:
            raise self.emitter.refuse("no converter, and no function body for these inputs")
        return function


def _is_tensor(value: Value) -> bool:
    return value is not None and not isinstance(value, list | _Unusable)


def _type_name(schema: Any, position: int, *, output: bool = True) -> str:
    """The type parameter of a formal output (or input), the last one standing for all further ones."""
    formal = [] if schema is None else list(schema.outputs if output else schema.inputs)
    return formal[min(position, len(formal) - 1)].type_str if formal else ""


def _narrow_types(schema: Any, inputs: Sequence[Value]) -> dict[str, str]:
    """Type parameters that stand for narrow floats."""
    found: dict[str, str] = {}
    for k, value in enumerate(inputs):
        if _is_tensor(value) and dtype_of(value) in NARROW_FLOATS:
            found.setdefault(_type_name(schema, k, output=False), dtype_of(value))
    return found


def _type_proto(value: Value) -> onnx.TypeProto:
    if isinstance(value, list):
        return onnx.helper.make_sequence_type_proto(_type_proto(value[0]) if value else onnx.TypeProto())
    if value is None:
        return onnx.TypeProto()
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(value)))
    return onnx.helper.make_tensor_type_proto(element, shape_of(value))


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        element_type(value.data_type, f"attribute {attribute.name}")
        return np.array(onnx.numpy_helper.to_array(value), order="C")
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode() for v in value]
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value
