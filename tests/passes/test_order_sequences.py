"""Attacks on the order of sequences: loops rebuilt in ways that would change, lose or race updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tvm import s_tir, tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import scatter
from gensyn_tvm.operators.nest import i64, kernel, load, repeat, store
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.schedules.cpu import sequences
from gensyn_tvm.targets.cpu import TARGETS

F, Kind = "float32", tirx.ForKind


def rows(updates: int = 12, width: int = 16) -> Any:
    """One index tuple for each row: steps 12, an inner axis of 16."""
    types = [TensorType((5, width), F), TensorType((updates, 1), "int64"), TensorType((updates, width), F)]
    return scatter.scatter_nd("main", types, types[0], {"reduction": "add"})


def rebuilt(function: Any, rebuild: Callable[[Any, list[Any]], Any]) -> Any:
    """The kernel with ``rebuild(block realisation, loop variables)`` in place of the loop nest of its sequence."""
    root = function.body.block
    *before, nest = root.body.seq
    variables, statement = [], nest
    while isinstance(statement, tirx.For):
        variables.append(statement.loop_var)
        statement = statement.body
    body = tirx.SeqStmt([*before, rebuild(statement, variables)])
    block = s_tir.SBlock([], list(root.reads), list(root.writes), "root", body, root.init, list(root.alloc_buffers))
    return function.with_body(s_tir.SBlockRealize([], True, block))


def loop(variable: Any, extent: int, body: Any, kind: Any = Kind.SERIAL) -> Any:
    return tirx.For(variable, i64(0), i64(extent), kind, body)


def around(realize: Any, values: list[Any]) -> Any:
    return s_tir.SBlockRealize(values, True, realize.block)


def _parallel_steps(r: Any, v: list[Any]) -> Any:
    return loop(v[0], 12, loop(v[1], 16, r), Kind.PARALLEL)


def _vector_steps(r: Any, v: list[Any]) -> Any:
    return loop(v[1], 16, loop(v[0], 12, r, Kind.VECTORIZED))


def _backwards(r: Any, v: list[Any]) -> Any:
    return loop(v[0], 12, loop(v[1], 16, around(r, [i64(11) - v[0], v[1]])))


def _interleaved(r: Any, v: list[Any]) -> Any:
    u = tirx.Var("u", "int64")
    return loop(u, 4, loop(v[0], 3, loop(v[1], 16, around(r, [v[0] * i64(4) + u, v[1]]))))


def _lost(r: Any, v: list[Any]) -> Any:
    return loop(v[0], 11, loop(v[1], 16, r))


def _twice(r: Any, v: list[Any]) -> Any:
    u = tirx.Var("u", "int64")
    return loop(u, 2, loop(v[0], 12, loop(v[1], 16, r)))


def _overlap(r: Any, v: list[Any]) -> Any:
    u = tirx.Var("u", "int64")
    return loop(u, 2, loop(v[0], 12, loop(v[1], 9, around(r, [v[0], u * i64(7) + v[1]]))), Kind.PARALLEL)


def _predicate(r: Any, v: list[Any]) -> Any:
    return loop(v[0], 12, loop(v[1], 16, s_tir.SBlockRealize(list(v), tirx.LT(v[0], i64(3)), r.block)))


def _shared(r: Any, v: list[Any]) -> Any:
    w = tirx.Var("w", "int64")
    return loop(v[1], 16, tirx.SeqStmt([loop(v[0], 12, r), loop(w, 12, around(r, [w, v[1]]))]), Kind.PARALLEL)


ATTACKS = {
    "steps in parallel": (_parallel_steps, "a reduction loop under parallel|may touch the same elements"),
    "steps as vectors": (_vector_steps, "a reduction loop under vectorize|may touch the same elements"),
    "backwards": (_backwards, "every value of the index once|an affine function of loops from 0|a larger step"),
    "interleaved": (_interleaved, "a larger step"),
    "an update lost": (_lost, "11 values of an index of extent 12"),
    "an update repeated": (_twice, "no index of the block depends on"),
    "overlapping pieces": (_overlap, "every value of the index once"),
    "some updates only": (_predicate, "every iteration of the sequence"),
    "a loop around two statements": (_shared, "a loop around several statements"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str) -> None:
    rebuild, found = ATTACKS[name]
    with pytest.raises(ScheduleError, match=found):
        check_order("main", rebuilt(rows(), rebuild))


def test_independent_loops_may_run_in_parallel_in_any_place() -> None:
    def outside(r: Any, v: list[Any]) -> Any:
        return loop(v[1], 16, loop(v[0], 12, r), Kind.PARALLEL)

    def pieces(r: Any, v: list[Any]) -> Any:
        a, b = tirx.Var("a", "int64"), tirx.Var("b", "int64")
        nest = loop(a, 4, loop(v[0], 12, loop(b, 4, around(r, [v[0], a * i64(4) + b]), Kind.VECTORIZED)), Kind.PARALLEL)
        return nest

    for rebuild in (outside, pieces):
        check_order("main", rebuilt(rows(), rebuild))


def test_elements_that_only_data_tells_apart_are_not_independent() -> None:
    t = TensorType((8,), F)
    with kernel("main", [t, TensorType((8,), "int64")], t) as k:

        def body(outer: list[Any], steps: list[Any], inner: list[Any]) -> None:
            store(k.output, [load(k.inputs[1], outer)], load(k.inputs[0], outer))

        k.sequence([8], [], [], body, reads=k.inputs, writes=[k.output])
    function = k.result()
    check_order("main", function)
    nest = function.body.block.body
    parallel = tirx.For(nest.loop_var, nest.min, nest.extent, Kind.PARALLEL, nest.body)
    root = function.body.block
    block = s_tir.SBlock([], list(root.reads), list(root.writes), "root", parallel)
    with pytest.raises(ScheduleError, match="may touch the same elements"):
        check_order("main", function.with_body(s_tir.SBlockRealize([], True, block)))


def test_loops_inside_of_a_sequence_are_serial() -> None:
    t = TensorType((8,), F)
    with kernel("main", [t], t) as k:

        def body(outer: list[Any], steps: list[Any], inner: list[Any]) -> None:
            with repeat(8) as p:
                store(k.output, [p], load(k.inputs[0], [p]))

        k.sequence([], [1], [], body, reads=k.inputs, writes=[k.output])
    function = k.result()
    check_order("main", function)
    nest = function.body.block.body
    realize = nest.body
    inside = realize.block.body
    parallel = tirx.For(inside.loop_var, inside.min, inside.extent, Kind.PARALLEL, inside.body)
    b = realize.block
    block = s_tir.SBlock(list(b.iter_vars), list(b.reads), list(b.writes), "sequence", parallel, annotations=b.annotations)
    attacked = loop(nest.loop_var, 1, s_tir.SBlockRealize(list(realize.iter_values), True, block))
    root = s_tir.SBlock([], [], [], "root", attacked)
    with pytest.raises(ScheduleError, match="inside of the sequence under parallel"):
        check_order("main", function.with_body(s_tir.SBlockRealize([], True, root)))


@pytest.mark.parametrize("width", [16, 33, 512])
def test_schedules_use_threads_and_vectors_over_the_inner_axis(width: int) -> None:
    function = sequences.schedule_sequences(rows(4000, width), TARGETS["x86-64-v3"])
    check_order("main", function)
    text = function.script()
    assert "T.parallel(" in text
    assert ("T.vectorized(" in text) == (width % 2 == 0)


def test_schedules_keep_what_depends_on_order() -> None:
    types = [TensorType((500,), F), TensorType((90_000, 1), "int64"), TensorType((90_000,), F)]
    function = scatter.scatter_nd("main", types, types[0], {"reduction": "none"})
    text = sequences.schedule_sequences(function, TARGETS["x86-64-v4"]).script()
    assert "T.parallel(" not in text
