"""A second reading of docs/numerics.md: one Python number at a time, every rounding done on exact fractions.

Arrays are used for indexing only. Numbers are Python floats that the dtype can represent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType

Array = np.ndarray
Index = tuple[int, ...]

#: digits of the significand, exponent of the smallest and of the largest normal number
FORMATS = {"float32": (24, -126, 127), "float64": (53, -1022, 1023)}
NAN_BITS = {"float32": 0x7FC00000, "float64": 0x7FF8000000000000}


# ---- running the interpreter, comparing bits ------------------------------------------------------------------------


def apply(op: str, *arrays: Array, **attrs: Any) -> Array:
    """The interpreter's result for a program of one operator, by way of its serialised text."""
    builder = GraphBuilder("one operator")
    numbers = [builder.add_input(f"x{k}", "input", TensorType(a.shape, a.dtype.name)) for k, a in enumerate(arrays)]
    builder.add_output("y", builder.emit(op, *numbers, **attrs))
    text = serialise.dumps(builder.finish())
    (result,) = interpreter.run(text, {f"x{k}": a for k, a in enumerate(arrays)})
    return result


def bits(x: Array) -> Array:
    """Bit patterns with canonical NaNs; other dtypes as they are."""
    if x.dtype.kind != "f":
        return x
    return np.where(np.isnan(x), NAN_BITS[x.dtype.name], raw_bits(x))


def raw_bits(x: Array) -> Array:
    """Bit patterns of floats; other dtypes as they are."""
    return x.view(f"u{x.itemsize}") if x.dtype.kind == "f" else x


