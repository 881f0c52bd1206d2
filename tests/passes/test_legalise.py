"""Operators become our variants or an error, never TVM's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.operators.registry import MOVES, VARIANTS
from gensyn_tvm.passes import legalise as module_under_test
from gensyn_tvm.passes.legalise import legalise
from gensyn_tvm.passes.lift import PREFIX, lift
from gensyn_tvm.passes.pipeline import kernels


def tanh_of_sum() -> Graph:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((4, 5), "float32"))
    b.source = "model.layers.3 (Tanh)"
    b.add_output("y", b.emit("tanh", b.emit("add", x, x)))
    return b.finish()


def test_a_missing_variant_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(module_under_test._MAP, PREFIX + "tanh")
    with pytest.raises(UnsupportedOperatorError) as caught:
        compile(tanh_of_sum(), "x86-64")
    assert caught.value.operator == "tanh"
    message = str(caught.value)
    assert "unsupported operator 'tanh'" in message
    assert "in: model.layers.3 (Tanh)" in message
    assert "found: no deterministic variant" in message
    assert "what to do: write the model with supported operators, or add a variant" in message


def test_stock_operators_are_refused() -> None:
    """TVM could legalise this one itself, with another order of additions."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4, 5], "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.softmax(x)))
    with pytest.raises(UnsupportedOperatorError, match=r"unsupported operator 'relax\.nn\.softmax'"):
        legalise(builder.get())


def test_only_calls_of_our_kernels_remain() -> None:
    legal = legalise(lift(tanh_of_sum()))
    names: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call):
            names.append(node.op.name)

    relax.analysis.post_order_visit(legal["main"].body, visit)
    assert names == ["relax.call_tir"] * 3
    assert sorted(gv.name_hint for gv, _ in kernels(legal)) == ["add", "canonical_nan", "tanh"]


def test_every_variant_is_in_the_map() -> None:
    assert set(module_under_test._MAP) == {PREFIX + op for op in (*VARIANTS, *MOVES)}


def test_equal_kernels_are_shared_and_others_are_not() -> None:
    b = GraphBuilder("program")
    x, y = (b.add_input(n, "input", TensorType((4,), "int32")) for n in "xy")
    b.add_output("p", b.emit("add", x, y))
    b.add_output("q", b.emit("add", y, x))
    b.add_output("r", b.emit("sub", x, y))
    legal = legalise(lift(b.finish()))
    assert isinstance(legal, tvm.IRModule)
    assert sorted(gv.name_hint for gv, _ in kernels(legal)) == ["add", "sub"]
    assert np.asarray(compile(b.finish(), "c")(np.ones(4, np.int32), np.ones(4, np.int32))).tolist() == [
        [2] * 4,
        [2] * 4,
        [0] * 4,
    ]
