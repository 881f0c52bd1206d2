"""ATen operators that resample images, pad them by their own elements, or exchange channels and pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks, resampling, sampling
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, rank_of, shape_of
from gensyn_tvm.frontends.torch_converters import Arguments, Converter, in_float32

#: Given a coordinate, the axis' length and the scale: what an output element is made of.
TapsOf = Callable[[Fraction, int, Fraction], resampling.Taps]

_ROI = (Fraction(0), Fraction(1))


def _scales(a: Arguments, lengths: Sequence[int], counts: Sequence[int]) -> list[Fraction]:
    """Output elements for an input element on each axis: as given, else from the extents."""
    n = len(lengths)
    names = ["scales_d", "scales_h", "scales_w"][-n:]
    given: Any = getattr(a, "scale_factors", None)
    given = given or ([getattr(a, "scales", None)] if hasattr(a, "scales") else [getattr(a, name, None) for name in names])
    return [
        resampling.simplest(s) if s is not None and s > 0 else Fraction(count, length)
        for s, count, length in zip(given, counts, lengths, strict=True)
    ]


def convert_resample(mode: str, taps_of: TapsOf) -> Converter:
    """An upsampling operator: coordinates by ``mode`` (ONNX's names), or aligned corners if the node asks for them."""

    def convert(e: Emitter, a: Arguments) -> Expr:
        y = x = a.input if hasattr(a, "input") else a.self
        if taps_of not in (_floor, _centre) and dtype_of(x) not in FLOATS:
            raise e.refuse(f"interpolation of {dtype_of(x)}", expected="floats")
        lengths, counts = shape_of(x)[2:], a.out_shape[2:]
        scales = _scales(a, lengths, counts)
        aligned = bool(getattr(a, "align_corners", False))
        for axis, (length, count, scale) in enumerate(zip(lengths, counts, scales, strict=True), start=2):
            scale = Fraction(count, length) if aligned else scale
            if count == length and scale == 1:
                continue
            places = resampling.coordinates("align_corners" if aligned else mode, length, count, scale, _ROI)
            y = resampling.resample(e, y, axis, [taps_of(p, length, scale) for p in places])
        return y

    return in_float32(convert)


def _floor(x: Fraction, length: int, scale: Fraction) -> resampling.Taps:
    return resampling.nearest(x, length, "floor")


def _centre(x: Fraction, length: int, scale: Fraction) -> resampling.Taps:
    return resampling.nearest(x, length, "round_prefer_ceil")


def _interpolation(kernel: Callable[[Fraction], Fraction], support: int, *, antialias: bool = False) -> TapsOf:
    def taps(x: Fraction, length: int, scale: Fraction) -> resampling.Taps:
        squeeze = min(scale, Fraction(1)) if antialias else Fraction(1)
        return resampling.interpolation(x, length, kernel, support, squeeze, exclude=antialias)

    return taps


_LINEAR = _interpolation(resampling.triangle, 1)
_CUBIC = _interpolation(resampling.keys(Fraction(-3, 4)), 2)
_LINEAR_AA = _interpolation(resampling.triangle, 1, antialias=True)
_CUBIC_AA = _interpolation(resampling.keys(Fraction(-1, 2)), 2, antialias=True)


def _overloads(name: str, mode: str, taps: TapsOf) -> dict[str, Converter]:
    return {f"{name}.{overload}": convert_resample(mode, taps) for overload in ("vec", "default")}


def convert_grid_sampler(e: Emitter, a: Arguments) -> Expr:
    """``grid_sample`` of images with two spatial axes."""
    mode = (sampling.linear, sampling.nearest, sampling.cubic)[a.interpolation_mode]
    padding = (sampling.zeros, sampling.border, sampling.reflection(a.align_corners))[a.padding_mode]
    return sampling.sample_grid(e, a.input, a.grid, mode, padding, a.align_corners)


# ---- padding by elements of the input -------------------------------------------------------------------------------


def convert_padding(mode: str) -> Converter:
    """Padding of the last axes by ``reflect``, ``edge`` or ``wrap``."""

    def convert(e: Emitter, a: Arguments) -> Expr:
        y = a.self
        for k in range(len(a.padding) // 2):
            y = blocks.pad_by_elements(e, y, rank_of(y) - 1 - k, a.padding[2 * k], a.padding[2 * k + 1], mode)
        return y

    return convert


# ---- channels and pixels --------------------------------------------------------------------------------------------


def convert_pixel_shuffle(e: Emitter, a: Arguments) -> Expr:
    """(…, C r r, H, W) → (…, C, H r, W r)"""
    *outer, channels, height, width = shape_of(a.self)
    r, n = a.upscale_factor, len(outer)
    x = e.reshape(a.self, [*outer, channels // (r * r), r, r, height, width])
    return e.reshape(e.transpose(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2]), a.out_shape)


def convert_pixel_unshuffle(e: Emitter, a: Arguments) -> Expr:
    """(…, C, H r, W r) → (…, C r r, H, W)"""
    *outer, channels, height, width = shape_of(a.self)
    r, n = a.downscale_factor, len(outer)
    x = e.reshape(a.self, [*outer, channels, height // r, r, width // r, r])
    return e.reshape(e.transpose(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), a.out_shape)


def convert_channel_shuffle(e: Emitter, a: Arguments) -> Expr:
    """(N, groups k, …) → (N, k groups, …)"""
    n, channels, *spatial = shape_of(a.self)
    x = e.reshape(a.self, [n, a.groups, channels // a.groups, math.prod(spatial)])
    return e.reshape(e.transpose(x, [0, 2, 1, 3]), a.out_shape)


RESAMPLING: dict[str, Converter] = {
    **{k: v for n in (1, 2, 3) for k, v in _overloads(f"upsample_nearest{n}d", "asymmetric", _floor).items()},
    **{k: v for n in (1, 2, 3) for k, v in _overloads(f"_upsample_nearest_exact{n}d", "half_pixel", _centre).items()},
    **_overloads("upsample_linear1d", "half_pixel", _LINEAR),
    **_overloads("upsample_bilinear2d", "half_pixel", _LINEAR),
    **_overloads("upsample_trilinear3d", "half_pixel", _LINEAR),
    **_overloads("upsample_bicubic2d", "half_pixel", _CUBIC),
    **_overloads("_upsample_bilinear2d_aa", "half_pixel", _LINEAR_AA),
    **_overloads("_upsample_bicubic2d_aa", "half_pixel", _CUBIC_AA),
    **{f"reflection_pad{n}d.default": convert_padding("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d.default": convert_padding("edge") for n in (1, 2, 3)},
    **{f"grid_sampler{k}.default": in_float32(convert_grid_sampler) for k in ("", "_2d", "_3d")},
    "pixel_shuffle.default": convert_pixel_shuffle,
    "pixel_unshuffle.default": convert_pixel_unshuffle,
    **{f"{name}.default": convert_channel_shuffle for name in ("channel_shuffle", "native_channel_shuffle")},
}
