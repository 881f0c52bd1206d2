"""Narrow dtypes against ml_dtypes, where its rounding is what docs/numerics.md says."""

from __future__ import annotations

import ml_dtypes  # noqa: F401  (registers the dtypes)
import numpy as np
import pytest

from gensyn_tvm.canonical.types import NARROW, NARROW_FLOATS, NARROW_INTEGERS, TensorType, from_carrier, to_carrier
from gensyn_tvm.interpreter import narrow, numbers


def every(dtype: str) -> np.ndarray:
    codes = np.arange(2 ** NARROW[dtype])
    return from_carrier(codes.astype(TensorType((), dtype).carrier), dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_pattern_means_what_the_format_says(dtype: str) -> None:
    found = narrow.decode(every(dtype))
    expected = every(dtype).astype(np.float32)
    assert np.array_equal(found.astype(np.float32), expected, equal_nan=True)
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(found.astype(np.float32))[number], np.signbit(expected)[number])


def between(dtype: str) -> np.ndarray:
    """All numbers of a format, the middles between neighbours, and the float32 neighbours of those."""
    numbers_ = np.sort(np.unique(narrow.decode(every(dtype)).astype(np.float64)))
    numbers_ = numbers_[np.isfinite(numbers_)]
    exact = np.concatenate([numbers_, (numbers_[1:] + numbers_[:-1]) / 2]).astype(np.float32)
    with np.errstate(all="ignore"):
        near = [np.nextafter(exact, np.float32(s)) for s in (np.inf, -np.inf)]
    return np.concatenate([exact, *near, np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)])


@pytest.mark.parametrize("dtype", NARROW_FLOATS)
def test_rounding_is_to_nearest_even(dtype: str) -> None:
    x = between(dtype)
    if dtype == "float8_e8m0fnu":
        x = x[(x > 2.0**-126) & ~np.isnan(x)]  # below, ml_dtypes rounds otherwise
    if dtype == "float4_e2m1fn":
        x = x[~np.isnan(x)]  # there is no NaN
    with np.errstate(all="ignore"):
        expected = narrow.canonical_nan(x.astype(np.dtype(dtype)))
    found = narrow.encode(x, dtype)
    nan = narrow.is_nan(expected)
    assert np.array_equal(narrow.is_nan(found), nan)
    assert np.array_equal(to_carrier(found)[~nan], to_carrier(expected)[~nan])


@pytest.mark.parametrize("dtype", NARROW_FLOATS)
def test_saturating_never_overflows(dtype: str) -> None:
    x = between(dtype)
    found = narrow.decode(narrow.encode(x, dtype, saturate=True))
    assert np.isfinite(found[~np.isnan(x) & (x > 0)]).all()
    assert found[x == np.inf].tolist() == [np.nanmax(np.where(np.isinf(v := narrow.decode(every(dtype))), np.nan, v))]


def test_float64_is_rounded_once() -> None:
    """1 + 2^-11 + 2^-40 lies above a middle of float16 by less than float32 can tell."""
    x = np.array([1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-11, 1 + 2.0**-11 - 2.0**-40])
    found = numbers.cast({"dtype": "float16"}, TensorType((3,), "float16"), x)
    assert to_carrier(found).tolist() == [0x3C01, 0x3C00, 0x3C00]


@pytest.mark.parametrize("dtype", NARROW_INTEGERS)
def test_integers_wrap_and_floats_saturate(dtype: str) -> None:
    bits, signed = NARROW_INTEGERS[dtype], not dtype.startswith("u")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    whole = np.arange(-300, 300, dtype=np.int32)
    cast = numbers.cast({"dtype": dtype}, TensorType(whole.shape, dtype), whole)
    assert narrow.decode(cast).tolist() == [(v - low) % 2**bits + low for v in whole.tolist()]
    x = np.array([-1e30, -3.9, -1.5, -0.5, 0.9, 1.99, 2.5, 100.0, np.inf, np.nan], np.float32)
    cast = numbers.cast({"dtype": dtype}, TensorType(x.shape, dtype), x)
    expected = [0 if np.isnan(v) else int(min(max(np.trunc(v), low), high)) for v in x]
    assert narrow.decode(cast).tolist() == expected


@pytest.mark.parametrize("dtype", ("int8", "uint8", "int16", "uint64", "int64"))
def test_division_is_that_of_integers(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array(
        sorted({info.min, info.min + 1, info.max, 0, 1, 2, 3, 7, 100, info.max // 2} | ({-1, -7} if info.min else set())), dtype
    )
    x, y = (v.reshape(-1) for v in np.meshgrid(values, values))
    quotient, rest = numbers.divide(x, y).tolist(), numbers.remainder(x, y).tolist()
    for a, b, q, r in zip(x.tolist(), y.tolist(), quotient, rest, strict=True):
        if b == 0:
            assert (q, r) == (-1 if info.min else info.max, a)
        elif a == info.min and b == -1:
            assert (q, r) == (a, 0)
        else:
            assert q == (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) and r == a - q * b


def test_shifts_take_any_count() -> None:
    x = np.array([1, -1, -128, 127], np.int8)
    counts = np.array([0, 1, 7, 8, 100, -1], np.int8)
    for count in counts.tolist():
        amount = count % 256
        left = numbers.shift_left(x, np.full_like(x, count)).tolist()
        right = numbers.shift_right(x, np.full_like(x, count)).tolist()
        assert left == [((v << amount) + 128) % 256 - 128 if amount < 8 else 0 for v in x.tolist()]
        assert right == [v >> min(amount, 100) for v in x.tolist()]
