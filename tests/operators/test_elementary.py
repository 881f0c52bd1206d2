"""Compiled elementary functions against the interpreter's, bit by bit, and the proofs that come with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from gensyn_tvm.interpreter.elementary import FUNCTIONS
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary import BODIES, HARD
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.lowering import lowering_for

ROOT = Path(__file__).resolve().parents[2]
QUIET_NAN = np.uint32(0x7FC00000)
LEVELS = supported_levels()


def kernel(name: str, level: str, count: int, lanes: int) -> Callable[[np.ndarray], np.ndarray]:
    """The function compiled for ``level`` over ``count`` elements, in vectors of ``lanes``."""
    target = TARGETS[level]
    x = te.placeholder((count,), name="x")
    y = te.compute((count,), lambda i: exact.call(name, "float32", x[i]), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    loops = schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, lanes])
    if lanes > 1:
        schedule.vectorize(loops[1])
    with lowering_for(has_fma=target.has_fma):
        function = tvm.compile(schedule.mod, target.to_tvm())

    def run(values: np.ndarray) -> np.ndarray:
        output = tvm.runtime.empty((count,), "float32")
        function(tvm.runtime.tensor(values), output)
        return output.numpy()

    return run


def proof(name: str) -> dict:
    return json.loads((ROOT / "proofs" / f"{name}.json").read_text(encoding="utf-8"))


def inputs(name: str) -> np.ndarray:
    """Every sign and exponent with extreme and random mantissas (NaNs too), hard cases and their neighbours, thresholds."""
    rng = np.random.default_rng(7)
    high = np.arange(512, dtype=np.uint32)[:, None] << 23
    low = np.concatenate([rng.integers(0, 2**23, 64), [0, 1, 2, 2**22, 2**23 - 2, 2**23 - 1]]).astype(np.uint32)
    hard = np.array([int(pattern, 16) for pattern in proof(name)["hard_cases"]], np.uint32)
    bits = np.concatenate([(high | low).reshape(-1), hard, hard - 1, hard + 1])
    middle = rng.uniform(-5.0, 5.0, 20000).astype(np.float32).view(np.uint32)
    thresholds = np.array([88.72284, 89, 90, -87.3, -103.97, -105, 9.01, -17.33, 17.33, 3.9192059, 3.92, -30], np.float32)
    more = np.array([128, -126, -149, -150, 89.41598, 0.4140625, -0.4140625, 2.4140625, 0.5, -0.5, 1, -1], np.float32)
    reductions = [2.0**44, 2.0**63, 2.0**82, 2.0**101, 2.0**120, 1.5707964, 3.1415927]
    more = np.concatenate([more, np.array(reductions, np.float32)])
    around = (np.concatenate([thresholds, more]).view(np.uint32)[:, None] + np.arange(-50, 50).astype(np.uint32)).reshape(-1)
    return np.concatenate([bits, middle, around]).view(np.float32)


def canonical(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), QUIET_NAN, values.view(np.uint32))


def assert_equal(name: str, run: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> None:
    got, expected = canonical(run(x)), FUNCTIONS[name](x).view(np.uint32)
    wrong = np.flatnonzero(got != expected)
    shown = [tuple(hex(v) for v in (x.view(np.uint32)[i], got[i], expected[i])) for i in wrong[:5]]
    assert not wrong.size, f"{name}: {wrong.size} results differ; (input, got, expected): {shown}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BODIES)
def test_compiled_is_the_interpreter(name: str, level: str) -> None:
    x = inputs(name)
    assert_equal(name, kernel(name, level, x.size, TARGETS[level].lanes()), x)


@pytest.mark.parametrize("lanes", (1, 2, 8, 32))
@pytest.mark.parametrize("name", BODIES)
def test_lanes_do_not_matter(name: str, lanes: int) -> None:
    x = inputs(name)[::13]
    assert_equal(name, kernel(name, LEVELS[-1], x.size, lanes), x)


def test_every_elementary_operator_has_a_body_and_a_meaning() -> None:
    assert set(BODIES) == set(exact.ELEMENTARY) == set(FUNCTIONS) == set(HARD)


@pytest.mark.parametrize("name", BODIES)
def test_proof_is_complete(name: str) -> None:
    record = proof(name)
    assert record["function"] == name
    assert {"x86-64", "x86-64-v3", "x86-64-v4"} <= set(record["targets"])
    expected = {"count": 2**32, "wrong": 0, "digest": record["digest"]}
    assert all(outcome == expected for outcome in record["targets"].values())
    assert {f"0x{bits:08x}" for bits in HARD[name]} <= set(record["hard_cases"])
