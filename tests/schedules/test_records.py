"""Tuned records: they choose among schedules and layouts, are checked when they are read, and never change a bit."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gensyn_tvm
from gensyn_tvm import build_cache, interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile, phases
from gensyn_tvm.errors import InputError
from gensyn_tvm.passes.layout import choose_layouts, product_tasks
from gensyn_tvm.runtime.cpu import first_level_ways, processor_maker
from gensyn_tvm.runtime.executable import as_array
from gensyn_tvm.schedules import records
from gensyn_tvm.schedules.parameters import KINDS, LEFT_PANELS, Parameters, expected_of, parse
from gensyn_tvm.schedules.records import Record, Records, using
from gensyn_tvm.targets.cpu import TARGETS, resolve_target

from ..operators.support import NATIVE, assert_all_same

TARGET = TARGETS[NATIVE]


def build(op: str, shapes: list[tuple[int, ...]], roles: str = "ii", **attrs: Any) -> Graph:
    b = GraphBuilder("program")
    names = {"i": "input", "p": "parameter"}
    values = [
        b.add_input(f"x{k}", names[r], TensorType(s, "float32")) for k, (s, r) in enumerate(zip(shapes, roles, strict=False))
    ]
    b.add_output("y", b.emit(op, *values, **attrs))
    return b.finish()


CONV: dict[str, Any] = {"strides": (1, 1), "padding": ((1, 1), (0, 1)), "dilations": (1, 1), "groups": 1}
STRIDED: dict[str, Any] = {"strides": (2, 2), "padding": ((1, 0), (0, 0)), "dilations": (1, 2), "groups": 2}
GRAPHS: dict[str, Graph] = {
    "matmul": build("matmul", [(37, 1100), (1100, 96)]),
    "matmul, long": build("matmul", [(21, 4700), (4700, 40)], "ip"),
    "matmul, narrow": build("matmul", [(30, 70), (70, 3)]),
    "matmul, batched": build("matmul", [(2, 3, 18, 40), (40, 64)]),
    "conv": build("conv", [(2, 9, 11, 13), (20, 9, 3, 3)], **CONV),
    "conv, strided": build("conv", [(1, 6, 12, 11), (8, 3, 2, 3)], **STRIDED),
    "conv_backward_data": build("conv_backward_data", [(2, 20, 11, 12), (20, 9, 3, 3)], input_spatial=(11, 13), **CONV),
    "conv_backward_weight": build("conv_backward_weight", [(2, 9, 11, 13), (2, 20, 11, 12)], kernel=(3, 3), **CONV),
    "rows": build("sum", [(150, 700)], "i", axes=(0,), keepdims=False),
}


def arrays(graph: Graph) -> dict[str, np.ndarray]:
    """Normal numbers with special ones among them."""
    rng = np.random.default_rng(3)
    found = {}
    for i in graph.inputs:
        x = rng.standard_normal(i.type.shape, np.float32) * np.exp2(rng.integers(-9, 9, i.type.shape)).astype(np.float32)
        for special in (-0.0, 1e-42, 1e30, np.inf, np.nan):
            x.reshape(-1)[rng.integers(x.size)] = special
        found[i.name] = x
    return found


def compute(graph: Graph, used: Mapping[str, Parameters]) -> list[np.ndarray]:
    with using(Records(used)):
        given = arrays(graph)
        state = {i.name: given.pop(i.name) for i in graph.inputs if i.role == "parameter"}
        return [as_array(o) for o in compile(graph, TARGET, threads=2).run(given, state)]


def keys(name: str) -> dict[str, str]:
    """Keys of a program's records with their kinds."""
    if name != "rows":
        return {key: task.op for key, task in product_tasks(GRAPHS[name], TARGET).items()}
    seen: list[str] = []

    class Recording(Records):
        def find(self, key: str, kind: Any) -> Any:
            seen.append(key)
            return kind()

    with using(Recording({})):
        phases(GRAPHS[name], TARGET)
    return dict.fromkeys(seen, "rows")


