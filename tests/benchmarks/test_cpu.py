"""The benchmark suite's own arithmetic: medians, ratios, means, digests, and the file that a stopped run goes on with."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cpu import measure
from benchmarks.cpu.__main__ import chosen_groups
from benchmarks.cpu.contestants import OURS
from benchmarks.cpu.kernel_work import bytes_of, operations
from benchmarks.cpu.report import changed_digests, geometric_mean, line, summary
from benchmarks.cpu.results import Results, file_of_this_machine, machine
from benchmarks.cpu.roofline import Roof, bound, vector_width
from benchmarks.cpu.suite import GROUPS, all_cases, jobs
from benchmarks.cpu.work import bytes_moved, float_operations
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.targets.cpu import TARGETS
from scripts import make_benchmarks_page, make_profiles_page


class Counting:
    """A contestant that counts its calls."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def ready(self, threads: int) -> Callable[[], Any]:
        self.log.append(f"{self.name} {threads}")
        return lambda: None

    def arrays(self, value: Any) -> list[np.ndarray]:
        return []


def _row(group: str, case: str, ratios: dict[str, float], digest: str = "d") -> dict[str, Any]:
    seconds = {OURS: 1.0, **ratios}
    times = [{"threads": 1, "seconds": seconds, **measure.ratios(seconds)}]
    return {"group": group, "case": case, "times": times, "digest": digest, "agrees": True, "failed": {}}


def test_ratio_is_to_the_fastest_peer() -> None:
    found = measure.ratios({OURS: 2.0, "a": 3.0, "b": 1.0})
    assert found == {"ratios": {"a": 1.5, "b": 0.5}, "fastest_peer": "b", "ratio": 0.5}


def test_without_peers_there_is_no_ratio() -> None:
    assert measure.ratios({OURS: 2.0})["ratio"] is None
    assert geometric_mean([]) is None


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0.0)
    log: list[str] = []
    contestants = {name: Counting(name, log) for name in (OURS, "a")}
    seconds = measure.race(contestants, 2, measure.Effort(3, 0.0, 2))
    assert log == [f"{OURS} 2", "a 2"] * 3
    assert all(s > 0 for s in seconds.values())


def test_difference_is_relative_and_sees_shapes_and_nans() -> None:
    expected = np.array([0.0, 4.0], np.float32)
    assert measure.difference([np.array([1.0, 4.0], np.float32)], [expected]) == 0.25
    assert measure.difference([np.zeros(3, np.float32)], [expected]) == math.inf
    assert measure.difference([np.array([np.nan, 4.0], np.float32)], [expected]) == math.inf


def test_summary_has_means_by_group_and_by_peer() -> None:
    rows = [_row("gemm", "x", {"torch": 2.0}), _row("gemm", "y", {"torch": 0.5, "numpy": 0.125})]
    rows += [_row("inference", "m", {"torch": 4.0, "onnxruntime": 2.0})]
    assert summary(rows) == {"gemm": 0.5, "inference_vs_torch": 4.0, "inference_vs_onnxruntime": 2.0}


def test_changed_digests_are_named() -> None:
    committed = [_row("gemm", "x", {}, "old"), _row("gemm", "y", {}, "same")]
    texts = changed_digests([_row("gemm", "x", {}, "new"), _row("gemm", "y", {}, "same"), _row("gemm", "z", {})], committed)
    assert len(texts) == 2
    assert "gemm, x" in texts[0] and "old" in texts[0] and "no digest" in texts[1]


def test_results_continue_and_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    Results(path).add(_row("gemm", "x", {"torch": 2.0}))
    results = Results(path)
    results.add({**_row("gemm", "y", {"torch": 2.0}), "agrees": False})
    assert results.done() == {("gemm", "x")}
    assert [r["case"] for r in json.loads(path.read_text(encoding="utf-8"))["rows"]] == ["x", "y"]
    assert [p.name for p in tmp_path.iterdir()] == ["cpu.json"]


def test_results_of_another_machine_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    Results(path).add(_row("gemm", "x", {"torch": 2.0}))
    data = json.loads(path.read_text(encoding="utf-8"))
    data["machine"]["processor"] = "another one"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert Results(path).rows() == []
    own = file_of_this_machine(path)
    assert own != path and own.parent == tmp_path and own.name.startswith("cpu-")
    Results(own).add(_row("gemm", "y", {"torch": 2.0}))
    assert json.loads(path.read_text(encoding="utf-8")) == data


def test_the_first_machine_has_the_file_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    assert file_of_this_machine(path) == path
    Results(path).add(_row("gemm", "x", {"torch": 2.0}))
    assert file_of_this_machine(path) == path


