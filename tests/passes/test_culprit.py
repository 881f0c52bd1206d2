"""A refused schedule names the primitive that did it."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import s_tir

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import products
from gensyn_tvm.passes.culprit import culprit_of
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.schedules import driver
from gensyn_tvm.targets.cpu import TARGETS

F = "float32"


def bad_rule(sch: Any, _target: Any = None) -> None:
    """Terms in another order, between primitives that do no harm."""
    block = sch.get_sblock("chunk")
    *_, terms = sch.get_loops(block)
    outer, inner = sch.split(terms, [None, 4])
    sch.unroll(inner)
    sch.reorder(inner, outer)
    sch.parallel(sch.get_loops(block)[0])


def test_the_primitive_is_found() -> None:
    types = [TensorType(shape, F) for shape in ((16, 32), (32, 16))]
    function = products.matmul("main", types, TensorType((16, 16), F), {})
    sch = s_tir.Schedule(function, debug_mask="none")
    bad_rule(sch)
    assert culprit_of("k", function, sch.trace) == "Reorder"


def graph() -> Graph:
    b = GraphBuilder("program")
    x, w = (b.add_input(name, "input", TensorType((32, 32), F)) for name in "xw")
    b.add_output("y", b.emit("matmul", x, w))
    return b.finish()


def test_a_build_refuses_a_bad_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "schedule_cpu", bad_rule)
    with pytest.raises(ScheduleError, match=r"(?s)block 'chunk', loop \w+ of extent 4 \(unroll\).*primitive: Reorder"):
        run_phases(graph(), TARGETS["x86-64"], "fast")
