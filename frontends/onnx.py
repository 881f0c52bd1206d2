"""ONNX models in, with parameters and running statistics as named inputs.

What becomes what:

* Float initializers with at least one axis are trainable parameters under their ONNX names, in the file's order. The running
  mean and variance of a BatchNormalization are states, which training updates. Scalars, integers and whatever an operator needs
  as a constant stay constants. ``trainable`` names the parameters explicitly; other float initializers are then fixed states.
* Exporters merge initializers of equal value. Running statistics that several BatchNormalization nodes share are separated
  (``name@node``); parameters that several nodes share stay one parameter, with a warning.
* BatchNormalization and Dropout (with its ratio, also where the file has them in inference mode) train when the program trains.
* Programs are static. What determines a shape or an attribute has to be known at import: it may be computed, but only from
  constants, shapes, and inputs whose values are given (``values``). Loops are unrolled, sequences and optionals taken apart.
* A binding's place is the ONNX node's name, or operator and first output if it has none.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gensyn_tvm.errors import ImportModelError, UnsupportedOperatorError, import_error
from gensyn_tvm.frontends.assemble import Imported, to_program
from gensyn_tvm.frontends.emit import constant
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter, StoredNeededError, ValuesNeededError
from gensyn_tvm.frontends.onnx_graph import GraphConverter, place_of, unknown_operators
from gensyn_tvm.frontends.onnx_operators import CONSTANT_INPUTS
from gensyn_tvm.frontends.onnx_reader import DOMAINS, element_type, fix_shapes, guarded, initialisers, onnx, read
from gensyn_tvm.program import Program

__all__ = ["Layout", "OnnxModel", "ValuesNeededError", "from_onnx", "import_model", "leaves"]

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


def leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The tensors in an input with their names in the program: ``name``, or ``name.0``, ``name.1`` … in a sequence."""
    if isinstance(value, list):
        return [leaf for k, item in enumerate(value) for leaf in leaves(f"{name}.{k}", item)]
    return [] if value is None else [(name, value)]


def from_onnx(
    model: str | Path | onnx.ModelProto,
    *,
    shapes: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    trainable: Collection[str] | None = None,
) -> Program:
    """Import an ONNX model.

    Args:
        model: path of an ``.onnx`` file, or a ModelProto.
        shapes: static shapes of inputs by name; needed for those that are dynamic in the file. A sequence has a list of shapes,
            an optional a shape or None; their tensors are the program's inputs ``name.0``, ``name.1`` … and ``name``.
        values: arrays of inputs that are fixed at import: they become constants and are no inputs of the program.
        trainable: names of the initializers that are parameters; by default see this module's text.

    Returns:
        The program; its arrays are copies of the model's.

    Raises:
        ValuesNeededError: shapes or attributes depend on inputs without ``values``; it names them.
        ImportModelError: not a valid ONNX model, shapes or values that are unknown or do not fit, unknown names.
        UnsupportedOperatorError: operators or dtypes without a deterministic variant, all operators in one message.
    """
    return import_model(model, shapes=shapes, values=values, trainable=trainable).program


def import_model(
    model: str | Path | onnx.ModelProto,
    *,
    shapes: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    trainable: Collection[str] | None = None,
) -> OnnxModel:
    """``from_onnx``, with what is needed to run models whose outputs are no tensors."""
    proto, origin = read(model)
    with guarded(origin):
        versions = {"" if o.domain in DOMAINS else o.domain: o.version for o in proto.opset_import}
        unknown = unknown_operators(proto.graph, versions)
        with _unless(unknown):
            arrays = initialisers(proto)
            types = _input_types(proto.graph)
            bound, structures = _special_inputs(types, shapes or {}, values or {}, origin)
            others = [i for i in proto.graph.input if i.name not in bound and i.name not in structures]
            del proto.graph.input[:]
            proto.graph.input.extend(others)
            tensor_shapes = fix_shapes(proto, {n: s for n, s in (shapes or {}).items() if n not in structures}, origin)
            given = {n: structures[n] if n in structures else tensor_shapes[n] for n in types if n not in bound}
            separate_statistics(proto.graph, arrays)
            constants: set[str] = set()
            while True:
                roles = _roles(proto.graph, arrays, trainable, origin, constants)
                try:
                    return _import(
                        proto.graph,
                        versions,
                        arrays,
                        roles,
                        bound,
                        {n: (types[n], s) for n, s in given.items()},
                        origin,
                        unknown,
                    )
                except StoredNeededError as error:
                    if set(error.names) <= constants | set(trainable or ()):
                        raise
                    constants.update(error.names)


