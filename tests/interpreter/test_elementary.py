"""The interpreter's elementary functions against MPFR and the values that docs/numerics.md names."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pytest

from gensyn_tvm.interpreter.elementary import FUNCTIONS

PROOFS = Path(__file__).resolve().parents[2] / "proofs"
INF, NAN = float("inf"), float("nan")
PI = math.pi
TINY = 2.0**-149

#: Results of docs/numerics.md and of plain mathematics: input, result.
SPECIALS: dict[str, list[tuple[float, float]]] = {
    "exp": [(-INF, 0.0), (INF, INF), (0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (89.0, INF), (-104.0, 0.0), (-1e30, 0.0)],
    "expm1": [(-INF, -1.0), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (89.0, INF), (-40.0, -1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-TINY, NAN), (-1.0, NAN), (1.0, 0.0)],
    "log1p": [(-1.0, -INF), (-1.5, NAN), (-INF, NAN), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY)],
    "tanh": [(-INF, -1.0), (INF, 1.0), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (50.0, 1.0), (-50.0, -1.0)],
    "sigmoid": [(-INF, 0.0), (INF, 1.0), (0.0, 0.5), (-0.0, 0.5), (TINY, 0.5), (-1e30, 0.0), (1e30, 1.0), (-105.0, 0.0)],
    "erf": [(-INF, -1.0), (INF, 1.0), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (4.0, 1.0), (-4.0, -1.0)],
    "exp2": [(-INF, 0.0), (INF, INF), (-0.0, 1.0), (TINY, 1.0), (10.0, 1024.0), (128.0, INF), (-149.0, TINY), (-150.0, 0.0)],
    "log2": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-TINY, NAN), (1.0, 0.0), (8.0, 3.0), (TINY, -149.0)],
    "log10": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-TINY, NAN), (1.0, 0.0), (1000.0, 3.0), (1e10, 10.0)],
    "atan": [(-INF, -PI / 2), (INF, PI / 2), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (1.0, PI / 4)],
    "sinh": [(-INF, -INF), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (90.0, INF), (-90.0, -INF)],
    "sin": [(-INF, NAN), (INF, NAN), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (PI, -8.742278e-08)],
    "cos": [(-INF, NAN), (INF, NAN), (0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (PI, -1.0), (PI / 2, -4.371139e-08)],
    "tan": [(-INF, NAN), (INF, NAN), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (PI / 4, 1.0)],
    "asin": [(1.0, PI / 2), (-1.0, -PI / 2), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (1.5, NAN), (-1.5, NAN), (INF, NAN)],
    "acos": [(1.0, 0.0), (-1.0, PI), (0.0, PI / 2), (-0.0, PI / 2), (1.5, NAN), (-1.5, NAN), (INF, NAN), (-INF, NAN)],
    "asinh": [(-INF, -INF), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY)],
    "erfc": [(0.0, 1.0), (-0.0, 1.0), (INF, 0.0), (-INF, 2.0), (11.0, 0.0)],
    "rsqrt": [(1.0, 1.0), (4.0, 0.5), (0.0, INF), (-0.0, -INF), (-1.0, NAN), (INF, 0.0), (-INF, NAN)],
    "cbrt": [(8.0, 2.0), (-27.0, -3.0), (0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "acosh": [(1.0, 0.0), (0.5, NAN), (-1.0, NAN), (0.0, NAN), (-INF, NAN), (INF, INF)],
    "atanh": [(1.0, INF), (-1.0, -INF), (0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (1.5, NAN), (-1.5, NAN), (INF, NAN)],
    "cosh": [(-INF, INF), (INF, INF), (0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (90.0, INF), (-90.0, INF)],
}

MPFR: dict[str, Callable[[Any], Any]] = {
    "exp": gmpy2.exp,
    "expm1": gmpy2.expm1,
    "log": gmpy2.log,
    "log1p": gmpy2.log1p,
    "tanh": gmpy2.tanh,
    "sigmoid": lambda x: 1 / (1 + gmpy2.exp(-x)),
    "erf": gmpy2.erf,
    "exp2": gmpy2.exp2,
    "log2": gmpy2.log2,
    "log10": gmpy2.log10,
    "atan": gmpy2.atan,
    "sinh": gmpy2.sinh,
    "cosh": gmpy2.cosh,
    "sin": gmpy2.sin,
    "cos": gmpy2.cos,
    "tan": gmpy2.tan,
    "asin": gmpy2.asin,
    "acos": gmpy2.acos,
    "asinh": gmpy2.asinh,
    "acosh": gmpy2.acosh,
    "erfc": gmpy2.erfc,
    "rsqrt": gmpy2.rec_sqrt,
    "cbrt": gmpy2.cbrt,
    "atanh": gmpy2.atanh,
}


def hard_cases(name: str) -> np.ndarray:
    """The inputs that the proof lists, and the floats next to them."""
    record = json.loads((PROOFS / f"{name}.json").read_text(encoding="utf-8"))
    bits = np.array([int(pattern, 16) for pattern in record["hard_cases"]], np.uint32)
    return np.concatenate([bits, bits - 1, bits + 1]).view(np.float32)


def sample(seed: int, each: int) -> np.ndarray:
    """``each`` random floats of every sign and exponent (subnormals, infinities and NaNs are among them)."""
    rng = np.random.default_rng(seed)
    high = np.repeat(np.arange(512, dtype=np.uint32) << 23, each)
    return (high | rng.integers(0, 2**23, high.size, dtype=np.uint32)).view(np.float32)


def nearest_float32(value: Any) -> int:
    """Bit pattern of the float32 nearest to a 300-bit number, by exact rational arithmetic; no ties occur but exact results."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(-INF)), guess, np.nextafter(guess, np.float32(INF))]
    candidates = [c for c in around if not np.isnan(c)]
    as_rational = {c: gmpy2.mpq(float(c)) if np.isfinite(c) else gmpy2.mpq(2) ** 128 for c in candidates}
    exact = gmpy2.mpq(value)
    best = min(candidates, key=lambda c: abs(as_rational[c] - exact))
    return int(best.view(np.uint32))