def test_a_record_chooses_the_tile_and_not_the_bits() -> None:
    graph = GRAPHS["matmul"]
    (key,) = keys("matmul")
    assert key == "matmul float32 37x1100 1100x96"
    tiles = {}
    for rows, vectors in ((2, 1), (3, 2), (5, 1)):
        with using(Records({key: parse("matmul", {"rows": rows, "vectors": vectors, "transposed": False}, "")})):
            (product,) = [n for n in choose_layouts(graph, TARGET).nodes if n.op == "matmul"]
            assert (product.attrs["tile"], product.attrs["panel"]) == (rows, vectors * TARGET.lanes())
            text = phases(graph, TARGET)["schedule"]
            assert f'"gensyn.tile": {rows}' in text or f'"gensyn.tile": T.int64({rows})' in text
            tiles[rows, vectors] = text
    assert len(set(tiles.values())) == 3
    expected = compute(graph, {})
    for rows, vectors in tiles:
        found = compute(graph, {key: parse("matmul", {"rows": rows, "vectors": vectors}, "")})
        assert_all_same([key], found, expected)


def test_hints_reach_the_schedule() -> None:
    graph = GRAPHS["matmul, narrow"]
    (key,) = keys("matmul, narrow")
    assert "T.parallel(" not in phases(graph, TARGET)["schedule"]
    with using(Records({key: parse("matmul", {"threads_from": 0}, "")})):
        assert "T.parallel(" in phases(graph, TARGET)["schedule"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("matmul, long", {"by_chunks": False}),
        ("matmul, long", {"block": 1, "transposed": False, "rows": 2, "vectors": 1}),
        ("matmul", {"rows_outside": True}),
        ("matmul", {"left_panel": True}),
        ("matmul", {"transposed": True}),
        ("matmul", {"in_place": True}),
        ("matmul", {"by_panel": False}),
        ("matmul", {"by_panel": True, "rows": 5, "vectors": 2}),
        ("matmul, batched", {"in_place": False, "batch_inside": False}),
        ("matmul, batched", {"in_place": False, "batch_inside": True}),
        ("conv", {"layout": "channels", "rows": 3, "vectors": 1}),
        ("conv_backward_weight", {"rows": 5, "vectors": 1}),
        ("rows", {"threads_from": 2**50}),
    ],
    ids=str,
)
def test_every_parameter_changes_the_schedule(name: str, parameters: dict[str, Any]) -> None:
    ((key, kind),) = keys(name).items()
    others = [{}, {"in_place": False, "batch_inside": not parameters["batch_inside"]}] if "batch_inside" in parameters else [{}]
    texts = []
    for values in (parameters, *others):
        with using(Records({key: parse(kind, values, "")})):
            texts.append(phases(GRAPHS[name], TARGET)["schedule"])
    assert texts[0] not in texts[1:]


def test_rows_have_records_too() -> None:
    (key,) = keys("rows")
    wide, narrow = ({key: parse("rows", {"tile_vectors": n}, "")} for n in (8, 1))
    texts = []
    for used in (wide, narrow):
        with using(Records(used)):
            texts.append(phases(GRAPHS["rows"], TARGET)["schedule"])
    assert texts[0] != texts[1]


