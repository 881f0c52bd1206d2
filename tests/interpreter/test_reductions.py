"""Sums in lanes and blocks, products, extremes and their indices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from . import naive

FLOATS = ("float32", "float64")

#: shape, axes: lanes that stay empty, one block, one element more, several blocks, more than 32 blocks, several axes
CASES = [
    ((1,), (0,)),
    ((5, 3), (0,)),
    ((3, 33), (1,)),
    ((2, 1024), (1,)),
    ((1025, 2), (0,)),
    ((7, 3, 150), (0, 2)),
    ((2, 3, 4, 5), (1, 3)),
    ((3, 1100, 2), (0, 1, 2)),
    ((33 * 1024 + 5,), (0,)),
    ((2, 3), ()),
    ((), ()),
]


def _reduce(x: np.ndarray, axes: tuple[int, ...], function: Callable[[list[float]], float], dtype: str) -> np.ndarray:
    """Apply ``function`` to the lists of reduced elements; keepdims."""
    kept = tuple(1 if k in axes else e for k, e in enumerate(x.shape))

    def element(index: naive.Index) -> float:
        place = [range(x.shape[k]) if k in axes else [index[k]] for k in range(x.ndim)]
        return function([float(v) for v in x[np.ix_(*place)].ravel()] if x.ndim else [float(x)])

    return naive.filled(kept, dtype, element)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axes"), CASES)
def test_sum(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    x = naive.awkward(np.random.default_rng(1), shape, dtype, special=0.001)
    expected = _reduce(x, axes, lambda v: naive.in_lanes(v, dtype), dtype)
    naive.same_bits(naive.apply("sum", x, axes=axes, keepdims=True), expected)
    dropped = tuple(e for k, e in enumerate(shape) if k not in axes)
    naive.same_bits(naive.apply("sum", x, axes=axes, keepdims=False), expected.reshape(dropped))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axes"), CASES[:-3])
def test_prod(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(2)
    x = (1 + rng.standard_normal(shape) / 16).astype(dtype)
    expected = _reduce(x, axes, lambda v: naive.in_lanes(v, dtype, naive.mul, 1.0, 1.0), dtype)
    naive.same_bits(naive.apply("prod", x, axes=axes, keepdims=True), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_signs_of_zero_and_empty_sums(dtype: str) -> None:
    zeros = np.full((2, 37), -0.0, dtype)
    assert np.signbit(naive.apply("sum", zeros, axes=(1,), keepdims=False)).all()
    zeros[0, 5] = 0.0
    assert np.signbit(naive.apply("sum", zeros, axes=(1,), keepdims=False)).tolist() == [False, True]
    empty = np.zeros((2, 0), dtype)
    naive.same_bits(naive.apply("sum", empty, axes=(1,), keepdims=False), np.zeros(2, dtype))
    naive.same_bits(naive.apply("prod", empty, axes=(1,), keepdims=False), np.ones(2, dtype))
    naive.same_bits(naive.apply("sum", empty, axes=(0,), keepdims=False), np.zeros(0, dtype))


def test_order_shows_in_the_bits() -> None:
    """2^24 and 1 in the same lane lose the 1; in different lanes of the tree they lose it later."""
    x = np.zeros(64, np.float32)
    x[0], x[32], x[1], x[33] = 2.0**24, 1.0, 1.0, 0.5
    assert naive.apply("sum", x, axes=(0,), keepdims=False) == np.float32(2.0**24 + 2)
    y = np.zeros(64, np.float32)
    y[0], y[32], y[1], y[33] = 2.0**24, 1.0, -(2.0**24), 1.0
    assert naive.apply("sum", y, axes=(0,), keepdims=False) == np.float32(1.0)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_integer_sum_and_prod_wrap(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.random.default_rng(3).integers(info.min, info.max, (3, 50), dtype, endpoint=True) | 1
    modulus = 2 ** (8 * np.dtype(dtype).itemsize)
    for op, exact in (("sum", sum), ("prod", math.prod)):
        wrapped = np.array([exact(row) % modulus for row in x.astype(object).tolist()], object)
        expected = np.array([int(v) for v in wrapped], np.uint64).astype(dtype)
        naive.same_bits(naive.apply(op, x, axes=(1,), keepdims=False), expected)
    assert naive.apply("sum", x[:, :0], axes=(1,), keepdims=False).tolist() == [0, 0, 0]
    assert naive.apply("prod", x[:, :0], axes=(1,), keepdims=False).tolist() == [1, 1, 1]


def _extreme(values: list[float], sign: float) -> float:
    result = sign * values[0]
    for v in values:
        result = naive.maximum(result, sign * v)
    return sign * result


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axes"), CASES[:-3])
def test_reduce_max_and_min(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    for special in (0.0005, 0.5):
        x = naive.awkward(np.random.default_rng(4), shape, dtype, special=special)
        x = np.where(np.random.default_rng(5).random(shape) < 0.5, np.round(x), x).astype(dtype)
        for op, sign in (("reduce_max", 1.0), ("reduce_min", -1.0)):
            expected = _reduce(x, axes, lambda v, sign=sign: _extreme(v, sign), dtype)  # type: ignore[misc]
            naive.same_bits(naive.apply(op, x, axes=axes, keepdims=True), expected)


def test_reduce_max_of_zeros() -> None:
    x = np.array([[-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0], [0.0, 0.0]], np.float32)
    assert np.signbit(naive.apply("reduce_max", x, axes=(1,), keepdims=False)).tolist() == [False, False, True, False]
    assert np.signbit(naive.apply("reduce_min", x, axes=(1,), keepdims=False)).tolist() == [True, True, True, False]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint32"])
def test_integer_extremes(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.random.default_rng(6).integers(info.min, info.max, (5, 9), dtype, endpoint=True)
    for op, extreme in (("reduce_max", max), ("reduce_min", min)):
        naive.same_bits(naive.apply(op, x, axes=(1,), keepdims=False), np.array([extreme(r) for r in x.tolist()], dtype))
        index = np.array([r.index(extreme(r)) for r in x.tolist()], np.int64)
        naive.same_bits(naive.apply("arg" + op[-3:], x, axes=(1,), keepdims=False), index)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), [((40, 6), 1), ((6, 40), 0), ((3, 1, 2), 1), ((4, 5, 6), 1), ((3, 0, 4), 0)])
def test_argmax_and_argmin(shape: tuple[int, ...], axis: int, dtype: str) -> None:
    rng = np.random.default_rng(7)
    values = np.array([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf])
    x = np.where(rng.random(shape) < 0.05, math.nan, rng.choice(values, shape)).astype(dtype)
    highest = _reduce(x, (axis,), naive.argmax, "int64")
    lowest = _reduce(x, (axis,), lambda v: naive.argmax([-e for e in v]), "int64")
    naive.same_bits(naive.apply("argmax", x, axes=(axis,), keepdims=True), highest)
    naive.same_bits(naive.apply("argmin", x, axes=(axis,), keepdims=True), lowest)
    dropped = shape[:axis] + shape[axis + 1 :]
    naive.same_bits(naive.apply("argmax", x, axes=(axis,), keepdims=False), highest.reshape(dropped))
