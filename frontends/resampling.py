"""Resampling along axes: where each output element reads and with what weights, in rational arithmetic.

Every output element is the sum of weight * x[index] over its *taps*, indices ascending: each weight, a rational number, is
rounded once to the dtype of x; each product is rounded; the products are added from left to right. Taps of weight 0 do not
exist; a single tap of weight 1 moves the element. Several axes are resampled one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, rank_of, shape_of

#: Index -> weight.
Taps = Mapping[int, Fraction]

HALF = Fraction(1, 2)


def simplest(value: float) -> Fraction:
    """The fraction with the smallest denominator that rounds to the float32 ``value``: 0.6 is 3/5, 0.33333334 is 1/3."""
    x = np.float32(value)
    if x < 0:
        return -simplest(-value)
    if x == 0:
        return Fraction(0)
    below, exact, above = (Fraction(float(v)) for v in (np.nextafter(x, np.float32(0)), x, np.nextafter(x, np.float32(np.inf))))
    # Strictly inside of the interval that rounds to x, so that ties do not matter.
    margin = (above - below) / 2**20
    return _between((below + exact) / 2 + margin, (exact + above) / 2 - margin)


def _between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of the smallest denominator in [low, high]."""
    whole = math.floor(low)
    if whole == low:
        return Fraction(whole)
    if whole + 1 <= high:
        return Fraction(whole + 1)
    return whole + 1 / _between(1 / (high - whole), 1 / (low - whole))


def rounded(value: Fraction, dtype: str) -> float:
    """The float of ``dtype`` nearest to a rational number, ties to even."""
    double = float(value)  # Python divides with one rounding
    if dtype == "float64":
        return double
    single = np.float32(double)
    candidates = [np.nextafter(single, np.float32(-np.inf)), single, np.nextafter(single, np.float32(np.inf))]
    return float(min(candidates, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(np.uint32)) & 1)))


# ---- where output elements lie in the input -------------------------------------------------------------------------


def coordinates(mode: str, length: int, count: int, scale: Fraction, roi: tuple[Fraction, Fraction]) -> list[Fraction]:
    """Input coordinates of ``count`` output elements; KeyError for an unknown ``mode`` (ONNX's names)."""
    width = scale * length
    centre = Fraction(length, 2) * (1 - count / width) if width else Fraction(0)
    start, end = roi

    def crop(i: int) -> Fraction:
        if width == 1:
            return (start + end) * (length - 1) / 2
        return start * (length - 1) + i * (end - start) * (length - 1) / (width - 1)

    modes: dict[str, Callable[[int], Fraction]] = {
        "half_pixel": lambda i: (i + HALF) / scale - HALF,
        "half_pixel_symmetric": lambda i: centre + (i + HALF) / scale - HALF,
        "pytorch_half_pixel": lambda i: (i + HALF) / scale - HALF if width > 1 else Fraction(0),
        "align_corners": lambda i: i * (length - 1) / (width - 1) if width != 1 else Fraction(0),
        "asymmetric": lambda i: i / scale,
        "tf_crop_and_resize": crop,
    }
    place = modes[mode]
    return [place(i) for i in range(count)]


# ---- taps -----------------------------------------------------------------------------------------------------------

#: Roundings of nearest-neighbour coordinates, by ONNX's names.
NEAREST: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda x: math.ceil(x - HALF),
    "round_prefer_ceil": lambda x: math.floor(x + HALF),
    "floor": math.floor,
    "ceil": math.ceil,
}


def nearest(x: Fraction, length: int, mode: str) -> Taps:
    """The nearest element, inside the axis."""
    return {min(max(NEAREST[mode](x), 0), length - 1): Fraction(1)}


def triangle(t: Fraction) -> Fraction:
    """The kernel of linear interpolation, of support 1."""
    return max(Fraction(0), 1 - abs(t))


def keys(a: Fraction) -> Callable[[Fraction], Fraction]:
    """The kernel of cubic interpolation (Keys 1981), of support 2."""

    def kernel(t: Fraction) -> Fraction:
        t = abs(t)
        if t <= 1:
            return ((a + 2) * t - (a + 3)) * t * t + 1
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else Fraction(0)

    return kernel


def interpolation(
    x: Fraction, length: int, kernel: Callable[[Fraction], Fraction], support: int, squeeze: Fraction, *, exclude: bool
) -> Taps:
    """kernel((i - x) * squeeze) of every index i, divided by the sum of all.

    Elements outside of the axis are the outermost ones, or with ``exclude`` do not take part.
    """
    reach = support / squeeze
    weights: dict[int, Fraction] = {}
    for i in range(math.ceil(x - reach), math.floor(x + reach) + 1):
        if exclude and not 0 <= i < length:
            continue
        inside = min(max(i, 0), length - 1)
        weights[inside] = weights.get(inside, Fraction(0)) + kernel((i - x) * squeeze)
    total = sum(weights.values(), Fraction(0))
    return {i: w / total for i, w in sorted(weights.items()) if w} if total else {inside_of(x, length): Fraction(1)}


def inside_of(x: Fraction, length: int) -> int:
    """The element next to a coordinate."""
    return min(max(math.floor(x + HALF), 0), length - 1)


# ---- the sum --------------------------------------------------------------------------------------------------------


def resample(e: Emitter, x: Expr, axis: int, taps: Sequence[Taps]) -> Expr:
    """x with as many elements along ``axis`` as there are ``taps``."""
    if list(taps) == [{i: 1} for i in range(shape_of(x)[axis])]:
        return x
    listed = [sorted(t.items()) for t in taps]
    total = None
    for k in range(max(len(t) for t in listed)):
        present = np.array([k < len(t) for t in listed])
        chosen = [t[min(k, len(t) - 1)] for t in listed]
        value = blocks.take(e, x, constant(np.array([i for i, _ in chosen], np.int64)), axis)
        if any(w != 1 for _, w in chosen):
            weights = np.array([rounded(w, dtype_of(x)) for _, w in chosen], dtype_of(x))
            value = e.mul(value, _along(weights, axis, rank_of(x)))
        if not present.all():
            value = e.where(_along(present, axis, rank_of(x)), value, -0.0)
        total = value if total is None else e.add(total, value)
    return total


def _along(vector: np.ndarray, axis: int, rank: int) -> Expr:
    return constant(vector.reshape([-1 if k == axis else 1 for k in range(rank)]))


def keep_where(e: Emitter, x: Expr, axis: int, inside: Sequence[bool], otherwise: float) -> Expr:
    """x, with ``otherwise`` at the positions of an axis that are not ``inside``."""
    mask = np.array(inside)
    return x if mask.all() else e.where(_along(mask, axis, rank_of(x)), x, otherwise)