def same_bits(found: Array, expected: Array) -> None:
    """Assert equal shape, dtype and bits, the NaNs found being canonical."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(raw_bits(found), bits(expected))


def awkward(rng: np.random.Generator, shape: Index, dtype: str, *, special: float = 0.1) -> Array:
    """Numbers of all magnitudes; a share ``special`` is subnormal, extreme, ±0, infinite or NaN; many have few digits."""
    digits, low, high = FORMATS[dtype]
    info = np.finfo(dtype)
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)
    few = np.round(values * 4) / 4
    values = np.where(rng.random(shape) < 0.3, few, values)
    tiny = float(info.smallest_subnormal)
    middle = [2.0 ** (low // 2), -(2.0 ** (high // 2)), 1 + 2.0 ** (1 - digits)]
    menu = np.array([0.0, -0.0, tiny, -3 * tiny, float(info.smallest_normal), *middle])
    values = np.where(rng.random(shape) < special, rng.choice(menu, shape), values)
    rare = np.array([math.inf, -math.inf, math.nan, float(info.max)])
    return np.where(rng.random(shape) < special / 20, rng.choice(rare, shape), values).astype(dtype)


# ---- one rounding ---------------------------------------------------------------------------------------------------


def rounded(x: Fraction, dtype: str) -> float:
    """The nearest number of the format, ties to even; overflow to infinity, underflow to subnormals and signed zero."""
    digits, low, high = FORMATS[dtype]
    magnitude = abs(x)
    if magnitude == 0:
        return 0.0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, low) - digits + 1)
    nearest = round(magnitude / quantum) * quantum
    result = math.inf if nearest >= Fraction(2) ** (high + 1) else float(nearest)
    return math.copysign(result, 1 if x > 0 else -1)


def fma(a: float, b: float, c: float, dtype: str) -> float:
    """a * b + c, one rounding."""
    if not math.isfinite(a) or not math.isfinite(b) or a == 0 or b == 0:
        return a * b + c
    return rounded(Fraction(a) * Fraction(b) + Fraction(c), dtype) if math.isfinite(c) else c


def add(a: float, b: float, dtype: str) -> float:
    """a + b, one rounding."""
    return fma(a, 1.0, b, dtype)


def mul(a: float, b: float, dtype: str) -> float:
    """a * b, one rounding; signs of zeros as in IEEE-754."""
    if not math.isfinite(a) or not math.isfinite(b) or a == 0 or b == 0:
        return a * b
    return rounded(Fraction(a) * Fraction(b), dtype)


def div(a: float, b: float, dtype: str) -> float:
    """a / b, one rounding."""
    if math.isnan(a) or math.isnan(b) or (a == 0 and b == 0) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    sign = math.copysign(1, a) * math.copysign(1, b)
    if b == 0 or math.isinf(a):
        return sign * math.inf
    if a == 0 or math.isinf(b):
        return sign * 0.0
    return rounded(Fraction(a) / Fraction(b), dtype)


def maximum(x: float, y: float) -> float:
    """NaN over all, then the larger, +0 over -0."""
    if math.isnan(x) or math.isnan(y):
        return math.nan
    if x == y == 0:
        return 0.0 if math.copysign(1, x) > 0 or math.copysign(1, y) > 0 else -0.0
    return max(x, y)


# ---- chains and lanes -----------------------------------------------------------------------------------------------


def lanes(values: list[float], dtype: str, operation: Callable[[float, float, str], float], identity: float) -> float:
    """32 lanes and the halving tree."""
    acc = [identity] * 32
    for r, v in enumerate(values):
        acc[r % 32] = operation(acc[r % 32], v, dtype)
    for width in (16, 8, 4, 2, 1):
        for k in range(width):
            acc[k] = operation(acc[k], acc[k + width], dtype)
    return acc[0]


def in_lanes(
    values: list[float],
    dtype: str,
    operation: Callable[[float, float, str], float] = add,
    identity: float = -0.0,
    empty: float = 0.0,
) -> float:
    """``sum``, or with other arguments ``prod``, of a list."""
    if not values:
        return empty
    blocks = [lanes(values[k : k + 1024], dtype, operation, identity) for k in range(0, len(values), 1024)]
    return blocks[0] if len(blocks) == 1 else lanes(blocks, dtype, operation, identity)


def chunks(pairs: Iterable[tuple[float, float]], length: int, dtype: str) -> float:
    """fma chains over ``length`` pairs each, added in ascending order."""
    todo = list(pairs)
    if not todo:
        return 0.0
    results = []
    for start in range(0, len(todo), length):
        acc = -0.0
        for a, b in todo[start : start + length]:
            acc = fma(a, b, acc, dtype)
        results.append(acc)
    total = results[0]
    for r in results[1:]:
        total = add(total, r, dtype)
    return total


def power_of_two(unit: int) -> int:
    """The largest power of two p with p * unit <= 768, at least 1."""
    return max([p for p in (2**k for k in range(10)) if p * unit <= 768], default=1)


# ---- operators ------------------------------------------------------------------------------------------------------


def every(shape: Iterable[int]) -> list[Index]:
    """All indices in row-major order."""
    return list(itertools.product(*(range(extent) for extent in shape)))


def filled(shape: Index, dtype: str, element: Callable[[Index], float]) -> Array:
    """An array from a function of the index."""
    result = np.zeros(shape, dtype)
    for index in every(shape):
        result[index] = element(index)
    return result


def at(x: Array, index: Index) -> float:
    """An element; +0.0 outside."""
    inside = all(0 <= i < extent for i, extent in zip(index, x.shape, strict=True))
    return float(x[index]) if inside else 0.0


def matmul(a: Array, b: Array) -> Array:
    """Two matrices."""
    inner = range(a.shape[1])
    return filled(
        (a.shape[0], b.shape[1]),
        a.dtype.name,
        lambda e: chunks(((float(a[e[0], k]), float(b[k, e[1]])) for k in inner), 512, a.dtype.name),
    )


def place(q: Index, j: Index, attrs: dict[str, Any]) -> Index:
    """Where output position q meets kernel position j in the input."""
    axes = zip(q, j, attrs["strides"], attrs["padding"], attrs["dilations"], strict=True)
    return tuple(qk * s + jk * d - low for qk, jk, s, (low, _), d in axes)


def conv(x: Array, w: Array, out: Index, attrs: dict[str, Any]) -> Array:
    """From the definition."""
    per_group, channels = w.shape[0] // attrs["groups"], w.shape[1]

    def element(e: Index) -> float:
        n, o, *q = e
        first = o // per_group * channels
        pairs = (
            (at(x, (n, first + c, *place(tuple(q), j, attrs))), at(w, (o, c, *j)))
            for c in range(channels)
            for j in every(w.shape[2:])
        )
        unit = math.prod(w.shape[2:])
        return chunks(pairs, power_of_two(unit) * unit, x.dtype.name)

    return filled(out, x.dtype.name, element)


def conv_backward_weight(x: Array, dy: Array, out: Index, attrs: dict[str, Any]) -> Array:
    """From the definition."""
    per_group, channels = out[0] // attrs["groups"], out[1]

    def element(e: Index) -> float:
        o, c, *j = e
        channel = o // per_group * channels + c
        pairs = (
            (at(x, (n, channel, *place(q, tuple(j), attrs))), at(dy, (n, o, *q)))
            for n in range(x.shape[0])
            for q in every(dy.shape[2:])
        )
        return chunks(pairs, power_of_two(dy.shape[-1]) * dy.shape[-1], x.dtype.name)

    return filled(out, x.dtype.name, element)


def conv_backward_data(dy: Array, w: Array, out: Index, attrs: dict[str, Any]) -> Array:
    """From the definition; a chunk's length counts the kernel positions that take part."""
    per_group, channels = dy.shape[1] // attrs["groups"], w.shape[1]
    axes = range(len(out) - 2)

    def element(e: Index) -> float:
        n, c, *i = e
        group, c_inside = divmod(c, channels)
        taking_part = []
        for j in every(w.shape[2:]):
            t = [i[k] + attrs["padding"][k][0] - j[k] * attrs["dilations"][k] for k in axes]
            if all(t[k] % attrs["strides"][k] == 0 for k in axes):
                taking_part.append((j, tuple(t[k] // attrs["strides"][k] for k in axes)))
        pairs = (
            (at(dy, (n, o, *q)), at(w, (o, c_inside, *j)))
            for o in range(group * per_group, (group + 1) * per_group)
            for j, q in taking_part
        )
        length = power_of_two(math.prod(w.shape[2:])) * len(taking_part)
        return chunks(pairs, length, w.dtype.name)

    return filled(out, w.dtype.name, element)


def window(x: Array, q: Index, attrs: dict[str, Any]) -> list[tuple[Index, float | None]]:
    """Positions and elements of a window of x (spatial…), None in the padding."""
    result: list[tuple[Index, float | None]] = []
    for j in every(attrs["kernel"]):
        i = place(q, j, attrs)
        inside = all(0 <= k < extent for k, extent in zip(i, x.shape, strict=True))
        result.append((i, float(x[i]) if inside else None))
    return result


def max_pool(x: Array, out: Index, attrs: dict[str, Any]) -> Array:
    """From the definition."""

    def element(e: Index) -> float:
        values = [v for _, v in window(x[e[:2]], e[2:], attrs) if v is not None]
        result = values[0]
        for v in values:
            result = maximum(result, v)
        return result

    return filled(out, x.dtype.name, element)


def argmax(values: list[float]) -> int:
    """First NaN, else first of the largest."""
    for k, v in enumerate(values):
        if math.isnan(v):
            return k
    return values.index(max(values))


def max_pool_backward(dy: Array, x: Array, attrs: dict[str, Any]) -> Array:
    """Window by window, in row-major order."""
    received: dict[Index, float] = {}
    for e in every(dy.shape):
        real = [(i, v) for i, v in window(x[e[:2]], e[2:], attrs) if v is not None]
        to = (*e[:2], *real[argmax([v for _, v in real])][0])
        received[to] = add(received.get(to, -0.0), float(dy[e]), dy.dtype.name)
    return filled(x.shape, x.dtype.name, lambda e: received.get(e, 0.0))


def count(values: list[tuple[Index, float | None]], attrs: dict[str, Any]) -> float:
    """What a window's sum is divided by."""
    return float(len(values) if attrs["count_include_pad"] else sum(v is not None for _, v in values))


def avg_pool(x: Array, out: Index, attrs: dict[str, Any]) -> Array:
    """From the definition."""

    def element(e: Index) -> float:
        values = window(x[e[:2]], e[2:], attrs)
        total = in_lanes([-0.0 if v is None else v for _, v in values], x.dtype.name)
        return div(total, count(values, attrs), x.dtype.name)

    return filled(out, x.dtype.name, element)


def avg_pool_backward(dy: Array, shape: Index, attrs: dict[str, Any]) -> Array:
    """Window by window, in row-major order."""
    received: dict[Index, float] = {}
    ones = np.ones(shape)
    for e in every(dy.shape):
        values = window(ones[e[:2]], e[2:], attrs)
        share = div(float(dy[e]), count(values, attrs), dy.dtype.name)
        for i, v in values:
            if v is not None:
                to = (*e[:2], *i)
                received[to] = add(received.get(to, -0.0), share, dy.dtype.name)
    return filled(shape, dy.dtype.name, lambda e: received.get(e, 0.0))
