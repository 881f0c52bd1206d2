"""Weights to and from TensorFlow: variables, folders of SavedModels, checkpoints of ``tf.train.Checkpoint``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.frontends.shapes import Shapes
from gensyn_tvm.frontends.tensorflow import named_variables
from gensyn_tvm.frontends.tensorflow_graph import dtype_name, tf
from gensyn_tvm.weights.fit import Type, by_name, check_fit

#: The entry of a checkpoint that says which variable is stored under which key.
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


def to_tensorflow(
    target: Any,
    arrays: Mapping[str, np.ndarray],
    example_inputs: Sequence[Any] | None = None,
    *,
    signature: str | None = None,
    input_shapes: Shapes | None = None,
) -> tuple[str, ...]:
    """Write arrays into TensorFlow variables; all are checked before the first is written.

    Args:
        target: variables, which are found by ``variable.name``; or what ``from_tensorflow`` was given, together with its other
            arguments: then variables of equal names are told apart as there.
        arrays: by the names of ``from_tensorflow``.

    Returns:
        The names of variables that no array goes to; they stay as they are.

    Raises:
        InputError: arrays without a variable, other shapes or dtypes, variables that share a name; all of them are named.
        ImportModelError: as ``from_tensorflow``.
    """
    named, _owner = _named(target, example_inputs, signature, input_shapes)
    return _assign(by_name(named, what="the variables share names"), arrays)


def _assign(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str = "") -> tuple[str, ...]:
    places: dict[str, Type] = {n: (tuple(v.shape), dtype_name(v.dtype)) for n, v in variables.items()}
    what = "the weights do not fit the TensorFlow variables"
    check_fit(arrays, places, what=what, where=where, may_lack=places)
    for name, array in arrays.items():
        variables[name].assign(array)
    return tuple(name for name in variables if name not in arrays)


def weights_of_tensorflow(
    source: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    signature: str | None = None,
    input_shapes: Shapes | None = None,
) -> dict[str, np.ndarray]:
    """Copies of variables, under the names of ``from_tensorflow``; arguments and errors as ``to_tensorflow``."""
    named, _owner = _named(source, example_inputs, signature, input_shapes)
    variables = by_name(named, what="the variables share names")
    return {name: np.array(v.numpy(), order="C", copy=True) for name, v in variables.items()}


def _named(source: Any, examples: Any, signature: str | None, shapes: Shapes | None) -> tuple[list[tuple[str, Any]], Any]:
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [(identifier(v.name.removesuffix(":0")), v) for v in source], None
    return named_variables(source, examples, signature=signature, input_shapes=shapes)


# ---- files ----------------------------------------------------------------------------------------------------------


def write_saved_model(folder: Path, arrays: Mapping[str, np.ndarray], signature: str | None) -> tuple[str, ...]:
    """Write arrays into the variables of a SavedModel on disk; its graphs stay. Results and errors as ``to_tensorflow``."""
    named, loaded = named_variables(str(folder), signature=signature)
    untouched = _assign(by_name(named, what=f"the variables of {folder} share names"), arrays, str(folder))
    # The keys in the file follow from the object's graph, by which the loader finds them again.
    tf.train.Checkpoint(root=loaded).write(str(folder / "variables" / "variables"))
    return untouched


def checkpoint_keys(prefix: str) -> dict[str, str]:
    """Names of variables with their keys, for a checkpoint that ``tf.train.Checkpoint`` wrote.

    Raises:
        InputError: no such checkpoint, one without names, variables that share a name.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2 as objects

    try:
        reader = tf.train.load_checkpoint(prefix)
        graph = objects.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS))
    except Exception as error:  # TensorFlow raises errors of many kinds
        found = str(error).strip().split("\n")[0]
        expected = "a checkpoint of tf.train.Checkpoint (path without .index)"
        raise InputError(
            describe("a TensorFlow checkpoint cannot be read", where=prefix, found=found, expected=expected)
        ) from error
    entries = [a for node in graph.nodes for a in node.attributes if a.full_name]
    return by_name(
        ((identifier(a.full_name), a.checkpoint_key) for a in entries), what=f"the variables of {prefix} share names"
    )


def read_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Arrays of a checkpoint by the names of its variables; errors as ``checkpoint_keys``."""
    keys = checkpoint_keys(prefix)
    reader = tf.train.load_checkpoint(prefix)
    return {name: np.array(reader.get_tensor(key), order="C", copy=True) for name, key in keys.items()}


def write_checkpoint(template: str, prefix: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Write a checkpoint with the entries of another one, the arrays in place of the variables of their names.

    Returns:
        The names of variables that no array goes to.

    Raises:
        InputError: as ``to_tensorflow`` and ``checkpoint_keys``.
    """
    keys = checkpoint_keys(template)
    reader = tf.train.load_checkpoint(template)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    places: dict[str, Type] = {n: (tuple(shapes[k]), dtype_name(dtypes[k])) for n, k in keys.items()}
    check_fit(arrays, places, what="the weights do not fit the checkpoint", where=template, may_lack=places)
    new = {keys[name]: array for name, array in arrays.items()}
    stored = sorted(shapes)
    tensors = [tf.constant(new[key]) if key in new else reader.get_tensor(key) for key in stored]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=stored, shape_and_slices=[""] * len(stored), tensors=tensors)
    return tuple(name for name in keys if name not in arrays)
