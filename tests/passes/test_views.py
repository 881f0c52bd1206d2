"""Reshapes as views of memory."""

from __future__ import annotations

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import lift
from gensyn_tvm.passes.views import ALONE, VIEW, keep_views

from ..operators.support import CONFIGURATIONS, NATIVE, assert_all_same, outputs


def grouped(shape: tuple[int, ...], new: tuple[int, ...]) -> Graph:
    """The sum over the last axis of -x, reshaped, and what is left of it there."""
    b = GraphBuilder("grouped")
    x = b.add_input("x", "input", TensorType(shape, "float32"))
    y = b.emit("reshape", b.emit("neg", x), shape=new)
    total = b.emit("sum", y, axes=(len(new) - 1,), keepdims=True)
    b.add_output("y", b.emit("sub", y, total))
    return b.finish()


@pytest.mark.parametrize(
    ("shape", "new", "alone"),
    [
        ((4, 8, 7, 9), (4, 2, 252), True),
        ((4, 8, 7, 9), (32, 7, 9), False),
        ((6, 10), (6, 10, 1), False),
        ((60,), (6, 10), True),
    ],
)
def test_a_reshape_that_cuts_lines_anew_for_a_reduction_stays_alone(
    shape: tuple[int, ...], new: tuple[int, ...], alone: bool
) -> None:
    module = legalise(lift(keep_views(grouped(shape, new))))
    (kernel,) = [f for _, f in module.functions_items() if VIEW in dict(f.attrs or {})]
    assert (dict(kernel.attrs)[VIEW] == ALONE) is alone


@pytest.mark.skipif(NATIVE == "c", reason="no vectors")
def test_views_do_not_change_bits() -> None:
    graph = grouped((4, 8, 7, 9), (4, 2, 252))
    x = np.random.default_rng(1).standard_normal((4, 8, 7, 9), np.float32)
    x.reshape(-1)[[3, 500, 900]] = [1e-42, np.inf, -0.0]
    found = [(str(c), o) for c in CONFIGURATIONS for o in outputs(graph, {"x": x}, c).values()]
    for name, arrays in found[1:]:
        assert_all_same([name], arrays, found[0][1])
