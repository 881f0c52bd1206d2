"""All that a GPU would run compiles for all architectures, and the lint finds nothing: some of it here, the rest is on record.

``make gpu-compile`` makes the record; it is quick where neither sources nor the toolkit have changed. Continuous integration
compiles all of it again and compares (``make gpu-compile-check``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_compile, gpu_roofline
from benchmarks.gpu_compile import RESULT, TIMED, differences, items, read_record
from benchmarks.gpu_pack import graph_of
from benchmarks.gpu_rehearsal import model_case
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.targets.gpu import CUDA
from gensyn_tvm.targets.gpu_lint import lint
from gensyn_tvm.targets.nvcc import ARCHITECTURES, compile_cuda
from scripts.gpu_peers import OPERATORS, Operator

from ..operators.cases import FAMILIES, bundle
from .test_bits import chosen


def operators() -> Graph:
    """One or two cases of each family."""
    return bundle(chosen())[0]


def step() -> Graph:
    """A training step with AdamW."""
    return model_case("mlp", training=True)[0].graph


@pytest.mark.parametrize(("make", "architectures"), [(operators, ARCHITECTURES), (step, (75, 90))])
def test_machine_code_is_exact(make: object, architectures: tuple[int, ...]) -> None:
    assert callable(make)
    program = device_program(make(), CUDA)
    built = compile_cuda(program.source, architectures)
    assert set(built.cubins) == set(architectures)
    for kernels in built.resources.values():
        assert set(kernels) == set(program.launches)
        assert all(launch.shared == kernels[name].shared for name, launch in program.launches.items())
    assert lint(built) == []


def test_the_record_has_every_family_and_five_models_on_all_architectures() -> None:
    rows = json.loads(RESULT.read_text(encoding="utf-8"))
    assert list(rows) == list(items())
    assert sum(name.startswith("operators: ") for name in rows) == len(FAMILIES)
    assert sum(name.startswith("training step: ") for name in rows) == 5
    for row in rows.values():
        assert row["findings"] == []
        assert list(row["architectures"]) == [f"sm_{a}" for a in ARCHITECTURES]
        assert row["kernels"] > 0


def test_products_move_16_bytes_at_a_time_and_spill_nothing() -> None:
    rows = {n.removeprefix(TIMED): r["roofline"] for n, r in read_record().items() if n.startswith(TIMED)}
    assert list(rows) == list(OPERATORS)
    for name in ("matmul 1024x1024x1024", "matmul 4096x4096x4096", "linear 2048x768x3072", "conv 1x1 32x256x56x56 64"):
        (kernel,) = rows[name]
        assert kernel["wide"]["global loads"] >= 2, name
        assert kernel["wide"]["shared loads"] >= 2, name
    (weights,) = rows["conv 3x3 32x64x56x56 64"]
    assert weights["wide"]["global loads"] >= 1
    assert [(name, r["kernel"]) for name, found in rows.items() for r in found if r["spilled"]] == []


def test_operations_are_counted_in_loops_and_functions() -> None:
    source = """
static __device__ float gx_twice__float32__float32(float a0) { return __fadd_rn(a0, a0); }
static __device__ double gx_root__float64__float64(double a0) { return __dsqrt_rn(__dmul_rn(a0, a0)); }
extern "C" __global__ void k(const float* p0) {
  for (int i = 0; i < 3; ++i) {
    if (i < 2) {
      x = gx_twice__float32__float32(__fmaf_rn(x, x, x));
    }
    #pragma unroll 8
    for (int j = 0; j < 5; ++j) {
      y = gx_root__float64__float64(y);
    }
  }
  x = __fdiv_rn(x, x);
}
"""
    assert gpu_roofline.operations(source, ["k"]) == {"k": 3 * (3 + 5 * 22) + 10}
    with pytest.raises(ValueError, match="k: a loop"):
        gpu_roofline.operations(source.replace("j < 5", "j < n"), ["k"])


def test_bounds_of_a_product_are_those_of_its_size() -> None:
    graph = graph_of(Operator(torch.matmul, ((256, 128), (128, 256))))
    program = device_program(graph, CUDA)
    (kernel,) = gpu_roofline.detail(compile_cuda(program.source, (90,)), program)
    assert kernel["flops"] == 2 * 256 * 128 * 256
    assert kernel["bytes"] == 4 * (256 * 128 * 2 + 256 * 256)
    seconds, what = gpu_roofline.bound({**kernel, "flops": 67e9, "bytes": 1})
    assert (round(seconds, 9), what) == (1e-3, "arithmetic")


def _row(**other: Any) -> dict[str, Any]:
    row = {
        "key": "a",
        "toolkit": "13.0",
        "program": "p",
        "kernels": 3,
        "bytes": 10,
        "findings": [],
        "architectures": {"sm_90": {}},
    }
    return {**row, **other}


@pytest.mark.parametrize(
    ("recorded", "found", "lines"),
    [
        ({"a": _row()}, {"a": _row()}, []),
        ({}, {"a": _row()}, ["a: not in the record"]),
        ({"a": _row()}, {}, ["a: in the record, but no item any longer"]),
        ({"a": _row(key="b", bytes=9)}, {"a": _row()}, ["a: the record has another key, bytes"]),
        ({"a": _row(toolkit="13.1", bytes=9)}, {"a": _row()}, []),  # another compiler takes other registers and bytes
        ({"a": _row(toolkit="13.1", kernels=9)}, {"a": _row()}, ["a: the record has another kernels"]),
    ],
)
def test_a_record_that_is_out_of_date_is_seen(recorded: Any, found: Any, lines: list[str]) -> None:
    assert differences(recorded, found) == lines


def test_a_check_compiles_again_and_leaves_the_record_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, name = tmp_path / "record.json", "operators: movement"
    text = json.dumps({name: json.loads(RESULT.read_text(encoding="utf-8"))[name] | {"key": "older"}})
    record.write_text(text, encoding="utf-8")
    monkeypatch.setattr(gpu_compile, "RESULT", record)
    monkeypatch.setattr(sys, "argv", ["gpu_compile", "--check", str(tmp_path / "found.json"), "--only", name])
    assert gpu_compile.main() == 1
    shown = capsys.readouterr()
    assert f"{name}: the record has another key" in shown.err
    assert "make gpu-compile" in shown.err
    assert record.read_text(encoding="utf-8") == text
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))[name]["findings"] == []
