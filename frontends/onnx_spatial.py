"""ONNX operators on images and matrices: sampling at computed places, regions, columns; determinants, Einstein summation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from gensyn_tvm.frontends import blocks, sampling
from gensyn_tvm.frontends.einsum import einsum
from gensyn_tvm.frontends.emit import MAX_CONSTANT, Emitter, Expr, constant, dtype_of, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, known, optional
from gensyn_tvm.frontends.onnx_windows import Window, in_float32
from gensyn_tvm.frontends.resampling import rounded
from gensyn_tvm.frontends.sampling import Tap


def convert_einsum(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """See ``frontends.einsum``."""
    return einsum(e, str(a["equation"]), x)


# ---- sampling -------------------------------------------------------------------------------------------------------


def convert_grid_sample(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x (N, C, spatial…) at grid (N, out…, n), whose last axis is (…, y, x) backwards, from -1 to 1."""
    extents, align = shape_of(x[0])[2:], bool(a.get("align_corners", 0))
    mode, padding = str(a.get("mode", "linear")), str(a.get("padding_mode", "zeros"))
    paddings = {"zeros": sampling.zeros, "border": sampling.border, "reflection": sampling.reflection(align)}
    if mode not in sampling.MODES or padding not in paddings or 0 in extents:
        raise e.refuse(f"mode {mode!r}, padding_mode {padding!r} of {shape_of(x[0])}", expected="ONNX's modes, no empty axis")
    return sampling.sample_grid(e, x[0], e.cast(x[1], dtype_of(x[0])), sampling.MODES[mode], paddings[padding], align)


