"""Summaries, differences and distances of arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gensyn_tvm.evidence.values import Summary, as_text, differing, first_index, largest_error, summarise, ulp_distance


def test_summary_counts_special_values() -> None:
    x = np.array([1.5, np.nan, -np.inf, np.inf, 1e-40, -0.0, -2.0], np.float32)
    assert summarise(x) == Summary(-2.0, 1.5, nans=1, infinities=2, subnormals=1)
    assert summarise(x[1:2]) == Summary(None, None, nans=1)
    assert summarise(np.zeros((0, 3), np.float64)) == Summary(None, None)
    assert summarise(np.array([2**64 - 1, 3], np.uint64)) == Summary(3, 2**64 - 1)
    assert summarise(np.array([True, False])) == Summary(0, 1)
    assert summarise(np.array([6e-8, 65504.0], np.float16)).subnormals == 1
    assert str(summarise(x)) == "-2.0 to 1.5, 1 NaN, 2 infinite, 1 subnormal"


@pytest.mark.parametrize("dtype", ("bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn"))
def test_narrow_floats(dtype: str) -> None:
    x = np.array([1.0, 2.0, 4.0], np.float32).astype(np.dtype(dtype))
    assert summarise(x) == Summary(1.0, 4.0)
    assert ulp_distance(x[0], x[0]) == 0
    assert ulp_distance(x[0], x[1]) == ulp_distance(x[1], x[0])
    assert differing(x, x[::-1].copy()).tolist() == [True, False, True]


def test_bits_differ_where_values_do_not() -> None:
    a, b = np.array([0.0, np.nan, 1.0], np.float32), np.array([-0.0, np.nan, 1.0], np.float32)
    assert differing(a, b).tolist() == [True, False, False]
    assert not differing(a, b, 0.0).any()


def test_tolerance_is_relative_to_the_reference() -> None:
    b = np.array([[100.0, 1.0], [np.nan, np.inf]], np.float32)
    a = b + np.float32(0.5)
    assert not differing(a, b, 0.005).any()
    assert differing(a, b, 0.0049).tolist() == [[True, True], [False, False]]
    assert largest_error(a, b) == 0.005
    a[1] = [0.0, 3e38]
    assert differing(a, b, 0.005).tolist() == [[False, False], [True, True]]
    assert first_index(differing(a, b, 0.005)) == (1, 0)


def test_integers_are_compared_in_bits_whatever_the_tolerance() -> None:
    a, b = np.array([3, 4], np.int64), np.array([3, 5], np.int64)
    assert differing(a, b, 10.0).tolist() == [False, True]
    assert ulp_distance(a[1], b[1]) == 1
    assert largest_error(a, b) is None


def test_ulps_are_steps_between_neighbours() -> None:
    one = np.array(1.0, np.float32)
    assert ulp_distance(one, np.nextafter(one, np.float32(2))) == 1
    smallest = np.array(1, np.uint32).view(np.float32)
    assert ulp_distance(smallest, -smallest) == 2
    assert ulp_distance(np.array(0.0), np.array(-0.0)) == 0
    assert ulp_distance(np.array(np.inf), np.array(np.finfo(np.float64).max)) == 1
    assert ulp_distance(np.array(math.nan), np.array(1.0)) is None


def test_text_shows_decimal_and_bits() -> None:
    assert as_text(np.array([[0.1]], np.float32), (0, 0)) == "0.1 (0x3dcccccd)"
    assert as_text(np.array([-1], np.int8), (0,)) == "-1 (0xff)"
    assert as_text(np.array([True]), (0,)) == "True (0x01)"
    assert as_text(np.array([-0.0], np.float16), (0,)) == "-0.0 (0x8000)"
