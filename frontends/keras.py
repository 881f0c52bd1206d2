"""Keras 3 models in, whatever backend Keras runs on.

On TensorFlow a model is traced to a graph (``keras_tensorflow``), on PyTorch exported (``keras_torch``); on any other backend
it is saved and read by a child process on one of these two (``keras_child``).

What becomes what:

* Variables are named by ``variable.path`` (``block/dense/kernel``) in the order of ``model.variables``; trainable ones are
  parameters, the others states. Variables that the model does not use are left out.
* With ``train=True``, BatchNormalization and the Dropout layers become operators that behave as in training or as in
  inference depending on what is built; a BatchNormalization that is not trainable is frozen, as in Keras.
* A file runs no code: a file with lambdas or with classes from outside of Keras is refused unless ``trusted=True``.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import import_error
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.frontends.shapes import Shapes, input_name, no_such_dtype, static_shapes
from gensyn_tvm.program import Program

try:
    import keras
except ImportError as error:
    raise ImportError("from_keras needs Keras: pip install 'gensyn_tvm[keras]'") from error

_SAVE_AGAIN = "save it again with model.save, or copy it again"
#: Shape and dtype of every input by name.
Inputs = dict[str, tuple[tuple[int, ...], str]]


def from_keras(
    model: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    input_shapes: Shapes | None = None,
    batch_size: int | None = None,
    train: bool = True,
    trusted: bool = False,
) -> Program:
    """Import a Keras model.

    Args:
        model: a model, or the path of a ``.keras`` or ``.h5`` file.
        example_inputs: tensors, arrays or ``tf.TensorSpec`` of the inputs, for models that do not know their inputs.
        input_shapes: static shapes with the batch axis, by input name or in order.
        batch_size: the extent of every batch axis, where ``input_shapes`` is not given.
        train: import layers as they are in training (see above), or all of them as in inference.
        trusted: run the code in a file: lambdas, classes from other packages.

    Returns:
        The program; its parameters and states are copies.

    Raises:
        ImportModelError: a missing, damaged or untrusted file, inputs that are no tensors or have no static shape, a model that
            cannot be traced, or on another backend than TensorFlow and PyTorch one that its file does not describe.
        UnsupportedOperatorError: operators without a deterministic variant, all of them in one message.
    """
    if isinstance(model, str | Path):
        model = load_file(Path(model), trusted)
    if not isinstance(model, keras.Model):
        raise import_error(
            "from_keras cannot read this model",
            found=type(model).__name__,
            expected="a keras.Model, or the path of a .keras or .h5 file",
            remedy="take from_torch, from_tensorflow or from_onnx for models of others",
        )
    origin = f"keras:{model.name}"
    inputs = _inputs(model, example_inputs, input_shapes, batch_size, origin)
    backend, structured = keras.backend.backend(), example_inputs is None
    if backend in ("tensorflow", "torch"):
        return trace_model(model, inputs, [v.path for v in model.variables], structured=structured, train=train)
    _check_described(model, origin, backend, trusted)
    from gensyn_tvm.frontends.keras_child import import_in_child

    return import_in_child(model, inputs, structured=structured, train=train, trusted=trusted)


def trace_model(model: Any, inputs: Inputs, names: Sequence[str], *, structured: bool, train: bool) -> Program:
    """The program of a model on one of the backends tensorflow and torch; errors as ``from_keras``.

    Args:
        names: of ``model.variables``.
        structured: whether the model takes its inputs in the structure that it was made with, and not as a list.
    """
    from gensyn_tvm.frontends.keras_layers import refuse_lookups, without_idle_draws

    structure = getattr(model, "_inputs_struct", None) if structured else None
    refuse_lookups(model)

    def call(*values: Any) -> Any:
        given: Any = values[0] if len(values) == 1 else values
        if structure is not None:
            given = keras.tree.pack_sequence_as(structure, list(values))
        return model(given, training=train)

    if keras.backend.backend() == "tensorflow":
        from gensyn_tvm.frontends.keras_tensorflow import import_call
    else:
        from gensyn_tvm.frontends.keras_torch import import_call
    with contextlib.nullcontext() if train else without_idle_draws(model):
        return import_call(model, call, inputs, [identifier(name) for name in names], train, f"keras:{model.name}")


def _check_described(model: Any, origin: str, backend: str, trusted: bool) -> None:
    """Refuse a model that its configuration does not describe, where it has to be built again from that."""
    try:
        found = sorted(set(_code(json.loads(model.to_json()))))
    except (TypeError, ValueError, NotImplementedError) as error:
        found = [str(error).strip().split("\n")[0]]
    if found and not trusted:
        raise import_error(
            f"{origin}: on the backend {backend} only models of Keras' own layers can be read",
            found=", ".join(found),
            expected="a Sequential or functional model whose layers are Keras'",
            remedy="set KERAS_BACKEND to torch or tensorflow before Keras is imported",
        )


def _inputs(model: Any, examples: Sequence[Any] | None, shapes: Shapes | None, batch: int | None, origin: str) -> Inputs:
    """What a model is traced with."""
    if examples is not None:
        tensors = [(getattr(v, "name", None) if type(v).__name__ == "TensorSpec" else None, v) for v in examples]
        specs = {name or f"input_{k}": _type_of(v, k, origin) for k, (name, v) in enumerate(tensors)}
    else:
        known = keras.tree.flatten(getattr(model, "inputs", None) or [])
        specs = {t.name: (tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in known}
    if not specs:
        raise import_error(
            f"{origin}: the inputs are unknown",
            found="a model without Input",
            expected="a shape and a dtype of every input",
            remedy="from_keras(model, example_inputs=(array, …)), or begin the model with keras.Input",
        )
    if shapes is None and batch is not None and examples is None:
        opened = {name: (batch, *shape[1:]) for name, (shape, _) in specs.items()}
        fixed = static_shapes(opened, None, origin)
    else:
        fixed = static_shapes({name: shape for name, (shape, _) in specs.items()}, shapes, origin)
    for name, (_, dtype) in specs.items():
        if dtype not in DTYPES:
            raise no_such_dtype(origin, name, dtype)
    return {input_name(name): (fixed[name], dtype) for name, (_, dtype) in specs.items()}


def _type_of(value: Any, position: int, origin: str) -> tuple[tuple[int | None, ...], str]:
    """Shape and dtype of an example input."""
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    try:
        return tuple(value.shape), keras.backend.standardize_dtype(value.dtype)
    except (TypeError, ValueError) as error:
        found = f"{type(value).__name__} of dtype {value.dtype}"
        raise import_error(
            f"{origin}: example input {position} is no tensor",
            found=found,
            expected="a tensor or array",
            remedy="from_keras(model, example_inputs=(np.zeros((32, 8), np.float32),))",
        ) from error


# ---- files ----------------------------------------------------------------------------------------------------------


def load_file(path: Path, trusted: bool = False) -> Any:
    """The model in a ``.keras`` or ``.h5`` file; ``trusted`` and the errors as in ``from_keras``."""
    if not path.is_file():
        raise import_error(
            "from_keras: no such file",
            where=str(path),
            found="no file of this name",
            expected="a .keras or .h5 file",
            remedy="check the path; folders of model.export() are read by from_tensorflow",
        )
    try:
        config = _config(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise import_error(
            "from_keras: the file is damaged",
            where=str(path),
            found=str(error),
            expected="what model.save wrote",
            remedy=_SAVE_AGAIN,
        ) from error
    code = sorted(set(_code(config)))
    if code and not trusted:
        raise import_error(
            "from_keras: the file asks for code to be run",
            where=str(path),
            found=", ".join(code),
            expected="layers of Keras only",
            remedy="pass trusted=True if you trust the file, or the model itself instead of its file",
        )
    try:
        return keras.models.load_model(str(path), safe_mode=not trusted)
    except Exception as error:  # Keras raises anything
        raise import_error(
            "from_keras: Keras cannot load the file",
            where=str(path),
            found=str(error).strip().split("\n")[0],
            expected="a file that keras.models.load_model of this Keras reads",
            remedy=_SAVE_AGAIN,
        ) from error


def _config(path: Path) -> Any:
    """The architecture in a file, as JSON."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        return [json.loads(file.attrs[key]) for key in ("model_config", "training_config") if key in file.attrs]


