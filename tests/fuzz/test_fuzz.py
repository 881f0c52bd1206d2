"""Two hundred random graphs in every configuration, and the tools that find and shrink failing ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.rules import RULES
from gensyn_tvm.canonical.types import TensorType

from ..operators.support import raw_bits
from . import reduce
from .check import ORACLE, WAYS, Case, Way, check, problem, ways_of
from .draft import DRAWN
from .generate import graph, inputs, size_of
from .reduce import reduced
from .samplers import SAMPLERS, WEIGHTS

GRAPHS, TOGETHER = 200, 8

SEED_AND_SIZE = st.tuples(st.integers(0, 2**40), st.integers(2, 12))
#: The graphs of a bundle, and the number that chooses the ways to compile it.
BUNDLES = st.tuples(
    st.lists(SEED_AND_SIZE, min_size=TOGETHER, max_size=TOGETHER, unique_by=lambda drawn: drawn[0]), st.integers(0, 10_000)
)


# The reducer below shrinks what fails, which hypothesis would do with far more compilations.
@settings(
    max_examples=GRAPHS // TOGETHER,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(BUNDLES)
def test_random_graphs(bundle: tuple[list[tuple[int, int]], int]) -> None:
    drawn, number = bundle
    cases = [Case.of(graph(seed, size)) for seed, size in drawn]
    for way in ways_of(number):
        try:
            clean = not any(check(cases, way))
        except Exception:  # told apart below
            clean = False
        if not clean:
            _fail(cases, way)


def _fail(cases: list[Case], way: Way) -> None:
    for case in cases:
        if problem(case, way):
            small = reduced(case, way, attempts=100)
            pytest.fail(
                f"{problem(small, way)}\n{small}\nscripts/fuzz_graphs.py --replay with a file that holds\n{small.dumps(way)}"
            )
    check(cases, way)  # raises, if it was an exception
    pytest.fail(f"{way}: wrong together, though not alone: {[case.graph.name for case in cases]}")


def test_every_operator_has_a_sampler_and_is_drawn() -> None:
    assert set(SAMPLERS) == set(RULES)
    assert set(WEIGHTS) <= set(RULES)
    graphs = [graph(seed) for seed in range(1500)]
    operators = Counter(node.op for g in graphs for node in g.nodes)
    assert {op for op in RULES if operators[op] < 10} == set()
    assert {t.dtype for g in graphs for t in g.value_types()} >= set(DRAWN)
    assert max(map(size_of, range(1500))) >= 18
    assert max(len(g.outputs) for g in graphs) >= 5


def test_a_seed_is_a_graph_and_its_inputs() -> None:
    for seed in range(40):
        a, b = graph(seed), graph(seed)
        assert serialise.dumps(a) == serialise.dumps(b)
        for name, array in inputs(a).items():
            assert (raw_bits(array) == raw_bits(inputs(b)[name])).all()
    assert serialise.digest(graph(1)) != serialise.digest(graph(2))


def test_ways_take_turns() -> None:
    used = Counter(way for number in range(200) for way in ways_of(number))
    assert set(used) == {*WAYS, ORACLE}
    assert used[ORACLE] >= 50
    assert all(len(set(ways_of(number))) == 2 for number in range(200)) or not WAYS


def test_a_wrong_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case.of(graph(seed, 3)) for seed in (11, 12)]
    run = interpreter.run

    def wrong(program: Graph, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(program, arrays)
        if program.name == "fuzz-12":
            raw_bits(outputs[-1]).reshape(-1)[-1] ^= 1
        return outputs

    assert check(cases, ORACLE) == [[], []]
    monkeypatch.setattr(interpreter, "run", wrong)
    first, second = check(cases, ORACLE)
    assert not first
    assert "1 of" in second[0]


def test_the_reducer_keeps_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up bug: transpositions of something with more than 3 elements."""
    builder = GraphBuilder("large")
    x = builder.add_input("x", "input", TensorType((5, 7), "float32"))
    y = builder.add_input("y", "input", TensorType((7,), "float32"))
    total = builder.emit("sum", builder.emit("add", x, y), axes=(0,), keepdims=True)
    turned = builder.emit("transpose", builder.emit("mul", total, builder.emit("neg", x)), perm=(1, 0))
    builder.add_output("a", builder.emit("exp", turned))
    builder.add_output("b", builder.emit("sub", total, y))

    def fails(case: Case, way: Way) -> str:
        return "yes" if any(n.op == "transpose" and n.types[0].size > 3 for n in case.graph.nodes) else ""

    monkeypatch.setattr(reduce, "problem", fails)
    small = reduced(Case.of(builder.finish()), ORACLE)
    (node,) = small.graph.nodes
    assert (node.op, node.types[0].size) == ("transpose", 4)
    assert [a.shape for a in small.given.values()] == [node.types[0].shape[::-1]]


def test_a_case_survives_as_text() -> None:
    case = Case.of(graph(5))
    way = WAYS[0] if WAYS else ORACLE
    again, same_way = Case.loads(case.dumps(way))
    assert (serialise.dumps(again.graph), same_way) == (serialise.dumps(case.graph), way)
    for name, array in case.given.items():
        assert (raw_bits(array) == raw_bits(again.given[name])).all()