@contextlib.contextmanager
def _unless(unknown: UnsupportedOperatorError | None) -> Iterator[None]:
    """Operators without a converter are named first, whatever else is wrong with a model."""
    try:
        yield
    except ImportModelError:
        if unknown is None:
            raise
        raise unknown from None


def _import(
    graph: onnx.GraphProto,
    versions: Mapping[str, int],
    arrays: Mapping[str, np.ndarray],
    roles: tuple[list[str], list[str]],
    bound: Mapping[str, Any],
    given: Mapping[str, tuple[onnx.TypeProto, Any]],
    origin: str,
    unknown: UnsupportedOperatorError | None,
) -> OnnxModel:
    emitter = OnnxEmitter()
    parameters, states = roles
    stored = {n: emitter.declare(n, arrays[n].shape, arrays[n].dtype.name, stored=True) for n in (*parameters, *states)}
    converter = GraphConverter(emitter, versions, {n: stored[n] for n in states})
    converter.scope.values.update({n: stored[n] if n in stored else constant(a) for n, a in arrays.items()})
    inputs = {name: _declared(emitter, name, type_, shape) for name, (type_, shape) in given.items()}
    converter.scope.values.update({**inputs, **bound})
    results = converter.run_model(graph.node, [o.name for o in graph.output], unknown)
    outputs: dict[str, Any] = {}
    layouts = {o.name: _layout(o.name, value, outputs) for o, value in zip(graph.output, results, strict=True)}
    extents = {(k, a): x for k, y in enumerate(outputs.values()) for a, x in emitter.extents_of(y).items()}
    program = to_program(
        Imported(
            bindings=emitter.bindings,
            inputs={name: leaf for given, value in inputs.items() for name, leaf in leaves(given, value)},
            parameters={name: stored[name] for name in parameters},
            states={name: stored[name] for name in states},
            outputs=outputs,
            updates={name: converter.updates[name] for name in states if name in converter.updates},
            extents=extents,
            parameter_values={name: arrays[name] for name in parameters},
            state_values={name: arrays[name] for name in states},
            origin=origin,
        )
    )
    return OnnxModel(program, layouts)


def _layout(name: str, value: Any, outputs: dict[str, Any]) -> Layout:
    """The layout of an output, its tensors added to ``outputs``."""
    if isinstance(value, list):
        return [_layout(f"{name}.{k}", item, outputs) for k, item in enumerate(value)]
    if value is None:
        return None
    outputs[name] = value
    return name


# ---- inputs ---------------------------------------------------------------------------------------------------------


def _input_types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Types of the inputs that are no initializers."""
    stored = {t.name for t in graph.initializer}
    types = {}
    for info in graph.input:
        if info.name not in stored:
            types[info.name] = onnx.TypeProto()
            types[info.name].CopyFrom(info.type)
    return types


def _special_inputs(
    types: Mapping[str, onnx.TypeProto], shapes: Mapping[str, Any], values: Mapping[str, Any], origin: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs that are fixed, as constants, and the shapes of those that are no tensors."""
    for name in values:
        if name not in types:
            message = f"{origin}: values names an unknown input"
            remedy = "correct the name in values="
            raise import_error(message, found=name, expected=", ".join(types) or "no inputs", remedy=remedy)
    bound = {name: _bound(name, types[name], value, origin) for name, value in values.items()}
    structures = {}
    for name, type_ in types.items():
        if name in bound or type_.HasField("tensor_type"):
            continue
        if name not in shapes:
            remedy = f"from_onnx(model, shapes={{{name!r}: …}}): a list of shapes for a sequence, None for an empty optional"
            message, found = f"{origin}: input {name!r} is no tensor", str(type_.WhichOneof("value"))
            raise import_error(message, found=found, expected="its structure", remedy=remedy)
        structures[name] = shapes[name]
    return bound, structures


