"""Gradients at kinks, ties, zeros and dropped places, where formulas go wrong: against PyTorch, or as documented
(docs/gradients.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tvm.relax import op

from gensyn_tvm.canonical.relax_ops import canonical

from ...relax_cases import c
from ..test_gradients import gradients

Array = np.ndarray
ZEROS = np.array([[0.0, 2.0, -3.0], [0.0, 0.0, 4.0], [1.5, -2.0, 0.5], [3.0, 0.0, -0.0]], np.float32)
BASES = np.array([0.0, -0.0, 0.0, 0.0, -2.0, -2.0, -2.0, 3.0, 3.0, 0.0], np.float32)
EXPONENTS = np.array([0.0, 0.0, 1.0, 2.5, 2.0, -1.0, 0.0, 0.0, -0.5, 1.5], np.float32)
TIED = np.array([[1.0, 1.0, 0.5], [-0.0, 0.0, -1.0], [2.0, 3.0, 3.0]], np.float32)


def by_torch(f: Callable[..., Any], arrays: Sequence[Array], weights: Array) -> list[Array]:
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    (f(*tensors) * torch.from_numpy(weights)).sum().backward()
    return [t.grad.numpy() for t in tensors]


def running(name: str, **attrs: Any) -> Callable[[Any], Any]:
    return lambda x: canonical(name, x, axis=1, **{"exclusive": False, "reverse": False, **attrs})


def every(name: str, axes: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda x: canonical(name, x, axes=axes, keepdims=False)


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Array, ...]]] = {
    "prod of zeros": (every("prod", (1,)), lambda x: x.prod(1), (ZEROS,)),
    "prod of all": (every("prod", (0, 1)), lambda x: x.prod(), (ZEROS[2:, :2].copy(),)),
    "cumprod of zeros": (running("cumprod"), lambda x: x.cumprod(1), (ZEROS,)),
    "cumprod of zeros, from the end": (running("cumprod", reverse=True), lambda x: x.flip(1).cumprod(1).flip(1), (ZEROS,)),
    "pow": (lambda x, y: canonical("pow", x, y), torch.pow, (BASES, EXPONENTS)),
    "abs": (op.abs, torch.abs, (TIED,)),
    "maximum": (op.maximum, torch.maximum, (TIED, TIED[:, ::-1].copy())),
    "minimum": (op.minimum, torch.minimum, (TIED, TIED[:, ::-1].copy())),
    "maximum with a row": (op.maximum, torch.maximum, (TIED, np.array([1.0, 0.0, 3.0], np.float32))),
    "max": (every("reduce_max", (1,)), lambda x: x.amax(1), (TIED,)),
    "min": (every("reduce_min", (0, 1)), lambda x: x.amin((0, 1)), (TIED,)),
    "relu": (op.nn.relu, torch.relu, (TIED,)),
    "sqrt": (op.sqrt, torch.sqrt, (np.array([0.0, 4.0], np.float32),)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name: str) -> None:
    ours, theirs, arrays = CASES[name]
    shape = theirs(*map(torch.from_numpy, arrays)).shape
    weights = np.random.default_rng(5).uniform(0.5, 1.5, shape).astype(np.float32)
    for found, expected in zip(gradients(ours, arrays, weights), by_torch(theirs, arrays, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


# ---- scattering -----------------------------------------------------------------------------------------------------

_NAMES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@pytest.mark.parametrize("reduction", _NAMES)
def test_scatter_with_duplicates(reduction: str) -> None:
    """Places that are met once, twice and never, zeros among the factors, and ties."""
    x = np.array([[2.0, 0.0, 3.0, 1.0], [0.5, -1.0, 0.0, 4.0]], np.float32)
    u = np.array([[0.0, 2.0, 2.0, 1.0], [-1.0, -1.0, 5.0, 0.0]], np.float32)
    index = np.array([[0, 2, 2, 3], [1, 1, 0, -2]], np.int64)
    weights = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    wrapped = torch.from_numpy(index % 4)

    def theirs(a: Any, b: Any) -> Any:
        return a.scatter_reduce(1, wrapped, b, _NAMES[reduction])

    def ours(a: Any, b: Any) -> Any:
        return canonical("scatter_elements", a, c(index, "int64"), b, axis=1, reduction=reduction)

    for found, expected in zip(gradients(ours, (x, u), weights), by_torch(theirs, (x, u), weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", *_NAMES])
@pytest.mark.parametrize("nd", [False, True])
def test_dropped_updates_have_no_gradient(reduction: str, nd: bool) -> None:
    """-4 wraps to -1, which must not wrap again; 3 and the extremes of int64 are outside as well."""
    x, u = np.array([1.0, 2.0, 3.0], np.float32), np.array([5.0, 6.0, 7.0, 8.0, 9.0], np.float32)
    index = np.array([-4, 3, 1, -(2**63), 2**63 - 1], np.int64)
    shaped = index[:, None] if nd else index
    weights = np.array([10.0, 20.0, 30.0], np.float32)

    def ours(a: Any, b: Any) -> Any:
        name, attrs = ("scatter_nd", {}) if nd else ("scatter_elements", {"axis": 0})
        return canonical(name, a, c(shaped, "int64"), b, reduction=reduction, **attrs)

    dx, du = gradients(ours, (x, u), weights)
    slope, own = {"none": (1, 0), "add": (1, 1), "mul": (2, 7), "max": (1, 0), "min": (0, 1)}[reduction]
    assert du.tolist() == [0, 0, 20 * slope, 0, 0]
    assert dx.tolist() == [10, 20 * own, 30]


# ---- narrow dtypes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrow_cast_rounds_its_gradient(dtype: str) -> None:
    x = np.array([0.1, -3.3, 700.0], np.float32)
    weights = np.array([0.3333333, 1.0000001, -7.77], np.float32)
    narrow = getattr(torch, dtype)
    found = gradients(lambda t: op.astype(op.astype(t, dtype), "float32"), (x,), weights)
    expected = by_torch(lambda t: t.to(narrow).float(), (x,), weights)
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_a_saturating_cast_passes_its_gradient(dtype: str) -> None:
    x = np.array([0.25, 1e6, -1e6], np.float32)
    weights = np.array([0.5, 2.0, -1.0], np.float32)
    found = gradients(lambda t: canonical("cast", canonical("cast_saturating", t, dtype=dtype), dtype="float32"), (x,), weights)
    np.testing.assert_array_equal(found[0], weights)


def test_moves_of_narrow_elements_gather_in_float32() -> None:
    """Many small gradients of one element: in float16 alone they would get lost."""
    x = np.array([1.0, 2.0], np.float32)
    index = np.zeros(3000, np.int64)
    weights = np.full(3000, 2.0**-11, np.float32)
    weights[0] = 1.0

    def ours(t: Any) -> Any:
        return op.astype(op.take(op.astype(t, "float16"), c(index, "int64"), 0), "float32")

    (found,) = gradients(ours, (x,), weights)
    assert found.tolist() == [float(np.float16(1 + 2999 / 2048)), 0.0]


def test_the_gradient_of_a_pad_value_takes_only_the_padding() -> None:
    """An infinite gradient inside is none of its business."""
    x, value = np.array([1.0, 2.0], np.float32), np.array(3.0, np.float32)
    weights = np.array([1.0, np.inf, 0.5, 1e30, 0.25], np.float32)
    dx, dvalue = gradients(lambda t, v: canonical("pad", t, v, padding=((1, 2),)), (x, value), weights)
    assert dx.tolist() == [np.inf, 0.5]
    assert float(dvalue) == np.float32(1e30)
    weights[3] = 4.0
    assert float(gradients(lambda t, v: canonical("pad", t, v, padding=((1, 2),)), (x, value), weights)[1]) == 5.25


@pytest.mark.parametrize("n", [0.0, 1.0, 2.0, 3.0, 0.5, -0.5, -1.0, -64.0, 64.0])
def test_constant_powers_at_zero(n: float) -> None:
    x = np.array([0.0, 1.0, 1.25], np.float32)
    weights = np.array([2.0, 3.0, -1.0], np.float32)
    (found,) = gradients(lambda t: op.power(t, c(n)), (x,), weights)
    (expected,) = by_torch(lambda t: t**n, (x,), weights)
    np.testing.assert_allclose(found, expected, rtol=4e-6)
