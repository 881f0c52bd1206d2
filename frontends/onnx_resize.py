"""ONNX's Resize and Upsample: constant geometry, so that all coordinates and weights are exact (``resampling``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import resampling as r
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known, optional
from gensyn_tvm.frontends.onnx_windows import in_float32


@dataclass(frozen=True)
class Geometry:
    """For each resized axis the scale, the number of output elements and the part of the input that is shown."""

    axes: Sequence[int]
    scales: Sequence[Fraction]
    counts: Sequence[int]
    rois: Sequence[tuple[Fraction, Fraction]]


def _vector(e: Emitter, x: Inputs, position: int, what: str) -> list[float]:
    """A constant vector; empty if left out."""
    value = optional(x, position)
    return [] if value is None else [float(v) for v in known(e, value, what).reshape(-1)]


def _geometry(e: Emitter, x: Inputs, a: Attributes) -> Geometry:
    shape = shape_of(x[0])
    axes = [convert_axis(int(v), len(shape)) for v in a.get("axes", range(len(shape)))]
    lengths, n = [shape[axis] for axis in axes], len(axes)
    roi = [r.simplest(v) for v in _vector(e, x, 1, "roi")] if a.get("coordinate_transformation_mode") == _CROP else []
    roi = roi or [Fraction(0)] * n + [Fraction(1)] * n
    scales = [r.simplest(v) for v in _vector(e, x, 2, "scales")]
    sizes = [int(v) for v in _vector(e, x, 3, "sizes")]
    if (len(scales) == n) == (len(sizes) == n) or len(roi) != 2 * n or 0 in lengths or min([*map(float, scales), *sizes]) <= 0:
        found = f"scales {list(map(float, scales))}, sizes {sizes}, roi of {len(roi)} for extents {lengths}"
        raise e.refuse(found, expected="a positive scale or size for each axis, which is not empty")
    policy = a.get("keep_aspect_ratio_policy", "stretch")
    if scales:
        counts = [math.floor(s * length) for s, length in zip(scales, lengths, strict=True)]
    else:
        scales, counts = [Fraction(s, length) for s, length in zip(sizes, lengths, strict=True)], sizes
        if policy != "stretch":
            scales = [{"not_larger": min, "not_smaller": max}[policy](scales)] * n
            counts = [math.floor(s * length + r.HALF) for s, length in zip(scales, lengths, strict=True)]
    return Geometry(axes, scales, counts, list(zip(roi[:n], roi[n:], strict=True)))


_CROP = "tf_crop_and_resize"


def _taps_of(e: Emitter, a: Attributes) -> Callable[[Fraction, int, Fraction], r.Taps]:
    """What computes the taps of (coordinate, length of the axis, scale)."""
    mode, rounding = a.get("mode", "nearest"), a.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and rounding in r.NEAREST and not a.get("antialias"):
        return lambda x, length, scale: r.nearest(x, length, rounding)
    if mode not in ("linear", "cubic"):
        found = f"mode {mode!r}, nearest_mode {rounding!r}, antialias {a.get('antialias', 0)}"
        raise e.refuse(found, expected="nearest without antialias, linear or cubic")
    kernel = r.triangle if mode == "linear" else r.keys(r.simplest(a.get("cubic_coeff_a", -0.75)))
    support, exclude = (1 if mode == "linear" else 2), bool(a.get("exclude_outside", 0))

    def taps(x: Fraction, length: int, scale: Fraction) -> r.Taps:
        squeeze = min(scale, Fraction(1)) if a.get("antialias") else Fraction(1)
        return r.interpolation(x, length, kernel, support, squeeze, exclude=exclude)

    return taps


def _resize(e: Emitter, x: Expr, geometry: Geometry, a: Attributes) -> Expr:
    mode = a.get("coordinate_transformation_mode", "half_pixel")
    taps_of = _taps_of(e, a)
    if a.get("mode", "nearest") != "nearest" and dtype_of(x) not in FLOATS:
        raise e.refuse(f"interpolation of {dtype_of(x)}", expected="floats", remedy="cast to float32 before and back after")
    y, outside = x, []
    for axis, scale, count, roi in zip(geometry.axes, geometry.scales, geometry.counts, geometry.rois, strict=True):
        length = shape_of(x)[axis]
        try:
            places = r.coordinates(mode, length, count, scale, roi)
        except KeyError:
            raise e.refuse(f"coordinate_transformation_mode {mode!r}", expected="one of ONNX's modes") from None
        if scale != 1 or count != length or roi != (Fraction(0), Fraction(1)):
            y = r.resample(e, y, axis, [taps_of(p, length, scale) for p in places])
        outside.append((axis, [mode != _CROP or 0 <= p <= length - 1 for p in places]))
    for axis, inside in outside:
        y = r.keep_where(e, y, axis, inside, a.get("extrapolation_value", 0.0))
    return y


def convert_resize(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Resize; before opset 11 the coordinates are asymmetric and rounded down."""
    if a.opset < 11:
        return convert_upsample(e, x, a)
    return _resize(e, x[0], _geometry(e, x, a), a)


def convert_upsample(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Upsample: its scales are an attribute or the second input."""
    scales = [r.simplest(v) for v in (a["scales"] if "scales" in a else _vector(e, x, 1, "scales"))]
    shape = shape_of(x[0])
    if len(scales) != rank_of(x[0]) or min(scales, default=Fraction(1)) <= 0 or 0 in shape:
        raise e.refuse(f"scales {list(map(float, scales))} of {tuple(shape)}", expected="a positive scale for each axis")
    counts = [math.floor(s * length) for s, length in zip(scales, shape, strict=True)]
    geometry = Geometry(range(len(shape)), scales, counts, [(Fraction(0), Fraction(1))] * len(shape))
    mode = "linear" if a.get("mode", "nearest") in ("linear", "bilinear") else a.get("mode", "nearest")
    old = Attributes({"mode": mode, "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"})
    return _resize(e, x[0], geometry, old)


def _moving(convert: Converter) -> Converter:
    """Narrow floats are moved as they are by nearest-neighbour resizing, computed with in float32 by the others."""
    wide = in_float32(convert)
    return lambda e, x, a: (convert if a.get("mode", "nearest") == "nearest" else wide)(e, x, a)


CONVERTERS: dict[str, Converter] = {"Resize": _moving(convert_resize), "Upsample": _moving(convert_upsample)}
