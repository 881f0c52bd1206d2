"""TensorFlow models in: functions, modules and SavedModels, read from their graphs directly.

What becomes what:

* Trainable variables are named inputs under ``variable.name`` (without ``:0``; of equal names the second gets ``_1``), all
  others are states. A variable that the graph assigns to is a state with an update.
* Loops are unrolled, so their number of steps has to be known at import; branches on data are both computed.
* Shapes are static. Nothing is frozen, folded into weights or otherwise rewritten.
* No code of a file is run: a SavedModel whose loading would run more than lookup tables is refused (``tensorflow_files``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical.from_relax import raise_all
from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import GensynError, UnsupportedOperatorError, import_error
from gensyn_tvm.frontends.assemble import Imported, identifier, to_program
from gensyn_tvm.frontends.emit import constant, dtype_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.shapes import Shapes, input_name, no_such_dtype, static_shapes
from gensyn_tvm.frontends.tensorflow_files import load_saved_model
from gensyn_tvm.frontends.tensorflow_graph import GraphConverter, Handle, dtype_name, tf
from gensyn_tvm.frontends.tensorflow_operators import CONVERTERS
from gensyn_tvm.frontends.tensorflow_windows import COMPOSITES
from gensyn_tvm.program import Program


def from_tensorflow(
    source: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    signature: str | None = None,
    input_shapes: Shapes | None = None,
    train: bool | None = None,
) -> Program:
    """Import a TensorFlow model.

    Args:
        source: a ``tf.function``, a concrete function, a ``tf.Module`` that can be called, or the folder of a SavedModel.
        example_inputs: tensors, arrays or ``tf.TensorSpec`` of the inputs' shapes and dtypes; for what has no signature.
        signature: of a SavedModel or module with signatures; ``serving_default`` if left out.
        input_shapes: static shapes by input name, or in order, where the signature leaves extents open.
        train: passed to the model as ``training=``, unless None.

    Returns:
        The program; its parameters and states are copies.

    Raises:
        ImportModelError: a missing or damaged file, one whose loading would run code, an unknown signature, inputs that are no
            tensors or have no static shape.
        UnsupportedOperatorError: operators or dtypes without a deterministic variant; unknown operators all in one message.
    """
    origin, function, _owner = _callable(source, signature)  # functions hold their variables by weak references only
    concrete = _concrete(function, origin, example_inputs, input_shapes, train)
    return import_concrete(concrete, origin)


def named_variables(
    source: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    signature: str | None = None,
    input_shapes: Shapes | None = None,
    train: bool | None = None,
) -> tuple[list[tuple[str, Any]], Any]:
    """The variables of a model under the names that ``from_tensorflow`` gives them, and what keeps them alive.

    Arguments and errors as ``from_tensorflow``; of a SavedModel and a concrete function open shapes may stay open.
    """
    origin, function, owner = _callable(source, signature)
    if hasattr(function, "structured_input_signature"):
        return _names(function, ()), owner
    return _names(_concrete(function, origin, example_inputs, input_shapes, train), ()), owner


# ---- sources --------------------------------------------------------------------------------------------------------


def _callable(source: Any, signature: str | None) -> tuple[str, Any, Any]:
    """Origin, what can be called, and what keeps its variables alive."""
    if isinstance(source, str | Path):
        return _saved_model(Path(source), signature)
    if signature is not None:
        signatures = getattr(source, "signatures", None)
        return f"tensorflow:{type(source).__name__}", _signature(signatures or {}, signature, type(source).__name__), source
    if hasattr(source, "structured_input_signature") or hasattr(source, "get_concrete_function"):
        return f"tensorflow:{identifier(getattr(source, '__name__', 'function'))}", source, source
    if isinstance(source, tf.Module) and callable(source):
        return f"tensorflow:{type(source).__name__}", source, source
    raise import_error(
        "from_tensorflow cannot read this model",
        found=type(source).__name__,
        expected="a tf.function, a concrete function, a callable tf.Module or the folder of a SavedModel",
        remedy="wrap a Python function in tf.function; take from_keras for Keras files",
    )


def _saved_model(path: Path, signature: str | None) -> tuple[str, Any, Any]:
    loaded = load_saved_model(path)
    name = signature or "serving_default"
    return f"tensorflow:{path.name}", _signature(loaded.signatures, name, str(path)), loaded


def _signature(signatures: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in signatures:
        raise import_error(
            "from_tensorflow: unknown signature",
            where=where,
            found=repr(name),
            expected=", ".join(map(repr, signatures)) or "a model with signatures",
            remedy="name one of them, or save the model with signatures=",
        )
    return signatures[name]


# ---- tracing --------------------------------------------------------------------------------------------------------


def spec_of(value: Any, name: str | None = None) -> Any:
    """The ``tf.TensorSpec`` of an example input: a tensor, an array or a specification."""
    if isinstance(value, tf.TensorSpec):
        return tf.TensorSpec(value.shape, value.dtype, value.name or name)
    try:
        dtype = value.dtype if isinstance(value, np.ndarray | tf.Tensor | tf.Variable) else np.asarray(value).dtype
        return tf.TensorSpec(np.shape(value), tf.as_dtype(dtype), name)
    except TypeError as error:
        raise import_error(
            "from_tensorflow: an example input is no tensor",
            found=type(value).__name__,
            expected="a tensor or array",
            remedy="from_tensorflow(model, example_inputs=(tf.TensorSpec([32, 8]),))",
        ) from error


def _concrete(function: Any, origin: str, examples: Sequence[Any] | None, shapes: Shapes | None, train: bool | None) -> Any:
    """The concrete function for static shapes."""
    arguments: dict[str, Any] = {} if train is None else {"training": train}
    if examples is not None:
        names = _argument_names(function, len(examples))
        specs = [spec_of(v, name) for v, name in zip(examples, names, strict=True)]
        return trace(lambda *values: function(*values, **arguments), specs, origin)
    concrete = _of_signature(function, origin)
    positional, named = concrete.structured_input_signature
    if not all(isinstance(s, tf.TensorSpec) for s in [*positional, *named.values()]):
        raise import_error(
            f"{origin}: nested or non-tensor inputs",
            found=", ".join(type(s).__name__ for s in [*positional, *named.values()] if not isinstance(s, tf.TensorSpec)),
            expected="tensors",
            remedy="wrap the function so that it takes tensors",
        )
    specs = {s.name or f"input_{k}": s for k, s in enumerate(positional)} | named
    fixed = static_specs(specs, shapes, origin)
    if train is None and fixed == specs:
        return concrete
    wrapped = function if arguments else concrete
    count = len(positional)

    def call(*values: Any) -> Any:
        return wrapped(*values[:count], **dict(zip(named, values[count:], strict=True)), **arguments)

    return trace(call, list(fixed.values()), origin)


def _argument_names(function: Any, count: int) -> list[str]:
    """Names of the first arguments, ``input_<position>`` where there are none."""
    python = getattr(function, "python_function", function)
    try:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        found = [p.name for p in inspect.signature(python).parameters.values() if p.kind in kinds and p.name != "self"]
    except (TypeError, ValueError):
        found = []
    return [*found[:count], *(f"input_{k}" for k in range(len(found), count))]


def _of_signature(function: Any, origin: str) -> Any:
    """The only concrete function of something that can be called."""
    if hasattr(function, "structured_input_signature"):
        return function
    call: Any = function if hasattr(function, "get_concrete_function") else getattr(function, "__call__", None)  # noqa: B004
    try:
        return call.get_concrete_function()
    except (TypeError, ValueError, AttributeError) as error:
        raise import_error(
            f"{origin}: the inputs are unknown",
            found="no input signature",
            expected="a shape and a dtype of every input",
            remedy="from_tensorflow(model, example_inputs=(tf.TensorSpec([32, 8]),)), or tf.function(input_signature=…)",
        ) from error


def static_specs(specs: Mapping[str, Any], shapes: Shapes | None, origin: str) -> dict[str, Any]:
    """The specifications with the given shapes.

    Raises:
        ImportModelError: shapes for unknown inputs, shapes that do not fit, or extents that stay open.
    """
    declared = {name: spec.shape.as_list() if spec.shape.rank is not None else None for name, spec in specs.items()}
    fixed = static_shapes(declared, shapes, origin)
    return {name: tf.TensorSpec(fixed[name], spec.dtype, input_name(name)) for name, spec in specs.items()}


def trace(call: Callable[..., Any], specs: Sequence[Any], origin: str) -> Any:
    """The concrete function of a Python function."""
    for spec in specs:
        if dtype_name(spec.dtype) not in DTYPES:
            raise no_such_dtype(origin, spec.name or "", dtype_name(spec.dtype))
    try:
        return tf.function(call, autograph=False).get_concrete_function(*specs)
    except GensynError:
        raise
    except Exception as error:  # whatever the user's model raises
        kind, said = type(error).__name__, (str(error).strip().splitlines() or [""])[-1].strip()
        raise import_error(
            f"{origin}: the model cannot be traced",
            found=said if said.startswith(f"{kind}: ") else f"{kind}: {said}",
            expected="a function that tf.function(autograph=False) traces with inputs of these shapes and dtypes",
            remedy="call it with such tensors first; write branches and loops on tensors with tf.cond and tf.while_loop",
        ) from error


# ---- from the concrete function to a program ------------------------------------------------------------------------


def import_concrete(concrete: Any, origin: str, variables: Iterable[Any] = (), outputs: Sequence[str] | None = None) -> Program:
    """The program of a concrete function with static shapes.

    Args:
        variables: (name, ``tf.Variable``) in the wanted order; those that the function uses are taken.
        outputs: names of the outputs; by default ``output``, or ``output_<key>`` in structures.
    """
    graph = concrete.graph
    emitter = FoldingEmitter()
    converter = GraphConverter(emitter, CONVERTERS, COMPOSITES)
    converter.load(graph)
    names = _names(concrete, variables)
    captured = list(concrete.captured_inputs)
    free = list(graph.inputs)[: len(graph.inputs) - len(captured)]
    inputs = {}
    for tensor in free:
        if dtype_name(tensor.dtype) not in DTYPES or not tensor.shape.is_fully_defined():
            raise import_error(
                f"{origin}: input {tensor.op.name!r} cannot be an input",
                found=f"{dtype_name(tensor.dtype)}{tensor.shape}",
                expected="a static shape and a dtype of " + ", ".join(DTYPES),
                remedy="give input_shapes= or example_inputs=",
            )
        name = identifier(tensor.op.name)
        inputs[name] = emitter.declare(name, tensor.shape.as_list(), dtype_name(tensor.dtype), stored=False)
    arrays: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    stored = {}
    for name, variable in names:
        array = np.array(variable.numpy(), order="C", copy=True)
        if array.dtype.name not in DTYPES:
            raise import_error(
                f"{origin}: a variable of another dtype",
                where=f"variable {name!r}",
                found=array.dtype.name,
                expected=", ".join(DTYPES),
                remedy="store it in one of these dtypes",
            )
        arrays[0 if variable.trainable else 1][name] = array
        stored[name] = converter.values[name] = emitter.declare(name, array.shape, array.dtype.name, stored=True)
    handles = {id(variable.handle): Handle(name) for name, variable in names}
    values = [handles.get(id(t)) or _captured(emitter, t) for t in captured]
    try:
        results = converter.run(graph, [*inputs.values(), *values])
    except UnsupportedOperatorError as error:
        if error not in converter.errors:
            converter.errors.append(error)
    except Exception:
        # What stands for an operator that cannot be converted may be nothing that another can take.
        if not converter.errors:
            raise
    raise_all(converter.errors)
    updates = _updates(converter, arrays, origin)
    return to_program(
        Imported(
            bindings=emitter.bindings_with_constants(),
            inputs=inputs,
            parameters={name: stored[name] for name in arrays[0]},
            states={name: stored[name] for name in arrays[1]},
            outputs=dict(zip(outputs or _output_names(concrete, len(results)), results, strict=True)),
            updates=updates,
            parameter_values=arrays[0],
            state_values=arrays[1],
            origin=origin,
        )
    )


def _captured(emitter: FoldingEmitter, tensor: Any) -> Any:
    """A tensor that a function closes over is a constant; a resource that is no variable is refused where it is used."""
    if tensor.dtype in (tf.resource, tf.string, tf.variant):
        return None
    return emitter(constant(np.asarray(tensor.numpy())))


def _names(concrete: Any, variables: Iterable[Any]) -> list[tuple[str, Any]]:
    """The variables that a concrete function captures, with different names; by default in the order of their first use."""
    used = {id(v.handle): v for v in concrete.variables}
    captured = [id(t) for t in concrete.captured_inputs]
    chosen = [(name, v) for name, v in variables if id(v.handle) in captured]
    known = {id(v.handle) for _, v in chosen}
    rest = [used[key] for key in captured if key in used and key not in known]
    chosen += [(v.name.removesuffix(":0"), v) for v in rest]
    taken: dict[str, int] = {}
    named = []
    for name, variable in chosen:
        name = identifier(name)
        count = taken.get(name, 0)
        taken[name] = count + 1
        named.append((f"{name}_{count}" if count else name, variable))
    return named


def _updates(converter: GraphConverter, arrays: tuple[Mapping[str, Any], Mapping[str, Any]], origin: str) -> dict[str, Any]:
    trained = sorted(converter.assigned & set(arrays[0]))
    if trained:
        raise import_error(
            f"{origin}: the model assigns to trainable variables",
            found=", ".join(trained),
            expected="assignments to variables with trainable=False only",
            remedy="import the model without its optimizer, and train with gensyn_tvm.training_step",
        )
    updates = {}
    for name in arrays[1]:
        if name in converter.assigned:
            value, old = converter.values[name], arrays[1][name]
            if (shape_of(value), dtype_of(value)) != (list(old.shape), old.dtype.name):
                raise import_error(
                    f"{origin}: an assignment changes a variable's type",
                    where=f"variable {name!r}",
                    found=f"{dtype_of(value)}{tuple(shape_of(value))}",
                    expected=f"{old.dtype}{old.shape}",
                    remedy="assign tensors of the variable's dtype and shape",
                )
            updates[name] = value
    return updates


def _output_names(concrete: Any, count: int) -> list[str]:
    """``output``, or ``output_<key>_<position>…`` in dicts and tuples."""
    names = [identifier("_".join(["output", *path])) for path in _paths(concrete.structured_outputs)]
    return names if len(names) == count else [f"output_{k}" for k in range(count)]


def _paths(structure: Any) -> list[list[str]]:
    if structure is None:
        return []
    if isinstance(structure, Mapping):
        return [[str(k), *path] for k in sorted(structure) for path in _paths(structure[k])]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return [[k, *path] for k in structure._fields for path in _paths(getattr(structure, k))]
    if isinstance(structure, list | tuple):
        return [[str(k), *path] for k, value in enumerate(structure) for path in _paths(value)]
    return [[]]