def bits_of(values: np.ndarray) -> list[int]:
    return values.view(np.uint32).tolist()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_specials(name: str) -> None:
    inputs = np.array([x for x, _ in SPECIALS[name]] + [NAN], np.float32)
    expected = np.array([y for _, y in SPECIALS[name]] + [NAN], np.float32)
    assert bits_of(FUNCTIONS[name](inputs)) == bits_of(expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_mpfr(name: str) -> None:
    near_one = np.random.default_rng(1).uniform(-4.0, 4.0, 1000).astype(np.float32)
    x = np.concatenate([sample(2, 2), near_one, hard_cases(name)])
    results = FUNCTIONS[name](x)
    with gmpy2.context(precision=300):
        for xi, result in zip(x, results, strict=True):
            value = MPFR[name](gmpy2.mpfr(float(xi)))
            if gmpy2.is_finite(value) and value != 0 and -(2**20) < gmpy2.get_exp(value) < 2**20:
                overflow = abs(value) >= gmpy2.mpfr(2) ** 128
                expected = int(np.float32(math.copysign(INF, value)).view(np.uint32)) if overflow else nearest_float32(value)
                assert int(result.view(np.uint32)) == expected, f"{name}({float(xi).hex()})"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_and_silence(name: str) -> None:
    signalling_nan = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FUNCTIONS[name](np.zeros((0, 3), np.float32)).shape == (0, 3)
        assert FUNCTIONS[name](np.array(0.5, np.float32)).shape == ()
        assert FUNCTIONS[name](np.ones((2, 3), np.float32)[:, ::2]).shape == (2, 2)
        assert FUNCTIONS[name](np.full((5,), 0.25, np.float32)).dtype == np.float32
        assert bits_of(FUNCTIONS[name](signalling_nan)) == [0x7FC00000] * 2
        FUNCTIONS[name](sample(3, 8))


def test_argument_is_left_alone() -> None:
    x = sample(4, 2)
    before = x.copy()
    for function in FUNCTIONS.values():
        function(x)
    assert bits_of(x) == bits_of(before)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="exp takes float32, not float64"):
        FUNCTIONS["exp"](np.zeros(3))
