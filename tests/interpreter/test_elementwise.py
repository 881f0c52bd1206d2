"""Elementwise operators, one element at a time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.interpreter import elementary

from . import naive

FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint32")
EVERY_INTEGER = ("int8", "uint8", *INTEGERS)


def _floats(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return naive.awkward(np.random.default_rng(seed), shape, dtype, special=0.5)


def _integers(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    whole = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    edges = np.array([info.min, info.max, 0, 1, info.max - 1], dtype)
    return np.where(rng.random(shape) < 0.5, rng.choice(edges, shape), whole)


def _special_pairs(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    info = np.finfo(dtype)
    tiny, huge = float(info.smallest_subnormal), float(info.max)
    values = [0.0, 1.0, 3.0, 0.1, tiny, 3 * tiny, float(info.smallest_normal), huge, math.inf]
    signed = np.array([s * v for v in values for s in (1, -1)] + [math.nan]).astype(dtype)
    return np.repeat(signed, len(signed)), np.tile(signed, len(signed))


def _element_by_element(x: np.ndarray, y: np.ndarray, function: Callable[[Any, Any], Any], dtype: str) -> np.ndarray:
    x, y = np.broadcast_arrays(x, y)
    pairs = zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
    return np.array([function(a, b) for a, b in pairs], dtype).reshape(x.shape)


ARITHMETIC: dict[str, Callable[[float, float, str], float]] = {
    "add": naive.add,
    "sub": lambda a, b, dtype: naive.add(a, -b, dtype),
    "mul": naive.mul,
    "div": naive.div,
    "maximum": lambda a, b, dtype: naive.maximum(a, b),
    "minimum": lambda a, b, dtype: -naive.maximum(-a, -b),
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ARITHMETIC)
def test_float_arithmetic(op: str, dtype: str) -> None:
    random = _floats(dtype, (7, 1, 33), 1), _floats(dtype, (5, 33), 2)
    for x, y in (random, _special_pairs(dtype)):
        expected = _element_by_element(x, y, lambda a, b: ARITHMETIC[op](a, b, dtype), dtype)
        naive.same_bits(naive.apply(op, x, y), expected)


@pytest.mark.parametrize("dtype", (*FLOATS, *EVERY_INTEGER))
@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons(op: str, dtype: str) -> None:
    if dtype in FLOATS:
        x, y = _special_pairs(dtype)
    else:
        x, y = _integers(dtype, (9, 1), 3), _integers(dtype, (1, 11), 4)
    naive.same_bits(naive.apply(op, x, y), _element_by_element(x, y, COMPARISONS[op], "bool"))


def _wrapped(value: int, dtype: str) -> int:
    width = np.dtype(dtype).itemsize * 8
    value %= 2**width
    return value - 2**width if dtype[0] == "i" and value >= 2 ** (width - 1) else value


@pytest.mark.parametrize("shape", [(), (1,), (13, 3)])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_integer_arithmetic_wraps(op: str, dtype: str, shape: tuple[int, ...]) -> None:
    for seed in range(8):
        x, y = _integers(dtype, shape, seed), _integers(dtype, shape, 100 + seed)
        expected = _element_by_element(x, y, lambda a, b: _wrapped(getattr(operator, op)(a, b), dtype), dtype)
        naive.same_bits(naive.apply(op, x, y), expected)


@pytest.mark.parametrize("dtype", EVERY_INTEGER)
def test_integer_maximum_and_minimum(dtype: str) -> None:
    x, y = _integers(dtype, (9, 1), 5), _integers(dtype, (1, 11), 6)
    naive.same_bits(naive.apply("maximum", x, y), _element_by_element(x, y, max, dtype))
    naive.same_bits(naive.apply("minimum", x, y), _element_by_element(x, y, min, dtype))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_neg_and_abs_wrap(dtype: str) -> None:
    x = _integers(dtype, (40,), 7)
    naive.same_bits(naive.apply("neg", x), np.array([_wrapped(-v, dtype) for v in x.tolist()], dtype))
    naive.same_bits(naive.apply("abs", x), np.array([_wrapped(abs(v), dtype) for v in x.tolist()], dtype))


def _integral(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda v: v if not math.isfinite(v) else math.copysign(float(function(v)), v)


def _root(v: float, dtype: str) -> float:
    """Nearest square root: an integer root with enough digits, its last one sticky."""
    if v == 0 or math.isnan(v) or v == math.inf:
        return v
    if v < 0:
        return math.nan
    scaled = Fraction(v) * 4**700
    root = math.isqrt(int(scaled) * 4**100)
    sticky = 0 if root * root == scaled * 4**100 else 1
    return naive.rounded(Fraction(2 * root + sticky, 2 * 2**800), dtype)


UNARY: dict[str, Callable[[float, str], float]] = {
    "neg": lambda v, _: -v,
    "abs": lambda v, _: abs(v),
    "floor": lambda v, _: _integral(math.floor)(v),
    "ceil": lambda v, _: _integral(math.ceil)(v),
    "round": lambda v, _: _integral(round)(v),
    "sign": lambda v, _: v if v == 0 or math.isnan(v) else math.copysign(1.0, v),
    "sqrt": _root,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", UNARY)
def test_float_unary(op: str, dtype: str) -> None:
    halves = np.arange(-9, 10).astype(dtype) / 2
    edges = np.array([0.49999997, 2.0**22 + 0.5, 2.0**23 - 0.5, 2.0**52 - 0.5, -0.25, 1e-45, -1e-45]).astype(dtype)
    x = np.concatenate([_special_pairs(dtype)[1], _floats(dtype, (300,), 8), halves, edges])
    naive.same_bits(naive.apply(op, x), np.array([UNARY[op](v, dtype) for v in x.tolist()], dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_rank_0_keeps_its_dtype(dtype: str) -> None:
    x = np.array(-1.5, dtype)
    for op in UNARY:
        naive.same_bits(naive.apply(op, x), np.array(UNARY[op](-1.5, dtype), dtype))
    for op in ARITHMETIC:
        naive.same_bits(naive.apply(op, x, x), np.array(ARITHMETIC[op](-1.5, -1.5, dtype), dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_signs_of_nan_do_not_reach_an_output(dtype: str) -> None:
    x = np.array([math.nan, -math.nan], dtype)
    for op in ("neg", "abs", "sign", "floor"):
        naive.same_bits(naive.apply(op, x), np.full(2, math.nan, dtype))


def test_logic_and_predicates() -> None:
    p, q = np.array([True, True, False, False]), np.array([True, False, True, False])
    naive.same_bits(naive.apply("logical_and", p, q), np.array([True, False, False, False]))
    naive.same_bits(naive.apply("logical_or", p, q), np.array([True, True, True, False]))
    naive.same_bits(naive.apply("logical_not", p), np.array([False, False, True, True]))
    naive.same_bits(naive.apply("equal", p, q), np.array([True, False, False, True]))
    naive.same_bits(naive.apply("not_equal", p, q), np.array([False, True, True, False]))
    x = np.array([math.nan, -math.nan, math.inf, 0.0], np.float32)
    naive.same_bits(naive.apply("is_nan", x), np.array([True, True, False, False]))


@pytest.mark.parametrize("dtype", (*FLOATS, *EVERY_INTEGER, "bool"))
def test_where(dtype: str) -> None:
    condition = np.array([[True], [False]])
    x, y = np.array([1, 0, 1]).astype(dtype), np.array([[0], [1]]).astype(dtype)
    expected = np.stack([x, np.full(3, y[1, 0])])
    naive.same_bits(naive.apply("where", condition, x, y), expected)


@pytest.mark.parametrize("op", elementary.FUNCTIONS)
def test_elementary_functions_as_operators(op: str) -> None:
    """Their values are the subject of test_elementary; here, shapes, and that the operator is the function of its name."""
    known = {"exp": 1.0, "expm1": 0.0, "log": -math.inf, "log1p": 0.0, "tanh": 0.0, "sigmoid": 0.5, "erf": 0.0}
    known |= {"exp2": 1.0, "log2": -math.inf, "log10": -math.inf}
    known |= {"atan": 0.0, "sinh": 0.0, "cosh": 1.0, "sin": 0.0, "cos": 1.0, "tan": 0.0, "asin": 0.0}
    known |= {"acos": math.pi / 2, "asinh": 0.0, "acosh": math.nan, "atanh": 0.0, "erfc": 1.0, "rsqrt": math.inf, "cbrt": 0.0}
    naive.same_bits(naive.apply(op, np.array(0.0, np.float32)), np.array(known[op], np.float32))
    x = naive.awkward(np.random.default_rng(9), (3, 5, 7), "float32")
    found = naive.apply(op, x)
    naive.same_bits(found.ravel(), np.array([naive.apply(op, v) for v in x.ravel()], np.float32))
    assert naive.apply(op, x[:0]).shape == (0, 5, 7)