def drawn(kind: str) -> st.SearchStrategy[Parameters]:
    """Valid parameters, every one of them left out at times."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for f in fields(KINDS[kind]):
        expected = expected_of(f)
        if isinstance(expected, range) and len(expected) > 100:
            values[f.name] = st.sampled_from([0, 1, 2, 7, 4096] if 0 in expected else [1, 3, 50, 4096])
        else:
            values[f.name] = st.sampled_from(list(expected))
    for name in ("in_place", "by_panel"):  # not every operand can be read in place or packed inside
        values.pop(name, None)
    if "layout" in values:
        values["layout"] = st.sampled_from(["channels", "positions", "lines"])  # depthwise is for convolutions of that kind
    if "left_panel" in values:
        values["rows"] = st.sampled_from([*LEFT_PANELS, 3, 5])
    optional = st.fixed_dictionaries({}, optional=values)

    def accepted(found: dict[str, Any]) -> bool:
        return not KINDS[kind](**found).conflict()

    return optional.filter(accepted).map(lambda found: KINDS[kind](**found))


@pytest.mark.parametrize("name", [n for n in GRAPHS if n != "conv, strided"])
def test_random_records_never_change_bits(name: str) -> None:
    graph = GRAPHS[name]
    ((key, kind),) = keys(name).items()
    expected = interpreter.run(graph, arrays(graph))

    @settings(max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(drawn(kind))
    def check(parameters: Parameters) -> None:
        assert_all_same([str(parameters)], compute(graph, {key: parameters}), expected)

    check()


def test_a_record_that_does_not_fit_is_refused() -> None:
    (key,) = keys("matmul, narrow")
    with (
        using(Records({key: parse("matmul", {"in_place": True}, "")})),
        pytest.raises(InputError, match=r"does not fit[\s\S]*record 'matmul float32 30x70 70x3'[\s\S]*in_place"),
    ):
        phases(GRAPHS["matmul, narrow"], TARGET)
    with (
        using(Records({key: parse("matmul", {"by_panel": True}, "")})),
        pytest.raises(InputError, match=r"does not fit[\s\S]*by_panel[\s\S]*side by side"),
    ):
        phases(GRAPHS["matmul, narrow"], TARGET)
    graph = build("conv", [(1, 2, 9, 9), (4, 2, 3, 3)], strides=(4, 1), padding=((0, 0), (0, 0)), dilations=(3, 1), groups=1)
    ((key, kind),) = ((k, t.op) for k, t in product_tasks(graph, TARGET).items())
    with pytest.raises(InputError, match=r"layout positions[\s\S]*channels, which are all"):
        compute(graph, {key: parse(kind, {"layout": "positions"}, "")})


# ---- files ----------------------------------------------------------------------------------------------------------


KEY = "matmul float32 37x1100 1100x96"
GOOD: dict[str, Any] = {
    "parameters": {"rows": 5, "vectors": 1},
    "ratio": 1.25,
    "threads": [1, 2],
    "machine": "a processor",
    "date": "2026-01-31",
}


def write(folder: Path, record: Any, key: str = KEY, **top: Any) -> Path:
    path = folder / f"{NATIVE}.json"
    path.write_text(json.dumps({"format": 1, "target": NATIVE, "records": {key: record}, **top}))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(records.FOLDER, str(tmp_path))
    return tmp_path


def test_a_file_is_used_and_off_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert records.active(NATIVE) == records.NONE
    write(folder, GOOD)
    assert records.active(NATIVE).parameters[KEY].given() == {"rows": 5, "vectors": 1}
    (product,) = [n for n in choose_layouts(GRAPHS["matmul"], TARGET).nodes if n.op == "matmul"]
    assert product.attrs["tile"] == 5
    monkeypatch.setenv(records.FOLDER, "off")
    assert records.active(NATIVE) == records.NONE


def test_records_of_a_maker_come_before_those_of_the_target(folder: Path) -> None:
    write(folder, GOOD)
    assert records.active(NATIVE, "intel").parameters[KEY].given() == {"rows": 5, "vectors": 1}
    records.merge(records.library(folder, NATIVE, "intel"), NATIVE, {KEY: record(1.25, rows=6, vectors=1)})
    assert records.active(NATIVE, "intel").parameters[KEY].given() == {"rows": 6, "vectors": 1}
    assert records.active(NATIVE, "amd") == records.active(NATIVE) != records.active(NATIVE, "intel")
    (product,) = [n for n in choose_layouts(GRAPHS["matmul"], replace(TARGET, maker="intel")).nodes if n.op == "matmul"]
    assert product.attrs["tile"] == 6


def test_explicit_targets_know_no_processor() -> None:
    assert resolve_target(NATIVE) == TARGET and not TARGET.maker
    native = resolve_target("native")
    assert replace(native, maker="", ways=TARGET.ways) == TARGET
    assert (native.maker, native.ways) == (processor_maker(), first_level_ways())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"colour": 1}}, r"unknown parameter 'colour' of matmul[\s\S]*one of batch_inside, block"),
        ({"parameters": {"rows": 33, "vectors": 1}}, r"'rows' of matmul is not valid[\s\S]*33[\s\S]*from 1 to 32"),
        ({"parameters": {"rows": True, "vectors": 1}}, r"'rows' of matmul is not valid[\s\S]*True"),
        ({"parameters": {"left_panel": 1}}, r"'left_panel' of matmul is not valid[\s\S]*false or true"),
        ({"parameters": {"rows": 4}}, r"cannot be had together[\s\S]*rows and vectors"),
        ({"parameters": {"left_panel": True, "rows": 5, "vectors": 1}}, r"cannot be had together[\s\S]*4, 8, 16"),
        ({"parameters": {"in_place": True, "block": 1}}, r"cannot be had together"),
        ({"parameters": {"by_panel": True, "block": 1}}, r"cannot be had together[\s\S]*by_panel goes with"),
        ({"parameters": {"block": 2, "batch_inside": True}}, r"cannot be had together"),
        ({"ratio": 0}, r"ratio 0"),
        ({"ratio": float("nan")}, r"ratio nan"),
        ({"threads": []}, r"threads \[\]"),
        ({"threads": [True]}, r"threads \[True\]"),
        ({"date": "yesterday"}, r"date 'yesterday'"),
        ({"surplus": 1}, r"an object of parameters, ratio"),
    ],
)
def test_invalid_records_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = write(folder, {**GOOD, **change})
    with pytest.raises(InputError, match=message) as caught:
        compile(GRAPHS["matmul"], TARGET)
    assert str(path) in str(caught.value) and KEY in str(caught.value)


def test_invalid_files_are_refused(folder: Path) -> None:
    for text in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 2, "target": "x", "records": {}}'):
        path = folder / f"{NATIVE}.json"
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"tuned records are not valid[\s\S]*what to do"):
            records.active(NATIVE)
    write(folder, GOOD, target="z80")
    with pytest.raises(InputError, match="z80"):
        records.active(NATIVE)
    write(folder, GOOD, key="juggle float32 1x1")
    with pytest.raises(InputError, match="juggle"):
        records.active(NATIVE)


def record(ratio: float, **parameters: Any) -> Record:
    return Record(parse("matmul", parameters, ""), ratio, (1, 2), "a processor", "2026-01-31")


def test_merging(folder: Path) -> None:
    path = folder / "deeper" / f"{NATIVE}.json"
    records.merge(path, NATIVE, {KEY: record(1.25, rows=5, vectors=1)})
    records.merge(path, NATIVE, {"matmul float32 1x2 2x3": record(1.5, threads_from=0)})
    assert {k: r.ratio for k, r in records.read(path, NATIVE).items()} == {KEY: 1.25, "matmul float32 1x2 2x3": 1.5}
    records.merge(path, NATIVE, {KEY: record(1.75, rows=6, vectors=1), "matmul float32 1x2 2x3": None})
    assert records.read(path, NATIVE) == {KEY: record(1.75, rows=6, vectors=1)}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_text("damaged")
    with pytest.raises(InputError, match="not valid"):
        records.merge(path, NATIVE, {KEY: record(1.25, rows=5, vectors=1)})
    assert path.read_text() == "damaged"


def test_records_are_part_of_the_cache_key(folder: Path) -> None:
    graph = GRAPHS["matmul"]
    before = build_cache.key(graph, TARGET, "fast", ()), build_cache.key(graph, TARGET, "plain", ())
    write(folder, GOOD)
    after = build_cache.key(graph, TARGET, "fast", ()), build_cache.key(graph, TARGET, "plain", ())
    assert after[0] != before[0] and after[1] == before[1]
    # What was measured does not decide on code.
    write(folder, {**GOOD, "ratio": 1.5, "machine": "another one"})
    assert build_cache.key(graph, TARGET, "fast", ()) == after[0]
    write(folder, {**GOOD, "parameters": {"rows": 6, "vectors": 1}})
    assert build_cache.key(graph, TARGET, "fast", ()) not in (before[0], after[0])


def test_records_are_unknown_where_bits_are_decided() -> None:
    """Operators, canonical graph and interpreter import nothing of tuned records or of the schedules at all."""
    root = Path(gensyn_tvm.__file__).parent
    for path in [p for part in ("operators", "canonical", "interpreter") for p in (root / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.startswith(("gensyn_tvm.schedules", "gensyn_tvm.tuning")) for n in names), path


def test_operators_get_no_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    from gensyn_tvm.passes import legalise

    seen: list[dict[str, Any]] = []
    real = legalise._BUILDERS["matmul"]

    def builder(name: str, inputs: Any, output: Any, attrs: dict[str, Any]) -> Any:
        seen.append(attrs)
        return real(name, inputs, output, attrs)

    monkeypatch.setitem(legalise._BUILDERS.maps[0], "matmul", builder)
    (key,) = keys("matmul")
    with using(Records({key: parse("matmul", {"threads_from": 3, "rows_outside": True}, "")})):
        phases(GRAPHS["matmul"], TARGET)
    assert seen and not any({"hints", "threads_from", "rows_outside"} & set(attrs) for attrs in seen)


def test_shipped_records_are_valid() -> None:
    place = Path(records.__file__).resolve().parent / "tuned"
    for path in place.glob("*.json"):
        (target,) = {t for t in TARGETS for maker in ("", "amd", "intel") if records.library(place, t, maker) == path}
        for key, found in records.read(path, target).items():
            assert found.ratio >= 1.03, key
            assert found.parameters.given(), key
