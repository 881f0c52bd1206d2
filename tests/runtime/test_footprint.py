"""What a plan needs of memory, against a plan by hand and against where a compiled step puts its arrays."""

from __future__ import annotations

import gensyn_tvm
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.runtime.footprint import as_text, footprint_of
from gensyn_tvm.runtime.plan import AREAS, Argument, Plan, Step

X = TensorType((2, 3), "float32")


def by_hand() -> Plan:
    """x → a → b over the place of nothing → c over the place of a → y."""
    workspace = 2 + AREAS.index("workspace")

    def at(offset: int, type_: str = "float32[2, 3]") -> Argument:
        return Argument(workspace, offset, type_)

    steps = (
        Step("first", (Argument(0, 0, "float32[2, 3]"), at(0)), 1),
        Step("second", (at(0, "float32[6]"), at(64, "float64[]")), 1),
        Step("third", (at(64, "float64[]"), at(0, "bool[2, 3]"), at(128, "float32[64]")), 2),
        Step("last", (at(0, "bool[2, 3]"), Argument(1, 0, "float32[2, 3]")), 1),
    )
    areas = {**dict.fromkeys(AREAS, 0), "workspace": 384}
    return Plan((X,), (X,), steps, 0, (), (), areas, False, {0: 0})


def test_a_plan_by_hand() -> None:
    found = footprint_of(by_hand())
    assert (found.inputs, found.outputs, found.in_place, found.calls) == (24, 24, 24, 4)
    assert (found.at, found.peak) == (2, 8 + 6 + 256)
    assert [(r.type, r.bytes, r.writer, r.first, r.reader, r.last) for r in found.residents] == [
        ("float32[64]", 256, "third", 2, "third", 2),
        ("float64[]", 8, "second", 1, "third", 2),
        ("bool[2, 3]", 6, "third", 2, "last", 3),
    ]
    text = as_text(found, top=1)
    assert "in use at call 2 of 4, the most, by 3 arrays" in text
    assert text.splitlines()[-1].endswith("2 more")


def test_a_training_step_by_its_own_plan() -> None:
    """The arrays at the peak lie beside one another, inside the area, and take most of it."""
    exe = gensyn_tvm.compile(gensyn_tvm.training_step(MODELS[0].load(16), loss="cross_entropy", optimizer="adamw"))
    found, plan = exe.footprint(), exe._machine.plan
    assert found.peak == sum(r.bytes for r in found.residents)
    assert 0.8 * plan.areas["workspace"] <= found.peak <= plan.areas["workspace"]
    for r in found.residents:
        assert r.first <= found.at <= r.last
        assert (plan.steps[r.first].kernel, plan.steps[r.last].kernel) == (r.writer, r.reader)
