from __future__ import annotations

import pytest

from gensyn_tvm.targets.gpu_resources import MULTIPROCESSORS, as_text, occupancy, report
from gensyn_tvm.targets.nvcc import ARCHITECTURES, Resources


def test_every_architecture_has_its_limits() -> None:
    assert tuple(MULTIPROCESSORS) == ARCHITECTURES


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "architecture", "part", "limit"),
    [
        (32, 0, 256, 90, 1.0, "threads"),
        (33, 0, 256, 90, 0.75, "registers"),  # 40 registers a thread, 1,280 a warp: 12 warps in each quarter
        (128, 0, 256, 90, 0.25, "registers"),
        (255, 0, 1024, 75, 0.0, "registers"),  # does not fit at all
        (32, 48 * 1024, 256, 75, 0.25, "shared memory"),
        (32, 48 * 1024, 256, 90, 0.5, "shared memory"),
        (16, 0, 32, 86, 1 / 3, "blocks"),
        (40, 0, 33, 80, 0.75, "registers"),  # 33 threads are two warps
    ],
)
def test_occupancy(registers: int, shared: int, threads: int, architecture: int, part: float, limit: str) -> None:
    found = occupancy(Resources(registers, shared, 0, 0, 0), threads, architecture)
    assert found[0] == pytest.approx(part)
    assert found[1] == limit


def test_kernels_that_spill_and_that_leave_warps_idle_come_first() -> None:
    resources = {"good": Resources(32, 0, 0, 0, 0), "wide": Resources(128, 0, 0, 0, 0), "spills": Resources(32, 0, 8, 8, 8)}
    rows = report(resources, dict.fromkeys(resources, 256), 90)
    assert [row.kernel for row in rows] == ["spills", "wide", "good"]
    assert as_text(rows, 1).splitlines()[1].split() == ["100%", "threads", "256", "32", "0", "8", "spills"]
