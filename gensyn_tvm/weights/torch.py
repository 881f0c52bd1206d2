"""Weights to and from PyTorch: modules, state dicts, their files.

A program has each tensor once, under its first name; a state dict has tied tensors under all of their names.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensyn_tvm.canonical.types import NARROW
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.torch import array_of
from gensyn_tvm.weights.fit import Type, check_fit


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A tensor with a copy of the bits, in the same dtype."""
    array = np.array(array, order="C", copy=True)
    if array.dtype.name not in NARROW or array.dtype.name == "float16":
        return torch.from_numpy(array)
    bits = array.view(np.int16 if array.dtype.itemsize == 2 else np.uint8)
    return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))


def state_dict(module: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What ``module.load_state_dict(…, strict=True)`` takes: the module's own entries with other tensors.

    Args:
        module: is not changed; what ``arrays`` does not name must be no parameter and no buffer.
        arrays: by name; tied tensors under their first name, and then under all of their names in the result.

    Raises:
        InputError: missing or unknown names, other shapes or dtypes; all of them are named.
    """
    _check(module, arrays)
    first = _first_names(module)
    return {name: tensor_of(arrays[first[name]]) if name in first else value for name, value in module.state_dict().items()}


def to_torch(module: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into a module's parameters and buffers, in place; errors as ``state_dict``, before anything is written."""
    _check(module, arrays)
    tensors = _tensors(module)
    with torch.no_grad():
        for name, array in arrays.items():
            tensors[name].copy_(tensor_of(array))


def weights_of_torch(source: torch.nn.Module | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of a module, or of a state dict, by name; tied tensors once, under their first name.

    Raises:
        InputError: a state dict with entries that are no tensors; all of them are named.
    """
    if isinstance(source, torch.nn.Module):
        tensors: dict[str, torch.Tensor] = _tensors(source)
        return {name: array_of(tensor) for name, tensor in tensors.items()}
    wrong = [f"{name}: {type(value).__name__}" for name, value in source.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise InputError(describe("a state dict holds something else than tensors", found=", ".join(wrong)))
    seen: dict[Any, str] = {}
    found = {}
    for name, tensor in source.items():
        memory = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else name
        if seen.setdefault(memory, name) == name:
            found[name] = array_of(tensor)
    return found


def read_pickled(path: Path, trusted: bool) -> dict[str, np.ndarray]:
    """The arrays of a state dict that ``torch.save`` wrote.

    Raises:
        InputError: ``trusted`` is false, or the file cannot be read or holds something else.
    """
    if not trusted:
        raise InputError(
            describe(
                "a pickled PyTorch file is not opened, because that can run any code in it",
                where=str(path),
                expected="a .safetensors file",
                remedy="--trusted (trusted=True) if you trust the file; PyTorch's reader of tensors only opens it then",
            )
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for damaged files
        found = " ".join(str(error).split())[:300]
        raise InputError(describe("a PyTorch file cannot be read", where=str(path), found=found)) from error
    if not isinstance(loaded, Mapping):
        raise InputError(describe("not a state dict", where=str(path), found=type(loaded).__name__, expected="names, tensors"))
    return weights_of_torch(loaded)


def pickled(tensors: Mapping[str, Any]) -> bytes:
    """The bytes of a file with a state dict, for ``torch.load``."""
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers, tied ones once: the order and the names of ``from_torch``."""
    return {name: tensor.detach() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _check(module: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    places: dict[str, Type] = {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in _tensors(module).items()
    }
    check_fit(arrays, places, what=f"the weights do not fit the module {type(module).__name__}")