def _element(type_: onnx.TypeProto) -> onnx.TypeProto | None:
    """The type of what is in a sequence or optional, None for anything else."""
    for kind in ("sequence_type", "optional_type"):
        if type_.HasField(kind):
            element: onnx.TypeProto = getattr(type_, kind).elem_type
            return element
    return None


def _bound(name: str, type_: onnx.TypeProto, value: Any, origin: str) -> Any:
    """A value that is fixed, as constants."""
    element = _element(type_)
    if value is None and type_.HasField("optional_type"):
        return None
    if isinstance(value, list) and type_.HasField("sequence_type"):
        return [_bound(f"{name}.{k}", element, item, origin) for k, item in enumerate(value)]
    if element is not None:
        return _bound(name, element, value, origin)
    array = np.asarray(value)
    wanted = element_type(type_.tensor_type.elem_type, f"input {name}")
    dims = type_.tensor_type.shape.dim if type_.tensor_type.HasField("shape") else None
    fits = dims is None or (
        len(dims) == array.ndim
        and all(not d.HasField("dim_value") or d.dim_value == n for d, n in zip(dims, array.shape, strict=True))
    )
    if array.dtype.name != wanted or not fits:
        shown = "any shape" if dims is None else str(tuple(d.dim_value if d.HasField("dim_value") else "?" for d in dims))
        message, found = f"{origin}: values does not fit input {name!r}", f"{array.dtype.name}{array.shape}"
        remedy = f"from_onnx(model, values={{{name!r}: …}}) with an array that fits"
        raise import_error(message, found=found, expected=f"{wanted} of {shown}", remedy=remedy)
    return constant(np.array(array, order="C"))


def _declared(emitter: OnnxEmitter, name: str, type_: onnx.TypeProto, shape: Any) -> Any:
    """The variables of an input."""
    element = _element(type_)
    if shape is None and type_.HasField("optional_type"):
        return None
    if isinstance(shape, list) and type_.HasField("sequence_type"):
        return [_declared(emitter, f"{name}.{k}", element, item) for k, item in enumerate(shape)]
    if element is not None:
        return _declared(emitter, name, element, shape)
    return emitter.declare(name, shape, element_type(type_.tensor_type.elem_type, f"input {name}"), stored=False)


# ---- parameters and states ------------------------------------------------------------------------------------------


def _sources(graph: onnx.GraphProto) -> dict[str, str]:
    """Outputs of Identity nodes → what they stand for."""
    sources: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity":
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
    return sources


def separate_statistics(graph: onnx.GraphProto, arrays: dict[str, np.ndarray]) -> None:
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
                name = f"{name}@{place_of(node)}"
                arrays[name] = arrays[sources.get(node.input[position], node.input[position])].copy()
            owned.add(name)
            node.input[position] = name


def _roles(
    graph: onnx.GraphProto,
    arrays: Mapping[str, np.ndarray],
    trainable: Collection[str] | None,
    origin: str,
    constants: Collection[str],
) -> tuple[list[str], list[str]]:
    """Names of the initializers that are parameters and states; the others, and ``constants``, are constants."""
    sources = _sources(graph)
    users: dict[str, list[str]] = {}
    statistics, fixed = set(), set(constants)
    for node in graph.node:
        for position, given in enumerate(node.input):
            name = sources.get(given, given)
            if name not in arrays or node.op_type == "Identity":
                continue
            users.setdefault(name, []).append(place_of(node))
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
            raise import_error(
                f"{origin}: trainable names what cannot train",
                found=", ".join(wrong),
                expected=f"some of {', '.join(floats)}" if floats else "none, as no float initializer is used",
                remedy="correct the names in trainable=, or leave it out for all of them",
            )
        parameters = [n for n in floats if n in trainable]
        frozen = [n for n in floats if n not in trainable and arrays[n].ndim > 0]
    for name in parameters:
        if len(users[name]) > 1:
            warnings.warn(f"{origin}: parameter {name!r} is shared by {', '.join(users[name])} and trains as one", stacklevel=4)
    return parameters, [n for n in arrays if (n in statistics and n not in constants) or n in frozen]