def convert_affine_grid(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """theta (N, n, n + 1) times the homogeneous coordinates (x, y, …, 1) of the output's elements, as a matrix product."""
    images, _, *extents = (int(v) for v in known(e, x[1], "the size"))
    n, dtype = len(extents), dtype_of(x[0])
    if shape_of(x[0]) != [images, n, n + 1]:
        raise e.refuse(f"theta of shape {tuple(shape_of(x[0]))} for extents {extents}", expected=f"({images}, {n}, {n + 1})")
    base = np.ones((n + 1, *extents), dtype)
    for axis, extent in enumerate(extents):
        if a.get("align_corners"):
            line = [Fraction(2 * k, extent - 1) - 1 if extent > 1 else Fraction(0) for k in range(extent)]
        else:
            line = [Fraction(2 * k + 1, extent) - 1 for k in range(extent)]
        values = np.array([rounded(v, dtype) for v in line], dtype)
        base[n - 1 - axis] = values.reshape([-1 if k == axis else 1 for k in range(n)])
    grid = e(op.matmul(x[0], constant(base.reshape(n + 1, math.prod(extents)))))
    return e.reshape(e.transpose(grid, [0, 2, 1]), [images, *extents, n])


def convert_roi_align(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Mean (or maximum) of samples at fixed places of each bin, each between four elements; +0 beyond one element outside."""
    rois, images = x[1], x[2]
    ratio, mode = int(a.get("sampling_ratio", 0)), str(a.get("mode", "avg"))
    if ratio < 1 or mode not in ("avg", "max"):
        found = f"sampling_ratio {ratio}, mode {mode!r}"
        expected = "a positive ratio (0 makes the number of samples depend on the values of the boxes), avg or max"
        raise e.refuse(found, expected=expected)
    count, channels, dtype = shape_of(rois)[0], shape_of(x[0])[1], dtype_of(x[0])
    half = a.get("coordinate_transformation_mode", "half_pixel" if a.opset >= 16 else "output_half_pixel") == "half_pixel"
    sizes = [int(a.get("output_height", 1)), int(a.get("output_width", 1))]
    lines = []
    for axis, (bins, extent) in enumerate(zip(sizes, shape_of(x[0])[2:], strict=True)):
        low, high = (
            e.mul(e.slice(e.cast(rois, dtype), 1, k, k + 1), a.get("spatial_scale", 1.0)) for k in (1 - axis, 3 - axis)
        )
        low, high = (e.sub(low, 0.5), e.sub(high, 0.5)) if half else (low, high)
        length = e.sub(high, low) if half else e.maximum(e.sub(high, low), 1.0)
        bin_ = e.div(length, float(bins))
        numbers, steps = (np.arange(bins * ratio) // ratio).astype(dtype), (np.arange(bins * ratio) % ratio + 0.5).astype(dtype)
        start = e.add(low, e.mul(bin_, constant(numbers.reshape(1, -1))))
        lines.append(_bin_taps(e, e.add(start, e.div(e.mul(bin_, constant(steps.reshape(1, -1))), float(ratio))), extent))
    rows, columns = (bins * ratio for bins in sizes)
    taps = [[_over(e, tap, [count, rows, columns], axis) for tap in line] for axis, line in enumerate(lines)]
    y = sampling.sample(e, x[0], taps, batch=e.cast(images, "int64"), combine=e.maximum if mode == "max" else None)
    y = e.reshape(e.transpose(y, [0, 2, 1]), [count, channels, sizes[0], ratio, sizes[1], ratio])
    if mode == "max":
        return e(op.max(y, [3, 5]))
    return e.div(e(op.sum(y, [3, 5])), float(ratio * ratio))


def _bin_taps(e: Emitter, place: Expr, extent: int) -> list[Tap]:
    """Two taps for each coordinate; beyond one element outside of the axis they do not exist."""
    within = e(op.logical_and(e(op.greater_equal(place, _like(place, -1))), e(op.less_equal(place, _like(place, extent)))))
    place = e.clip(place, 0.0, float(extent - 1))
    (low, first), (high, second) = sampling.linear(e, place)
    return [
        Tap(sampling.inside(e, low, extent), first, within),
        Tap(sampling.inside(e, high, extent), second, within),
    ]


def _like(x: Expr, value: float) -> Expr:
    return constant(np.array(value, dtype_of(x)))


def _over(e: Emitter, tap: Tap, shape: Sequence[int], axis: int) -> Tap:
    """A tap for (R, places on one axis) repeated over the other axis, as (R, P)."""
    middle = [shape[0], shape[1], 1] if axis == 0 else [shape[0], 1, shape[2]]
    flat = [shape[0], shape[1] * shape[2]]
    parts = [tap.index, tap.weight, tap.exists]
    spread = [None if p is None else e.reshape(e.broadcast(e.reshape(p, middle), shape), flat) for p in parts]
    return Tap(spread[0], spread[1], spread[2])


def convert_deform_conv(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Samples between elements (+0 outside), times the mask; then a matrix product over (channel, kernel position)."""
    images, channels, *extents = shape_of(x[0])
    outputs, inner, *kernel = shape_of(x[1])
    n, groups, offsets = len(extents), int(a.get("group", 1)), int(a.get("offset_group", 1))
    w, out = Window.of(extents, kernel, a), shape_of(x[2])[2:]
    points, places = math.prod(kernel), math.prod(out)
    if points * places > MAX_CONSTANT:
        raise e.refuse(f"{points * places:,} samples for each image", expected=f"at most {MAX_CONSTANT:,}")
    shift = e.reshape(x[2], [images * offsets, points, n, places])
    taps = []
    for axis in range(n):
        j, q = np.indices(kernel)[axis].reshape(-1, 1), np.indices(out)[axis].reshape(1, -1)
        base = (q * w.strides[axis] + j * w.dilation[axis] - w.lows[axis]).astype(dtype_of(x[0]))
        moved = e.add(
            e.reshape(e.slice(shift, 2, axis, axis + 1), [images * offsets, points, places]), constant(base[np.newaxis])
        )
        flat = e.reshape(moved, [images * offsets, points * places])
        taps.append(sampling.resolved(e, sampling.linear(e, flat), sampling.zeros, extents[axis]))
    y = sampling.sample(e, e.reshape(x[0], [images * offsets, channels // offsets, *extents]), taps)
    if optional(x, 4) is not None:
        y = e.mul(y, e.reshape(x[4], [images * offsets, points * places, 1]))
    y = e.reshape(e.transpose(y, [0, 2, 1]), [images, groups, inner * points, places])
    y = e(op.matmul(e.reshape(x[1], [1, groups, outputs // groups, inner * points]), y))
    y = e.reshape(y, [images, outputs, *out])
    bias = optional(x, 3)
    return y if bias is None else e.add(y, blocks.per_channel(e, bias, rank_of(y)))


CONVERTERS: dict[str, Converter] = {
    "Einsum": in_float32(convert_einsum),
    "GridSample": in_float32(convert_grid_sample),
    "AffineGrid": in_float32(convert_affine_grid),
    "RoiAlign": in_float32(convert_roi_align),
    "DeformConv": in_float32(convert_deform_conv),
}
