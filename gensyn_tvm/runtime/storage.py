"""Memory of arrays: where they are, new ones at addresses that kernels accept, and large results' memory used again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.runtime.plan import ALIGNMENT, nbytes

#: Bytes from which the memory of a result is kept for the next one. The system takes memory of this size back at once and
#: clears every page that it gives out again, which takes longer than to compute a sum of two arrays.
KEPT = 4 * 2**20

_first_byte: Callable[[Any], Any] = ctypes.c_char.from_buffer


def address_of(array: np.ndarray) -> int:
    """Where the elements of an array begin."""
    try:  # a fifth of the time
        return ctypes.addressof(_first_byte(array))
    except (TypeError, ValueError, BufferError):  # read-only, empty, or not in one piece
        return int(array.__array_interface__["data"][0])


def aligned(size: int) -> np.ndarray:
    """Uninitialised bytes at an address that kernels accept."""
    whole = np.empty(size + ALIGNMENT, np.uint8)
    start = -address_of(whole) % ALIGNMENT
    return whole[start : start + size]


def aligned_array(t: TensorType) -> np.ndarray:
    """An uninitialised array of a carried type at such an address."""
    return aligned(nbytes(t)).view(t.dtype).reshape(t.shape)


@dataclass
class Bound:
    """An array of state in a slot of the table.

    Attributes:
        given: what the caller gave, if nobody modifies it; else None.
        array: where its bytes are; a copy of what the caller may modify.
    """

    given: Any
    array: np.ndarray


class Results:
    """Makes the arrays of one large output, run after run.

    Their memory comes back when nobody holds the array any more, and the next one gets it. No more than one piece waits.

    Args:
        t: the carried type, of at least ``KEPT`` bytes.
    """

    def __init__(self, t: TensorType) -> None:
        self._shape, self._dtype = t.shape, np.dtype(t.dtype)
        self._size = nbytes(t)
        self._spare: list[np.ndarray] = []

    def new(self) -> np.ndarray:
        """An uninitialised array."""
        memory = _taken(self._spare)
        if memory is None:
            memory = aligned(self._size)
        return np.asarray(_Lent(memory, address_of(memory), self._shape, self._dtype, self._spare))


def _taken(spare: list[np.ndarray]) -> np.ndarray | None:
    try:
        return spare.pop()
    except IndexError:
        return None


class _Lent:
    """What an array and its views stand on: gives the memory back when the last of them is gone, in whatever thread."""

    def __init__(
        self, memory: np.ndarray, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], home: list[np.ndarray]
    ) -> None:
        self._memory, self._home = memory, home
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": dtype.str}

    def __del__(self) -> None:
        if not self._home:
            self._home.append(self._memory)


__all__ = ["KEPT", "Bound", "Results", "address_of", "aligned", "aligned_array"]
