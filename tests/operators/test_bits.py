"""Every operator compiled, on every target and in every style, against the interpreter, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.rules import ATTRIBUTES, RULES
from gensyn_tvm.operators.registry import VARIANTS
from gensyn_tvm.passes.lift import CANONICAL_NAN
from gensyn_tvm.schedules.cpu import elementwise, products, rows, sequences

from .case import array
from .cases import CASES, FAMILIES, bundle
from .support import CONFIGURATIONS, NATIVE, Configuration, assert_all_same, outputs


@cache
def expected(family: str) -> Sequence[np.ndarray]:
    return interpreter.run(*bundle(FAMILIES[family]))


def check(family: str, configuration: Configuration) -> None:
    names = [case.name for case in FAMILIES[family]]
    for threads, found in outputs(*bundle(FAMILIES[family]), configuration).items():
        assert_all_same([f"{n} ({configuration}, {threads} threads)" for n in names], found, expected(family))


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_is_the_interpreter(family: str, configuration: Configuration) -> None:
    check(family, configuration)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("casts", "large")])
def test_threads_on_the_smallest_kernels(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (elementwise, products, rows, sequences):
        monkeypatch.setattr(module, "PARALLEL_WORK", 0)
    check(family, Configuration(NATIVE, "fast", (2, 3)))


def test_every_operator_has_a_case_and_a_variant() -> None:
    assert {case.op for case in CASES} == set(RULES)
    assert set(VARIANTS) == set(RULES) | {CANONICAL_NAN}
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert set(case.attrs) == ATTRIBUTES[case.op], case.name


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_inputs_hold_every_kind_of_number(dtype: str) -> None:
    """All cases with special values together."""
    together = []
    for case in CASES:
        if case.special:
            rng = np.random.default_rng(case.seed)
            together += [array(t, rng, special=True).reshape(-1) for t in case.types() if t.dtype == dtype]
    x = np.concatenate(together)
    tiny, largest = np.finfo(dtype).tiny, np.finfo(dtype).max
    magnitude = np.abs(x)
    kinds = {
        "+0": (x == 0) & ~np.signbit(x),
        "-0": (x == 0) & np.signbit(x),
        "+inf": np.isposinf(x),
        "-inf": np.isneginf(x),
        "NaN": np.isnan(x),
        "positive subnormal": (x > 0) & (x < tiny),
        "negative subnormal": (x < 0) & (x > -tiny),
        "huge": np.isfinite(x) & (magnitude > largest / 1e8),
        "tiny": (magnitude >= tiny) & (magnitude < tiny * 1e8),
        "ordinary": (magnitude > 0.1) & (magnitude < 10),
        "largest": magnitude == largest,
    }
    assert {name: int(mask.sum()) for name, mask in kinds.items() if mask.sum() < 20} == {}
