"""Computing at once what depends on constants only, with the arithmetic that the compiled program would use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.numpy_helper

from gensyn_tvm import interpreter
from gensyn_tvm.errors import GensynError
from gensyn_tvm.frontends.onnx_passes.integers import OPERATORS, as_numbers, of_array
from gensyn_tvm.frontends.onnx_passes.walk import copy_of, is_default, subgraphs
from gensyn_tvm.frontends.onnx_reader import guarded
from gensyn_tvm.frontends.onnx_structure import tensor_bytes

#: Bytes of the largest folded tensor, unless its inputs are larger together.
LIMIT = 1 << 20
#: Elements of the largest tensor that computing one of them may take.
_WORK = 1 << 24

#: Operators with an outcome that training or a generator of random numbers decides.
_OPEN = (
    *("BatchNormalization", "Bernoulli", "Dropout", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)


def fold_constants(model: onnx.ModelProto, *, limit: int = LIMIT, training: bool = False) -> onnx.ModelProto:
    """Replace nodes whose inputs are all constant by what they compute.

    The outcome is computed by the interpreter of canonical graphs on what ``from_onnx`` makes of the node, and has the bits
    that the compiled program would have computed. Nodes that cannot be imported stay. Shape and Size are folded too where
    the shape is known: apply ``infer_shapes`` first.

    What depends on an initializer becomes an initializer; what depends on none becomes a Constant, which never trains.

    Args:
        model: a valid model; it is not changed. Local functions are left as they are: inline them first.
        limit: bytes of the largest folded tensor, unless the node's inputs are larger together.
        training: whether float initializers with axes are parameters, and so not constant.
    """
    result = copy_of(model)
    folder = _Folder(result, limit, training)
    folder.graph(result.graph, _Scope(), top=True)
    return result


@dataclass
class _Scope:
    """Constants by name, those of them that come from initializers, and types."""

    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    shapes: dict[str, list[int]] = field(default_factory=dict)

    def inner(self) -> _Scope:
        return _Scope(dict(self.constants), set(self.stored), dict(self.shapes))


class _Folder:
    def __init__(self, model: onnx.ModelProto, limit: int, training: bool) -> None:
        self.model = model
        self.limit = limit
        self.training = training

    def graph(self, graph: onnx.GraphProto, scope: _Scope, *, top: bool = False) -> None:
        inputs = {i.name for i in graph.input}
        for info in (*graph.input, *graph.value_info):
            shape = _static_shape(info)
            if shape is not None:
                scope.shapes[info.name] = shape
        for tensor in graph.initializer:
            scope.shapes[tensor.name] = list(tensor.dims)
            # From version 4 of the representation, an initializer that is also an input is a default value.
            if (tensor.name not in inputs or self.model.ir_version < 4) and not self._trains(tensor):
                scope.constants[tensor.name] = tensor
                scope.stored.add(tensor.name)
        # Before version 4 every initializer has to be an input, which the model would then have more of.
        embed = {o.name for o in graph.output} | (inputs if self.model.ir_version < 4 else set())
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for inner in subgraphs(node):
                self.graph(inner, scope.inner())
            folded = self._fold(node, scope)
            if folded is None:
                nodes.append(node)
                tensor = _constant(node) if is_default(node, "Constant") else None
                if tensor is not None:
                    scope.constants[tensor.name], scope.shapes[tensor.name] = tensor, list(tensor.dims)
                continue
            from_stored = any(name in scope.stored for name in node.input)
            for tensor in folded:
                scope.constants[tensor.name] = tensor
                scope.shapes[tensor.name] = list(tensor.dims)
                if from_stored:
                    scope.stored.add(tensor.name)
                if from_stored and tensor.name not in embed and self.model.ir_version >= 4:
                    graph.initializer.append(tensor)
                else:
                    name = node.name if len(folded) == 1 else ""
                    nodes.append(onnx.helper.make_node("Constant", [], [tensor.name], name=name, value=_named(tensor, "")))
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _trains(self, tensor: onnx.TensorProto) -> bool:
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return self.training and tensor.data_type in floats and len(tensor.dims) > 0

    # ---- one node

    def _fold(self, node: onnx.NodeProto, scope: _Scope) -> list[onnx.TensorProto] | None:
        """The tensors that replace a node; None if it stays."""
        if not is_default(node, node.op_type) or node.op_type in ("Constant", *_OPEN) or any(subgraphs(node)):
            return None
        if is_default(node, "Shape", "Size") and node.input[0] not in scope.constants:
            return _shape(node, scope)
        given = {name: scope.constants.get(name) for name in node.input if name}
        constants = {name: tensor for name, tensor in given.items() if tensor is not None}
        if len(constants) < len(given) or not constants:
            return None
        try:
            with guarded("fold"):
                arrays = _divided(node, constants) or self._compute(node, constants)
        except GensynError:
            return None
        if arrays is None:
            return None
        return [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]

    def _compute(self, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, np.ndarray] | None:
        """What a node computes, by our interpreter; None if that is too large."""
        from gensyn_tvm.frontends.onnx import from_onnx
        from gensyn_tvm.training.step import inference_graph

        names = [name for name in node.output if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        tensors = [_named(tensor, name) for name, tensor in constants.items()]
        graph = onnx.helper.make_graph([copy], "fold", [], outputs, tensors)
        opsets = [onnx.helper.make_opsetid(o.domain, o.version) for o in self.model.opset_import]
        single = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(self.model.ir_version, 4))
        # The checker wants a type for every output, but only for its kind: the types are what is computed.
        for info in single.graph.output:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            info.type.tensor_type.shape.SetInParent()
        program = from_onnx(single, trainable=())
        canonical = inference_graph(program)
        given = sum(tensor_bytes(t, name, "fold") for name, t in constants.items())
        types = canonical.value_types()
        results = sum(types[o.value].size * types[o.value].numpy_dtype().itemsize for o in canonical.outputs)
        if results > max(self.limit, given) or any(t.size > _WORK for t in types):
            return None
        arrays = {**program.parameters, **program.states}
        computed = interpreter.run(canonical, {i.name: arrays[i.name] for i in canonical.inputs})
        return dict(zip(names, computed, strict=True))


def _divided(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, np.ndarray] | None:
    """Quotients and remainders of shapes, which programs have no operator for; None for anything else."""
    if node.op_type not in ("Div", "Mod") or any(t.data_type != onnx.TensorProto.INT64 for t in constants.values()):
        return None
    given = [of_array(np.asarray(onnx.numpy_helper.to_array(constants[name]))) for name in node.input]
    result = OPERATORS[node.op_type](given, {})
    numbers = as_numbers(result)
    if result is None or numbers is None:
        return None
    return {node.output[0]: np.array(numbers, dtype=np.int64).reshape(result.shape)}


def _shape(node: onnx.NodeProto, scope: _Scope) -> list[onnx.TensorProto] | None:
    shape = scope.shapes.get(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [onnx.numpy_helper.from_array(np.array(math.prod(shape), dtype=np.int64), node.output[0])]
    bounds = {a.name: a.i for a in node.attribute}
    dims = np.array(shape[bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)
    return [onnx.numpy_helper.from_array(dims, node.output[0])]


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for strings and sparse tensors."""
    name, attribute = node.output[0], node.attribute[0]
    if attribute.name == "value":
        return _named(attribute.t, name)
    dtypes = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in dtypes:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    return onnx.numpy_helper.from_array(np.array(value, dtype=dtypes[attribute.name]), name)


def _static_shape(info: onnx.ValueInfoProto) -> list[int] | None:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return [d.dim_value for d in tensor.shape.dim]


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    result = onnx.TensorProto()
    result.CopyFrom(tensor)
    result.name = name
    return result
