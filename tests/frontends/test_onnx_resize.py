"""Resize and Upsample against PyTorch, ONNX's reference evaluator and rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from gensyn_tvm.errors import GensynError
from gensyn_tvm.frontends import resampling

from .onnx_peer import assert_close, model, ours, random, reference


def _resized(x: np.ndarray, roi: Any = None, scales: Any = None, sizes: Any = None, *, opset: int = 21, **given: Any) -> Any:
    inputs = [x, None if roi is None else np.array(roi, np.float32)]
    inputs += [None if scales is None else np.array(scales, np.float32), None if sizes is None else np.array(sizes, np.int64)]
    proto = model("Resize", inputs, constants=(1, 2, 3), opset=opset, **given)
    return ours(proto, inputs)[0], reference(proto, inputs)[0]


@pytest.mark.parametrize(("value", "fraction"), [(0.6, (3, 5)), (1 / 3, (1, 3)), (2.0, (2, 1)), (-0.75, (-3, 4)), (0, (0, 1))])
def test_the_simplest_fraction(value: float, fraction: tuple[int, int]) -> None:
    assert resampling.simplest(np.float32(value)) == Fraction(*fraction)


def test_simplest_fractions_round_back_and_have_no_simpler_one() -> None:
    for value in np.random.default_rng(0).uniform(0.001, 40, 300).astype(np.float32):
        fraction = resampling.simplest(value)
        assert np.float32(float(fraction)) == value
        for denominator in range(1, min(fraction.denominator, 400)):
            assert np.float32(round(float(value) * denominator) / denominator) != value


def test_rounding_of_weights() -> None:
    """Halfway cases, which a detour over float64 would get wrong."""
    half_ulp = Fraction(1, 2**24)
    for base, wanted in (
        (1 + half_ulp, 1.0),
        (1 + half_ulp + Fraction(1, 2**70), 1.0 + 2**-23),
        (1 + 3 * half_ulp, 1 + 2**-22),
    ):
        assert resampling.rounded(base, "float32") == wanted
        assert resampling.rounded(-base, "float32") == -wanted
    assert resampling.rounded(Fraction(1, 3), "float64") == 1 / 3


@pytest.mark.parametrize("size", ((5, 9), (13, 3), (7, 7)))
@pytest.mark.parametrize("align", (False, True))
@pytest.mark.parametrize("mode", ("linear", "cubic"))
def test_interpolation_is_torch(size: tuple[int, int], align: bool, mode: str) -> None:
    x = random(2, 3, 6, 7)
    transformation = "align_corners" if align else "half_pixel"
    found, _ = _resized(x, sizes=[2, 3, *size], mode=mode, coordinate_transformation_mode=transformation)
    name = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    wanted = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=name, align_corners=align)
    assert_close(found, wanted.numpy())
    if not align:
        found, _ = _resized(x, sizes=[2, 3, *size], mode=mode, antialias=1, cubic_coeff_a=-0.5, exclude_outside=1)
        wanted = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=name, antialias=True)
        assert_close(found, wanted.numpy())


@pytest.mark.parametrize("mode", ("nearest", "linear", "cubic"))
@pytest.mark.parametrize(
    "given",
    [
        {"scales": [1.0, 1.0, 2.5, 0.6], "exclude_outside": 1},
        {"scales": [0.7, 3.0], "axes": [2, 1], "coordinate_transformation_mode": "asymmetric"},
        {"scales": [1.7, 0.3], "axes": [2, 3], "coordinate_transformation_mode": "half_pixel_symmetric"},
        {"sizes": [9, 4], "axes": [3, 2], "keep_aspect_ratio_policy": "not_larger"},
        {"sizes": [9, 4], "axes": [-1, -2], "keep_aspect_ratio_policy": "not_smaller"},
        {
            "sizes": [8, 9],
            "axes": [2, 3],
            "roi": [0.25, -0.5, 0.75, 1.25],
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 7.5,
        },
    ],
)
def test_modes_are_the_reference(mode: str, given: dict[str, Any]) -> None:
    if mode == "nearest" and "exclude_outside" in given:
        pytest.skip("of interpolation")
    given = {**given, "axes": [a % 4 for a in given["axes"]]} if "axes" in given else given
    found, wanted = _resized(random(1, 2, 5, 6), mode=mode, **given)
    assert_close(found, wanted, 3e-6)


@pytest.mark.parametrize("rounding", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
def test_nearest_moves_every_dtype(rounding: str) -> None:
    for dtype in ("float32", "float64", "int8", "uint8", "int32"):
        x = random(2, 5, dtype=dtype)
        found, wanted = _resized(x, scales=[2.0, 2.0], mode="nearest", nearest_mode=rounding)
        assert_close(found, wanted, 0.0)


def test_infinities_do_not_reach_beyond_their_taps() -> None:
    x = np.array([[[1.0, 2.0, np.inf, 3.0, 4.0]]], np.float32)
    found, _ = _resized(x, scales=[1.0, 1.0, 2.0], mode="linear")
    wanted = np.array([1.0, 1.25, 1.75, np.inf, np.inf, np.inf, np.inf, 3.25, 3.75, 4.0])
    np.testing.assert_array_equal(found[0, 0], wanted)


def test_old_upsample_and_resize() -> None:
    x, scales = random(1, 1, 3, 4), np.array([1.0, 1.0, 2.0, 3.0], np.float32)
    wanted = x.repeat(2, 2).repeat(3, 3)
    for proto in (
        model("Upsample", [x, scales], constants=(1,), opset=9),
        model("Resize", [x, scales], constants=(1,), opset=10),
    ):
        assert_close(ours(proto, [x, scales])[0], wanted, 0.0)
    linear = ours(model("Upsample", [x, scales], constants=(1,), opset=9, mode="linear"), [x, scales])[0]
    np.testing.assert_allclose(linear[:, :, 1, 0], (x[:, :, 0, 0] + x[:, :, 1, 0]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "given", "words"),
    [
        ("int8", {"mode": "linear", "scales": [1.0, 2.0]}, "interpolation of int8"),
        ("float32", {"mode": "nearest", "scales": [1.0, 2.0], "antialias": 1}, "antialias 1"),
        ("float32", {"mode": "linear", "scales": [1.0, 0.0]}, "a positive scale"),
        ("float32", {"mode": "linear", "scales": [1.0, 2.0], "coordinate_transformation_mode": "tilted"}, "'tilted'"),
    ],
)
def test_refusals(dtype: str, given: dict[str, Any], words: str) -> None:
    x = random(3, 4, dtype=dtype)
    inputs = [x, None, np.array(given.pop("scales"), np.float32)]
    with pytest.raises(GensynError, match=words):
        ours(model("Resize", inputs, constants=(2,), **given), inputs)
