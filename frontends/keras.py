"""Keras 3 models in. With Keras' backend tensorflow they are traced and read by the TensorFlow frontend.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gensyn_tvm.errors import ImportModelError, describe
from gensyn_tvm.frontends.tensorflow import Shapes, import_concrete, spec_of, static_specs, trace
from gensyn_tvm.frontends.tensorflow_graph import COMPOSITE, tf
from gensyn_tvm.program import Program

try:
    import keras
except ImportError as error:
    raise ImportError("from_keras needs Keras: pip install 'gensyn_tvm[keras]'") from error


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
        ImportModelError: another backend than tensorflow, a missing, damaged or untrusted file, inputs without static shape.
        UnsupportedOperatorError: operators without a deterministic variant, all of them in one message.
    """
    if keras.backend.backend() != "tensorflow":
        raise ImportModelError(
            describe(
                "from_keras needs Keras to run on TensorFlow",
                found=f"backend {keras.backend.backend()}",
                expected="KERAS_BACKEND=tensorflow before Keras is imported",
                remedy="save the model as .keras, which any backend reads, and import the file under tensorflow",
            )
        )
    if isinstance(model, str | Path):
        model = load_file(Path(model), trusted)
    if not isinstance(model, keras.Model):
        raise ImportModelError(
            describe("from_keras cannot read this model", found=type(model).__name__, expected="a keras.Model or a file")
        )
    origin = f"keras:{model.name}"
    specs = _specs(model, example_inputs, input_shapes, batch_size, origin)
    structure = getattr(model, "_inputs_struct", None) if example_inputs is None else None

    def call(*values: Any) -> Any:
        inputs = tf.nest.pack_sequence_as(structure, values) if structure is not None else values
        if structure is None and len(values) == 1:
            (inputs,) = values
        return model(inputs, training=train)

    with _replaced_layers(model) if train else contextlib.nullcontext():
        concrete = trace(call, specs, origin)
    return import_concrete(concrete, origin, [(v.path, v.value) for v in model.variables])


def _specs(model: Any, examples: Sequence[Any] | None, shapes: Shapes | None, batch: int | None, origin: str) -> list[Any]:
    if examples is not None:
        return [spec_of(v, f"input_{k}") for k, v in enumerate(examples)]
    tensors = tf.nest.flatten(getattr(model, "inputs", None) or [])
    if not tensors:
        raise ImportModelError(
            describe(f"{origin}: the inputs are unknown", found="a model without Input", expected="example_inputs=(array, …)")
        )
    specs = {t.name: tf.TensorSpec(t.shape, t.dtype, t.name) for t in tensors}
    if shapes is None and batch is not None:
        shapes = {name: [batch, *spec.shape[1:]] for name, spec in specs.items()}
    return list(static_specs(specs, shapes, origin).values())


# ---- files ----------------------------------------------------------------------------------------------------------


def load_file(path: Path, trusted: bool = False) -> Any:
    """The model in a ``.keras`` or ``.h5`` file; ``trusted`` and the errors as in ``from_keras``."""
    if not path.is_file():
        raise ImportModelError(describe("from_keras: no such file", where=str(path), expected="a .keras or .h5 file"))
    try:
        config = _config(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ImportModelError(describe("from_keras: the file is damaged", where=str(path), found=str(error))) from error
    code = sorted(set(_code(config)))
    if code and not trusted:
        raise ImportModelError(
            describe(
                "from_keras: the file asks for code to be run",
                where=str(path),
                found=", ".join(code),
                expected="layers of Keras only",
                remedy="pass trusted=True if you trust the file, or the model itself instead of its file",
            )
        )
    try:
        return keras.models.load_model(str(path), safe_mode=not trusted)
    except Exception as error:  # Keras raises anything
        raise ImportModelError(
            describe("from_keras: Keras cannot load the file", where=str(path), found=str(error).strip().split("\n")[0])
        ) from error


def _config(path: Path) -> Any:
    """The architecture in a file, as JSON."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        return [json.loads(file.attrs[key]) for key in ("model_config", "training_config") if key in file.attrs]


def _code(config: Any) -> Iterator[str]:
    """What a configuration names that is code: lambdas, and classes and functions of other packages."""
    if isinstance(config, Mapping):
        kind, module = str(config.get("class_name", "")), config.get("module")
        if kind in ("Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"):
            yield kind
        elif isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins"):
            yield f"{module}.{kind}"
        elif module is None and config.get("registered_name") and ">" in str(config["registered_name"]):
            yield str(config["registered_name"])
        for value in config.values():
            yield from _code(value)
    elif isinstance(config, list):
        for value in config:
            yield from _code(value)


# ---- layers that differ in training ----------------------------------------------------------------------------------


def _composite(text: str, body: Callable[..., Any]) -> Any:
    """A function whose calls the importer reads as an operator of ours; ``body`` says the results' types only."""
    return tf.function(body, experimental_implements=COMPOSITE + text, autograph=False)


def _batch_norm(layer: Any) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None:
            raise ImportModelError(f"BatchNormalization {layer.path!r} with a mask; expected none")
        frozen = not (training and layer.trainable)
        axis = layer.axis % len(inputs.shape)
        text = f"batch_norm {axis} {layer.epsilon!r} {1.0 - layer.momentum!r} {int(frozen)}"
        mean, variance = layer.moving_mean.value, layer.moving_variance.value
        gamma = layer.gamma.value if layer.scale else tf.ones_like(mean)
        beta = layer.beta.value if layer.center else tf.zeros_like(mean)
        marker = _composite(text, lambda x, g, b, m, v: (x + 0, m + 0, v + 0))
        y, new_mean, new_variance = marker(inputs, gamma, beta, tf.convert_to_tensor(mean), tf.convert_to_tensor(variance))
        if not frozen:
            layer.moving_mean.assign(new_mean)
            layer.moving_variance.assign(new_variance)
        return y

    return call


def _dropout(layer: Any) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None) -> Any:
        if not training or layer.rate == 0:
            return inputs
        shape = layer._get_noise_shape(inputs) if hasattr(layer, "_get_noise_shape") else layer.noise_shape
        shared = [k for k, extent in enumerate(shape or ()) if extent == 1]
        return _composite(" ".join(["dropout", repr(float(layer.rate)), *map(str, shared)]), lambda x: x + 0)(inputs)

    return call


@contextlib.contextmanager
def _replaced_layers(model: Any) -> Iterator[None]:
    """Layers that differ between training and inference, calling operators of ours while the model is traced."""
    kinds = {keras.layers.BatchNormalization: _batch_norm, keras.layers.Dropout: _dropout}
    kinds |= {getattr(keras.layers, f"SpatialDropout{n}D"): _dropout for n in (1, 2, 3)}
    changed = [layer for layer in model._flatten_layers() if type(layer) in kinds]
    for layer in changed:
        object.__setattr__(layer, "call", kinds[type(layer)](layer))
    try:
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")
