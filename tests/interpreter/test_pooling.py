"""Pooling against its definition, and against PyTorch for what it means."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from gensyn_tvm.canonical.window_rules import pool_output_shape
from gensyn_tvm.errors import InvalidProgramError

from . import naive

FLOATS = ("float32", "float64")


def _attrs(kernel: Any, strides: Any, padding: Any, dilations: Any = None) -> dict[str, Any]:
    return {"kernel": kernel, "strides": strides, "padding": padding, "dilations": dilations or (1,) * len(kernel)}


POOLS: list[tuple[Any, dict[str, Any]]] = [
    ((2, 3, 6, 4), _attrs((2, 2), (2, 2), ((0, 0), (0, 0)))),
    ((1, 2, 7, 5), _attrs((3, 3), (2, 1), ((1, 1), (1, 0)))),  # windows that overlap
    ((2, 1, 5, 5), _attrs((2, 2), (3, 3), ((0, 0), (1, 1)))),  # elements in no window
    ((1, 2, 9, 8), _attrs((2, 3), (1, 2), ((1, 2), (0, 1)), (3, 2))),
    ((2, 2, 11), _attrs((4,), (2,), ((1, 2),))),
    ((1, 1, 3, 4, 3), _attrs((2, 2, 2), (1, 2, 1), ((0, 1), (1, 1), (0, 0)))),
    ((1, 2, 7, 6), _attrs((7, 6), (1, 1), ((0, 0), (0, 0)))),  # global
    ((1, 2, 40, 30), _attrs((40, 30), (1, 1), ((0, 0), (0, 0)))),  # more than a block
    ((0, 2, 4), _attrs((2,), (2,), ((0, 0),))),
]


def _few_values(shape: Any, dtype: str, seed: int) -> np.ndarray:
    """Many ties, zeros of both signs, infinities, NaN."""
    rng = np.random.default_rng(seed)
    menu = np.array([0.0, -0.0, 1.0, -1.0, 2.0, -np.inf, -np.inf, np.inf, np.nan])
    return rng.choice(menu, shape, p=[0.2, 0.2, 0.15, 0.15, 0.1, 0.05, 0.05, 0.05, 0.05]).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "attrs"), POOLS)
def test_max_pool_and_gradient(shape: Any, attrs: dict[str, Any], dtype: str) -> None:
    out = pool_output_shape(shape, attrs)
    dy = naive.awkward(np.random.default_rng(1), out, dtype)
    smooth = naive.awkward(np.random.default_rng(2), shape, dtype, special=0.01)
    lowest = np.full(shape, -np.inf, dtype)
    for x in (smooth, _few_values(shape, dtype, 3), np.where(_few_values(shape, dtype, 4) > 0, smooth, lowest), lowest):
        naive.same_bits(naive.apply("max_pool", x, **attrs), naive.max_pool(x, out, attrs))
        naive.same_bits(naive.apply("max_pool_backward", dy, x, **attrs), naive.max_pool_backward(dy, x, attrs))


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "attrs"), POOLS)
def test_avg_pool_and_gradient(shape: Any, attrs: dict[str, Any], dtype: str, count_include_pad: bool) -> None:
    attrs = {**attrs, "count_include_pad": count_include_pad}
    out = pool_output_shape(shape, attrs)
    for special in (0.0, 0.1):
        x, dy = (naive.awkward(np.random.default_rng(5), s, dtype, special=special) for s in (shape, out))
        naive.same_bits(naive.apply("avg_pool", x, **attrs), naive.avg_pool(x, out, attrs))
        naive.same_bits(
            naive.apply("avg_pool_backward", dy, input_spatial=shape[2:], **attrs), naive.avg_pool_backward(dy, shape, attrs)
        )


@pytest.mark.parametrize("dtype", FLOATS)
def test_signs_of_zero(dtype: str) -> None:
    attrs = _attrs((1, 1), (2, 2), ((0, 0), (0, 0)))
    dy, x = np.full((1, 1, 2, 2), -0.0, dtype), np.zeros((1, 1, 3, 3), dtype)
    reached = np.zeros((3, 3), bool)
    reached[::2, ::2] = True
    for dx in (
        naive.apply("max_pool_backward", dy, x, **attrs),
        naive.apply("avg_pool_backward", dy, input_spatial=(3, 3), count_include_pad=True, **attrs),
    ):
        np.testing.assert_array_equal(np.signbit(dx[0, 0]), reached)


def test_meaning_against_torch() -> None:
    """Within 1e-14 in float64."""
    rng = np.random.default_rng(6)
    x = torch.tensor(rng.standard_normal((2, 3, 7, 8)), requires_grad=True)
    attrs = _attrs((3, 2), (2, 1), ((1, 1), (1, 1)))
    for include in (True, False):
        y = torch.nn.functional.avg_pool2d(x, (3, 2), (2, 1), (1, 1), count_include_pad=include)
        (dx,) = torch.autograd.grad(y.sum(), x)
        both = {**attrs, "count_include_pad": include}
        np.testing.assert_allclose(
            naive.apply("avg_pool", x.detach().numpy(), **both), y.detach().numpy(), rtol=1e-14, atol=1e-14
        )
        found = naive.apply("avg_pool_backward", np.ones(tuple(y.shape)), input_spatial=(7, 8), **both)
        np.testing.assert_allclose(found, dx.numpy(), rtol=1e-14, atol=1e-14)
    y = torch.nn.functional.max_pool2d(x, (3, 2), (2, 1), (1, 1))
    dy = torch.tensor(rng.standard_normal(tuple(y.shape)))
    (dx,) = torch.autograd.grad(y, x, dy)
    np.testing.assert_array_equal(naive.apply("max_pool", x.detach().numpy(), **attrs), y.detach().numpy())
    found = naive.apply("max_pool_backward", dy.numpy(), x.detach().numpy(), **attrs)
    np.testing.assert_allclose(found, dx.numpy(), rtol=1e-14, atol=1e-14)


def test_a_window_in_the_padding_is_refused() -> None:
    """Whether the graph's rules or the interpreter notice: an inner window meets no element, the first and last do."""
    attrs = _attrs((2,), (1,), ((3, 3),), (3,))
    with pytest.raises(InvalidProgramError, match=re.escape("in every window")):
        naive.apply("max_pool", np.ones((1, 1, 1), np.float32), **attrs)
