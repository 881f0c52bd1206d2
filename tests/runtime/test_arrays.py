"""Arrays of every dtype survive a safetensors file, a ``.gtvm`` file included; foreign ones are refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import DTYPES, NARROW, TensorType, from_carrier, to_carrier
from gensyn_tvm.compiler import Source
from gensyn_tvm.runtime.arrays import StoredArraysError, pack_arrays, unpack_arrays
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.file import read_gtvm, write_gtvm
from gensyn_tvm.runtime.packaging import save_source
from gensyn_tvm.runtime.plan import ALIGNMENT
from gensyn_tvm.runtime.storage import address_of

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


def _file(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(first: Any, last: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x10\0\0",
        struct.pack("<Q", 2**63),
        _file(b"[" * 100_000, b""),
        _file([], b""),
        _file(b'{"v": {}, "v": {}}', b""),
        _file(b"\xff", b""),
        _file({"v": [], "w": []}, b""),
        _file({"v": _entry(0, 8), "w": _entry(0, 8)}, bytes(8)),
        _file({"v": _entry(0, 8), "w": _entry(12, 20)}, bytes(20)),
        _file({"v": _entry(0, 8), "w": _entry(8, 16)}, bytes(15)),
        _file({"v": _entry(0, 8), "w": _entry(8, 16)}, bytes(17)),
        _file({"v": _entry(0, 8), "w": _entry(8, 12)}, bytes(12)),
        _file({"v": _entry(0, 8), "w": _entry(8, 16.0)}, bytes(16)),
        _file({"v": _entry(-8, 0), "w": _entry(0, 8)}, bytes(8)),
        _file({"v": _entry(0, 8, [True, 2]), "w": _entry(8, 16)}, bytes(16)),
        _file({"v": _entry(0, 8, dtype=["F32"]), "w": _entry(8, 16)}, bytes(16)),
    ],
)
def test_what_is_no_safetensors_is_refused(data: bytes) -> None:
    types = {n: TensorType((2,), "float32") for n in "vw"}
    with pytest.raises(StoredArraysError, match="no safetensors"):
        unpack_arrays(data, types)


def test_arrays_stand_in_any_order_at_addresses_that_kernels_accept() -> None:
    values = np.arange(5, dtype=np.float32)
    data = _file({"__metadata__": {"a": "b"}, "v": _entry(12, 20), "w": _entry(0, 12, [3])}, values.tobytes())
    found = unpack_arrays(data, {"v": TensorType((2,), "float32"), "w": TensorType((3,), "float32")})
    assert list(found) == ["v", "w"]
    assert found["v"].tobytes() == values[3:].tobytes() and found["w"].tobytes() == values[:3].tobytes()
    assert all(address_of(a) % ALIGNMENT == 0 for a in found.values())


def test_reading_a_file_takes_little_more_than_its_arrays(tmp_path: Path) -> None:
    b = GraphBuilder("large")
    size = 2**22
    for name in "pq":
        b.add_input(name, "parameter", TensorType((size,), "float32"))
    b.add_output("y", b.emit("mul", 0, 1))
    arrays = {n: np.full(size, 1.5, np.float32) for n in "pq"}
    write_gtvm(tmp_path / "large.gtvm", b.finish(), arrays)
    total = sum(a.nbytes for a in arrays.values())
    tracemalloc.start()
    try:
        contents = read_gtvm(tmp_path / "large.gtvm")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert contents.arrays["q"].tobytes() == arrays["q"].tobytes()
    assert total <= peak < total * 1.25
