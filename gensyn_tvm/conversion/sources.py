"""What the user names → which framework reads it, and what is refused before any framework is imported."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.commands import NoBatchError, call_function, names_function
from gensyn_tvm.conversion.options import BACKENDS, FRAMEWORKS
from gensyn_tvm.errors import ImportModelError, describe

_EXTENSIONS = {".onnx": "onnx", ".pt2": "torch", ".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".tflite": "tflite"}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
_NO_MODELS = {
    ".safetensors": "the arrays of a model without the model; name module:callable that builds it and loads them",
    ".pb": "name the folder of the SavedModel, not its saved_model.pb",
    ".gtvm": "it is converted already; gensyn-tvm compile adds machine code for further targets",
}
#: First part of the module of a class → framework; a Keras model is also a torch or tf module, so Keras is asked first.
_PACKAGES = {"keras": "keras", "tensorflow": "tensorflow", "torch": "torch", "onnx": "onnx"}


@dataclass(frozen=True)
class Request:
    """A model and how it is to be imported.

    Attributes:
        model: a file, the folder of a SavedModel, or ``module:callable`` or ``file.py:callable``, whose code is run.
        framework: one of ``options.FRAMEWORKS``; found from the name or the object if None.
        shapes: static shapes of inputs by name.
        dtypes: dtypes of inputs by name: of those that a callable leaves open; others are compared with the model's.
        values: arrays of ONNX inputs that become constants.
        batch: extent of an open first dimension; a callable gets it if it takes an argument.
        signature: of a SavedModel.
        train: layers behave as in training when the program trains.
        backend: that Keras runs on, one of ``options.BACKENDS``; by default what ``KERAS_BACKEND`` says, else the first of them
            that is installed.
    """

    model: str
    framework: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    batch: int | None = None
    signature: str | None = None
    train: bool = False
    backend: str | None = None


@dataclass(frozen=True)
class Found:
    """A model as its framework's importer takes it.

    Attributes:
        framework: one of ``options.FRAMEWORKS``.
        path: of the file or folder; None if a callable made the model.
        model: what the callable returned, without example inputs.
        examples: the example inputs that came with it.
        batched: whether the callable got the batch size.
    """

    framework: str
    path: Path | None = None
    model: Any = None
    examples: tuple[Any, ...] | None = None
    batched: bool = False


def find(request: Request) -> Found:
    """The model that a request names.

    Raises:
        ImportModelError: no such file or callable, a file that no framework reads safely, another framework than asked for.
    """
    if request.framework not in (None, *FRAMEWORKS):
        raise ImportModelError(
            describe("unknown framework", found=str(request.framework), expected=f"one of {', '.join(FRAMEWORKS)}")
        )
    _choose_backend(request.backend)
    found = _from_callable(request) if names_function(request.model) else _from_path(Path(request.model))
    if request.framework not in (None, found.framework):
        raise ImportModelError(
            describe(
                "the model is of another framework",
                where=request.model,
                found=found.framework,
                expected=str(request.framework),
                remedy="leave --framework out",
            )
        )
    return found


def _choose_backend(backend: str | None) -> None:
    """Tell Keras what to run on, before anything imports it; what is imported already is looked at by ``check_backend``."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    if backend is not None and backend not in installed:
        expected = f"one of those installed: {', '.join(installed) or 'none'}"
        raise ImportModelError(describe(f"Keras cannot run on {backend} here", found="no such package", expected=expected))
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend
    elif installed:
        os.environ.setdefault("KERAS_BACKEND", installed[0])


def check_backend(request: Request, found: Found) -> None:
    """Refuse a backend for something else than Keras, and one that Keras does not run on.

    Raises:
        ImportModelError: one of these.
    """
    if request.backend is None:
        return
    if found.framework != "keras":
        raise ImportModelError(describe("--backend is for Keras models", found=f"a model of {found.framework}"))
    import keras

    if keras.backend.backend() != request.backend:
        raise ImportModelError(
            describe(
                "Keras runs on another backend already",
                found=keras.backend.backend(),
                expected=request.backend,
                remedy="ask for it in a process that has not imported Keras, and set no KERAS_BACKEND in the code of the model",
            )
        )


def _from_path(path: Path) -> Found:
    suffix = path.suffix.lower()
    if not path.exists():
        remedy = "check the path; models in Python are named module:callable or file.py:callable"
        raise ImportModelError(describe("no such model", where=str(path), found="no such file", remedy=remedy))
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            expected = "the folder of a SavedModel"
            raise ImportModelError(describe("not a model", where=str(path), found="no saved_model.pb", expected=expected))
        return Found("tensorflow", path)
    if suffix in _PICKLES:
        raise ImportModelError(
            describe(
                "a pickled PyTorch file is not opened, because that can run any code in it",
                where=str(path),
                expected="a .pt2 file of torch.export.save",
                remedy="save torch.export.export(model.eval(), example_inputs) with torch.export.save, or name "
                "module:callable that builds the model and loads the file",
            )
        )
    if suffix not in _EXTENSIONS:
        raise ImportModelError(
            describe(
                "this is not a model that can be converted",
                where=str(path),
                found=_NO_MODELS.get(suffix, f"unknown extension {suffix!r}"),
                expected=f"{', '.join(_EXTENSIONS)}, the folder of a SavedModel, or module:callable",
            )
        )
    return Found(_EXTENSIONS[suffix], path)


def _from_callable(request: Request) -> Found:
    try:
        made, batched = call_function(request.model, request.batch), request.batch is not None
    except NoBatchError:
        made, batched = call_function(request.model), False
    model, examples = made, None
    if isinstance(made, tuple) and len(made) == 2:
        model = made[0]
        examples = tuple(made[1]) if isinstance(made[1], tuple | list) else (made[1],)
    framework = framework_of(model)
    if framework is None and request.framework == "tensorflow" and callable(model):
        from gensyn_tvm.frontends.tensorflow_graph import tf

        framework, model = "tensorflow", tf.function(model)
    if framework is None:
        raise ImportModelError(
            describe(
                "the callable does not return a model",
                where=request.model,
                found=type(made).__name__ if model is made else f"({type(model).__name__}, example inputs)",
                expected="a torch module or ExportedProgram, tf.Module, tf.function, Keras model or onnx.ModelProto, or a pair "
                "of one and its example inputs",
                remedy="a Python function of tensors is taken with --framework tensorflow",
            )
        )
    if request.batch is not None and not batched and framework in ("torch", "tensorflow"):
        remedy = "give it an argument, or make the example inputs of that batch size"
        raise ImportModelError(describe("--batch needs a callable of the batch size", where=request.model, remedy=remedy))
    return Found(framework, None, model, examples, batched)


def framework_of(model: Any) -> str | None:
    """The framework of an object, by the packages of its classes; no framework is imported."""
    packages = [kind.__module__.split(".")[0] for kind in type(model).__mro__]
    return next((framework for package, framework in _PACKAGES.items() if package in packages), None)
