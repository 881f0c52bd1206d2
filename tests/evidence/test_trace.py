"""Traces, comparisons of runs, origins of NaNs: every one must point to the operator that is wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source
from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.compare import compare, compare_runs
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.evidence.samples import Draw, arrays_for, sample
from gensyn_tvm.evidence.segments import Way, run_parts, segments
from gensyn_tvm.evidence.trace import first_nonfinite, trace
from gensyn_tvm.interpreter.registry import OPERATORS
from gensyn_tvm.operators.registry import VARIANTS
from gensyn_tvm.runtime.executable import State


def network() -> Graph:
    """(3, 7) → tanh of a product → a sum of squares, and one of the values beside it."""
    b = GraphBuilder("network")
    x = b.add_input("x", "input", TensorType((3, 7), "float32"))
    w = b.add_input("w", "parameter", TensorType((7, 5), "float32"))
    b.source = "layer 1"
    y = b.emit("matmul", x, w)
    b.source = "layer 1 activation"
    y = b.emit("tanh", y)
    b.source = "layer 2"
    half = b.emit("constant", dtype="float32", shape=(), data="AAAAPw==")
    z = b.emit("mul", b.emit("mul", y, y), half)
    b.add_output("y", y)
    b.add_output("z", b.emit("sum", b.emit("add", z, half), axes=(1,), keepdims=False))
    return b.finish()


def wrong(real: Callable[..., np.ndarray], index: tuple[int, ...]) -> Callable[..., np.ndarray]:
    """An operator of the interpreter that is one ulp off in one element."""

    def function(attrs: Any, out: TensorType, *inputs: np.ndarray) -> np.ndarray:
        result = np.array(real(attrs, out, *inputs))
        result[index] = np.nextafter(result[index], np.float32(np.inf))
        return result

    return function


@pytest.mark.parametrize("size", (1, 3, 100))
def test_segments_compute_what_the_graph_computes(size: int) -> None:
    graph = network()
    arrays = arrays_for(Source(graph, State({})))
    expected: dict[int, np.ndarray] = {}
    interpreter.evaluate(graph, arrays, lambda number, value: expected.update({number: value}))
    seen: list[int] = []
    for part in run_parts(graph, arrays, Way("interpreter"), size):
        for number in part.makes:
            assert part.values[number].tobytes() == expected[number].tobytes()
            assert all(i in part.values for i in graph.nodes[number - 2].inputs)
        seen += part.makes
    assert seen == list(range(2, 2 + len(graph.nodes)))


def test_segments_repeat_constants() -> None:
    last = segments(network(), 5)[-1]
    assert [n.op for n in last.graph.nodes] == ["constant", "add", "sum"]
    assert (last.reads, list(last.makes), [i.name for i in last.graph.inputs]) == ((6,), [7, 8], ["%6"])
    assert last.graph.nodes[2].source == "layer 2"
    with pytest.raises(InputError, match="at least 1"):
        segments(network(), 0)


def test_trace_records_every_value() -> None:
    graph = network()
    run = gensyn_tvm.trace(graph, segment=3)
    reference = trace(graph, target="interpreter")
    assert run.changed == ()
    assert [(r.op, r.source) for r in run.records[:2]] == [("matmul", "layer 1"), ("tanh", "layer 1 activation")]
    assert [r.digest for r in run.records] == [r.digest for r in reference.records]
    assert run.record(3).digest == array_digest(run.values[3]) == array_digest(run.outputs[0])
    assert run.record(3).summary.maximum == float(run.values[3].max())
    assert compare(run, reference).agree
    with pytest.raises(IndexError):
        run.record(1)


def test_wrong_interpreter_is_found_at_its_node_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "tanh", wrong(OPERATORS["tanh"], (1, 2)))
    found = compare_runs(network(), a="native", b="interpreter", segment=2)
    first = found.first
    assert first is not None
    assert (first.number, first.op, first.source) == (3, "tanh", "layer 1 activation")
    assert (first.index, first.count, first.ulps, first.type) == ((1, 2), 1, 1, TensorType((3, 5), "float32"))
    assert first.culprit and first.inputs_equal
    assert first.a != first.b and "(0x" in first.a
    assert [d.culprit for d in found.differences] == [True] + [False] * (len(found.differences) - 1)
    assert "y" in found.outputs and not found.changed and not found.agree
    assert str(first).startswith("%3 = tanh at layer 1 activation: float32[3, 5], 1 elements differ, first at [1, 2]: ")


def test_differences_below_the_tolerance_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "tanh", wrong(OPERATORS["tanh"], (1, 2)))
    assert compare_runs(network(), tolerance=1e-5).agree
    assert not compare_runs(network(), tolerance=0.0).agree
    with pytest.raises(InputError, match="no tolerance"):
        compare_runs(network(), tolerance=float("nan"))


def test_wrong_kernel_is_found_between_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    reference = trace(graph, target="c")
    monkeypatch.setitem(VARIANTS, "mul", VARIANTS["add"])
    found = compare(trace(graph, target="native"), reference)
    assert found.first is not None
    assert (found.first.number, found.first.op, found.first.source) == (5, "mul", "layer 2")


def test_difference_that_tracing_hides_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Way.run

    def run(self: Way, graph: Graph, inputs: Any) -> list[np.ndarray]:
        """A mistake that only the whole program has, as in a fused kernel."""
        outputs = real(self, graph, inputs)
        if graph.name == "network" and self.target != "interpreter":
            outputs[1] = outputs[1] + np.float32(1)
        return outputs

    monkeypatch.setattr(Way, "run", run)
    found = compare_runs(network())
    assert (found.first, found.outputs, found.changed, found.agree) == (None, ("z",), (("a", "z"),), False)
    assert trace(network()).changed == ("z",)


def test_traces_that_cannot_be_compared() -> None:
    b = GraphBuilder("other")
    b.add_output("y", b.emit("neg", b.add_input("x", "input", TensorType((3, 7), "float32"))))
    graph = network()
    one = trace(graph, target="interpreter")
    with pytest.raises(InputError, match="different programs"):
        compare(one, trace(b.finish(), target="interpreter"))
    with pytest.raises(InputError, match="'x' differs"):
        compare(one, trace(graph, target="interpreter", seed=1))
    with pytest.raises(InputError, match="did not keep"):
        compare(one, trace(graph, target="interpreter", keep=False))


# ---- NaNs and infinities --------------------------------------------------------------------------------------------


def constant(b: GraphBuilder, value: float) -> int:
    return b.emit("constant", dtype="float32", shape=(), data=base64.b64encode(np.float32(value).tobytes()).decode())


def test_logarithm_of_a_negative_number() -> None:
    b = GraphBuilder("log")
    x = b.add_input("x", "input", TensorType((2, 3), "float32"))
    b.source = "features.3:log"
    y = b.emit("log", b.emit("mul", x, constant(b, 2.0)))
    b.source = "head:sum"
    b.add_output("y", b.emit("sum", y, axes=(0, 1), keepdims=False))
    x_values = np.array([[1, 2, 3], [4, -1.5, 0]], np.float32)
    found = first_nonfinite(trace(b.finish(), {"x": x_values}, segment=2))
    assert found is not None
    assert (found.op, found.source, found.kind, found.index, found.count) == ("log", "features.3:log", "NaN", (1, 1), 1)
    assert found.operands == ("%2, mul at features.3:log [1, 1] = -3.0 (0xc0400000)",)


def test_difference_of_infinities_begins_at_the_overflow() -> None:
    b = GraphBuilder("overflow")
    x = b.add_input("x", "input", TensorType((4,), "float32"))
    b.source = "big"
    y = b.emit("exp", x)
    b.source = "difference"
    b.add_output("y", b.emit("sub", y, y))
    run = trace(b.finish(), {"x": np.array([0, 1, 100, 200], np.float32)}, target="interpreter")
    assert [(o.op, o.source, o.kind, o.index, o.count) for o in run.origins] == [
        ("exp", "big", "infinity", (2,), 2),
        ("sub", "difference", "NaN", (2,), 2),
    ]
    assert first_nonfinite(run) == run.origins[0]


def test_masks_are_no_origin_but_what_is_made_of_them_is() -> None:
    b = GraphBuilder("mask")
    mask = b.add_input("mask", "input", TensorType((2, 2), "bool"))
    scores = b.emit("where", mask, constant(b, 1.0), constant(b, -np.inf))
    shifted = b.emit("sub", scores, b.emit("reduce_max", scores, axes=(1,), keepdims=True))
    b.add_output("y", b.emit("exp", shifted))
    graph = b.finish()
    partly = trace(graph, {"mask": np.array([[True, False], [False, True]])}, target="interpreter")
    assert first_nonfinite(partly) is None
    wholly = trace(graph, {"mask": np.array([[True, False], [False, False]])}, target="interpreter")
    found = first_nonfinite(wholly)
    assert found is not None
    assert (found.op, found.kind, found.index) == ("sub", "NaN", (1, 0))
    assert found.operands[1] == "%4, reduce_max [1, 0] = -inf (0xff800000)"


def test_overflow_of_a_product_shows_row_and_column() -> None:
    b = GraphBuilder("product")
    x = b.add_input("x", "input", TensorType((2, 2, 3), "float32"))
    w = b.add_input("w", "parameter", TensorType((3, 2), "float32"))
    b.add_output("y", b.emit("matmul", x, w))
    x_values, w_values = np.ones((2, 2, 3), np.float32), np.ones((3, 2), np.float32)
    x_values[1, 0] = [1e38, 2e38, 3e38]
    w_values[:, 1] = 5
    found = first_nonfinite(trace(b.finish(), {"x": x_values, "w": w_values}, target="interpreter"))
    assert found is not None
    assert found.index == (1, 0, 0)
    assert found.operands[0].startswith("%0, input 'x' [1, 0, :]: ")
    assert found.operands[1] == "%1, parameter 'w' [:, 0]: 1.0 to 1.0"


def test_sum_that_overflows_shows_what_was_summed() -> None:
    b = GraphBuilder("sum")
    x = b.add_input("x", "input", TensorType((2, 3), "float32"))
    b.add_output("y", b.emit("sum", x, axes=(1,), keepdims=False))
    given = {"x": np.array([[1, 2, 3], [3e38, 3e38, -1]], np.float32)}
    found = first_nonfinite(trace(b.finish(), given, target="interpreter"))
    assert found is not None
    assert found.operands[0].startswith("%0, input 'x' [1, :]: -1.0 to 3")


# ---- arrays and ways ------------------------------------------------------------------------------------------------


def test_samples_are_fixed_by_seed_and_stream() -> None:
    t = TensorType((2, 2), "float32")
    assert array_digest(sample(t, 0, 0)) == array_digest(sample(t, 0, 0))
    assert len({array_digest(sample(t, seed, stream)) for seed in range(2) for stream in range(2)}) == 4
    assert sample(TensorType((1000,), "float32"), 0, 0).min() < -1.9
    assert set(sample(TensorType((100,), "int64"), 0, 0).tolist()) == {0, 1}
    assert sample(TensorType((9,), "bool"), 0, 0).dtype == bool


def test_samples_are_scaled_exactly_and_integers_have_their_range() -> None:
    t, n = TensorType((4096,), "float32"), TensorType((4096,), "int64")
    plain = sample(t, 0, 3)
    assert np.array_equal(sample(t, 0, 3, Draw(scale=2.0**-6)).view(np.uint32), (plain * np.float32(2.0**-6)).view(np.uint32))
    assert array_digest(sample(t, 0, 3, Draw(scale=0.0, offset=1.0))) == array_digest(np.ones(4096, np.float32))
    tokens = sample(n, 0, 3, Draw(below=50257))
    assert tokens.min() >= 0 and 50000 < tokens.max() < 50257
    assert len(set(sample(n, 0, 3, Draw(below=7)).tolist())) == 7


def test_arrays_for_a_training_step() -> None:
    b = GraphBuilder("step")
    x = b.add_input("image", "input", TensorType((2,), "float32"))
    t = b.add_input("target", "target", TensorType((2,), "float32"))
    w = b.add_input("w", "parameter", TensorType((2,), "float32"))
    rate = b.add_input("rate", "learning_rate", TensorType((), "float32"))
    step = b.add_input("n", "step", TensorType((), "int64"))
    b.add_output("loss", b.emit("mul", rate, b.emit("cast", step, dtype="float32")))
    b.add_output("w", b.emit("add", b.emit("sub", x, t), w), updates=True)
    source = Source(b.finish(), State({"w": np.ones(2, np.float32)}, step=7), 0.25)
    drawn = arrays_for(source, seed=3)
    assert (drawn["w"].tolist(), int(drawn["n"]), float(drawn["rate"])) == ([1, 1], 7, 0.25)
    given = arrays_for(source, {"x": np.zeros(2, np.float32), "y": np.ones(2, np.float32)})
    assert (given["image"].tolist(), given["target"].tolist()) == ([0, 0], [1, 1])
    with pytest.raises(InputError, match=r"missing \['target'\], unknown \['other'\]"):
        arrays_for(source, {"x": np.zeros(2, np.float32), "other": np.zeros(2)})


def test_ways_as_text() -> None:
    assert Way.parse("native") == Way("native")
    assert Way.parse("x86-64:plain") == Way("x86-64", "plain")
    assert Way.parse("native::2") == Way("native", None, 2)
    assert str(Way.parse("native:fast:4")) == "native:fast:4"
    for text in ("", ":plain", "native:fast:4:5", "native:fast:many", "interpreter:plain"):
        with pytest.raises(InputError, match="no way to run"):
            Way.parse(text)
