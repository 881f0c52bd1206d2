"""Exponential and logarithm of float64 against the host's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import convert_float64
from gensyn_tvm.canonical.convert_context import Context
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 5e-324, 1e-310, 1.7e308, -1.0]


@pytest.mark.parametrize(("function", "wanted", "low", "high"), [("exp", np.exp, -745, 709), ("log", np.log, 1e-300, 1e300)])
def test_close(function: str, wanted: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> None:
    spread = np.geomspace(low, high, 999) if low > 0 else np.linspace(low, high, 999)
    x = np.concatenate([spread, np.linspace(0.5, 2, 99), SPECIAL])
    builder = GraphBuilder("float64")
    number = builder.add_input("x", "input", TensorType(x.shape, "float64"))
    builder.add_output("y", getattr(convert_float64, function)(Context(builder), number))
    y = interpreter.run(builder.finish(), {"x": x})[0]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, wanted(x), rtol=1e-13, atol=1e-15)
