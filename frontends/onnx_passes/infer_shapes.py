"""Shapes of all values, from those of the inputs and from what the model computes with shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference

from gensyn_tvm.frontends.onnx_passes.integers import LIMIT, OPERATORS, Known, as_numbers, known, of_array
from gensyn_tvm.frontends.onnx_passes.walk import copy_of, is_default, subgraphs
from gensyn_tvm.frontends.onnx_reader import guarded

#: Rounds of ONNX's inference and ours; each round carries shapes past at least one operator that stopped the one before.
_ROUNDS = 16

#: An extent: a number, the name of an open dimension, or None.
Dims = list[Any]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the types and shapes of values into the model's graphs (``value_info``), as far as they can be known.

    ONNX's own inference with data propagation does most. Where it stops, integer tensors are followed further (arithmetic on
    shapes, also on those with open dimensions) to the operators that take a shape: Reshape, Expand, ConstantOfShape, Tile,
    Range, Resize.

    Args:
        model: a valid model; it is not changed.

    Raises:
        ImportModelError: the model contradicts itself.
    """
    result = copy_of(model)
    for _ in range(_ROUNDS):
        with guarded(f"onnx:{model.graph.name}", "shapes cannot be inferred"):
            result = onnx.shape_inference.infer_shapes(result, check_type=True, data_prop=True)
        if not _extend(result.graph, _Known()):
            break
    return result


@dataclass
class _Known:
    """What is known of values in the scope: integers of some, types of some."""

    integers: dict[str, Known] = field(default_factory=dict)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)

    def dims(self, name: str) -> Dims | None:
        """The extents of a value; None if not even the rank is known."""
        type_ = self.types.get(name)
        if type_ is None or not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
            return None
        return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in type_.tensor_type.shape.dim]


def _extend(graph: onnx.GraphProto, outer: _Known) -> bool:
    """Add what follows from known integers; whether there was anything to add."""
    scope = _Known(dict(outer.integers), dict(outer.types))
    infos = {info.name: info for part in (graph.input, graph.value_info, graph.output) for info in part}
    scope.types.update({name: info.type for name, info in infos.items()})
    for tensor in graph.initializer:
        scope.types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        scope.integers[tensor.name] = _constant(tensor)
    changed = False
    for node in graph.node:
        for inner in subgraphs(node):
            changed |= _extend(inner, scope)
        value, dims = _evaluate(node, scope)
        if value is not None:
            scope.integers[node.output[0]] = value
        if dims is not None and node.output[0] in infos:
            changed |= _fill(infos[node.output[0]].type.tensor_type, dims)
    return changed


def _constant(tensor: onnx.TensorProto) -> Known:
    followed = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    if tensor.data_type not in followed or math.prod(tensor.dims) > LIMIT:
        return None
    return of_array(np.asarray(onnx.numpy_helper.to_array(tensor)))


def _fill(tensor: onnx.TypeProto.Tensor, dims: Dims) -> bool:
    """Write extents where the model has none; whether there were any."""
    if not tensor.elem_type or any(isinstance(d, int) and d < 0 for d in dims):
        return False
    if not tensor.HasField("shape"):
        tensor.shape.SetInParent()
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in dims)
        changed = True
    elif len(tensor.shape.dim) != len(dims):
        return False
    else:
        changed = False
    for place, extent in zip(tensor.shape.dim, dims, strict=True):
        if isinstance(extent, int) and not place.HasField("dim_value"):
            place.dim_value, changed = extent, True
        elif isinstance(extent, str) and not place.HasField("dim_value") and not place.dim_param:
            place.dim_param, changed = extent, True
    return changed


def _evaluate(node: onnx.NodeProto, scope: _Known) -> tuple[Known, Dims | None]:
    """The integers of a node's first output, and its extents, as far as they follow from integers."""
    if not node.output or not is_default(node, node.op_type):
        return None, None
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    inputs = [scope.integers.get(name) for name in node.input]
    # What is no rule's business (axes outside the rank, shapes that do not fit) is reported by ONNX's inference.
    try:
        value = _integers(node, inputs, attributes, scope)
        dims = _SHAPES[node.op_type](node, inputs, scope, attributes) if node.op_type in _SHAPES else None
    except (ValueError, IndexError, TypeError, OverflowError):
        return None, None
    return (value if value is not None and value.size <= LIMIT else None), dims


