"""Files of weights by suffix. A file of a framework needs a template: the model whose weights are replaced.

| path | what it is | template |
|---|---|---|
| ``.safetensors`` | arrays by name | none |
| ``.pt``, ``.pth`` | a pickled state dict of PyTorch; read only if trusted | none |
| ``.weights.h5``, ``.keras`` | Keras' weights, or the whole model | the ``.keras`` or ``.h5`` file, or the model |
| ``.onnx`` | the model with its initialisers | the ``.onnx`` file; none for reading |
| ``.index`` | a checkpoint of ``tf.train.Checkpoint`` | such a checkpoint; none for reading |
| a folder | a SavedModel, or for reading a checkpoint of ours | the SavedModel; none for reading |
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gensyn_tvm.canonical.types import from_carrier, to_carrier
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.file import check_destination
from gensyn_tvm.trainer.files import replace_file, sync_folder

#: Dtypes that safetensors has, with our names.
_STORED = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Options:
    """What reading or writing a file may need.

    Attributes:
        template: the framework's model whose weights are replaced: a path, or for Keras and ONNX the model itself.
        signature: of a SavedModel; ``serving_default`` if None.
        trusted: read pickled files, and Keras files that hold code.
    """

    template: Any = None
    signature: str | None = None
    trusted: bool = False


def save_weights(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    template: Any = None,
    signature: str | None = None,
    trusted: bool = False,
) -> tuple[str, ...]:
    """Write arrays to a file of a framework: completely, or not at all.

    Args:
        path: where to; its suffix says what (see this module's text).
        arrays: by the framework's names, as ``weights_of`` gives them.
        template: the model whose weights are replaced: a path, or for Keras and ONNX the model itself; never changed.
        signature: of a SavedModel.
        trusted: accept Keras files that hold code.

    Returns:
        Names of what the template has beside the arrays; it keeps its values.

    Raises:
        InputError: an unknown suffix, a template that is missing or of the wrong kind; names, shapes or dtypes that do not fit,
            all of them in one message.
        ImportModelError: the template cannot be read.
        OSError: the file cannot be written.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in _WRITERS:
        raise _unknown(path, tuple(_WRITERS))
    check_destination(path) if kind != "folder" else _check_folder(path)
    return _WRITERS[kind](path, dict(arrays), Options(template, signature, trusted))


def load_weights(
    path: str | os.PathLike[str], *, template: Any = None, signature: str | None = None, trusted: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of a file, by the framework's names; ``with_weights`` puts them into a program.

    Args:
        path: see this module's text.
        template: for ``.weights.h5``: the ``.keras`` file of the model, or the model, whose weights are overwritten.
        signature: of a SavedModel.
        trusted: read pickled files, and Keras files that hold code.

    Raises:
        InputError: no such file, an unknown suffix, a pickled file that is not trusted, a damaged file.
        ImportModelError: a model file that cannot be read.
        CheckpointError: a checkpoint of ours that is damaged.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in _READERS:
        raise _unknown(path, tuple(_READERS))
    if not path.exists():
        raise InputError(describe("no such file of weights", where=str(path)))
    return _READERS[kind](path, Options(template, signature, trusted))


def may_exceed(path: str | os.PathLike[str]) -> bool:
    """Whether a file has arrays beside the weights: constants of ONNX, variables that no model uses, our optimizer state."""
    return _kind(Path(path)) in (".onnx", ".index", "folder")


def _kind(path: Path) -> str:
    """The suffix; ``folder`` for what has none."""
    if path.name.endswith(".weights.h5"):
        return ".weights.h5"
    return "folder" if path.is_dir() or not path.suffix else path.suffix


def _unknown(path: Path, kinds: tuple[str, ...]) -> InputError:
    return InputError(describe("not a file of weights", where=str(path), expected=f"{', '.join(kinds)} (docs/weights.md)"))


def _template(path: Path, options: Options, expected: str) -> Any:
    if options.template is None:
        raise InputError(
            describe(
                "the model whose weights are replaced is missing",
                where=str(path),
                expected=expected,
                remedy="--template (template=)",
            )
        )
    return options.template


# ---- safetensors ----------------------------------------------------------------------------------------------------


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    wrong = [f"{name}: {a.dtype.name}" for name, a in arrays.items() if a.dtype.name not in _STORED.values()]
    if wrong:
        raise InputError(
            describe("safetensors lacks these dtypes", found=", ".join(wrong), expected=", ".join(_STORED.values()))
        )
    # ascontiguousarray would turn a scalar into a vector.
    contiguous = {name: np.array(array, order="C", copy=True) for name, array in sorted(arrays.items())}
    replace_file(path, bytes(safetensors.numpy.save(contiguous)))
    return ()


def _read_safetensors(path: Path, options: Options) -> dict[str, np.ndarray]:
    try:
        stored = dict(safetensors.deserialize(path.read_bytes()))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise InputError(describe("a safetensors file cannot be read", where=str(path), found=str(error))) from error
    wrong = [f"{name}: {entry['dtype']}" for name, entry in stored.items() if entry["dtype"] not in _STORED]
    if wrong:
        found = ", ".join(wrong)
        raise InputError(describe("dtypes that no program has", where=str(path), found=found, expected=", ".join(_STORED)))
    found_arrays = {}
    for name, entry in stored.items():
        dtype = _STORED[entry["dtype"]]
        carrier = to_carrier(np.zeros(0, dtype)).dtype.newbyteorder("<")
        bits = np.frombuffer(bytes(entry["data"]), carrier).reshape(entry["shape"]).astype(carrier.newbyteorder("="))
        found_arrays[name] = from_carrier(bits, dtype)
    return found_arrays


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def _write_pickled(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    from gensyn_tvm.weights.torch import pickled, tensor_of

    replace_file(path, pickled({name: tensor_of(array) for name, array in arrays.items()}))
    return ()


def _read_pickled(path: Path, options: Options) -> dict[str, np.ndarray]:
    from gensyn_tvm.weights.torch import read_pickled

    return read_pickled(path, options.trusted)


# ---- Keras ----------------------------------------------------------------------------------------------------------


def _keras_model(template: Any, trusted: bool) -> Any:
    from gensyn_tvm.frontends.keras import load_file

    return load_file(Path(template), trusted) if isinstance(template, str | os.PathLike) else template


def _write_keras(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    from gensyn_tvm.weights import keras as ours

    model = _keras_model(_template(path, options, "the .keras or .h5 file of the model"), options.trusted)
    # The caller's model stays as it is.
    before = [(v, v.numpy()) for v in model.variables]
    try:
        untouched = ours.to_keras(model, arrays)
        replace_file(path, ours.saved(model, _kind(path)))
    finally:
        for variable, array in before:
            variable.assign(array)
    return untouched


def _read_keras(path: Path, options: Options) -> dict[str, np.ndarray]:
    from gensyn_tvm.weights import keras as ours

    if _kind(path) != ".weights.h5":
        return ours.weights_of_keras(_keras_model(path, options.trusted))
    model = _keras_model(_template(path, options, "the .keras or .h5 file of the model"), options.trusted)
    ours.load_into(model, path)
    return ours.weights_of_keras(model)


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def _write_onnx(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    from gensyn_tvm.weights import onnx as ours

    proto, untouched = ours.to_onnx(_template(path, options, "the .onnx file of the model"), arrays)
    replace_file(path, ours.serialised(proto))
    return untouched


def _read_onnx(path: Path, options: Options) -> dict[str, np.ndarray]:
    from gensyn_tvm.weights.onnx import weights_of_onnx

    return weights_of_onnx(path)


# ---- TensorFlow -----------------------------------------------------------------------------------------------------


def _in_temporary(path: Path, write: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    """Let ``write`` fill a new folder beside ``path``; its entries then go to ``path``'s place in one rename each."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        untouched = write(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)
    return untouched


def _check_folder(path: Path) -> None:
    if path.exists():
        raise InputError(describe("the folder to write is there already", where=str(path), remedy="remove it, or name another"))
    check_destination(path.parent / f".{path.name}.tmp")


def _write_saved_model(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    from gensyn_tvm.weights.tensorflow import write_saved_model

    template = Path(_template(path, options, "the folder of the SavedModel"))
    if not (template / "saved_model.pb").is_file():
        raise InputError(
            describe("the template is no SavedModel", where=str(template), expected="a folder with saved_model.pb")
        )

    def write(temporary: Path) -> tuple[str, ...]:
        shutil.copytree(template, temporary)
        return write_saved_model(temporary, arrays, options.signature)

    return _in_temporary(path, write)


def _read_folder(path: Path, options: Options) -> dict[str, np.ndarray]:
    if (path / "checkpoint.json").is_file():
        from gensyn_tvm.trainer.checkpoint import read_checkpoint

        return read_checkpoint(path).state.numpy()
    from gensyn_tvm.weights.tensorflow import weights_of_tensorflow

    return weights_of_tensorflow(path, signature=options.signature)


def _write_index(path: Path, arrays: dict[str, np.ndarray], options: Options) -> tuple[str, ...]:
    from gensyn_tvm.weights.tensorflow import write_checkpoint

    template = str(_template(path, options, "a checkpoint of tf.train.Checkpoint")).removesuffix(".index")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    temporary.mkdir()
    try:
        untouched = write_checkpoint(template, str(temporary / path.stem), arrays)
        # The index last: without it the data is no checkpoint.
        for made in sorted(temporary.iterdir(), key=lambda p: p.suffix == ".index"):
            os.replace(made, path.parent / made.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)
    return untouched


def _read_index(path: Path, options: Options) -> dict[str, np.ndarray]:
    from gensyn_tvm.weights.tensorflow import read_checkpoint

    return read_checkpoint(str(path).removesuffix(".index"))


_WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray], Options], tuple[str, ...]]] = {
    ".safetensors": _write_safetensors,
    ".pt": _write_pickled,
    ".pth": _write_pickled,
    ".weights.h5": _write_keras,
    ".keras": _write_keras,
    ".onnx": _write_onnx,
    ".index": _write_index,
    "folder": _write_saved_model,
}
_READERS: dict[str, Callable[[Path, Options], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_pickled,
    ".pth": _read_pickled,
    ".weights.h5": _read_keras,
    ".keras": _read_keras,
    ".h5": _read_keras,
    ".onnx": _read_onnx,
    ".index": _read_index,
    "folder": _read_folder,
}
