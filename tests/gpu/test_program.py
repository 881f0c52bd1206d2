"""What a program for a GPU consists of."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, ScheduleError, TargetError
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.opencl import OpenClMachine
from gensyn_tvm.targets.gpu import CUDA, GPU_TARGETS, OPENCL, DeviceProgram

from ..operators.support import assert_all_same
from .support import DESCENDING, executed

#: Single operations and conversions of the language of CUDA that round once and keep subnormals.
_ROUNDED_ONCE = re.compile(r"__(f|d)(add|sub|mul|div|sqrt)_rn|__fmaf?_rn|__\w+_as_\w+")


def network() -> Graph:
    b = GraphBuilder("network")
    x = b.add_input("x", "input", TensorType((33, 513), "float32"))
    w = b.add_input("w", "parameter", TensorType((513, 47), "float32"))
    y = b.emit("matmul", x, w)
    b.add_output("y", b.emit("where", b.emit("less", y, b.emit("neg", y)), b.emit("exp", y), y))
    b.add_output("positive", b.emit("less", b.emit("neg", y), y))
    b.add_output("w", w, updates=True)
    return b.finish()


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((33, 513)).astype("f4"), "w": rng.standard_normal((513, 47)).astype("f4")}


@pytest.mark.parametrize("kind", GPU_TARGETS)
def test_a_program_survives_its_file(kind: str) -> None:
    program = device_program(network(), GPU_TARGETS[kind])
    assert DeviceProgram.loads(program.dumps(), program.source, program.constants) == program
    assert set(program.launches) == {s.kernel for s in program.plan.steps}
    with pytest.raises(ValueError, match="version"):
        DeviceProgram.loads(program.dumps().replace('"version":1}', '"version":0}'), "", b"")


def test_the_text_of_a_program_is_always_the_same() -> None:
    assert device_program(network(), CUDA) == device_program(network(), CUDA)


def test_cuda_rounds_every_float_operation_once() -> None:
    source = device_program(network(), CUDA).source
    assert "#include" not in source
    used = set(re.findall(r"\b__\w+(?=\()", source)) - {"__launch_bounds__", "__syncthreads"}
    assert {u for u in used if not _ROUNDED_ONCE.fullmatch(u)} == set()
    assert "__fmaf_rn" in used
    assert re.search(r"\d\.\d|\d[fF]\b", re.sub(r"0x[0-9a-f]+", "", source)) is None, "a float constant that is no bit pattern"


def test_blocks_of_any_size_and_in_any_order_give_the_same_bits() -> None:
    graph, given = network(), arrays()
    expected = interpreter.run(graph, given)
    for target, definitions in ((OPENCL, DESCENDING), (replace(OPENCL, threads=7), ()), (replace(OPENCL, threads=1000), ())):
        found = executed(graph, given, target=target, definitions=definitions)
        assert_all_same([f"{o.name} {target.threads}" for o in graph.outputs], found, expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TargetError, match="a program of kind 'cuda'"):
        OpenClMachine(device_program(network(), CUDA))
    with pytest.raises(InputError, match="expected"):
        OpenClMachine(device_program(network(), OPENCL)).run([])
    with pytest.raises(ScheduleError, match="unknown schedule style 'quick'"):
        device_program(network(), OPENCL, "quick")
    with pytest.raises(ScheduleError, match="plain, fast"):
        device_program(network(), OPENCL, "none")


def test_kernels_of_many_operators_have_names_that_fit_into_file_names() -> None:
    b = GraphBuilder("many")
    x = b.add_input("x", "input", TensorType((64, 3), "float32"))
    y = x
    for k in range(60):
        y = b.emit("add" if k % 2 else "sub", b.emit("neg", y), x)
    b.add_output("y", y)
    program = device_program(b.finish(), CUDA)
    assert max(map(len, program.launches)) < 120
    assert all(re.fullmatch(r"[A-Za-z]\w*", name) for name in program.launches)