def _integers(node: onnx.NodeProto, inputs: list[Known], attributes: dict[str, Any], scope: _Known) -> Known:
    if node.op_type == "Constant":
        if "value" in attributes:
            return _constant(attributes["value"])
        given = attributes.get("value_ints", attributes.get("value_int"))
        return None if given is None else known(given)
    if node.op_type in ("Shape", "Size"):
        dims = scope.dims(node.input[0])
        if dims is None or node.op_type == "Shape":
            return None if dims is None else known(dims[attributes.get("start", 0) : attributes.get("end")])
        numbers = as_numbers(known(dims))
        if numbers is None:
            return None
        count: int = math.prod(numbers)
        return known(count)
    if node.op_type == "Cast":
        return inputs[0] if attributes.get("to") in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) else None
    rule = OPERATORS.get(node.op_type)
    return None if rule is None or not inputs else rule(inputs, attributes)


# ---- operators that take a shape ------------------------------------------------------------------------------------


def _reshape(node: onnx.NodeProto, x: list[Known], scope: _Known, a: Mapping[str, Any]) -> Dims | None:
    source, target = scope.dims(node.input[0]), x[1]
    if target is None:
        return None
    dims = list(target)
    for k, extent in enumerate(dims):
        if extent == 0 and not a.get("allowzero"):
            dims[k] = source[k] if source is not None else None
    if -1 not in dims:
        return dims
    place = dims.index(-1)
    rest = dims[:place] + dims[place + 1 :]
    total = None if source is None else as_numbers(known(source))
    others = as_numbers(known(rest))
    if total is not None and others is not None and 0 not in others:
        dims[place] = math.prod(total) // math.prod(others)
    else:
        dims[place] = _single(source, rest)
    return dims


def _single(source: Dims | None, rest: Dims) -> str | None:
    """The open dimension that a -1 stands for, if all others are the same on both sides."""
    left = list(source or [])
    for extent in rest:
        if extent in left and extent is not None:
            left.remove(extent)
        elif extent != 1:
            return None
    names = [d for d in left if d != 1]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


def _expand(node: onnx.NodeProto, x: list[Known], scope: _Known, a: Mapping[str, Any]) -> Dims | None:
    source = scope.dims(node.input[0])
    if source is None or x[1] is None:
        return None
    rank = max(len(source), len(x[1]))
    pairs = zip([1] * (rank - len(source)) + source, [1] * (rank - len(x[1])) + list(x[1]), strict=True)
    return [b if d == 1 else d if b in (1, d) or isinstance(d, int) else None for d, b in pairs]


def _given(position: int) -> Callable[..., Dims | None]:
    def dims(node: onnx.NodeProto, x: list[Known], scope: _Known, a: Mapping[str, Any]) -> Dims | None:
        shape = x[position] if len(x) > position else None
        return None if shape is None or "axes" in a else list(shape)

    return dims


def _tile(node: onnx.NodeProto, x: list[Known], scope: _Known, a: Mapping[str, Any]) -> Dims | None:
    source = scope.dims(node.input[0])
    result = None if source is None else OPERATORS["Mul"]([known(source), x[1]], {})
    return None if result is None else list(result)


def _range(node: onnx.NodeProto, x: list[Known], scope: _Known, a: Mapping[str, Any]) -> Dims | None:
    bounds = [as_numbers(v) for v in x]
    if any(b is None or len(b) != 1 for b in bounds):
        return None
    start, limit, step = (b[0] for b in bounds if b is not None)
    return [len(range(start, limit, step))] if step else None


_SHAPES: dict[str, Callable[..., Dims | None]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _given(0),
    "Resize": _given(3),
    "Tile": _tile,
    "Range": _range,
}
