"""Named arrays of any canonical dtype to and from the bytes of a safetensors file.

NumPy's reader of safetensors knows no narrow dtypes. bfloat16 is stored under its own name, the other narrow ones as the bit
patterns that carry them; what they mean is for the reader to know, who has the types from elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
from collections.abc import Mapping
from typing import IO, Any, Protocol

import numpy as np
import safetensors.numpy

from gensyn_tvm.canonical.types import TensorType, carrier_of, from_carrier, to_carrier
from gensyn_tvm.runtime.plan import nbytes
from gensyn_tvm.runtime.storage import aligned_array

#: Names that safetensors gives to the dtypes of stored elements.
_NAMES = {
    **{f"{kind}{bits}": f"{letter}{bits}" for kind, letter in (("int", "I"), ("uint", "U")) for bits in (8, 16, 32, 64)},
    **{"float32": "F32", "float64": "F64", "bool": "BOOL", "bfloat16": "BF16"},
}

_LENGTH = struct.Struct("<Q")  # bytes of the header, which follows
_PIECE = 2**20
_MAX_HEADER = 100_000_000  # as in the library of safetensors


class Stream(Protocol):
    """What arrays are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; all of them, but at the end."""

    def readinto(self, target: memoryview, /) -> int:
        """Fill the beginning of ``target``; how much of it, 0 at the end."""


class HashingStream:
    """A stream whose bytes are counted and hashed (SHA-256) as they are read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._hash, self._count = stream, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        """As ``Stream.read``."""
        data = self._stream.read(size)
        self._hash.update(data)
        self._count += len(data)
        return data

    def readinto(self, target: memoryview, /) -> int:
        """As ``Stream.readinto``; a limited piece at a time, because some streams make a copy of it."""
        data = self.read(min(len(target), _PIECE))
        target[: len(data)] = data
        return len(data)

    def drain(self, size: int) -> int:
        """Read what is left, one byte beyond ``size`` at most; how many bytes there were in all."""
        while self._count <= size and self.read(min(size + 1 - self._count, _PIECE)):
            pass
        return self._count

    def hexdigest(self) -> str:
        """Of what has been read."""
        return self._hash.hexdigest()


class StoredArraysError(Exception):
    """The bytes are not the arrays that they should be: what was found, what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(f"{found}; expected {expected}")


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The safetensors file of the arrays; equal arrays give equal bytes."""
    plain = {n: a if a.dtype.name == "bfloat16" else to_carrier(a) for n, a in sorted(arrays.items())}
    # ascontiguousarray would turn a scalar into a vector.
    little = {n: a.astype(a.dtype.newbyteorder("<"), order="C", copy=False) for n, a in plain.items()}
    return bytes(safetensors.numpy.save(little))


def unpack_arrays(data: bytes, types: Mapping[str, TensorType]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, which must have exactly these names and types. Raises as ``read_arrays``."""
    return read_arrays(io.BytesIO(data), len(data), types)


def read_arrays(stream: Stream, size: int, types: Mapping[str, TensorType]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file of ``size`` bytes, each read straight into memory that kernels accept.

    The library of safetensors wants the file in memory, and gives a copy of all arrays beside it.

    Raises:
        StoredArraysError: they have not exactly these names and types, or it is no such file.
    """
    entries, room = _header(stream, size)
    missing, extra = sorted(set(types) - set(entries)), sorted(set(entries) - set(types))
    if missing or extra:
        raise StoredArraysError(f"missing arrays {missing}, unknown arrays {extra}", "the arrays of the program's state")
    for name, t in types.items():
        _check(name, entries[name], t)
    ordered = sorted(entries, key=lambda n: entries[n]["data_offsets"])
    end = 0
    for name in ordered:
        first, last = entries[name]["data_offsets"]
        if first != end or last - first != nbytes(_carried(types[name])):
            raise StoredArraysError(f"no safetensors (bytes {first} to {last} for {name!r})", "arrays one after another")
        end = last
    if end != room:
        raise StoredArraysError(f"no safetensors ({room} bytes for arrays of {end})", "a safetensors file")
    found = {name: _read(stream, types[name]) for name in ordered}
    return {name: found[name] for name in types}


def _header(stream: Stream, size: int) -> tuple[dict[str, Any], int]:
    """The entries by name, and the bytes that follow them."""
    try:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        if length > min(size - _LENGTH.size, _MAX_HEADER):
            raise ValueError(f"a header of {length} bytes")
        entries = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise ValueError("a header that is no object")
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            _check_entry(name, entry)
    except (struct.error, ValueError, RecursionError) as error:
        raise StoredArraysError(f"no safetensors ({error})", "a safetensors file") from error
    return entries, size - _LENGTH.size - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _check_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
        raise ValueError(f"an entry {name!r} without dtype, shape and data_offsets")
    numbers = [entry["shape"], entry["data_offsets"]]
    if not all(isinstance(n, list) and all(type(e) is int and e >= 0 for e in n) for n in numbers) or len(numbers[1]) != 2:
        raise ValueError(f"an entry {name!r} whose shape and data_offsets are no integers")


def _check(name: str, entry: Mapping[str, Any], t: TensorType) -> None:
    stored = _NAMES["bfloat16" if t.dtype == "bfloat16" else carrier_of(t.dtype)]
    if entry["dtype"] != stored or tuple(entry["shape"]) != t.shape:
        raise StoredArraysError(
            f"{name!r} stored as {entry['dtype']}{list(entry['shape'])}", f"{stored}{list(t.shape)} for {t}"
        )


def _carried(t: TensorType) -> TensorType:
    return TensorType(t.shape, carrier_of(t.dtype))


def _read(stream: Stream, t: TensorType) -> np.ndarray:
    array = aligned_array(_carried(t))
    target = array.reshape(-1).view(np.uint8).data
    while target:
        count = stream.readinto(target)
        if not count:
            raise StoredArraysError("no safetensors (it ends within an array)", "a safetensors file")
        target = target[count:]
    if sys.byteorder == "big":
        array.byteswap(inplace=True)
    return from_carrier(array, t.dtype)
