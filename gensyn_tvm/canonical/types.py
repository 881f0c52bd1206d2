"""Tensor types of the canonical graph: a shape of integers and a dtype name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (teaches NumPy the names of the narrow dtypes)
import numpy as np

from gensyn_tvm.errors import InvalidProgramError

#: The floats that arithmetic is done in.
FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
#: Dtypes whose elements operators compute with.
NATIVE = FLOATS + INTEGERS + ("bool",)

#: Dtypes for storage only, with their width in bits: they are moved, and cast to and from; arithmetic is done in float32 or
#: a wider integer.
NARROW_FLOATS = {
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float4_e2m1fn": 4,
}
NARROW_INTEGERS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
NARROW = {**NARROW_FLOATS, **NARROW_INTEGERS}

DTYPES = (*NATIVE, *NARROW)

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
    def itemsize(self) -> int:
        """Bytes of an element in memory."""
        return int(np.dtype(self.carrier).itemsize)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the elements are floats that arithmetic is done in (float32, float64)."""
        return self.dtype in FLOATS

    @property
    def carrier(self) -> str:
        """The native dtype in which the elements are stored while a program runs: for narrow dtypes their bit patterns."""
        return carrier_of(self.dtype)

    def numpy_dtype(self) -> np.dtype:
        """The little-endian NumPy dtype of the elements."""
        return np.dtype(self.dtype).newbyteorder("<")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def carrier_of(dtype: str) -> str:
    """The native dtype that stores ``dtype``: itself, or an unsigned integer that holds the bit pattern of a narrow one."""
    if dtype not in NARROW:
        return dtype
    return "uint16" if NARROW[dtype] == 16 else "uint8"


def to_carrier(array: np.ndarray) -> np.ndarray:
    """An array of a narrow dtype as its bit patterns; any other array as it is."""
    if array.dtype.name not in NARROW:
        return array
    bits = NARROW[array.dtype.name]
    patterns = np.ascontiguousarray(array).view(carrier_of(array.dtype.name)).reshape(array.shape)
    return patterns if bits >= 8 else np.asarray(patterns & np.uint8(2**bits - 1))


def from_carrier(array: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of ``to_carrier``."""
    return np.ascontiguousarray(array).view(np.dtype(dtype)).reshape(array.shape) if dtype in NARROW else array
