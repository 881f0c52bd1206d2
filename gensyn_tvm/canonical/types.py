"""Tensor types of the canonical graph: a shape of integers and a dtype name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.errors import InvalidProgramError

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int32", "int64")
UNSIGNED = ("uint8", "uint32")
INTEGERS = SIGNED + UNSIGNED
DTYPES = FLOATS + INTEGERS + ("bool",)

MAX_ELEMENTS = 2**40


@dataclass(frozen=True)
class TensorType:
    """A dense row-major tensor.

    Attributes:
        shape: extents, outermost first; ``()`` is a scalar.
        dtype: one of ``DTYPES``.

    Raises:
        InvalidProgramError: for an unknown dtype, a negative or absurd extent.
    """

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidProgramError(f"unknown dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        for extent in self.shape:
            if type(extent) is not int or extent < 0:
                raise InvalidProgramError(f"shape {self.shape!r}: every extent must be a non-negative integer")
        if self.size > MAX_ELEMENTS:
            raise InvalidProgramError(f"shape {self.shape!r} has more than 2^40 elements")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the elements are IEEE-754 numbers."""
        return self.dtype in FLOATS

    def numpy_dtype(self) -> np.dtype:
        """The little-endian NumPy dtype of the elements."""
        return np.dtype(self.dtype).newbyteorder("<")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
