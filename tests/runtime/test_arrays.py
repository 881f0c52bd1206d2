"""Arrays of every dtype survive a safetensors file, a ``.gtvm`` file included; foreign ones are refused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import DTYPES, NARROW, TensorType, from_carrier, to_carrier
from gensyn_tvm.compiler import Source
from gensyn_tvm.runtime.arrays import StoredArraysError, pack_arrays, unpack_arrays
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.file import read_gtvm
from gensyn_tvm.runtime.packaging import save_source

SHAPES = ((), (0, 3), (5,), (2, 3, 7))


def _drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Every bit pattern is possible."""
    rng = np.random.default_rng(7)
    if dtype in NARROW:
        carrier = to_carrier(np.zeros(1, np.dtype(dtype))).dtype
        return from_carrier(rng.integers(0, 2 ** NARROW[dtype], shape).astype(carrier), dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    size = np.dtype(dtype).itemsize
    return np.frombuffer(rng.bytes(size * int(np.prod(shape, dtype=int))), np.dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    arrays = {f"a{k}": _drawn(dtype, shape) for k, shape in enumerate(SHAPES)}
    types = {n: TensorType(a.shape, dtype) for n, a in arrays.items()}
    found = unpack_arrays(pack_arrays(arrays), types)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert to_carrier(found[name]).tobytes() == to_carrier(array).tobytes()


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"w": TensorType((2,), "float16")}, r"'w' stored as F32\[2\]; expected U16\[2\] for float16"),
        ({"w": TensorType((3,), "float32")}, r"F32\[2\]; expected F32\[3\]"),
        ({"v": TensorType((2,), "float32")}, r"missing arrays \['v'\], unknown arrays \['w'\]"),
    ],
)
def test_others_are_refused(types: dict[str, TensorType], message: str) -> None:
    with pytest.raises(StoredArraysError, match=message):
        unpack_arrays(pack_arrays({"w": np.zeros(2, np.float32)}), types)


def test_a_file_with_parameters_in_narrow_dtypes(tmp_path: Path) -> None:
    b = GraphBuilder("narrow")
    values = {"p": np.arange(6).astype(ml_dtypes.bfloat16), "q": np.array([1, 7], ml_dtypes.int4)}
    for name, array in values.items():
        b.add_input(name, "parameter", TensorType(array.shape, array.dtype.name))
    for k, name in enumerate(values):
        b.add_output(f"{name} wide", b.emit("cast", k, dtype="float32"))
    path = tmp_path / "narrow.gtvm"
    save_source(path, Source(b.finish(), State(values)))
    stored = read_gtvm(path).arrays
    for name, array in values.items():
        assert stored[name].dtype == array.dtype and stored[name].tobytes() == array.tobytes()
