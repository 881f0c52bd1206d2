"""ONNX models in, over TVM's importer, with parameters and running statistics as named inputs.

What becomes what:

* Float initializers with at least one axis are trainable parameters under their ONNX names, in the file's order. The running
  mean and variance of a BatchNormalization are states, which training updates. Scalars, integers and whatever an operator needs
  as a constant stay constants. ``trainable`` names the parameters explicitly; other float initializers are then fixed states.
* Exporters merge initializers of equal value. Running statistics that several BatchNormalization nodes share are separated
  (``name@node``); parameters that several nodes share stay one parameter, with a warning.
* BatchNormalization and Dropout (with its ratio, also where the file has them in inference mode) train when the program trains.
* A binding's place is the ONNX node's name, or operator and first output if it has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tvm
from onnx.reference import ReferenceEvaluator
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from gensyn_tvm.errors import GensynError, ImportModelError, UnsupportedOperatorError, describe
from gensyn_tvm.frontends.assemble import Imported, identifier, to_program
from gensyn_tvm.frontends.emit import Emitter, constant, constant_of
from gensyn_tvm.frontends.onnx_converters import Attributes
from gensyn_tvm.frontends.onnx_operators import CONSTANT_INPUTS, CONVERTERS, FOLDED
from gensyn_tvm.frontends.onnx_reader import DOMAINS, element_type, fix_shapes, initialisers, onnx, opset, read
from gensyn_tvm.program import Program

#: How a model's output is made of the program's: the name of one of them, a list for a sequence, None for an empty optional.
Layout: TypeAlias = "str | list[Layout] | None"


@dataclass(frozen=True)
class OnnxModel:
    """An imported model whose inputs and outputs need not be tensors.

    Attributes:
        program: its inputs and outputs are the tensors in the model's.
        outputs: each output of the model by name, as its parts are called in the program.
    """

    program: Program
    outputs: Mapping[str, Layout]


class ValuesNeededError(ImportModelError):
    """Shapes or attributes depend on the values of graph inputs.

    Attributes:
        inputs: the names of these inputs; ``values=`` fixes them.
    """

    def __init__(self, message: str, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        super().__init__(message)


def leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The tensors in an input with their names in the program: ``name``, or ``name.0``, ``name.1`` … in a sequence."""
    if isinstance(value, list):
        return [leaf for k, item in enumerate(value) for leaf in leaves(f"{name}.{k}", item)]
    return [] if value is None else [(name, value)]


def from_onnx(
    model: str | Path | onnx.ModelProto,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    trainable: Collection[str] | None = None,
) -> Program:
    """Import an ONNX model.

    Args:
        model: path of an ``.onnx`` file, or a ModelProto.
        shapes: static shapes of inputs by name; needed for those that are dynamic in the file.
        trainable: names of the initializers that are parameters; by default see this module's text.

    Returns:
        The program; its arrays are copies of the model's.

    Raises:
        ImportModelError: not a valid ONNX model, shapes that are unknown or do not fit, unknown names.
        UnsupportedOperatorError: operators or dtypes without a deterministic variant, all operators in one message.
    """
    return import_model(model, shapes=shapes, trainable=trainable).program


def import_model(
    model: str | Path | onnx.ModelProto,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    values: Mapping[str, Any] | None = None,
    trainable: Collection[str] | None = None,
) -> OnnxModel:
    """Like ``from_onnx``, also for models with sequences and optionals."""
    proto, origin = read(model)
    _check_operators(proto)
    arrays = initialisers(proto)
    input_shapes = fix_shapes(proto, shapes, origin)
    _separate_statistics(proto.graph, arrays)
    parameters, states = _roles(proto.graph, arrays, trainable, origin)
    importer = _Importer(arrays, {*parameters, *states}, input_shapes, opset(proto))
    importer.run(proto.graph)
    variables = importer.variables
    program = to_program(
        Imported(
            bindings=importer.bindings,
            inputs={name: importer.value(name) for name in input_shapes},
            parameters={name: variables[name] for name in parameters},
            states={name: variables[name] for name in states},
            outputs={o.name: importer.value(o.name) for o in proto.graph.output},
            updates={name: importer.updates[name] for name in states if name in importer.updates},
            parameter_values={name: arrays[name] for name in parameters},
            state_values={name: arrays[name] for name in states},
            origin=origin,
        )
    )
    return OnnxModel(program, {name: name for name in program.outputs})