def test_a_line_tells_failures_and_differences() -> None:
    row = {**_row("gemm", "x", {"torch": 2.0}), "agrees": False, "differences": {"torch": 1.0}, "failed": {"tvm": "no"}}
    text = line(row)
    assert "ratio 2.00" in text and "OUTPUTS DIFFER" in text and "tvm FAILED: no" in text


@pytest.mark.parametrize("group", GROUPS)
def test_cases_have_names_of_their_own_and_a_quick_sample(group: str) -> None:
    names = [c.name for c in all_cases(group)]
    assert names and len(set(names)) == len(names)
    found = [key for job in jobs((group,), quick=False, wanted=[], done=set()) for key in job.cases]
    assert found == [(group, n) for n in names]
    assert not jobs((group,), quick=False, wanted=[], done={(group, n) for n in names})


def test_roof_bounds_by_arithmetic_or_by_memory() -> None:
    roof = Roof(1, flops=100.0, bytes=10.0)
    assert bound(roof, 200.0, 1.0) == 2.0 and bound(roof, 1.0, 50.0) == 5.0
    assert [vector_width(f) for f in ("sse2", "sse2 avx2", "avx2 avx512f")] == [16, 32, 64]


def test_work_of_products_and_their_gradients() -> None:
    b = GraphBuilder("g")
    x, w = (b.add_input(n, "input", TensorType(s, "float32")) for n, s in (("x", (2, 4, 6, 6)), ("w", (8, 2, 3, 3))))
    attrs: dict[str, Any] = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 2}
    y = b.emit("conv", x, w, **attrs)
    b.add_output("dx", b.emit("conv_backward_data", y, w, **attrs, input_spatial=(6, 6)))
    b.add_output("dw", b.emit("conv_backward_weight", x, y, **attrs, kernel=(3, 3)))
    graph = b.finish()
    assert float_operations(graph) == 3 * 2 * (2 * 8 * 6 * 6) * (2 * 3 * 3)
    assert bytes_moved(graph) == 4 * 2 * (2 * 4 * 6 * 6 + 8 * 2 * 3 * 3)


def test_choices_of_the_command_line() -> None:
    assert chosen_groups(None, None) == GROUPS
    assert chosen_groups(["models"], "infer") == chosen_groups(None, "infer") == ("inference",)
    assert chosen_groups(["gemm", "models"], None) == ("gemm", "inference", "training")
    found = jobs(("inference",), quick=False, wanted=["bert"], done=set(), ending="batch 1")
    assert [job.cases for job in found] == [(("inference", "bert-base, batch 1"),)]


def test_page_and_plot(tmp_path: Path) -> None:
    row = {**_row("gemm", "x", {"torch": 2.0}), "work": {"flops": 50.0, "bytes": 1.0}}
    roofs = [{"threads": 1, "flops": 100.0, "bytes": 10.0}]
    data = {"machine": {**machine(), "cores": 2}, "roofs": roofs, "rows": [row]}
    text = make_benchmarks_page.page(data)
    assert "| x | 1 | 1000 | 2000 | 2.00 | 50% |" in text and "| gemm | 2.00 |" in text
    for name in ("a.svg", "b.svg"):
        make_benchmarks_page.plot(data, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_operations_of_a_kernel() -> None:
    b = GraphBuilder("g")
    x, w = (b.add_input(n, "input", TensorType(s, "float32")) for n, s in (("x", (5, 40)), ("w", (40, 16))))
    b.add_output("y", b.emit("exp", b.emit("matmul", x, w)))
    found: list[Any] = []
    run_phases(b.finish(), TARGETS["x86-64"], "none", lambda phase, m: found.append(m) if phase == "legalise" else None)
    counted = sum((operations(f) for _, f in kernels(found[0])), Counter[str]())
    assert counted["fma"] == 5 * 40 * 16 and counted["exp"] == 5 * 16
    assert bytes_of(("float32[5, 40]", "int8[3]", "float32[]")) == 807


def test_page_of_profiles() -> None:
    row = {**_row("gemm", "x", {"torch": 0.5}), "work": {"flops": 50.0, "bytes": 1.0}}
    times = {"roofs": [{"threads": 1, "flops": 100.0, "bytes": 10.0}], "rows": [row]}
    kernel = {"kernel": "fused_exp", "calls": 2, "seconds": 0.5, "bytes": 4, "work": {"fma": 5, "exp": 10}}
    profile = {"threads": 1, "seconds": 1.0, "kernels": 3, "rows": [kernel]}
    profiles = {"machine": machine(), "rows": [{"group": "gemm", "case": "x", "profiles": [profile]}]}
    text = make_profiles_page.page(profiles, times, {"rows": [{"function": "exp", "bound": 2.5e7}]})
    assert "| exp | 2 | 500 | 50% | 100 | 250 | 400 | 80% |" in text and "ours 1000 ms, torch 500 ms; at least 400 ms" in text
