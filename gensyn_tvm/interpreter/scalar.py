"""Scalar arithmetic of docs/numerics.md on NumPy arrays: fma, maximum, minimum, signs, conversions, canonical NaNs.

NumPy's elementwise ``+ - * /`` and ``sqrt`` on float32 and float64 arrays are the IEEE operations and are used as they are.
Everything here is elementwise, returns new arrays, and keeps the dtype of its operands, also for arrays of rank 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.errors import EnvironmentChangedError, describe
from gensyn_tvm.interpreter import narrow

Array = np.ndarray

_UINT = {"float32": np.uint32, "float64": np.uint64}
_CANONICAL_NAN = {"float32": 0x7FC00000, "float64": 0x7FF8000000000000}
_SIGN = {"float32": 0x80000000, "float64": 0x8000000000000000}


def check_environment() -> None:
    """Check that this thread's arithmetic rounds to nearest even and keeps subnormals.

    Raises:
        EnvironmentChangedError: a library in this process has changed the floating-point environment.
    """
    for dtype, digits, normal in (("float32", 23, -126), ("float64", 52, -1022)):
        one, ulp = np.array([1.0], dtype), np.array([2.0**-digits], dtype)
        half = ulp * np.array([0.5], dtype)
        nearest_even = one + half == one and -one - half == -one and (one + ulp) + half == one + (ulp + ulp)
        tiny = np.array([2.0**normal], dtype) * np.array([0.5], dtype)
        if not nearest_even or tiny == 0 or tiny + tiny == 0:
            raise EnvironmentChangedError(
                describe(
                    "the floating-point environment of this thread is not the IEEE-754 default",
                    found="subnormals flushed to zero" if nearest_even else "a rounding mode other than nearest even",
                    expected="round to nearest even, subnormals kept",
                    remedy="restore it before running the interpreter, or run it in a process of its own",
                )
            )


def is_float(x: Array) -> bool:
    """Whether the elements are float32 or float64."""
    return x.dtype.name in _UINT


def bits_of(x: Array) -> Array:
    """The bit patterns of floats, as unsigned integers of the same width."""
    return np.asarray(x).view(_UINT[x.dtype.name])


def canonical_nan(x: Array) -> Array:
    """x with every NaN replaced by the quiet NaN without payload; arrays that are not floats are returned as they are."""
    if x.dtype.name in NARROW_FLOATS:
        return narrow.canonical_nan(x)
    if not is_float(x):
        return x
    nan = np.array(_CANONICAL_NAN[x.dtype.name], _UINT[x.dtype.name]).view(x.dtype)
    return np.where(x != x, nan, x)


def constant_like(value: float, x: Array) -> Array:
    """A rank-0 array of x's dtype."""
    return np.array(value, x.dtype)


def neg(x: Array) -> Array:
    """Flips the sign bit (floats); 0 - x wrapping (integers)."""
    if not is_float(x):
        return np.subtract(constant_like(0, x), x)
    return np.asarray(bits_of(x) ^ _UINT[x.dtype.name](_SIGN[x.dtype.name])).view(x.dtype)


def absolute(x: Array) -> Array:
    """Clears the sign bit (floats); x < 0 ? 0 - x : x wrapping (integers)."""
    if not is_float(x):
        return np.where(x < 0, np.subtract(constant_like(0, x), x), x)
    return np.asarray(bits_of(x) & _UINT[x.dtype.name](_SIGN[x.dtype.name] - 1)).view(x.dtype)


def maximum(x: Array, y: Array) -> Array:
    """x > y ? x : (y > x ? y : (x == y ? bits(x) & bits(y) : NaN)); integers: x > y ? x : y."""
    if not is_float(x):
        return np.where(x > y, x, y)
    both = np.asarray(bits_of(x) & bits_of(y)).view(x.dtype)
    return np.where(x > y, x, np.where(y > x, y, np.where(x == y, both, constant_like(math.nan, x))))


def minimum(x: Array, y: Array) -> Array:
    """x < y ? x : (y < x ? y : (x == y ? bits(x) | bits(y) : NaN)); integers: x < y ? x : y."""
    if not is_float(x):
        return np.where(x < y, x, y)
    both = np.asarray(bits_of(x) | bits_of(y)).view(x.dtype)
    return np.where(x < y, x, np.where(y < x, y, np.where(x == y, both, constant_like(math.nan, x))))