def _place(node: Any) -> str:
    return identifier(node.name or f"{node.op_type}:{node.output[0] if node.output else ''}")


def _check_operators(proto: onnx.ModelProto) -> None:
    """Refuse every node that has no converter, all in one error."""
    unknown: dict[str, list[str]] = {}
    for node in proto.graph.node:
        name = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
        if name not in CONVERTERS and name not in FOLDED:
            unknown.setdefault(name, []).append(_place(node))
    if unknown:
        raise UnsupportedOperatorError(
            ", ".join(unknown),
            where="; ".join(f"{', '.join(places)} ({name})" for name, places in unknown.items()),
            expected="the operators in docs/operators.md",
            remedy="export the model with supported operators",
        )


# ---- parameters and states ------------------------------------------------------------------------------------------


def _sources(graph: onnx.GraphProto) -> dict[str, str]:
    """Outputs of Identity nodes → what they stand for."""
    sources: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity":
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
    return sources


def _separate_statistics(graph: onnx.GraphProto, arrays: dict[str, np.ndarray]) -> None:
    """Give every BatchNormalization node running statistics of its own."""
    sources, owned = _sources(graph), set()
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            continue
        for position in (3, 4):
            name = sources.get(node.input[position], node.input[position])
            if name not in arrays:
                continue
            if name in owned:
                name = f"{name}@{_place(node)}"
                arrays[name] = arrays[sources.get(node.input[position], node.input[position])].copy()
            owned.add(name)
            node.input[position] = name


def _roles(
    graph: onnx.GraphProto, arrays: Mapping[str, np.ndarray], trainable: Collection[str] | None, origin: str
) -> tuple[list[str], list[str]]:
    """Names of the initializers that are parameters and states; the others are constants."""
    sources = _sources(graph)
    users: dict[str, list[str]] = {}
    statistics, fixed = set(), set()
    for node in graph.node:
        for position, given in enumerate(node.input):
            name = sources.get(given, given)
            if name not in arrays or node.op_type == "Identity":
                continue
            users.setdefault(name, []).append(_place(node))
            if node.op_type == "BatchNormalization" and position in (3, 4):
                statistics.add(name)
            elif position in CONSTANT_INPUTS.get(node.op_type, ()):
                fixed.add(name)
    floats = [n for n, a in arrays.items() if a.dtype.kind == "f" and n in users and n not in statistics and n not in fixed]
    if trainable is None:
        parameters = [n for n in floats if arrays[n].ndim > 0 and arrays[n].size > 0]
        frozen: list[str] = []
    else:
        wrong = sorted(set(trainable) - set(floats))
        if wrong:
            raise ImportModelError(
                describe(f"{origin}: trainable names what cannot train", found=", ".join(wrong), expected=", ".join(floats))
            )
        parameters = [n for n in floats if n in trainable]
        frozen = [n for n in floats if n not in trainable and arrays[n].ndim > 0]
    for name in parameters:
        if len(users[name]) > 1:
            warnings.warn(f"{origin}: parameter {name!r} is shared by {', '.join(users[name])} and trains as one", stacklevel=3)
    return parameters, [n for n in arrays if n in statistics or n in frozen]


# ---- conversion -----------------------------------------------------------------------------------------------------


