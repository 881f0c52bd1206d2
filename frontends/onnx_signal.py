"""ONNX signal processing: Fourier transforms as products with tables of sines and cosines, which are rounded from exact values.

Nothing here uses the host's elementary functions, so the tables are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known, optional
from gensyn_tvm.frontends.onnx_reader import element_type

#: Binary digits in which tables are computed before they are rounded to float64.
_PRECISION = 120


def _circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi k / n for k = 0 … n - 1, as float64."""
    with mpmath.workprec(_PRECISION):
        cos = [float(mpmath.cospi(mpmath.mpf(2 * k) / n)) for k in range(n)]
        sin = [float(mpmath.sinpi(mpmath.mpf(2 * k) / n)) for k in range(n)]
    return np.array(cos), np.array(sin)


def _angles(n: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi r c / n, (rows, columns)."""
    cos, sin = _circle(n)
    places = np.multiply.outer(np.arange(rows), np.arange(columns)) % n
    return cos[places], sin[places]


def _table(n: int, *, real: bool, inverse: bool, onesided: bool) -> np.ndarray:
    """What [real parts, imaginary parts] (the latter unless ``real``) are multiplied by: (terms, results)."""
    if inverse and onesided:
        cos, sin = _angles(n, n // 2 + 1, n)
        weight = np.full((n // 2 + 1, 1), 2.0)
        weight[0] = 1.0
        if n % 2 == 0:
            weight[-1] = 1.0
        parts = [cos * weight, -sin * weight]
        return parts[0] if real else np.concatenate(parts)
    cos, sin = _angles(n, n, n // 2 + 1 if onesided else n)
    sin = -sin if inverse else sin
    upper = np.concatenate([cos, -sin], axis=1)
    return upper if real else np.concatenate([upper, np.concatenate([sin, cos], axis=1)])


def _fit(e: Emitter, x: Expr, axis: int, extent: int) -> Expr:
    """x cropped, or padded with zeros at the end, to ``extent`` elements."""
    old = shape_of(x)[axis]
    if old >= extent:
        return e.slice(x, axis, 0, extent)
    highs = [extent - old if k == axis else 0 for k in range(rank_of(x))]
    return blocks.pad(e, x, [0] * rank_of(x), highs, 0.0)


def fourier(e: Emitter, x: Expr, n: int, axis: int, *, inverse: bool, onesided: bool) -> Expr:
    """The discrete Fourier transform of x (…, axis, …, 1 or 2) over ``n`` elements: products in float64, rounded once."""
    if dtype_of(x) not in FLOATS or shape_of(x)[-1] not in (1, 2) or n < 1:
        found = f"{dtype_of(x)}{shape_of(x)} and length {n}"
        raise e.refuse(found, expected="float32 or float64 of shape (…, 1) or (…, 2)")
    rank, dtype = rank_of(x), dtype_of(x)
    others = [k for k in range(rank - 1) if k != axis]
    x = _fit(e, e.transpose(x, [*others, rank - 1, axis]), rank - 1, n // 2 + 1 if inverse and onesided else n)
    *batch, parts, terms = shape_of(x)
    table = _table(n, real=parts == 1, inverse=inverse, onesided=onesided)
    y = e(op.matmul(e.reshape(e.cast(x, "float64"), [math.prod(batch), parts * terms]), constant(table)))
    if inverse:
        y = e.div(y, float(n))
    results = 1 if inverse and onesided else 2
    y = e.reshape(e.cast(y, dtype), [*batch, results, table.shape[1] // results])
    back = [*range(len(batch))]
    back.insert(axis, rank - 1)
    return e.transpose(y, [*back, rank - 2])


def _scalar(e: Emitter, value: Expr, what: str) -> int:
    return int(known(e, value, what).item())


def convert_dft(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axis = _scalar(e, x[2], "the axis") if optional(x, 2) is not None else a.get("axis", 1 if a.opset < 20 else -2)
    axis = convert_axis(axis, rank_of(x[0]))
    inverse, onesided = bool(a.get("inverse", 0)), bool(a.get("onesided", 0))
    extent = shape_of(x[0])[axis]
    default = 2 * (extent - 1) if inverse and onesided else extent
    n = _scalar(e, x[1], "the length") if optional(x, 1) is not None else default
    return fourier(e, x[0], n, axis, inverse=inverse, onesided=onesided)


def convert_stft(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The transform of windows of x (batch, length, 1 or 2): (batch, frames, frequencies, 2)"""
    step, window = _scalar(e, x[1], "the step"), optional(x, 2)
    length = _scalar(e, x[3], "the length") if optional(x, 3) is not None else shape_of(window)[0]
    size = length if window is None else shape_of(window)[0]
    batch, total, parts = shape_of(x[0])
    frames = (total - length) // step + 1 if step > 0 else 0
    if frames < 1:
        raise e.refuse(f"{total} elements in frames of {length} every {step}", expected="at least one frame")
    places = (np.arange(frames)[:, None] * step + np.arange(size)).reshape(-1)
    y = e.reshape(blocks.take(e, x[0], constant(places.astype(np.int64)), 1), [batch, frames, size, parts])
    y = y if window is None else e.mul(y, e.reshape(window, [size, 1]))
    return fourier(e, y, length, 2, inverse=False, onesided=bool(a.get("onesided", 1)))


# ---- mel filters ----------------------------------------------------------------------------------------------------


def _mel_edges(bins: int, length: int, rate: int, low: Any, high: Any) -> list[int]:
    """Positions in the spectrum of the ``bins`` + 2 edges of the filters."""
    with mpmath.workprec(_PRECISION):
        mel = [2595 * mpmath.log10(1 + mpmath.mpf(float(f)) / 700) for f in (low, high)]
        width = (mel[1] - mel[0]) / (bins + 2)
        hertz = [700 * (mpmath.power(10, (mel[0] + k * width) / 2595) - 1) for k in range(bins + 2)]
        return [int(mpmath.floor((length + 1) * f / rate)) for f in hertz]


def _triangles(edges: Sequence[int], spectrum: int) -> np.ndarray:
    """Filters that rise from each edge to the next and fall to the one after, (spectrum, filters)."""
    result = np.zeros((spectrum, len(edges) - 2))
    for k, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        if left == centre:
            result[centre, k] = 1.0
        for j in range(left, centre + 1 if left < centre else left):
            result[j, k] = (j - left) / (centre - left)
        for j in range(centre, right):
            result[j, k] = (right - j) / (right - centre)
    return result


def convert_mel(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    names = ("the number of bins", "the length", "the sample rate", "the lower edge", "the upper edge")
    bins, length, rate, low, high = (known(e, v, name).item() for v, name in zip(x, names, strict=True))
    edges = _mel_edges(bins, length, rate, low, high) if min(bins, length, rate) > 0 and 0 <= low < high else []
    spectrum = length // 2 + 1
    if not edges or edges[-1] > spectrum or max(edges[:-1]) >= spectrum:
        raise e.refuse(f"{bins} filters from {low} to {high} Hz at {rate} Hz", expected="filters inside the spectrum")
    return e.cast(constant(_triangles(edges, spectrum)), element_type(int(a.get("output_datatype", 1)), e.place))


SIGNAL: dict[str, Converter] = {"DFT": convert_dft, "STFT": convert_stft, "MelWeightMatrix": convert_mel}
