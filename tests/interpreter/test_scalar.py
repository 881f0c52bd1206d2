"""fma, conversions and the other scalar helpers against exact arithmetic."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gensyn_tvm.errors import EnvironmentChangedError
from gensyn_tvm.interpreter import scalar

from . import naive

PATTERNS = {"float32": ("<I", "<f", 32), "float64": ("<Q", "<d", 64)}


def _number(pattern: int, dtype: str) -> float:
    integer, real, _ = PATTERNS[dtype]
    return float(struct.unpack(real, struct.pack(integer, pattern))[0])


def _check_fma(triples: Iterable[tuple[float, float, float]], dtype: str) -> None:
    a, b, c = zip(*triples, strict=True)
    with np.errstate(all="ignore"):
        found = scalar.fma(*(np.array(v, dtype) for v in (a, b, c)))
    expected = np.array([naive.fma(*v, dtype) for v in zip(a, b, c, strict=True)], dtype)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(naive.bits(found), naive.bits(expected))


@pytest.mark.parametrize("dtype", PATTERNS)
def test_fma_of_random_bit_patterns(dtype: str) -> None:
    rng = np.random.default_rng(1)
    unsigned = np.uint32 if dtype == "float32" else np.uint64
    limit = np.iinfo(unsigned).max
    patterns = [rng.integers(0, limit, 4000, unsigned, endpoint=True).tolist() for _ in range(3)]
    _check_fma(zip(*([_number(p, dtype) for p in column] for column in patterns), strict=True), dtype)


@pytest.mark.parametrize("dtype", PATTERNS)
def test_fma_of_close_magnitudes(dtype: str) -> None:
    """c near -a * b: cancellation, and results at every distance from a rounding boundary."""
    rng = np.random.default_rng(2)
    low, high = (-70, 60) if dtype == "float32" else (-540, 510)
    a = rng.standard_normal(3000) * 2.0 ** rng.integers(low, high, 3000)
    b = rng.standard_normal(3000) * 2.0 ** rng.integers(low, high, 3000)
    with np.errstate(all="ignore"):
        a, b = (v.astype(dtype).astype(np.float64) for v in (a, b))
        c = (-(a * b) * 2.0 ** rng.integers(-60, 60, 3000)).astype(dtype).astype(np.float64)
    _check_fma(zip(a, b, c, strict=True), dtype)
    near = (-(a * b)).astype(dtype).astype(np.float64)
    _check_fma(zip(a, b, near, strict=True), dtype)


@pytest.mark.parametrize("dtype", PATTERNS)
def test_fma_just_beside_a_tie(dtype: str) -> None:
    """Where rounding the sum to a wider format first would round twice."""
    digits, low, high = naive.FORMATS[dtype]
    triples = []
    k = digits - 1
    for m in (1, 2, 3, 2**k, 2**k + 1, 2**digits - 1):  # c = m, a * b = (1 - 2^-2k) / 2: beside the tie below or above m
        for scale in (low - k, low - k + 1, low - k + 5, low + 40, -digits, 0, high - digits):
            first = (scale - 2 * k - 1) // 2
            for sign, other in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                a, b = math.ldexp(2**k + 1, first), math.ldexp(other * (2**k - 1), scale - 2 * k - 1 - first)
                triples.append((a, b, math.ldexp(sign * m, scale)))
    for odd in (2**digits // 3 | 1, 2**k + 1, 2**digits - 5):  # a * b is an odd multiple of half a unit, c is tiny
        for c in (math.ldexp(1, low - k), math.ldexp(1, -2 * digits), 0.0):
            triples += [(3.0 * s, float(odd), c * t) for s in (1, -1) for t in (1, -1)]
    kept = [t for t in triples if all(naive.rounded(Fraction(v), dtype) == v for v in t)]
    assert len(kept) > 150
    _check_fma(kept, dtype)


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 2.0**-149, -(2.0**-126), 2.0**127, 3.4028234663852886e38]
SPECIAL64 = [*SPECIAL, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308]


@pytest.mark.parametrize("dtype", PATTERNS)
def test_fma_of_special_values(dtype: str) -> None:
    values = SPECIAL if dtype == "float32" else SPECIAL64
    triples = [(a, b, c) for a in values for b in values for c in values]
    _check_fma(triples, dtype)


@settings(max_examples=300, deadline=None)
@given(*[st.floats(width=32)] * 3)
@example(2.0**-75, 2.0**-75, -0.0)
@example(1.0 + 2.0**-23, 2.0**-149, 2.0**-149)
def test_fma_float32(a: float, b: float, c: float) -> None:
    _check_fma([(a, b, c)], "float32")


@settings(max_examples=300, deadline=None)
@given(*[st.floats()] * 3)
@example(1e200, 1e200, -math.inf)
@example(5e-324, 0.5, 5e-324)
@example(1.5, 5e-324, -5e-324)
def test_fma_float64(a: float, b: float, c: float) -> None:
    _check_fma([(a, b, c)], "float64")


def _saturated(x: float, low: int, high: int) -> int:
    if math.isnan(x):
        return 0
    if math.isinf(x):
        return high if x > 0 else low
    return min(max(math.trunc(x), low), high)


@pytest.mark.parametrize("shape", [(3, 20000), (150, 130, 1), (2, 0, 40000), (40000,)])
def test_fma_of_arrays_larger_than_the_cache(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(8)
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in (shape, shape[-1:], shape))
    found = scalar.fma(a, b, c)
    parts = [
        scalar.fma(*(v.reshape(-1)[k : k + 999] for v in (a, np.broadcast_to(b, shape), c))) for k in range(0, a.size, 999)
    ]
    naive.same_bits(found, np.concatenate([np.zeros(0, np.float32), *parts]).reshape(shape))


@pytest.mark.parametrize("target", ["int8", "int32", "int64", "uint8", "uint32"])
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_float_to_integer_saturates(source: str, target: str) -> None:
    info = np.iinfo(target)
    edges = [float(info.min), float(info.max), float(int(info.max) + 1), -1.0, 0.0]
    values = [e + d for e in edges for d in (0.0, 0.4, 0.5, 0.99, 1.0, 1.5, -0.5, -0.99, -1.0, -1.5, 1024.0, -1024.0)]
    values += [math.nan, math.inf, -math.inf, -0.0, 1e30, -1e30, 1e-40, float(np.finfo(source).max), 2.0**62, -(2.0**63)]
    with np.errstate(over="ignore"):
        x = np.array(values).astype(source)
    found = naive.apply("cast", x, dtype=target)
    expected = np.array([_saturated(float(v), int(info.min), int(info.max)) for v in x], target)
    naive.same_bits(found, expected)


@pytest.mark.parametrize("target", ["float32", "float64"])
@pytest.mark.parametrize("source", ["int8", "int32", "int64", "uint8", "uint32"])
def test_integer_to_float_rounds_once(source: str, target: str) -> None:
    info = np.iinfo(source)
    rng = np.random.default_rng(3)
    values = [int(v) for v in rng.integers(info.min, info.max, 500, dtype=source, endpoint=True)]
    # near ties of float32 that a detour over float64 would round twice
    for e in range(24, 63):
        for step in (1, 3):
            tie = 2**e + step * 2 ** (e - 24)
            values += [s * (tie + d) for s in (1, -1) for d in (-1, 0, 1)]
    values += [int(info.min), int(info.max), 0]
    values = [v for v in values if info.min <= v <= info.max]
    found = naive.apply("cast", np.array(values, source), dtype=target)
    naive.same_bits(found, np.array([naive.rounded(Fraction(v), target) for v in values], target))


def test_float64_to_float32_rounds_to_even() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal(3000) * 2.0 ** rng.integers(-160, 140, 3000)
    ties = np.array([(2**24 + k) * 2.0 ** (e - 25) for k in range(1, 9, 2) for e in (-140, -126, 0, 100)])
    values = np.concatenate([x, ties, np.nextafter(ties, 0), [5e-324, 1e308, 2.0**-150, 3 * 2.0**-150, 2.0**128 - 2.0**103]])
    naive.same_bits(
        naive.apply("cast", values, dtype="float32"),
        np.array([naive.rounded(Fraction(v), "float32") for v in values.tolist()], np.float32),
    )


def test_other_casts() -> None:
    x = np.array([-129, -128, -1, 0, 1, 255, 256, 2**31, 2**40 + 7, -(2**63)], np.int64)
    for target in ("int8", "uint8", "int32", "uint32"):
        width = 8 * np.dtype(target).itemsize
        wrapped = [v % 2**width for v in x.tolist()]
        signed = [v - 2**width if target[0] == "i" and v >= 2 ** (width - 1) else v for v in wrapped]
        naive.same_bits(naive.apply("cast", x, dtype=target), np.array(signed, target))
    naive.same_bits(naive.apply("cast", x, dtype="bool"), x != 0)
    floats = np.array([0.0, -0.0, math.nan, 1e-45, -math.inf], np.float32)
    naive.same_bits(naive.apply("cast", floats, dtype="bool"), np.array([False, False, True, True, True]))
    naive.same_bits(naive.apply("cast", floats, dtype="float64"), floats.astype(np.float64))
    flags = np.array([True, False])
    for target in ("float32", "float64", "int8", "uint32", "bool"):
        naive.same_bits(naive.apply("cast", flags, dtype=target), np.array([1, 0], target))


def test_canonical_nan_keeps_everything_else() -> None:
    patterns = np.array([0xFFC00001, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0x80000000, 1], np.uint32)
    found = scalar.bits_of(scalar.canonical_nan(patterns.view(np.float32)))
    assert found.tolist() == [0x7FC00000] * 3 + [0x7F800000, 0x80000000, 1]
    wide = np.array([0xFFF8000000000001, 0x7FF0000000000001, 1], np.uint64)
    assert scalar.bits_of(scalar.canonical_nan(wide.view(np.float64))).tolist() == [0x7FF8000000000000] * 2 + [1]


def test_environment_of_a_sound_thread_passes() -> None:
    scalar.check_environment()


@contextmanager
def _control_bits(bits: int) -> Iterator[None]:
    """Set bits of MXCSR (x86-64), which glibc keeps in the last word of its 32-byte fenv_t."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before = ctypes.create_string_buffer(32)
    assert libm.fegetenv(before) == 0
    (control,) = struct.unpack_from("<I", before.raw, 28)
    hostile = ctypes.create_string_buffer(before.raw[:28] + struct.pack("<I", control | bits), 32)
    assert libm.fesetenv(hostile) == 0
    try:
        yield
    finally:
        libm.fesetenv(before)


ROUNDING = "a rounding mode other than nearest even"
FLUSHED = "subnormals flushed to zero"


@pytest.mark.parametrize(
    ("bits", "found"),
    [(0x2000, ROUNDING), (0x4000, ROUNDING), (0x6000, ROUNDING), (0x8000, FLUSHED), (0x0040, FLUSHED), (0x8040, FLUSHED)],
    ids=["down", "up", "toward zero", "FTZ", "DAZ", "FTZ and DAZ"],
)
def test_a_hostile_environment_is_refused(bits: int, found: str) -> None:
    with _control_bits(bits), pytest.raises(EnvironmentChangedError) as caught:
        scalar.check_environment()
    assert f"found: {found}" in str(caught.value)
    assert "expected: round to nearest even, subnormals kept" in str(caught.value)
    scalar.check_environment()
