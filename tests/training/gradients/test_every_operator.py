"""The gradient of every differentiable canonical operator, on cases that hypothesis draws.

Each goes through ``differentiate``, the freeze and the interpreter, and is compared with central differences of a float64
evaluation that knows nothing of the interpreter, and with PyTorch's autograd in float64. Errors are relative to the largest
element of the gradient, or 1 if that is less (inputs and weights are about 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from gensyn_tvm import interpreter
from gensyn_tvm.training.gradients import CANONICAL

from . import peers
from .backward import backward
from .backward import given as inputs_of
from .draw import ROUNDING, Drawn, cases
from .reference import FLOAT64, finite_differences

#: Of float32 gradients: some thirty roundings.
TOLERANCE32 = 2e-6
#: Of float64 gradients against differences (which have an error of about 1e-8 themselves), and against autograd.
DIFFERENCES64, AUTOGRAD64 = 2e-7, 1e-11
#: Elements of an input whose derivative is compared with differences.
PLACES = 12


@dataclass
class Errors:
    """The largest errors over some cases; None: not compared.

    Attributes:
        differences, autograd: of gradients that only involve float64, and that involve float32.
    """

    cases: int = 0
    differences64: float | None = None
    differences32: float | None = None
    autograd64: float | None = None
    autograd32: float | None = None

    def note(self, name: str, error: float) -> None:
        """Count an error in."""
        setattr(self, name, max(getattr(self, name) or 0.0, error))


def error(found: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """The largest difference over the larger of ``scale`` and 1; NaN where anything is NaN."""
    return float(np.max(abs(found.astype(np.float64) - expected), initial=0.0) / max(scale, 1.0))


def compare(case: Drawn, errors: Errors) -> None:
    """Compare one case's gradients and count its errors in."""
    found = gradients(case)
    wide = all(i.type.dtype == "float64" for k, i in enumerate(case.graph.inputs) if k in case.wanted)
    wide = wide and case.weights.dtype == np.float64
    errors.cases += 1
    by_torch = None
    if case.op not in peers.WITHOUT:
        by_torch = peers.autograd(case.graph, case.arrays, case.weights, case.wanted)
    for n, (k, gradient) in enumerate(zip(case.wanted, found, strict=True)):
        assert gradient.shape == case.arrays[k].shape and gradient.dtype == case.arrays[k].dtype
        scale = float(np.max(abs(gradient), initial=0.0))
        if by_torch is not None:
            errors.note("autograd64" if wide else "autograd32", error(gradient, by_torch[n], scale))
        if case.op not in ROUNDING:
            size = gradient.size
            places = np.random.default_rng(size).permutation(size)[:PLACES]
            slopes = finite_differences(case.graph, case.arrays, case.weights, k, places)
            errors.note("differences64" if wide else "differences32", error(gradient.reshape(-1)[places], slopes, scale))


def gradients(case: Drawn) -> list[np.ndarray]:
    """What the interpreter computes."""
    graph = backward(case.graph, case.wanted)
    return interpreter.run(graph, inputs_of(case.graph, case.arrays, case.weights))


LIMITS = {
    "differences64": DIFFERENCES64,
    "differences32": TOLERANCE32,
    "autograd64": AUTOGRAD64,
    "autograd32": TOLERANCE32,
}


def check_operator(op: str, examples: int) -> Errors:
    """Draw cases of an operator and compare their gradients.

    Raises:
        AssertionError: a gradient is wrong; the case is the smallest that hypothesis found.
    """
    total = Errors()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(op))
    def check(case: Drawn) -> None:
        own = Errors()
        compare(case, own)
        found = {name: getattr(own, name) for name in LIMITS if getattr(own, name) is not None}
        assert all(e <= LIMITS[name] for name, e in found.items()), (found, case)
        total.cases += 1
        for name, e in found.items():
            total.note(name, e)

    check()
    return total


def test_every_operator_has_cases_and_references() -> None:
    assert set(CANONICAL) <= set(FLOAT64)
    assert set(CANONICAL) - set(peers.WITHOUT) == set(peers.TORCH)


@pytest.mark.parametrize("op", CANONICAL)
def test_against_differences_and_autograd(op: str) -> None:
    errors = check_operator(op, 6)
    assert errors.cases >= 3