def convert(x: Array, dtype: str) -> Array:
    """Conversion as ``cast`` defines it, between any two dtypes of the canonical graph."""
    target: np.dtype[Any] = np.dtype(dtype)
    if target.kind == "b":
        return np.not_equal(x, constant_like(0, x))
    if is_float(x) and target.kind in "iu":
        return _saturate(x.astype(np.float64), target)
    # Between floats and from integers, astype is the machine's conversion with its one rounding; between integers it
    # drops or extends bits.
    return x.astype(target)


def _saturate(x: Array, target: np.dtype[Any]) -> Array:
    """float64 to integer: truncated toward zero, saturating, NaN to 0, without a C conversion that would be undefined."""
    info = np.iinfo(target)
    whole = np.trunc(x)
    low = whole < float(info.min)
    high = whole >= float(int(info.max) + 1)
    inside = np.where(low | high | (x != x), 0.0, whole).astype(target)
    return np.where(low, np.array(info.min, target), np.where(high, np.array(info.max, target), inside))


# ---- fma ------------------------------------------------------------------------------------------------------------


class Chain:
    """Chains ``acc = fma(a, b, acc)`` from -0.0, one for each element of an array.

    The working space is allocated once. ``operand`` prepares arrays for ``step``, which works on pieces that stay in the cache.

    Args:
        shape: shape of the accumulators; the operands of ``step`` broadcast to it.
        dtype: ``float32`` or ``float64``.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._single = dtype == "float32"
        self._acc = np.empty(shape, np.float64)
        self._pieces = list(_pieces(shape)) if self._single else []
        size = max((self._acc[index].size for index in self._pieces), default=0)
        self._product, self._sum, self._spare = (np.empty(size, np.float64) for _ in range(3))
        self._suspect = np.empty(size, np.bool_)
        self._rounded = np.empty(size, np.float32)
        self.start()

    @staticmethod
    def operand(x: Array) -> Array:
        """x as ``step`` takes it: in float64, which holds every float32 and every product of two of them."""
        return x.astype(np.float64)

    def start(self, value: Array | None = None) -> None:
        """Set the accumulators to -0.0, or to ``value``."""
        self._acc[...] = -0.0 if value is None else value

    def step(self, a: Array, b: Array) -> None:
        """acc = fma(a, b, acc) with one rounding to the chain's dtype."""
        if not self._single:
            whole = np.broadcast_arrays(a, b, self._acc)
            # NumPy's results of rank 0 are no arrays, which nothing can be written into.
            self._acc = _fma_double(*map(np.atleast_1d, whole)).reshape(whole[0].shape)
            return
        a, b = np.broadcast_to(a, self._acc.shape), np.broadcast_to(b, self._acc.shape)
        for index in self._pieces:
            self._step_single(a[index], b[index], self._acc[index])

    def value(self) -> Array:
        """The accumulators, as a new array of the chain's dtype."""
        return self._acc.astype(np.float32) if self._single else self._acc.copy()

    def _step_single(self, a: Array, b: Array, acc: Array) -> None:
        """The product is exact. Rounding its float64 sum with acc to float32 rounds twice, which is wrong only if the first

        rounding gave a tie of the second: those sums (and all that are subnormal in float32, whose ties lie elsewhere) are done
        again, rounded to odd, so that the rounding to float32 is the only one.
        """
        product, total, spare, suspect, rounded = (
            v[: acc.size].reshape(acc.shape) for v in (self._product, self._sum, self._spare, self._suspect, self._rounded)
        )
        np.multiply(a, b, out=product)
        np.add(product, acc, out=total)
        np.bitwise_and(total.view(np.int64), _CUT_BITS, out=spare.view(np.int64))
        np.equal(spare.view(np.int64), _TIE, out=suspect)
        if suspect.any():
            _redo(suspect, product, acc, total)
        np.abs(total, out=spare)
        np.less(spare, _SMALLEST_NORMAL32, out=suspect)
        if suspect.any():
            _redo(suspect, product, acc, total)
        np.copyto(rounded, total, casting="same_kind")
        np.copyto(acc, rounded)


#: Elements of a piece: its float64 arrays stay in the second-level cache.
_PIECE = 2**14
#: The 29 bits that rounding float64 to a normal float32 cuts off, and their value in a tie.
_CUT_BITS, _TIE = np.int64(2**29 - 1), np.int64(2**28)
_SMALLEST_NORMAL32 = 2.0**-126


