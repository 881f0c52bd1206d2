"""Arithmetic that is not ours is refused before code generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ExactnessError
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, kernel, load
from gensyn_tvm.passes.exactness import check_exactness
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.cases import FAMILIES, bundle

Expr = Any
INEXACT: dict[str, tuple[str, Callable[[Expr], Expr]]] = {
    "add": ("x0[v] + x0[v]", lambda x: tirx.Add(x, x)),
    "sub": ("x0[v] - x0[v]", lambda x: tirx.Sub(x, x)),
    "mul": ("x0[v] * x0[v]", lambda x: tirx.Mul(x, x)),
    "div": ("x0[v] / x0[v]", lambda x: tirx.Div(x, x)),
    "max": ("T.max(x0[v], x0[v])", lambda x: tirx.Max(x, x)),
    "min": ("T.min(x0[v], x0[v])", lambda x: tirx.Min(x, x)),
    "immediate": ("T.float32(0.1", lambda x: tirx.FloatImm("float32", 0.1)),
    "exp": ("T.exp(x0[v])", tirx.exp),
    "sqrt": ("T.sqrt(x0[v])", tirx.sqrt),
    "fma": ("T.fma(", lambda x: tirx.call_intrin("float32", "tirx.fma", x, x, x)),
    "extern": ('T.call_pure_extern("float32", "expf"', lambda x: tirx.call_pure_extern("float32", "expf", x)),
    "llvm": ("T.call_llvm_pure_intrin", lambda x: tirx.call_llvm_pure_intrin("float32", "llvm.exp", x)),
    "cast from float": ("T.Cast(", lambda x: exact.convert(tirx.Cast("int32", x), "float32")),
    "cast to float": ("T.Cast(", lambda x: tirx.Cast("float32", exact.convert(x, "int32"))),
    "cast of float": ("T.Cast(", lambda x: exact.convert(tirx.Cast("float64", x), "float32")),
    "compare": ("x0[v] < x0[v]", lambda x: tirx.Select(tirx.LT(x, x), x, x)),
    "equal": ("x0[v] == x0[v]", lambda x: tirx.Select(tirx.EQ(x, x), x, x)),
    "inside an exact operator": ("x0[v] * x0[v]", lambda x: exact.add(x, tirx.Mul(x, x))),
    "inside a guard": ("x0[v] * x0[v]", lambda x: tirx.if_then_else(tirx.LT(i64(0), i64(1)), tirx.Mul(x, x), x)),
}


def function(value: Callable[[Expr], Expr], *, init: Expr | None = None) -> Any:
    """One elementwise stage, or a reduction that starts from ``init``."""
    with kernel("main", [TensorType((8,), "float32")], TensorType((8,), "float32")) as k:
        if init is None:
            k.stage("map", k.output, [8], lambda index: value(load(k.inputs[0], index)))
        else:
            k.stage("fold", k.output, [8], lambda s, r, acc: exact.add(acc, load(k.inputs[0], s)), reduce=[2], init=init)
    return k.result()


@pytest.mark.parametrize(("text", "value"), INEXACT.values(), ids=INEXACT)
def test_refused(text: str, value: Callable[[Expr], Expr]) -> None:
    with pytest.raises(ExactnessError) as caught:
        check_exactness("the_kernel", function(value))
    message = str(caught.value)
    assert "kernel 'the_kernel' computes outside of the exact operators" in message
    assert f"found: {text}" in message
    assert "expected: only operators named tirx.exact_*" in message
    assert "what to do: write the variant with gensyn_tvm.operators.exact" in message


def test_initial_values_are_checked() -> None:
    check_exactness("k", function(lambda x: x, init=exact.const(-0.0)))
    with pytest.raises(ExactnessError, match=r"T.float32\(0"):
        check_exactness("k", function(lambda x: x, init=tirx.FloatImm("float32", 0.0)))


def test_the_number_of_places_is_told() -> None:
    with pytest.raises(ExactnessError, match=r"\(3 places\)"):
        check_exactness("k", function(lambda x: tirx.Add(tirx.Mul(x, x), tirx.FloatImm("float32", 1.0))))


def test_exact_operators_and_integers_pass() -> None:
    check_exactness("k", function(lambda x: exact.fma(x, x, exact.const(0.1))))
    check_exactness("k", function(lambda x: exact.select(exact.lt(x, x), exact.neg(x), x)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variant_passes(family: str) -> None:
    seen: list[str] = []

    def observe(phase: str, module: Any) -> None:
        if phase == "legalise":
            for gv, f in kernels(module):
                check_exactness(gv.name_hint, f)
                seen.append(gv.name_hint)

    run_phases(bundle(FAMILIES[family])[0], TARGETS["x86-64"], "none", observe)
    assert len(seen) > 5
