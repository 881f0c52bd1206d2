"""What a case is: a single-operator graph with inputs that contain every kind of special value."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import NARROW, TensorType, from_carrier

SPECIAL32 = np.array(
    [
        *(0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754942e-38, -1.1754944e-38, 3.4028235e38, -3.4028235e38),
        *(
            1.0,
            -1.0,
            0.5,
            2.5,
            -2.5,
            1.0000001,
            8388607.5,
            16777216.0,
            2147483648.0,
            -2147483904.0,
            9.3e18,
            1e-20,
            88.7,
            -103.9,
        ),
    ],
    np.float32,
)

_LARGEST64, _SMALLEST_NORMAL64 = float(np.finfo(np.float64).max), float(np.finfo(np.float64).tiny)
SPECIAL64 = np.concatenate(
    [
        SPECIAL32.astype(np.float64),
        [5e-324, -5e-324, 1e-310, -1e-310, _SMALLEST_NORMAL64, _LARGEST64, -_LARGEST64, 1e300, 4503599627370495.5, 2.0**63],
    ]
)


@dataclass(frozen=True)
class Case:
    """A single-operator graph with inputs."""

    name: str
    op: str
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    attrs: dict[str, Any]
    special: bool = True
    #: For inputs that hold indices: the range (both ends included) that their values come from, by position.
    bounds: tuple[tuple[int, int] | None, ...] = ()

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode())

    def types(self) -> list[TensorType]:
        return [TensorType(shape, dtype) for shape, dtype in self.shapes]

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        values = [array(t, rng, special=self.special) for t in self.types()]
        for k, bounds in enumerate(self.bounds):
            if bounds is not None:
                values[k] = rng.integers(*bounds, values[k].shape, endpoint=True).astype(values[k].dtype)
        return values


def array(t: TensorType, rng: np.random.Generator, *, special: bool) -> np.ndarray:
    """Random values over many magnitudes, every seventh replaced by a special one."""
    if t.dtype == "bool":
        return rng.random(t.shape) < 0.5
    if t.dtype in NARROW:
        patterns = rng.integers(0, 2 ** NARROW[t.dtype], t.shape).astype(t.carrier)
        return from_carrier(patterns, t.dtype)
    if t.dtype not in ("float32", "float64"):
        info = np.iinfo(t.dtype)
        values = rng.integers(info.min, info.max, t.shape, dtype=t.dtype, endpoint=True)
        return np.where(rng.random(t.shape) < 0.5, values, rng.integers(0, 5, t.shape)).astype(t.dtype)
    mantissa = rng.standard_normal(t.shape)
    low, high = (-140, 127) if t.dtype == "float32" else (-1065, 1020)
    scale = np.exp2(rng.integers(low, high, t.shape)) if special else 1.0
    values = np.where(rng.random(t.shape) < 0.7, mantissa, mantissa * scale)
    if special:
        menu = SPECIAL32.astype(np.float64) if t.dtype == "float32" else SPECIAL64
        picks = menu[rng.integers(0, len(menu), t.shape)]
        values = np.where(rng.random(t.shape) < 1 / 7, picks, values)
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(t.dtype)
