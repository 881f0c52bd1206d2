"""Sorting, running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]


def argsort(attrs: Attrs, out: TensorType, x: Array) -> Array:
    """Stable, by ranks: NaNs are equal and the largest, the zeros are equal."""
    _, ranks = np.unique(x, return_inverse=True, equal_nan=True)
    ranks = ranks.reshape(x.shape).astype(np.int64)
    return np.argsort(-ranks if attrs["descending"] else ranks, axis=attrs["axis"], kind="stable").astype(np.int64)


def _cumulative(combine: Callable[[Array, Array], Array], start: int) -> Callable[..., Array]:
    def evaluate(attrs: Attrs, out: TensorType, x: Array) -> Array:
        lines = np.moveaxis(x, attrs["axis"], 0)
        if attrs["reverse"]:
            lines = lines[::-1]
        sums: list[Array] = []
        for line in lines:
            sums.append(combine(sums[-1], line) if sums else line)
        if attrs["exclusive"] and sums:
            sums = [np.full_like(sums[0], start), *sums[:-1]]
        result = np.stack(sums) if sums else lines
        return np.moveaxis(result[::-1] if attrs["reverse"] else result, 0, attrs["axis"])

    return evaluate


OPERATORS: dict[str, Callable[..., Array]] = {
    "argsort": argsort,
    "cumsum": _cumulative(np.add, 0),
    "cumprod": _cumulative(np.multiply, 1),
}