#: Parts of Keras whose classes a model consists of; its other classes and functions read and write files, or do worse.
_PARTS = frozenset(
    {"activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models", "ops"}
    | {"optimizers", "random", "regularizers"}
)
#: Parts of Keras whose functions take and give tensors.
_FUNCTIONS = frozenset(["activations", "initializers", "losses", "metrics", "ops"])
#: Classes that run code, or that read what their configuration names.
_RUNNERS = frozenset(["Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"])
_READERS = frozenset(["StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"])


def _code(config: Any) -> Iterator[str]:
    """What a configuration names that is code: lambdas, classes and functions that are no part of a model of Keras'."""
    if isinstance(config, Mapping):
        kind, module = str(config.get("class_name", "")), config.get("module")
        if kind in _RUNNERS or (kind in _READERS and _names_file(config.get("config"))):
            yield kind
        elif isinstance(module, str) and not _harmless(module, kind):
            yield f"{module}.{config.get('config') if kind == 'function' else kind}"
        elif module is None and config.get("registered_name"):  # a class of the user's own, registered or of __main__
            yield str(config["registered_name"])
        for value in config.values():
            yield from _code(value)
    elif isinstance(config, list):
        for value in config:
            yield from _code(value)


def _names_file(config: Any) -> bool:
    return isinstance(config, Mapping) and isinstance(config.get("vocabulary"), str)


def _harmless(module: str, kind: str) -> bool:
    """Whether a class (or with the kind ``function`` a function) is of a part of Keras that models consist of."""
    package, *parts = [part for part in module.split(".") if part != "src"]
    if package == "builtins":
        return True  # Keras then looks among activations, losses, metrics and the like only
    if package != "keras":
        return False
    if not parts:
        return kind in ("Sequential", "Model", "Functional", "DTypePolicy", "KerasTensor")
    return parts[0] in (_FUNCTIONS if kind == "function" else _PARTS)
