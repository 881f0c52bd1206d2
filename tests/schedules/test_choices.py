"""How schedules choose tiles and vectors."""

from __future__ import annotations

from typing import Any

import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import phases
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import ROLES, WAYS, kernel, load
from gensyn_tvm.operators.products import padded_columns, units_per_chunk
from gensyn_tvm.passes.pipeline import kernels, run_phases, schedule
from gensyn_tvm.schedules.cpu import RULES
from gensyn_tvm.schedules.cpu.elementwise import vector_length
from gensyn_tvm.schedules.cpu.products import register_tile
from gensyn_tvm.schedules.cpu.rows import ROW_ROLES
from gensyn_tvm.schedules.cpu.tiles import row_block
from gensyn_tvm.schedules.driver import schedule_kernel
from gensyn_tvm.targets.cpu import LEVELS, TARGETS


@pytest.mark.parametrize(
    ("extent", "lanes", "expected"),
    [(16, 16, 16), (48, 16, 16), (24, 16, 8), (7, 16, 1), (6, 8, 2), (1, 16, 1), (4096, 4, 4), (16, 1, 1), (0, 4, 4)],
)
def test_vector_length(extent: int, lanes: int, expected: int) -> None:
    assert vector_length(extent, lanes) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_register_tiles_fit_and_divide(level: str) -> None:
    target = TARGETS[level]
    for rows in (*range(1, 70), 128, 1000, 1009):
        for vectors in range(1, 9):
            r, v = register_tile(rows, vectors, 512, target)
            assert rows % r == 0
            assert vectors % v == 0
            assert 1 <= r * v <= target.registers - 4


def test_register_tiles_of_good_shapes_are_large() -> None:
    for level in LEVELS:
        r, v = register_tile(128, 4, 512, TARGETS[level])
        assert r * v >= 8
    assert register_tile(1009, 1, 512, TARGETS["x86-64-v4"]) == (1, 1)


@pytest.mark.parametrize(("terms", "rows"), [(1, 1), (2, 2), (5, 4), (8, 8), (512, 8)])
def test_register_tiles_have_no_more_rows_than_terms(terms: int, rows: int) -> None:
    assert register_tile(1024, 64, terms, TARGETS["x86-64-v4"])[0] == rows


@pytest.mark.parametrize(
    ("columns", "expected"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 32), (100, 112)]
)
def test_padded_columns(columns: int, expected: int) -> None:
    assert padded_columns(columns) == expected


@pytest.mark.parametrize(("unit", "expected"), [(1, 512), (9, 64), (25, 16), (49, 8), (768, 1), (769, 1), (384, 2), (5000, 1)])
def test_units_per_chunk(unit: int, expected: int) -> None:
    assert units_per_chunk(unit) == expected


def test_blocks_of_rows_divide_the_rows_where_they_can() -> None:
    assert (
        row_block(1536, 8, 3152, 512, 4) == 32
    )  # ViT-small's weight gradient at batch 16, which ragged blocks kept from compiling
    assert row_block(8 * 191, 8, 3152, 512, 4) == 39  # a prime number of tiles
    assert row_block(64, 8, 3152, 512, 4) == 0


def test_every_role_has_a_rule() -> None:
    assert set(RULES) | ROW_ROLES == set(ROLES)


def test_an_unknown_role_is_refused() -> None:
    t = TensorType((8,), "float32")
    with kernel("main", [t], t) as k:
        k.stage("scan", k.output, [8], lambda index: exact.neg(load(k.inputs[0], index)))
    with pytest.raises(ScheduleError, match="block 'scan' has role 'scan'; no CPU rule takes it"):
        schedule_kernel("main", k.result(), TARGETS["x86-64"], "fast")


def scheduled(shape: tuple[int, ...], level: str) -> str:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType(shape, "float32"))
    b.add_output("y", b.emit("sqrt", x))
    return phases(b.finish(), level)["schedule"]


@pytest.mark.parametrize(("level", "lanes"), [("x86-64", 4), ("x86-64-v3", 8), ("x86-64-v4", 16)])
def test_elementwise_kernels_use_whole_vectors_and_threads(level: str, lanes: int) -> None:
    text = scheduled((512, 512), level)
    assert f"T.vectorized(T.int64({lanes}))" in text or f"T.vectorized({lanes})" in text
    assert "T.parallel(" in text


def test_small_kernels_start_no_threads() -> None:
    assert "T.parallel(" not in scheduled((8, 8), "x86-64-v4")


def test_odd_shapes_are_vectorised_across_rows() -> None:
    assert "T.vectorized(" in scheduled((16, 33), "x86-64-v4")


def test_the_scheduler_keeps_attributes_and_names() -> None:
    seen: list[Any] = []
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((4, 4), "float32"))
    b.add_output("y", b.emit("matmul", x, x))
    run_phases(b.finish(), TARGETS["x86-64"], "none", lambda phase, m: seen.append(m) if phase == "fuse" else None)
    after = schedule(seen[0], TARGETS["x86-64"], "fast")
    for (gv, before), (other, function) in zip(kernels(seen[0]), kernels(after), strict=True):
        assert gv.name_hint == other.name_hint
        assert {*dict(before.attrs), WAYS} == set(dict(function.attrs))


def test_values_read_several_times_do_not_grow_without_bound() -> None:
    """Sixteen stages that each read the one before three times: inlined into each other they would be 3^16 reads."""
    builder = GraphBuilder("walk")
    table = builder.add_input("table", "input", TensorType((8,), "int64"))
    place = builder.add_input("place", "input", TensorType((4,), "int64"))
    for _ in range(16):
        taken = builder.emit("take", table, place, axis=0)
        place = builder.emit("where", builder.emit("less", taken, place), taken, place)
    builder.add_output("y", place)
    text = phases(builder.finish(), "x86-64")["schedule"]
    assert len(text) < 200_000
