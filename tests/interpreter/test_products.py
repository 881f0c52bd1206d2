"""matmul, conv and its gradients against their definitions, and against PyTorch for what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gensyn_tvm.canonical.window_rules import conv_output_shape
from gensyn_tvm.interpreter.products import chunk_extent

from . import naive

FLOATS = ("float32", "float64")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 7, 5), (2, 512, 1), (1, 513, 2), (2, 1100, 1), (3, 0, 2), (0, 4, 3)])
def test_matmul(m: int, k: int, n: int, dtype: str) -> None:
    for special in (0.0, 0.003, 0.3):
        rng = np.random.default_rng(1)
        a, b = (naive.awkward(rng, shape, dtype, special=special) for shape in ((m, k), (k, n)))
        naive.same_bits(naive.apply("matmul", a, b), naive.matmul(a, b))


@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_broadcasts_leading_axes(dtype: str) -> None:
    rng = np.random.default_rng(2)
    a, b = naive.awkward(rng, (3, 1, 2, 6), dtype, special=0.02), naive.awkward(rng, (4, 6, 3), dtype, special=0.02)
    expected = np.stack([np.stack([naive.matmul(a[i, 0], b[j]) for j in range(4)]) for i in range(3)])
    naive.same_bits(naive.apply("matmul", a, b), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_signs_of_zero(dtype: str) -> None:
    a, b = np.full((1, 3), -0.0, dtype), np.ones((3, 1), dtype)
    assert np.signbit(naive.apply("matmul", a, b)).all()
    assert not np.signbit(naive.apply("matmul", a[:, :0], b[:0])).any()


def test_matmul_is_one_rounding_per_step() -> None:
    a = np.array([[1 + 2.0**-12, -1.0]], np.float32)
    b = np.array([[1 + 2.0**-12], [1 + 2.0**-11]], np.float32)
    assert naive.apply("matmul", a, b) == np.float32(0.0)  # the first product is rounded on its way into the accumulator
    assert naive.apply("matmul", a[:, ::-1], b[::-1]) == np.float32(2.0**-24)


def _attrs(strides: Any, padding: Any, dilations: Any, groups: int = 1) -> dict[str, Any]:
    return {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups}


#: x, w, attributes
CONVS: list[tuple[Any, Any, dict[str, Any]]] = [
    ((2, 3, 5, 4), (2, 3, 3, 3), _attrs((1, 1), ((1, 1), (1, 1)), (1, 1))),
    ((1, 4, 7, 6), (6, 2, 3, 2), _attrs((2, 3), ((1, 0), (2, 1)), (1, 2), 2)),
    ((2, 3, 6, 6), (3, 1, 2, 3), _attrs((2, 2), ((0, 0), (0, 0)), (2, 1), 3)),
    ((1, 2, 5, 5), (2, 2, 1, 1), _attrs((3, 2), ((0, 0), (2, 1)), (1, 1))),  # positions that no kernel element meets
    ((3, 2, 9), (2, 2, 3), _attrs((2,), ((4, 5),), (3,))),
    ((1, 2, 3, 3, 4), (2, 2, 2, 2, 2), _attrs((1, 2, 1), ((1, 0), (0, 1), (0, 0)), (1, 1, 2))),
    ((1, 70, 3, 3), (1, 70, 3, 3), _attrs((1, 1), ((0, 0), (0, 0)), (1, 1))),  # 64 channels, then 6
    ((1, 520, 1), (1, 520, 1), _attrs((1,), ((0, 0),), (1,))),  # 512 channels, then 8
    ((2, 1, 20, 25), (1, 1, 2, 1), _attrs((1, 1), ((0, 0), (0, 0)), (1, 1))),  # weight gradient: 16 rows of 25 per chunk
    ((2, 1, 2, 800), (1, 1, 1, 1), _attrs((1, 1), ((0, 0), (0, 0)), (1, 1))),  # rows longer than a chunk
    ((1, 1, 30), (1, 1, 28), _attrs((1,), ((0, 0),), (1,))),
    ((1, 1, 4), (70, 1, 9), _attrs((1,), ((4, 4),), (1,))),  # data gradient: 64 output channels, then 6
    ((1, 1, 5), (40, 1, 33), _attrs((2,), ((16, 16),), (1,))),  # the same with a stride: 16 output channels per chunk
    ((0, 2, 4), (3, 2, 2), _attrs((1,), ((0, 0),), (1,))),
    ((2, 0, 4), (3, 0, 2), _attrs((1,), ((0, 0),), (1,))),
    ((2, 2, 4), (0, 2, 2), _attrs((1,), ((0, 0),), (1,))),
]


@pytest.mark.parametrize("special", [0.0, 0.05])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("x_shape", "w_shape", "attrs"), CONVS)
def test_conv_and_gradients(x_shape: Any, w_shape: Any, attrs: dict[str, Any], dtype: str, special: float) -> None:
    if special == 0.0 and dtype == "float64":
        special = 0.01
    rng = np.random.default_rng(3)
    out = conv_output_shape(x_shape, w_shape, attrs)
    x, w, dy = (naive.awkward(rng, shape, dtype, special=special) for shape in (x_shape, w_shape, out))
    naive.same_bits(naive.apply("conv", x, w, **attrs), naive.conv(x, w, out, attrs))
    naive.same_bits(
        naive.apply("conv_backward_weight", x, dy, kernel=w_shape[2:], **attrs),
        naive.conv_backward_weight(x, dy, w_shape, attrs),
    )
    naive.same_bits(
        naive.apply("conv_backward_data", dy, w, input_spatial=x_shape[2:], **attrs),
        naive.conv_backward_data(dy, w, x_shape, attrs),
    )


@pytest.mark.parametrize(("x_shape", "w_shape", "attrs"), [CONVS[k] for k in (0, 1, 2, 3, 4, 5, 6, 12)])
def test_meaning_against_torch(x_shape: Any, w_shape: Any, attrs: dict[str, Any]) -> None:
    """Within 1e-12 of the magnitude in float64."""
    rng = np.random.default_rng(4)
    x, w = (torch.tensor(rng.standard_normal(shape), requires_grad=True) for shape in (x_shape, w_shape))
    pads = [p for pair in reversed(attrs["padding"]) for p in pair]
    function = [torch.conv1d, torch.conv2d, torch.conv3d][len(x_shape) - 3]
    y = function(
        torch.nn.functional.pad(x, pads), w, stride=attrs["strides"], dilation=attrs["dilations"], groups=attrs["groups"]
    )
    dy = torch.tensor(rng.standard_normal(tuple(y.shape)))
    y.backward(dy)
    assert x.grad is not None and w.grad is not None
    arrays = [t.detach().numpy() for t in (x, w, dy)]
    found = [
        naive.apply("conv", arrays[0], arrays[1], **attrs),
        naive.apply("conv_backward_data", arrays[2], arrays[1], input_spatial=x_shape[2:], **attrs),
        naive.apply("conv_backward_weight", arrays[0], arrays[2], kernel=w_shape[2:], **attrs),
    ]
    for ours, theirs in zip(found, (y.detach(), x.grad, w.grad), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("unit", [1, 9, 25, 27, 28, 384, 385, 768, 769, 5000])
def test_chunk_extent(unit: int) -> None:
    assert chunk_extent(unit) == naive.power_of_two(unit)
