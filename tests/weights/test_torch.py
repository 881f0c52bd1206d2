"""Weights from PyTorch into a program, through two steps, and back: modules, state dicts, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import gensyn_tvm
from gensyn_tvm import weights
from gensyn_tvm.errors import InputError
from gensyn_tvm.weights.torch import state_dict, tensor_of, to_torch, weights_of_torch
from tests.weights.training import all_same, same, trained, with_specials


class Network(torch.nn.Module):
    """Convolution, running statistics, buffers that do and do not persist, a tied weight, an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.out = torch.nn.Linear(4, 3)
        self.unused = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("offset", torch.full((4,), 0.25))
        self.register_buffer("hidden", torch.full((4,), 0.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.out(self.second(self.first(x)) + self.offset * self.hidden)


EXAMPLE = (torch.zeros(3, 2, 5, 5),)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network()


def without_unused(module: Network) -> Network:
    del module.unused
    return module


def test_there_and_back() -> None:
    module = without_unused(network())
    program = gensyn_tvm.from_torch(module, EXAMPLE)
    state = trained(program)
    arrays = with_specials(weights.weights_of(program, state))
    assert "second.weight" not in arrays and same(arrays["norm.num_batches_tracked"], np.int64(2))
    entries = state_dict(module, arrays)
    assert list(entries) == list(module.state_dict()) and "hidden" not in entries
    assert same(entries["second.weight"].numpy(), arrays["first.weight"])
    other = without_unused(network(1))
    other.load_state_dict(entries, strict=True)
    assert all_same(weights_of_torch(other), {**arrays, "hidden": other.hidden.numpy()})
    to_torch(module, arrays)
    assert module.second.weight is module.first.weight and module.out.weight.requires_grad
    again = gensyn_tvm.from_torch(module, EXAMPLE)
    assert all_same(weights.weights_of(again), arrays)
    assert all_same(
        weights.weights_of(weights.with_weights(program, state, may_exceed=True), None), weights.weights_of(program, state)
    )


def test_unused_parameters_are_kept() -> None:
    module = network()
    program = gensyn_tvm.from_torch(module, EXAMPLE)
    to_torch(module, weights.weights_of(program))
    assert "unused" in program.parameters


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_files(tmp_path: Path, suffix: str) -> None:
    program = gensyn_tvm.from_torch(without_unused(network()), EXAMPLE)
    arrays = with_specials(weights.weights_of(program))
    path = tmp_path / f"w.{suffix}"
    assert weights.save_weights(path, arrays) == ()
    found = weights.load_weights(path, trusted=True)
    assert all_same(found, arrays)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    other = weights.with_weights(program, found)
    assert all_same(weights.weights_of(other), arrays)


def test_files_of_pytorch(tmp_path: Path) -> None:
    """A pickled state dict with tied tensors has them once; the file is opened only if it is trusted."""
    module = without_unused(network())
    program = gensyn_tvm.from_torch(module, EXAMPLE)
    torch.save(module.state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"not opened.*\n.*\n.*\n.*--trusted"):
        weights.load_weights(tmp_path / "m.pt")
    found = weights.load_weights(tmp_path / "m.pt", trusted=True)
    assert "second.weight" not in found
    assert all_same(
        {**found, "hidden": program.states["hidden"]}, {n: weights.weights_of(program)[n] for n in [*found, "hidden"]}
    )
    with pytest.raises(InputError, match="found: missing: hidden"):
        weights.with_weights(program, found)


class Runs:
    """What a pickle that runs code looks like."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_trusted_files_still_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Runs()}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="a PyTorch file cannot be read"):
        weights.load_weights(tmp_path / "m.pt", trusted=True)
    assert not (tmp_path / "ran").exists()
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"not a state dict\n.*\n  found: list"):
        weights.load_weights(tmp_path / "list.pt", trusted=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64", "int64", "bool", "uint8"])
def test_other_dtypes(tmp_path: Path, dtype: str) -> None:
    """To PyTorch's tensors, and to safetensors as PyTorch's own reader sees them."""
    import safetensors.torch

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    patterns = np.arange(2 if dtype == "bool" else 256, dtype=np.uint8)
    array = np.resize(patterns, 16 * kind.itemsize * 3).view(kind).reshape(4, 12)
    tensor = tensor_of(array)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert same(weights_of_torch({"x": tensor})["x"], array)
    weights.save_weights(tmp_path / "x.safetensors", {"x": array, "scalar": array[0, 0]})
    theirs = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert same(weights_of_torch(theirs)["x"], array) and theirs["scalar"].shape == ()
    safetensors.torch.save_file({"x": tensor}, tmp_path / "y.safetensors")
    assert same(weights.load_weights(tmp_path / "y.safetensors")["x"], array)


def test_all_that_does_not_fit_is_named() -> None:
    module = without_unused(network())
    arrays = weights.weights_of(gensyn_tvm.from_torch(module, EXAMPLE))
    before = {name: array.copy() for name, array in weights_of_torch(module).items()}
    del arrays["conv.bias"], arrays["out.bias"]
    arrays |= {"extra": np.zeros(1), "second.weight": np.zeros((4, 4), np.float32)}
    arrays["out.weight"] = arrays["out.weight"].T
    arrays["offset"] = arrays["offset"].astype(np.float64)
    with pytest.raises(InputError) as caught:
        to_torch(module, arrays)
    assert str(caught.value) == (
        "the weights do not fit the module Network\n"
        "  found: missing: conv.bias, out.bias\n"
        "    unknown: extra, second.weight\n"
        "    out.weight: float32[4, 3], expected float32[3, 4]\n"
        "    offset: float64[4], expected float32[4]"
    )
    assert all_same(weights_of_torch(module), before)
    with pytest.raises(InputError, match=r"missing: conv.bias, out.bias\n    unknown: extra, second.weight\n    out.weight"):
        weights.with_weights(gensyn_tvm.from_torch(module, EXAMPLE), arrays)
    with pytest.raises(InputError, match=r"the state is not one of this program\n  found: missing: conv.bias, out.bias\n"):
        weights.weights_of(gensyn_tvm.from_torch(module, EXAMPLE), arrays)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 40)
    for name, message in (
        ("x.safetensors", "a safetensors file cannot be read"),
        ("y.safetensors", "no such file of weights"),
        ("x.bin", "not a file of weights"),
    ):
        with pytest.raises(InputError, match=message):
            weights.load_weights(tmp_path / name)
    with pytest.raises(InputError, match=r"safetensors lacks these dtypes\n  found: a: int4, b: float8_e5m2fnuz"):
        weights.save_weights(
            tmp_path / "z.safetensors", {"a": np.zeros(2, ml_dtypes.int4), "b": np.zeros(2, ml_dtypes.float8_e5m2fnuz)}
        )
    with pytest.raises(InputError, match="not a file of weights"):
        weights.save_weights(tmp_path / "z.h5", {})
    with pytest.raises(InputError, match="the model whose weights are replaced is missing"):
        weights.save_weights(tmp_path / "z.onnx", {})
    with pytest.raises(FileNotFoundError):
        weights.save_weights(tmp_path / "no" / "z.safetensors", {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
