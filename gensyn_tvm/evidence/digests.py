"""Digests of arrays and of whole states: equal digests mean equal names, dtypes, shapes and bits.

Every field is preceded by its length, so no two different states have the same encoding. Bits are taken as they are: two
NaNs with different payloads differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import DTYPES, to_carrier
from gensyn_tvm.errors import InputError, describe

_ARRAY = b"gensyn_tvm.array.1"
_STATE = b"gensyn_tvm.state.1"


def array_digest(array: np.ndarray) -> str:
    """SHA-256 (hex) of dtype, shape and little-endian row-major bits; byte order and strides in memory do not matter.

    Raises:
        InputError: not an array, or not of a dtype that canonical graphs have.
    """
    digest = hashlib.sha256()
    _field(digest, _ARRAY)
    _array(digest, array, "array")
    return digest.hexdigest()


def state_digest(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of all names and arrays, in the order of the names' UTF-8 bytes.

    Raises:
        InputError: as ``array_digest``.
    """
    digest = hashlib.sha256()
    _field(digest, _STATE)
    digest.update(len(state).to_bytes(8, "little"))
    for name in sorted(state, key=lambda n: n.encode("utf-8")):
        _field(digest, name.encode("utf-8"))
        _array(digest, state[name], name)
    return digest.hexdigest()


def _field(digest: Any, data: bytes) -> None:
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def _array(digest: Any, array: np.ndarray, name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
        found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(
            describe(f"{name!r} has no digest", found=found, expected=f"a NumPy array of one of {', '.join(DTYPES)}")
        )
    _field(digest, array.dtype.name.encode("ascii"))
    digest.update(array.ndim.to_bytes(8, "little"))
    for extent in array.shape:
        digest.update(extent.to_bytes(8, "little"))
    bits = to_carrier(array)
    _field(digest, bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes(order="C"))
