"""Weights to and from ONNX models: their initialisers, by the names of ``from_onnx``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.onnx import separate_statistics
from gensyn_tvm.frontends.onnx_reader import initialisers, load, read
from gensyn_tvm.weights.fit import Type, check_fit, type_of

#: A protobuf message cannot be larger.
_LARGEST = 2**31 - 1


def to_onnx(model: str | Path | onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of a model with other initialisers, tensors inside; graph, names and all else stay.

    Running statistics that several nodes shared (``name@node`` in the program) become initialisers of their own.

    Args:
        model: path of an ``.onnx`` file, or a ModelProto.
        arrays: by the names of ``from_onnx``.

    Returns:
        The model, and the names of initialisers that no array goes to: integers, scalars and constants of operators.

    Raises:
        ImportModelError: as ``from_onnx``.
        InputError: arrays without an initialiser, other shapes or dtypes; all of them are named.
    """
    proto, origin = load(model)
    own = initialisers(proto)
    known = dict(own)
    separate_statistics(proto.graph, known)
    places: dict[str, Type] = {name: type_of(array) for name, array in known.items()}
    check_fit(arrays, places, what="the weights do not fit the ONNX model", where=origin, may_lack=places)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(_tensor(arrays[tensor.name], tensor))
    for name in known:
        if name not in own:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(arrays.get(name, known[name])), name))
    return proto, tuple(name for name in known if name not in arrays)


def weights_of_onnx(model: str | Path | onnx.ModelProto) -> dict[str, np.ndarray]:
    """Copies of all initialisers of a model, by the names of ``from_onnx``; errors as ``from_onnx``."""
    proto, _ = read(model)
    arrays = initialisers(proto)
    separate_statistics(proto.graph, arrays)
    return arrays


def serialised(proto: onnx.ModelProto) -> bytes:
    """The bytes of an ``.onnx`` file.

    Raises:
        InputError: it takes more than 2 GiB, which no such file can have.
    """
    size = proto.ByteSize()
    if size > _LARGEST:
        raise InputError(
            describe(
                "the model is too large for one .onnx file",
                found=f"{size} bytes",
                expected=f"at most {_LARGEST}",
                remedy="weights.onnx.to_onnx gives the ModelProto; onnx.save_model(…, save_as_external_data=True) writes it",
            )
        )
    return bytes(proto.SerializeToString())


def _tensor(array: np.ndarray, old: Any) -> Any:
    new = onnx.numpy_helper.from_array(np.asarray(array), old.name)
    new.doc_string = old.doc_string
    return new
