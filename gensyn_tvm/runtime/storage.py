"""Memory of arrays: where they are, and new ones at addresses that kernels accept."""

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

#: Where large results begin. A processor that reads compares the last 12 bits of the address with those of earlier writes that
#: still wait, and lets the read wait where they agree: an operand read again for every row of a result should not begin shortly
#: before the place in its page where the row does.
PAGE = 4096

_first_byte: Callable[[Any], Any] = ctypes.c_char.from_buffer


def address_of(array: np.ndarray) -> int:
    """Where the elements of an array begin."""
    try:  # a fifth of the time
        return ctypes.addressof(_first_byte(array))
    except (TypeError, ValueError, BufferError):  # read-only, empty, or not in one piece
        return int(array.__array_interface__["data"][0])


def aligned(size: int, alignment: int = ALIGNMENT) -> np.ndarray:
    """Uninitialised bytes at an address that kernels accept."""
    whole = np.empty(size + alignment, np.uint8)
    start = -address_of(whole) % alignment
    return whole[start : start + size]


def aligned_array(t: TensorType, alignment: int = ALIGNMENT) -> np.ndarray:
    """An uninitialised array of a carried type at such an address."""
    return aligned(nbytes(t), alignment).view(t.dtype).reshape(t.shape)


@dataclass
class Bound:
    """An array of state in a slot of the table.

    Attributes:
        given: what the caller gave, if nobody modifies it; else None.
        array: where its bytes are; a copy of what the caller may modify.
    """

    given: Any
    array: np.ndarray


__all__ = ["KEPT", "PAGE", "Bound", "address_of", "aligned", "aligned_array"]
