"""Weights to and from Keras models on any backend, by ``variable.path``, and their files."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.weights.fit import Type, by_name, check_fit


def variables_of(model: Any) -> dict[str, Any]:
    """The variables of a Keras model by path, as ``from_keras`` names them.

    Raises:
        InputError: several variables have one path; all of these are named.
    """
    return by_name(((identifier(v.path), v) for v in model.variables), what=f"the variables of {model.name!r} share names")


def to_keras(model: Any, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Write arrays into a Keras model, by ``variable.path``; all are checked before the first is written.

    Returns:
        The paths of variables that no array goes to, such as the states of random generators; they stay as they are.

    Raises:
        InputError: arrays without a variable, other shapes or dtypes, all of them named; no array for a trainable variable.
    """
    variables = variables_of(model)
    places: dict[str, Type] = {name: (tuple(v.shape), str(v.dtype)) for name, v in variables.items()}
    fixed = [name for name, v in variables.items() if not v.trainable]
    check_fit(arrays, places, what=f"the weights do not fit the Keras model {model.name!r}", may_lack=fixed)
    for name, array in arrays.items():
        variables[name].assign(array)
    return tuple(name for name in variables if name not in arrays)


def weights_of_keras(model: Any) -> dict[str, np.ndarray]:
    """Copies of all variables of a model by path, but for the states of random generators, which are no weights."""
    seeds = {id(v) for v in _generator_states(model)}
    return {name: np.array(v.numpy(), order="C", copy=True) for name, v in variables_of(model).items() if id(v) not in seeds}


def _generator_states(model: Any) -> Iterator[Any]:
    return (v for v in model.variables if v.path.split("/")[-1] == "seed_generator_state")


def saved(model: Any, suffix: str) -> bytes:
    """The bytes of the model's ``.weights.h5`` or ``.keras`` file."""
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
        path = Path(folder) / f"model{suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Keras' own use of NumPy
            (model.save_weights if suffix == ".weights.h5" else model.save)(path)
        return path.read_bytes()


def load_into(model: Any, path: Path) -> None:
    """Load a ``.weights.h5`` file into the model that it is of.

    Raises:
        InputError: the file is damaged or belongs to another model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras warns where a layer gets nothing
            warnings.simplefilter("ignore", DeprecationWarning)
            model.load_weights(path)
    except Exception as error:  # Keras and h5py raise anything
        found = str(error).strip().split("\n")[0]
        raise InputError(describe("Keras cannot load the weights into the template", where=str(path), found=found)) from error
