"""What can be said about one array and about the difference of two: summaries, bits, distances. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from gensyn_tvm.canonical.types import FLOATS, NARROW, NARROW_FLOATS, to_carrier

#: Without a sign bit: its patterns are in the order of its values.
_UNSIGNED_FLOATS = ("float8_e8m0fnu",)

Index = tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """An array in five numbers.

    Attributes:
        minimum, maximum: of the finite elements; None if there is none.
        nans, infinities, subnormals: how many elements are one; 0 for dtypes that have none.
    """

    minimum: float | int | None
    maximum: float | int | None
    nans: int = 0
    infinities: int = 0
    subnormals: int = 0

    @property
    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        return not self.nans and not self.infinities

    def __str__(self) -> str:
        counts = {"NaN": self.nans, "infinite": self.infinities, "subnormal": self.subnormals}
        extremes = "no finite elements" if self.minimum is None else f"{self.minimum} to {self.maximum}"
        return ", ".join([extremes, *(f"{n} {what}" for what, n in counts.items() if n)])


def summarise(array: np.ndarray) -> Summary:
    """Summary of an array of any dtype of the canonical graph."""
    if not is_float(array):
        wide = array.astype(np.int64) if array.dtype.name in NARROW or array.dtype == bool else array
        return Summary(int(wide.min()), int(wide.max())) if array.size else Summary(None, None)
    values = widened(array)
    finite = np.isfinite(values)
    tiny = float(ml_dtypes.finfo(array.dtype).smallest_normal)
    subnormal = finite & (values != 0) & (np.abs(values) < tiny)
    kept = values[finite]
    minimum, maximum = (float(kept.min()), float(kept.max())) if kept.size else (None, None)
    return Summary(minimum, maximum, int(np.isnan(values).sum()), int(np.isinf(values).sum()), int(subnormal.sum()))


def is_float(array: np.ndarray) -> bool:
    """Whether the elements are floats, narrow ones included."""
    return array.dtype.name in FLOATS or array.dtype.name in NARROW_FLOATS


def widened(array: np.ndarray) -> np.ndarray:
    """Floats as float64, exactly."""
    narrow = array.dtype.name in NARROW_FLOATS
    return np.asarray(array.astype(np.float32) if narrow else array).astype(np.float64)


def bit_patterns(array: np.ndarray) -> np.ndarray:
    """The elements' bits as unsigned integers."""
    carried = np.ascontiguousarray(to_carrier(array))
    return carried.view(f"u{carried.dtype.itemsize}").reshape(array.shape)


def differing(a: np.ndarray, b: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    """Where two arrays of one dtype and shape differ, as booleans.

    Args:
        a, b: ``b`` is the reference.
        tolerance: None compares bits. Otherwise two floats differ if they are further apart than ``tolerance`` times the
            largest finite magnitude of ``b``; NaN only equals NaN, an infinity only itself. Other dtypes are compared in bits.
    """
    if tolerance is None or not is_float(a):
        return np.asarray(bit_patterns(a) != bit_patterns(b))
    x, y = widened(a), widened(b)
    with np.errstate(all="ignore"):
        magnitudes = np.abs(y[np.isfinite(y)])
        bound = tolerance * float(magnitudes.max(initial=0.0))
        near = np.isfinite(x) & np.isfinite(y) & (np.abs(x - y) <= bound)
    return np.asarray(~(near | (x == y) | (np.isnan(x) & np.isnan(y))))


def largest_error(a: np.ndarray, b: np.ndarray) -> float | None:
    """Largest distance of finite floats, relative to the largest finite magnitude of the reference ``b``.

    None for other dtypes, and if the reference has no finite element but zeros.
    """
    if not is_float(a):
        return None
    x, y = widened(a), widened(b)
    finite = np.isfinite(x) & np.isfinite(y)
    scale = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    return float(np.abs(x[finite] - y[finite]).max(initial=0.0)) / scale if scale else None


def ulp_distance(a: np.ndarray, b: np.ndarray) -> int | None:
    """How many representable values lie between two scalars, the further one included; -0 and +0 have distance 0.

    For integers the distance of the numbers. None if one is NaN.
    """
    if not is_float(a):
        return abs(int(a) - int(b))
    if np.isnan(widened(a)) or np.isnan(widened(b)):
        return None
    return abs(_position(a) - _position(b))


def _position(scalar: np.ndarray) -> int:
    """Floats counted from zero upwards and downwards."""
    pattern = int(bit_patterns(scalar))
    if scalar.dtype.name in _UNSIGNED_FLOATS:
        return pattern
    sign = 1 << (NARROW.get(scalar.dtype.name, scalar.dtype.itemsize * 8) - 1)
    return -(pattern - sign) if pattern & sign else pattern


def first_index(mask: np.ndarray) -> Index:
    """Index of the first True in row-major order."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def as_text(array: np.ndarray, index: Index) -> str:
    """An element in decimal and its bits in hexadecimal: ``0.1 (0x3dcccccd)``."""
    element = np.asarray(array[index])
    bits = NARROW.get(array.dtype.name, array.dtype.itemsize * 8)
    return f"{element[()]!s} (0x{int(bit_patterns(element)):0{max(bits // 4, 1)}x})"
