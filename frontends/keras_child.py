"""Keras models on backends that cannot be traced (jax, numpy, openvino): a child process builds them again and reads them.

``python -m gensyn_tvm.frontends.keras_child FOLDER`` takes ``model.keras`` and ``request.json`` there, and leaves ``program``
or ``error.json``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gensyn_tvm
from gensyn_tvm import errors
from gensyn_tvm.errors import GensynError, import_error
from gensyn_tvm.program import Program
from gensyn_tvm.training import ops as _registered  # noqa: F401  (what a program is unpickled with)

#: Module of the framework → backend, in the order of preference.
_BACKENDS = {"torch": "torch", "tensorflow": "tensorflow"}
_REMEDY = "set KERAS_BACKEND to torch or tensorflow before Keras is imported"


def import_in_child(
    model: Any, inputs: dict[str, tuple[tuple[int, ...], str]], *, structured: bool, train: bool, trusted: bool
) -> Program:
    """The program of a model that its configuration describes; arguments as ``keras.trace_model``.

    Raises:
        ImportModelError: neither PyTorch nor TensorFlow is installed, the model cannot be saved, or the child failed.
        UnsupportedOperatorError: as ``from_keras``.
    """
    backend = next((name for module, name in _BACKENDS.items() if importlib.util.find_spec(module)), None)
    if backend is None:
        raise import_error(
            "from_keras reads models of this backend with PyTorch or TensorFlow",
            found="neither of them",
            expected="one of them installed",
            remedy="pip install 'gensyn_tvm[torch]'",
        )
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
        path = Path(folder)
        request = {"inputs": inputs, "names": [v.path for v in model.variables], "structured": structured}
        (path / "request.json").write_text(json.dumps({**request, "train": train, "trusted": trusted}))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.save(path / "model.keras")
        except Exception as error:  # Keras raises anything
            raise import_error(
                f"keras:{model.name}: Keras cannot save the model",
                found=str(error).strip().split("\n")[0],
                expected="a model that model.save can write, because another process reads it",
                remedy=_REMEDY,
            ) from error
        paths = os.pathsep.join([str(Path(gensyn_tvm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths}
        command = [sys.executable, "-m", "gensyn_tvm.frontends.keras_child", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if (path / "error.json").exists():
            kind, text, fields = json.loads((path / "error.json").read_text())
            raise _error(kind, text, fields)
        if done.returncode or not (path / "program").exists():
            found = f"exit status {done.returncode}: {done.stderr.strip()[-400:]}"
            raise import_error(
                f"keras:{model.name}: the process that reads the model on {backend} failed",
                found=found,
                expected="exit status 0",
                remedy=_REMEDY,
            )
        return pickle.loads((path / "program").read_bytes())


def _error(kind: str, text: str, fields: dict[str, Any]) -> GensynError:
    """The error of the child again, with its attributes."""
    found = getattr(errors, kind)
    error: GensynError = found.__new__(found)
    Exception.__init__(error, text)
    vars(error).update(fields)
    return error


def main(folder: Path) -> None:
    """What the child does."""
    from gensyn_tvm.frontends.keras import load_file, trace_model

    request = json.loads((folder / "request.json").read_text())
    inputs = {name: (tuple(shape), dtype) for name, (shape, dtype) in request["inputs"].items()}
    try:
        model = load_file(folder / "model.keras", request["trusted"])
        program = trace_model(model, inputs, request["names"], structured=request["structured"], train=request["train"])
    except GensynError as error:
        (folder / "error.json").write_text(json.dumps([type(error).__name__, str(error), vars(error)]))
        return
    (folder / "program").write_bytes(pickle.dumps(program))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
