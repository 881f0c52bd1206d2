"""Named arrays of any canonical dtype to and from the bytes of a safetensors file.

NumPy's reader of safetensors knows no narrow dtypes. bfloat16 is stored under its own name, the other narrow ones as the bit
patterns that carry them; what they mean is for the reader to know, who has the types from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gensyn_tvm.canonical.types import TensorType, carrier_of, from_carrier, to_carrier

#: Names that safetensors gives to the dtypes of stored elements.
_NAMES = {
    **{f"{kind}{bits}": f"{letter}{bits}" for kind, letter in (("int", "I"), ("uint", "U")) for bits in (8, 16, 32, 64)},
    **{"float32": "F32", "float64": "F64", "bool": "BOOL", "bfloat16": "BF16"},
}


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
    """The arrays of a safetensors file, which must have exactly these names and types.

    Raises:
        StoredArraysError: they have not, or it is no such file.
    """
    try:
        stored: Iterable[tuple[str, Mapping[str, Any]]] = safetensors.deserialize(data)
        found = dict(stored)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise StoredArraysError(f"no safetensors ({error})", "a safetensors file") from error
    missing, extra = sorted(set(types) - set(found)), sorted(set(found) - set(types))
    if missing or extra:
        raise StoredArraysError(f"missing arrays {missing}, unknown arrays {extra}", "the arrays of the program's state")
    return {name: _array(name, found[name], t) for name, t in types.items()}


def _array(name: str, entry: Mapping[str, Any], t: TensorType) -> np.ndarray:
    carrier = np.dtype(carrier_of(t.dtype)).newbyteorder("<")
    stored = _NAMES["bfloat16" if t.dtype == "bfloat16" else carrier_of(t.dtype)]
    raw = bytes(entry["data"])
    fits = entry["dtype"] == stored and tuple(entry["shape"]) == t.shape and len(raw) == carrier.itemsize * math.prod(t.shape)
    if not fits:
        raise StoredArraysError(
            f"{name!r} stored as {entry['dtype']}{list(entry['shape'])}", f"{stored}{list(t.shape)} for {t}"
        )
    bits = np.frombuffer(raw, carrier).reshape(t.shape).astype(carrier.newbyteorder("="))
    return from_carrier(bits, t.dtype)
