"""All that a GPU would run compiles for all architectures, and the lint finds nothing: some of it here, the rest is on record.

``make gpu-compile`` makes the record; it is quick where neither sources nor the toolkit have changed.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu_compile import RESULT, items
from benchmarks.gpu_rehearsal import model_case
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.targets.gpu import CUDA
from gensyn_tvm.targets.gpu_lint import lint
from gensyn_tvm.targets.nvcc import ARCHITECTURES, compile_cuda

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