def _pieces(shape: tuple[int, ...]) -> Iterator[Any]:
    """Indices that cut an array of the shape into pieces of about ``_PIECE`` elements."""
    extents: list[int] = []
    room = _PIECE
    for extent in reversed(shape):
        extents.insert(0, max(1, min(extent, room)))
        room //= extents[0]
    starts = (range(0, extent, step) for extent, step in zip(shape, extents, strict=True))
    for corner in itertools.product(*starts):
        yield (..., *(slice(start, start + step) for start, step in zip(corner, extents, strict=True)))


def _redo(which: Array, x: Array, y: Array, total: Array) -> None:
    """total = x + y rounded to odd where ``which`` says so; exact sums stay as they are."""
    xs, ys = x[which], y[which]
    sums = np.empty_like(xs)
    _add_to_odd(xs, ys, sums, np.empty_like(xs), np.empty(xs.shape, np.bool_))
    total[which] = sums


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c with one rounding; float32 or float64 arrays of one dtype that broadcast."""
    chain = Chain(np.broadcast_shapes(a.shape, b.shape, c.shape), c.dtype.name)
    chain.start(c)
    chain.step(chain.operand(a), chain.operand(b))
    return chain.value()


def _add_to_odd(x: Array, y: Array, total: Array, spare: Array, inexact: Array) -> None:
    """total = x + y rounded to odd (float64): inexact sums are truncated toward zero and get the last bit 1.

    x and y are overwritten. Rounded to fewer bits (by at least two) such a sum gives what the exact sum would give. The
    error of the sum is exact (Knuth's two-sum). For infinities and NaN the error is NaN, which is not > 0: no adjustment.
    """
    np.add(x, y, out=total)
    np.subtract(total, x, out=spare)
    np.subtract(y, spare, out=y)
    np.subtract(total, spare, out=spare)
    np.subtract(x, spare, out=x)
    np.add(x, y, out=x)
    error, bits, overshoot = x.view(np.int64), total.view(np.int64), spare.view(np.int64)
    np.bitwise_xor(error, bits, out=overshoot)
    np.right_shift(overshoot, 63, out=overshoot)
    np.abs(x, out=x)
    np.greater(x, 0.0, out=inexact)
    # overshoot is -1 where the error points toward zero; there the truncated sum is one step below.
    np.bitwise_and(overshoot, inexact, out=overshoot)
    np.subtract(bits, overshoot, out=bits)
    np.bitwise_or(bits, inexact, out=bits)


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    total = x + y
    other = total - x
    return total, (x - (total - other)) + (y - other)


def _two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """The product and its error (Veltkamp and Dekker); needs the range that ``_fma_double`` checks."""

    def split(v: Array) -> tuple[Array, Array]:
        scaled = v * 134217729.0
        high = scaled - (scaled - v)
        return high, v - high

    product = x * y
    (xh, xl), (yh, yl) = split(x), split(y)
    return product, ((xh * yh - product) + xh * yl + xl * yh) + xl * yl


def _fma_double(a: Array, b: Array, c: Array) -> Array:
    """fma of float64 arrays of one shape: Boldo and Melquiond's algorithm in its range, integers elsewhere."""
    zero = (a == 0) | (b == 0)
    safe = _within(a, 450) & _within(b, 450) & (_within(c, 900) | (c == 0)) & ~zero
    x, y, z = (np.where(safe, v, 1.0) for v in (a, b, c))
    product, product_error = _two_product(x, y)
    t, t_error = _two_sum(z, product_error)
    v, v_error = _two_sum(product, t)
    rest = np.empty_like(v)
    _add_to_odd(t_error, v_error, rest, np.empty_like(v), np.empty(v.shape, np.bool_))
    result = np.array(v + rest)
    # A zero factor makes the product exact, with its sign; so does infinity or NaN (the sum is then theirs).
    result = np.where(zero, a * b + c, result)
    for index in zip(*np.nonzero(~safe & ~zero), strict=True):
        result[index] = _fma_exact(float(a[index]), float(b[index]), float(c[index]))
    return result


def _within(x: Array, exponent: int) -> Array:
    magnitude = np.abs(x)
    return (magnitude >= 2.0**-exponent) & (magnitude <= 2.0**exponent)


def _fma_exact(a: float, b: float, c: float) -> float:
    """fma of numbers, none of a and b zero, by exact integer arithmetic."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    (an, ad), (bn, bd), (cn, cd) = (v.as_integer_ratio() for v in (a, b, c))
    numerator, denominator = an * bn * cd + cn * ad * bd, ad * bd * cd
    try:
        return numerator / denominator  # Python divides integers with one rounding, to nearest even, subnormals included
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf
