"""Lowered operators against arithmetic on exact fractions and Python integers, at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.lowering import lowering_for

from ..interpreter import naive
from ..operators.case import SPECIAL32, SPECIAL64
from ..operators.support import CONFIGURATIONS, LEVELS, Configuration, outputs


def compiled_fma(level: str, triples: np.ndarray, lanes: int) -> np.ndarray:
    """fma of the rows of an array (count, 3), vectorised."""
    target, count, dtype = TARGETS[level], len(triples), triples.dtype.name
    a, b, c = (te.placeholder((count,), name=n, dtype=dtype) for n in "abc")
    y = te.compute((count,), lambda i: exact.call("fma", dtype, a[i], b[i], c[i]), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b, c, y]))
    _, inner = schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, lanes])
    if lanes > 1:
        schedule.vectorize(inner)
    with lowering_for(has_fma=target.has_fma):
        function = tvm.compile(schedule.mod, target.to_tvm())
    output = tvm.runtime.empty((count,), dtype)
    function(*(tvm.runtime.tensor(np.ascontiguousarray(triples[:, k])) for k in range(3)), output)
    return output.numpy()


def adversarial(dtype: str) -> np.ndarray:
    """Triples at which a second rounding shows, that cancel, end below the normal range, or are not finite."""
    digits, low, high = naive.FORMATS[dtype]
    ulp = 2.0 ** (1 - digits)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    special = SPECIAL32 if dtype == "float32" else SPECIAL64
    rows: list[tuple[float, float, float]] = []
    # The sum lies a hair beside the middle of two numbers, where an intermediate rounding would put it in the middle.
    for sign in (1.0, -1.0):
        for hair in (2.0 ** (low + 2), tiny, 2.0**-60, 0.0):
            rows += [(1 + ulp, 1.0, sign * ulp / 2), (1.0, sign * ulp / 2, 1 + ulp), (hair, sign, 1.0)]
            rows += [(sign * ulp / 2, 1 + ulp, 1.0), (sign * ulp / 2, 1 - ulp, 1 + ulp), (sign * ulp / 2, 1 + ulp, 1 + ulp)]
    # The same at the end of the product: odd numbers of digits + 1 bits are middles, and the addend is the hair. Or the
    # product is half an ulp less a square that no wider format holds beside the addend.
    root = (math.isqrt(2**digits) + 2) | 1
    for k in range(40):
        rows += [(root + 2 * k, root, sign * 2.0 ** (-digits - 8 - k)) for sign in (1.0, -1.0)]
        half = 2.0 ** (-digits // 2 - 1), 2.0 ** (-digits - (-digits // 2 - 1))
        rows += [(half[0] * (1 + k * ulp), sign * half[1] * (1 - k * ulp), 1 + 3 * ulp) for sign in (1.0, -1.0)]
    # Cancellation: what is left is the error of the product.
    for k in range(1, 40):
        x, y = 1 + k * ulp, 1 - 3 * k * ulp
        product = naive.mul(x, y, dtype)
        rows += [(x, y, -product), (x, -y, product), (x, y, -naive.add(product, ulp, dtype))]
    # Results around the smallest normal number and the smallest subnormal one, ties among them.
    for k in range(-6, 7):
        rows += [(2.0 ** (low // 2), 2.0 ** (low - low // 2) * (1 + k * ulp), tiny * k), (tiny, 0.5, k * tiny)]
        rows += [
            (tiny, 0.5 + k * ulp, 0.0),
            (tiny * 3, 0.5, k * tiny),
            (2.0**low, 1 - ulp / 2, tiny * k),
            (tiny, tiny, k * tiny),
        ]
    largest = float(np.finfo(dtype).max)
    rows += [(largest, 1.0, 2.0 ** (high - digits)), (largest, 1.0, 2.0 ** (high - digits - 1)), (largest, largest, -math.inf)]
    rows += [(largest, 2.0, -largest), (-largest, 2.0, largest), (largest, 1 + ulp, -largest)]
    rows += [(float(x), float(y), float(z)) for x in special[::2] for y in special[1::2] for z in special[::3]]
    rng = np.random.default_rng(11)
    scattered = naive.awkward(rng, (3000, 3), dtype)
    # The addend near the product, at every distance at which rounding can go wrong.
    a, b = (1 + rng.integers(0, 2**12, 4000) * ulp * 2.0 ** rng.integers(0, digits - 13, 4000) for _ in "ab")
    c = (
        rng.choice([-1.0, 1.0], 4000)
        * (1 + rng.integers(0, 8, 4000) * ulp)
        * 2.0 ** rng.integers(-2 * digits, 2 * digits, 4000)
    )
    return np.concatenate([np.array(rows), scattered.astype(np.float64), np.stack([a, b, c], 1)]).astype(dtype)


@pytest.mark.parametrize("lanes", (1, 4))
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_fma_rounds_once(dtype: str, level: str, lanes: int) -> None:
    triples = adversarial(dtype)[: len(adversarial(dtype)) // 4 * 4]
    found = compiled_fma(level, triples, lanes)
    expected = np.array([naive.fma(float(a), float(b), float(c), dtype) for a, b, c in triples], dtype)
    got, want = naive.bits(found), naive.bits(expected)
    wrong = np.flatnonzero(got != want)
    shown = [(*map(float.hex, map(float, triples[i])), hex(got[i]), hex(want[i])) for i in wrong[:5]]
    assert not len(wrong), f"{len(wrong)} of {len(triples)} differ: {shown}"


def test_the_triples_tell_one_rounding_from_two() -> None:
    """A product rounded to float32, and a sum rounded to float64 before float32, are both wrong somewhere."""
    rows = [tuple(map(float, row)) for row in adversarial("float32") if np.isfinite(row).all()]
    fused = [naive.fma(a, b, c, "float32") for a, b, c in rows]
    apart = [naive.add(naive.mul(a, b, "float32"), c, "float32") for a, b, c in rows]
    twice = [naive.rounded(Fraction(a * b + c), "float32") if math.isfinite(a * b + c) else a * b + c for a, b, c in rows]
    assert sum(x != y for x, y in zip(fused, apart, strict=True)) > 300
    assert sum(x != y for x, y in zip(fused, twice, strict=True)) > 60


# ---- through whole programs: every target and style ------------------------------------------------------------------


#: name -> (operator, arrays, attributes)
Rows = dict[str, tuple[str, list[np.ndarray], dict[str, Any]]]


def programs(configuration: Configuration, rows: Rows) -> dict[str, np.ndarray]:
    """The results of all rows, compiled as one program."""
    b = GraphBuilder("edges")
    given = {f"{name}{k}": a for name, (_, arrays, _) in rows.items() for k, a in enumerate(arrays)}
    numbers = {n: b.add_input(n, "input", TensorType(a.shape, a.dtype.name)) for n, a in given.items()}
    for name, (op, arrays, attrs) in rows.items():
        b.add_output(name, b.emit(op, *(numbers[f"{name}{k}"] for k in range(len(arrays))), **attrs))
    found = outputs(b.finish(), given, configuration)[1]
    return dict(zip(rows, found, strict=True))


def around(values: list[float], dtype: str) -> np.ndarray:
    """Numbers with their neighbours, and their negatives."""
    with np.errstate(over="ignore"):
        x = np.array(values).astype(dtype)
        infinity = np.array(np.inf, dtype)
        x = np.concatenate([x, np.nextafter(x, infinity), np.nextafter(x, -infinity)])
    return np.concatenate([x, -x, np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)])


EDGES = [0.5, 1.0, 1.5, 2.5, 127.0, 127.5, 128.0, 129.0, 254.5, 255.0, 255.5, 256.0, 8388607.5, 8388608.0, 2.0**24, 2.0**31]
EDGES += [
    2.0**31 - 1,
    2.0**31 + 1,
    2.0**32 - 1,
    2.0**32,
    2.0**52,
    2.0**52 - 0.5,
    2.0**53,
    2.0**62,
    2.0**63,
    2.0**64,
    1e30,
    1e-40,
]
INTEGERS = ("int8", "uint8", "int32", "uint32", "int64")


def saturated(x: float, dtype: str) -> int:
    info = np.iinfo(dtype)
    if math.isnan(x):
        return 0
    return max(info.min, min(info.max, math.trunc(x))) if math.isfinite(x) else (info.max if x > 0 else info.min)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_float_to_integer_saturates(configuration: Configuration) -> None:
    rows: Rows = {f"{s} to {t}": ("cast", [around(EDGES, s)], {"dtype": t}) for s in ("float32", "float64") for t in INTEGERS}
    for name, found in programs(configuration, rows).items():
        x = rows[name][1][0]
        expected = [saturated(float(v), name.split()[-1]) for v in x]
        assert found.tolist() == expected, name


def corners(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    values = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 2**16 - 1, 2**16, info.max // 2, info.max // 2 + 1]
    values += [-1, -2, info.min // 2] if info.min else [2**31 - 1, 2**31]
    values += [2**32 - 1, 2**32, -(2**32), 2**31, -(2**31)] if info.bits == 64 else []
    return np.array(values, dtype)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_integers_wrap(configuration: Configuration) -> None:
    operations: dict[str, Callable[[int, int], int]] = {
        "add": lambda p, q: p + q,
        "sub": lambda p, q: p - q,
        "mul": lambda p, q: p * q,
    }
    rows: Rows = {}
    for dtype in ("int32", "int64", "uint32"):
        first, second = (a.reshape(-1) for a in np.meshgrid(corners(dtype), corners(dtype)))
        rows.update({f"{op} {dtype}": (op, [first, second], {}) for op in operations})
    for dtype in ("int32", "int64"):
        rows.update({f"{op} {dtype}": (op, [corners(dtype)], {}) for op in ("neg", "abs")})
    for name, found in programs(configuration, rows).items():
        op, dtype = name.split()
        info, arguments = np.iinfo(dtype), [a.tolist() for a in rows[name][1]]
        single = {"neg": lambda p: -p, "abs": abs}
        exactly = (
            [operations[op](p, q) for p, q in zip(*arguments, strict=True)]
            if op in operations
            else [single[op](p) for p in arguments[0]]
        )
        expected = [(v - info.min) % 2**info.bits + info.min for v in exactly]
        assert found.tolist() == expected, name


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_rounding_to_integral_values(configuration: Configuration) -> None:
    functions: dict[str, Callable[[float], int]] = {"floor": math.floor, "ceil": math.ceil, "round": round}
    rows: Rows = {
        f"{op} {d}": (op, [around([*EDGES, 3.5, 4.5, 0.25, 1e-45], d)], {}) for op in functions for d in ("float32", "float64")
    }
    for name, found in programs(configuration, rows).items():
        op, dtype = name.split()
        x = rows[name][1][0].tolist()
        expected = [math.copysign(float(functions[op](v)), v) if math.isfinite(v) else v for v in x]
        naive.same_bits(found, np.array(expected, dtype))


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_extrema_of_zeros_and_nans(configuration: Configuration) -> None:
    rows: Rows = {}
    for dtype, bits in (("float32", np.uint32), ("float64", np.uint64)):
        quiet = naive.NAN_BITS[dtype]
        signalling = {"float32": 0xFF800001, "float64": 0xFFF0000000000001}[dtype]
        nans = np.array([quiet, signalling], bits).view(dtype)
        x = np.concatenate([np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45, 5e-324], dtype), nans])
        first, second = (a.reshape(-1) for a in np.meshgrid(x, x))
        rows.update({f"{op} {dtype}": (op, [first, second], {}) for op in ("maximum", "minimum")})
    for name, found in programs(configuration, rows).items():
        op, dtype = name.split()
        first, second = (a.tolist() for a in rows[name][1])
        if op == "maximum":
            expected = [naive.maximum(p, q) for p, q in zip(first, second, strict=True)]
        else:  # min(x, y) = -max(-x, -y), which also turns +0 over -0 into -0 over +0
            expected = [-naive.maximum(-p, -q) for p, q in zip(first, second, strict=True)]
        naive.same_bits(found, np.array(expected, dtype))
