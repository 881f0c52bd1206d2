"""Sorting, running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter import scalar
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


def suppress(
    attrs: Attrs, out: TensorType, boxes: Array, order: Array, eligible: Array, threshold: Array, limit: Array
) -> Array:
    """Greedy, place by place of the order: kept unless one kept before overlaps by more than the threshold."""
    keep = np.zeros(out.shape, np.bool_)
    last = max(boxes.shape[1] - 1, 0)
    for row in np.ndindex(out.shape[:2]):
        corners = boxes[row[0]][np.clip(order[row], 0, last)]
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        chosen: list[int] = []
        for p in range(out.shape[2]):
            if not eligible[row][p] or len(chosen) >= int(limit):
                continue
            high = scalar.minimum(corners[chosen, 2:], corners[p, 2:][None, :])
            low = scalar.maximum(corners[chosen, :2], corners[p, :2][None, :])
            sides = np.where(low < high, high - low, np.float32(0.0))
            common = sides[:, 0] * sides[:, 1]
            if not (common / ((areas[p] + areas[chosen]) - common) > threshold).any():
                keep[row][p] = True
                chosen.append(p)
    return keep


OPERATORS: dict[str, Callable[..., Array]] = {
    "argsort": argsort,
    "cumsum": _cumulative(np.add, 0),
    "cumprod": _cumulative(np.multiply, 1),
    "suppress": suppress,
}
