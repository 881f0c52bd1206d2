"""ONNX's quantised operators against NumPy and ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from gensyn_tvm.errors import GensynError

from .onnx_peer import assert_close, model, ours, random, reference

HALVES = np.array(
    [[-0.5, 0.5, 1.5, 2.5, -2.5, 1e30, -1e30, np.inf, -np.inf, 0.0], [3.0, -7.25, 100.0, 254.6, 255.5, 0.4, -128.5, 9, 8, 7]]
)


def _same(proto: Any, inputs: list[Any]) -> None:
    found, wanted = ours(proto, inputs)[0], reference(proto, inputs)[0]
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64))


@pytest.mark.parametrize("dtype", ("uint8", "int8", "uint16", "int16", "uint4", "int4", "uint2", "int2"))
def test_quantisation_rounds_to_even_and_saturates(dtype: str) -> None:
    x, scale, zero = HALVES.astype(np.float32), np.array(1.0, np.float32), np.array(1, np.dtype(dtype))
    found = ours(model("QuantizeLinear", [x, scale, zero], opset=25), [x, scale, zero])[0]
    info = ml_dtypes.iinfo(dtype)
    wanted = np.clip(np.rint(HALVES) + 1, int(info.min), int(info.max))
    np.testing.assert_array_equal(found.astype(np.float64), wanted)
    nan = np.full((1, 2), np.nan, np.float32)
    assert not ours(model("QuantizeLinear", [nan, scale, zero], opset=25), [nan, scale, zero])[0].astype(np.int32).any()


@pytest.mark.parametrize("dtype", ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"))
@pytest.mark.parametrize("saturate", (0, 1))
def test_quantisation_to_float8(dtype: str, saturate: int) -> None:
    x, scale, zero = HALVES.astype(np.float32), np.array([0.25], np.float32), np.zeros((), np.dtype(dtype))
    proto = model("QuantizeLinear", [x, scale, zero], constants=(2,), opset=25, saturate=saturate)
    found = ours(proto, [x, scale, zero])[0].astype(np.float32)
    limit = float(ml_dtypes.finfo(dtype).max) if saturate else np.inf
    with np.errstate(all="ignore"):
        wanted = np.clip(x / scale, -limit, limit).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("given", ({"axis": 0}, {"axis": -1}, {"axis": 1, "block_size": 4}, {"precision": TensorProto.FLOAT16}))
@pytest.mark.parametrize("dtype", ("int8", "uint8", "int4"))
def test_scales_along_an_axis_and_blocks(given: dict[str, Any], dtype: str) -> None:
    given = dict(given)
    x = random(5, 10, seed=3) * 40
    shape = {0: (5,), -1: (10,), 1: (5, 3)}[given["axis"]] if "axis" in given else ()
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.1, 3, shape).astype(np.float32)
    zero = rng.integers(0, 7, shape).astype(dtype)
    proto = model("QuantizeLinear", [x, scale, zero], opset=25, **given)
    _same(proto, [x, scale, zero])
    q = reference(proto, [x, scale, zero])[0]
    given.pop("precision", None)
    _same(model("DequantizeLinear", [q, scale, zero], opset=25, **given), [q, scale, zero])
    given["output_dtype"] = TensorProto.FLOAT16
    _same(model("DequantizeLinear", [q, scale, zero], opset=25, **given), [q, scale, zero])


def test_dequantisation_of_int32_does_not_round_before_the_difference() -> None:
    x, scale, zero = np.array([2**24 + 1, -(2**31)], np.int32), np.array(1.0, np.float32), np.array([2**24], np.int32)
    found = ours(model("DequantizeLinear", [x, scale, zero]), [x, scale, zero])[0]
    np.testing.assert_array_equal(found, np.array([1.0, 2.0**31 - 2.0**24], np.float32))


@pytest.mark.parametrize("shift", (0.0, 5.0, -5.0))
def test_dynamic_quantisation(shift: float) -> None:
    inputs = [random(4, 7) + np.float32(shift)]
    proto = model("DynamicQuantizeLinear", inputs, outputs=3)
    for found, wanted in zip(ours(proto, inputs), reference(proto, inputs), strict=True):
        assert_close(found, wanted, 0.0)


def test_integer_matrix_products() -> None:
    a, b = random(2, 3, 70, dtype="uint8"), random(70, 5, dtype="int8", seed=1)
    rows, columns = random(3, dtype="uint8", seed=2), random(5, dtype="int8", seed=3)
    wanted = (a.astype(np.int64) - rows[:, None]) @ (b.astype(np.int64) - columns)
    assert_close(ours(model("MatMulInteger", [a, b, rows, columns]), [a, b, rows, columns])[0], wanted.astype(np.int32))
    wanted = a.astype(np.int64) @ b.astype(np.int64)
    assert_close(ours(model("MatMulInteger", [a, b]), [a, b])[0], wanted.astype(np.int32))


def test_integer_convolutions_pad_with_the_zero_point() -> None:
    x, w = random(2, 4, 7, 6, dtype="uint8"), random(6, 2, 3, 3, dtype="int8", seed=1)
    zero, zeros = random(dtype="uint8", seed=2), random(6, dtype="int8", seed=3)
    proto = model("ConvInteger", [x, w, zero, zeros], group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    float_conv = model("Conv", [x.astype(np.float64), w.astype(np.float64)], group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    exact = [x.astype(np.float64) - zero, w.astype(np.float64) - zeros.reshape(-1, 1, 1, 1)]
    assert_close(ours(proto, [x, w, zero, zeros])[0], reference(float_conv, exact)[0].astype(np.int32))


def test_quantised_products() -> None:
    """The stated formula, in NumPy's float32."""
    f = np.float32
    a, b = random(2, 3, 70, dtype="uint8"), random(70, 5, dtype="int8", seed=1)
    scales, zero, zeros, last = [f(0.02), f(0.01), f(0.7)], np.uint8(3), random(5, dtype="int8", seed=3), np.int8(-4)
    inputs = [a, np.array(scales[0]), np.array(zero), b, np.array(scales[1]), zeros, np.array(scales[2]), np.array(last)]
    total = ((a.astype(np.int32) - zero) @ (b.astype(np.int32) - zeros)).astype(f)
    wanted = np.rint(total * (scales[0] * scales[1] / scales[2])) + last
    assert_close(ours(model("QLinearMatMul", inputs), inputs)[0], np.clip(wanted, -128, 127).astype(np.int8))

    x, w, bias = (
        random(2, 4, 7, 6, dtype="uint8"),
        random(6, 4, 3, 3, dtype="int8", seed=1),
        random(6, dtype="int16").astype(np.int32),
    )
    each = np.linspace(0.001, 0.02, 6).astype(f)
    inputs = [x, np.array(f(0.1)), np.array(zero), w, each, zeros[:1], np.array(f(0.3)), np.array(np.uint8(9)), bias]
    inner = [x.astype(np.float64) - zero, w.astype(np.float64) - zeros[0], bias.astype(np.float64)]
    conv = reference(model("Conv", inner, pads=[1, 0, 1, 2]), inner)[0].astype(f)
    wanted = np.rint(conv * (f(0.1) * each / f(0.3)).reshape(-1, 1, 1)) + 9
    assert_close(ours(model("QLinearConv", inputs, pads=[1, 0, 1, 2]), inputs)[0], np.clip(wanted, 0, 255).astype(np.uint8))


def test_refusals() -> None:
    x, scale = random(4, 6), random(2, 2)
    with pytest.raises(GensynError, match="a scale of shape"):
        ours(model("QuantizeLinear", [x, scale], opset=25), [x, scale])