class _Importer(ONNXGraphImporter):
    """TVM's importer with our converters; TVM's own fold constants with the host's arithmetic and have errors."""

    def __init__(
        self, arrays: Mapping[str, np.ndarray], named: Collection[str], shapes: Mapping[str, Any], version: int
    ) -> None:
        super().__init__({n: list(s) for n, s in shapes.items()}, {}, keep_params_in_input=True, sanitize=False)
        self.arrays = arrays
        self.named = named
        self.version = version
        self.emitter = Emitter(self.bb)
        self.variables: dict[str, Any] = {}
        self.updates: dict[str, Any] = {}
        self.bindings: list[Any] = []

    def run(self, graph: onnx.GraphProto) -> None:
        """Convert the graph; afterwards ``bindings``, ``variables``, ``updates`` and ``value`` hold the result."""
        stored = {t.name for t in graph.initializer}
        real = [i for i in graph.input if i.name not in stored]
        del graph.input[:]
        graph.input.extend(real)
        module = self.from_onnx(graph, self.version)
        self.bindings = [b for block in module["main"].body.blocks for b in block.bindings]

    def value(self, name: str) -> Any:
        """The expression of a value of the graph."""
        return self._nodes[name]

    def _parse_graph_initializers(self, graph: Any) -> None:
        for name, array in self.arrays.items():
            if name in self.named:
                variable = relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
                self.variables[name] = self._nodes[name] = variable
                self._params[name] = (variable, tvm.runtime.tensor(array))
            else:
                self._nodes[name] = constant(array)

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        """Done in ``_check_operators``, for the whole model and with places."""

    def _construct_nodes(self, graph: Any) -> None:
        for node in graph.node:
            self.emitter.place, self.emitter.operator = _place(node), node.op_type
            inputs = [self._input(name) for name in node.input]
            results = self._fold(node, inputs)
            if results is None:
                results = self._convert(node, inputs)
            for name, result in zip(node.output, results, strict=False):
                self._nodes[name] = result
            if self._stateful(node):
                self.updates |= {node.input[3]: results[1], node.input[4]: results[2]}
        for output in graph.output:
            self._input(output.name)

    def _stateful(self, node: Any) -> bool:
        """Whether the node normalises by running statistics that are states."""
        return node.op_type == "BatchNormalization" and all(name in self.variables for name in node.input[3:5])

    def _input(self, name: str) -> Any:
        if name and self._nodes[name] is None:
            raise self.emitter.refuse(f"a use of {name!r}, an output that has no deterministic variant")
        return self._nodes[name] if name else None

    def _convert(self, node: Any, inputs: list[Any]) -> list[Any]:
        if node.op_type not in CONVERTERS:
            raise self.emitter.refuse("inputs that are computed or given at run time", expected="constant inputs")
        attributes = Attributes({a.name: _attribute(a) for a in node.attribute})
        attributes.opset, attributes.outputs, attributes.stateful = self.version, len(node.output), self._stateful(node)
        try:
            result = CONVERTERS[node.op_type](self.emitter, inputs, attributes)
        except GensynError:
            raise
        except Exception as error:  # TVM's type inference raises many kinds
            raise ImportModelError(
                describe(f"cannot import {node.op_type!r}", where=_place(node), found=f"{type(error).__name__}: {error}")
            ) from error
        return result if isinstance(result, list) else [result]

    def _fold(self, node: Any, inputs: list[Any]) -> list[Any] | None:
        """The outputs if the node computes shapes: integers or bools from constant integers or bools."""
        given = {name: constant_of(x) for name, x in zip(node.input, inputs, strict=True) if x is not None}
        arrays = {name: a for name, a in given.items() if a is not None and a.dtype.kind in "iub"}
        if node.op_type not in FOLDED or not arrays or len(arrays) < len(given):
            return None
        infos = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in arrays.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = onnx.helper.make_graph([node], "fold", infos, outputs)
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self.version)])
        results = [np.asarray(r) for r in ReferenceEvaluator(proto).run(None, arrays)]
        return [constant(r) for r in results] if all(r.dtype.kind in "iub" for r in results) else None


def _attribute(attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        element_type(value.data_type, f"attribute {attribute.name}")
        return np.array(onnx.numpy_helper.to_array(value), order="C")
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value
