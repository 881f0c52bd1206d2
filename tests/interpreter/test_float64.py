"""The binary64 algorithms of docs/numerics-float64.md against MPFR, and their special cases against C's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import gmpy2
import numpy as np
import pytest

from gensyn_tvm.interpreter import float64
from gensyn_tvm.interpreter.power import power
from gensyn_tvm.operators.elementary import coefficients

INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(21)
N = 2500


def test_coefficients_are_the_compilers() -> None:
    assert float64.LOG_SERIES == coefficients.LOG_DOUBLE_SERIES
    assert float64.EXP_TAIL == coefficients.EXP_DOUBLE_TAIL


def error(result: float, value: Any) -> float:
    """Distance of a finite result from a 300-bit number in units of the last place of that number in binary64."""
    exponent = max(gmpy2.get_exp(value) - 53, -1074)
    return float(abs(gmpy2.mpfr(result) - value) / gmpy2.mpfr(2) ** exponent)


def worst(function: Callable[..., np.ndarray], reference: Callable[..., Any], *arrays: np.ndarray) -> float:
    """The largest error over arrays of arguments; results beyond the range must be 0 or infinite."""
    largest = 0.0
    with gmpy2.context(precision=300, emax=10**9, emin=-(10**9)):
        for *x, result in zip(*(a.tolist() for a in arrays), function(*arrays).tolist(), strict=True):
            value = reference(*(gmpy2.mpfr(v) for v in x))
            if gmpy2.is_nan(value) or not gmpy2.is_finite(value) or value == 0:
                continue
            if math.isinf(result):
                assert abs(value) >= gmpy2.mpfr(float.fromhex("0x1.fffffffffffffp1023")), x
            else:
                largest = max(largest, error(result, value))
    return largest


def _exponents() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bases, and exponents for which the power is in range."""
    far = RNG.uniform(-745, 709, N)
    wide = np.exp(RNG.uniform(-700, 700, N))
    near_one = np.abs(1 + RNG.standard_normal(N) * 2.0 ** -RNG.integers(1, 40, N))
    subnormal = np.exp(RNG.uniform(-740, -708, N))
    return {
        "ordinary": (RNG.uniform(0.01, 20, N), RNG.uniform(-20, 20, N)),
        "wide": (wide, far / np.log(wide)),
        "near one": (near_one, far / np.log(near_one)),
        "subnormal": (subnormal, RNG.uniform(-1.05, 1.05, N)),
        "integers": (RNG.integers(2, 2000, N).astype(float), RNG.integers(-8, 8, N).astype(float)),
    }


@pytest.mark.parametrize("kind", ("ordinary", "wide", "near one", "subnormal", "integers"))
def test_power_is_within_one_unit(kind: str) -> None:
    assert worst(power, lambda x, y: x**y, *_exponents()[kind]) < 0.8


def test_exact_powers_are_exact() -> None:
    x, y = (a.reshape(-1) for a in np.meshgrid(np.arange(2.0, 30.0), np.arange(0.0, 11.0)))
    assert power(x, y).tolist() == [float(int(a) ** int(b)) for a, b in zip(x, y, strict=True) if int(a) ** int(b)]
    halves = np.arange(1.0, 200.0)
    assert power(halves * halves, np.float64(0.5)).tolist() == halves.tolist()


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_special_powers_are_those_of_c(dtype: type) -> None:
    values = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 2.5, -2.5, INF, -INF, NAN, 1e300, -1e300, 2.0**53]
    with np.errstate(all="ignore"):
        pairs: np.ndarray = np.array(list(itertools.product(values, values)), np.float64).astype(dtype)
    results = power(pairs[:, 0], pairs[:, 1])
    with np.errstate(all="ignore"):
        expected = np.power(pairs[:, 0], pairs[:, 1])
    special = ~np.isfinite(expected) | np.isin(np.abs(expected), (0.0, 1.0))
    assert np.array_equal(results[special], expected[special], equal_nan=True)
    assert np.array_equal(np.signbit(results[special]), np.signbit(expected[special]) & ~np.isnan(expected[special]))


def test_float32_powers_are_nearly_correctly_rounded() -> None:
    x = np.abs(RNG.standard_normal(N) * 2.0 ** RNG.integers(-20, 20, N)).astype(np.float32)
    y = RNG.uniform(-4, 4, N).astype(np.float32)
    results = power(x, y)
    with gmpy2.context(precision=300):
        for a, b, c in zip(x.tolist(), y.tolist(), results.tolist(), strict=True):
            value = gmpy2.mpfr(a) ** gmpy2.mpfr(b)
            if math.isfinite(c) and c != 0:
                exponent = max(gmpy2.get_exp(value) - 24, -149)
                assert abs(gmpy2.mpfr(c) - value) / gmpy2.mpfr(2) ** exponent < 0.5000001


@pytest.mark.parametrize("dtype", (np.int32, np.int64))
def test_integer_powers_wrap(dtype: type) -> None:
    bits = np.iinfo(dtype).bits
    x: np.ndarray = np.array([0, 1, -1, 2, -2, 3, 7, 10, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)[:, None]
    y: np.ndarray = np.array([0, 1, 2, 3, 5, 31, 62, 63, 64, 1001, -1, -2, -3, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    for i, row in enumerate(power(x, y).tolist()):
        for j, result in enumerate(row):
            a, b = int(x[i, 0]), int(y[j])
            expected = pow(a, b, 2**bits) if b >= 0 else (1 if a == 1 else (1 - 2 * (b & 1)) * (a == -1))
            assert (result - expected) % 2**bits == 0, (a, b)
