"""The runtime for NVIDIA GPUs against an emulated driver, which executes the CUDA source of the kernels."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import GensynError, InvalidFileError, TargetError
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.runtime import cuda_driver
from gensyn_tvm.runtime.cuda import CudaMachine, unpack_device
from gensyn_tvm.runtime.executable import Executable, State

from ..gpu.emulator.programs import calls, emulate, emulated, executable
from ..gpu.test_bits import chosen
from ..operators.case import Case
from ..operators.cases import bundle
from ..operators.support import assert_all_same


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with emulated(monkeypatch, tmp_path / "emulated") as path:
        yield path


def with_parameters() -> Source:
    """tanh(x w + b), where w and b are parameters, and the transposed w is another output."""
    b = GraphBuilder("net")
    x = b.add_input("x", "input", TensorType((5, 37), "float32"))
    w = b.add_input("w", "parameter", TensorType((37, 6), "float32"))
    c = b.add_input("c", "parameter", TensorType((6,), "float32"))
    b.add_output("y", b.emit("tanh", b.emit("add", b.emit("matmul", x, w), c)))
    b.add_output("t", b.emit("transpose", w, perm=(1, 0)))
    graph = b.finish()
    draw = np.random.default_rng(3)
    state = {i.name: draw.standard_normal(i.type.shape, np.float32) for i in graph.inputs if i.role == "parameter"}
    return Source(graph, State(state))


def training() -> Source:
    """A step that adds lr * x to a parameter, and its mean as a metric."""
    b = GraphBuilder("step")
    x = b.add_input("x", "input", TensorType((4, 33), "float32"))
    w = b.add_input("w", "parameter", TensorType((4, 33), "float32"))
    lr = b.add_input("lr", "learning_rate", TensorType((), "float32"))
    new = b.emit("add", w, b.emit("mul", x, lr))
    b.add_output("w", new, updates=True)
    b.add_output("loss", b.emit("sum", new, axes=(0, 1), keepdims=False))
    return Source(b.finish(), State({"w": np.random.default_rng(5).standard_normal((4, 33), np.float32)}), 0.25)


def test_operators_have_the_bits_of_the_interpreter(log: Path) -> None:
    cases = chosen()
    graph, given = bundle(cases)
    exe = executable(graph, log.parent)
    found = exe(**given)
    assert_all_same([c.name for c in cases], found, interpreter.run(graph, given))
    assert Counter(calls(log))["cuLaunchKernel"] == len(exe._machine.plan.steps)


def test_products_in_vectors_have_the_bits_of_the_interpreter(log: Path) -> None:
    """Executed from the CUDA source, which ends the process where a vector is not at a multiple of its size."""
    cases = [
        Case("rows", "matmul", (((68, 1100), "float32"), ((1100, 140), "float32")), {}, True),
        Case("wide", "matmul", (((36, 44), "float64"), ((44, 20), "float64")), {}),
        Case("split", "matmul", (((16, 1540), "float32"), ((1540, 20), "float32")), {}),
    ]
    graph, given = bundle(cases)
    found = executable(graph, log.parent)(**given)
    assert_all_same([c.name for c in cases], found, interpreter.run(graph, given))


def test_a_run_sends_inputs_only_and_launches_the_plan(log: Path) -> None:
    source = with_parameters()
    exe = executable(source, log.parent)
    x = np.linspace(-2, 2, 5 * 37, dtype=np.float32).reshape(5, 37)
    native = compile(source)
    for k in range(3):
        found = exe(x + k)
        for a, b in zip(found, native(x + k), strict=True):
            assert np.array_equal(a.view(np.uint32), b.view(np.uint32))
        made = Counter(calls(log))
        plan = exe._machine.plan
        launched = len(plan.steps) if k == 0 else len(plan.steps) - plan.prepare
        assert made["cuLaunchKernel"] == launched
        constants = unpack_device(exe.library)[1].constants
        assert made["cuMemcpyHtoD_v2"] == (3 + bool(constants) if k == 0 else 1)  # w, c; x in each run
        assert made["cuMemcpyDtoH_v2"] == 2
        assert made["cuModuleLoadData"] == (k == 0)


def test_parameters_that_the_caller_modifies_are_sent_again(log: Path) -> None:
    source = with_parameters()
    exe, native = executable(source, log.parent), compile(source)
    x = np.ones((5, 37), np.float32)
    state = {n: a.copy() for n, a in source.state.numpy().items()}
    for _ in range(2):
        state["w"][0, 0] += 1
        found, expected = exe.bind(state)(x), native.bind(state)(x)
        assert np.array_equal(found[0].view(np.uint32), expected[0].view(np.uint32))
        assert np.array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


def test_outputs_become_inputs_where_they_are(log: Path) -> None:
    source = training()
    exe, native = executable(source, log.parent), compile(source)
    machine, state, x = exe._machine, source.state.numpy(), np.full((4, 33), 0.5, np.float32)
    assert isinstance(machine, CudaMachine)
    for k, i in enumerate(source.graph.inputs):
        machine.feed(k, {"x": x, "w": state["w"], "lr": np.asarray(np.float32(0.25))}[i.name])
    calls(log)
    theirs = native.init(0)
    for _ in range(3):
        machine.launch()
        machine.advance({0: 1})
        theirs, _ = native(theirs, [x])
    assert set(calls(log)) == {"cuLaunchKernel"}
    machine.launch()  # its input is the state after three steps
    found = machine.outputs([])
    machine.fetch(found)
    theirs, metrics = native(theirs, [x])
    assert array_digest(found[0]) == array_digest(theirs.numpy()["w"])
    assert array_digest(found[1]) == array_digest(np.asarray(metrics["loss"]))


def test_training_keeps_its_state_on_the_device(log: Path) -> None:
    source = training()
    exe, native = executable(source, log.parent), compile(source)
    mine, theirs = exe.init(1), native.init(1)
    for k in range(3):
        x = np.full((4, 33), k + 0.5, np.float32)
        mine, metrics = exe(mine, [x])
        theirs, expected = native(theirs, [x])
        assert mine.digest() == theirs.digest()
        assert metrics["loss"].view(np.uint32) == expected["loss"].view(np.uint32)
        made = Counter(calls(log))
        assert made["cuMemcpyDtoDAsync_v2"] == (1 if k else 0)
    assert exe(mine, [x])[0].digest() == exe(State({"w": mine["w"]}, mine.step), [x])[0].digest()


def test_profiles_take_their_times_from_events(log: Path) -> None:
    exe = executable(with_parameters(), log.parent)
    rows = exe.profile(np.ones((5, 37), np.float32))
    assert all(row.seconds > 0 for row in rows if not row.prepared)
    made = Counter(calls(log))
    assert made["cuEventCreate"] == made["cuEventDestroy_v2"] == len(exe._machine.plan.steps) - exe._machine.plan.prepare + 1


def test_memory_is_given_back(log: Path) -> None:
    exe = executable(training(), log.parent)
    gc.collect()
    calls(log)
    exe(exe.init(), [np.ones((4, 33), np.float32)])
    del exe
    gc.collect()
    made = Counter(calls(log))
    assert made["cuMemAlloc_v2"] == made["cuMemFree_v2"] > 0
    assert made["cuModuleUnload"] == 1


def test_files_keep_the_fat_binary(log: Path, tmp_path: Path) -> None:
    source = with_parameters()
    exe = executable(source, log.parent)
    exe.save(tmp_path / "both.gtvm", others=[compile(source)])
    exe.save(tmp_path / "cuda.gtvm")
    x = np.ones((5, 37), np.float32)
    loaded = gensyn_tvm.load(tmp_path / "cuda.gtvm")
    assert loaded.target == "cuda"
    assert np.array_equal(loaded(x)[0].view(np.uint32), exe(x)[0].view(np.uint32))
    assert gensyn_tvm.load(tmp_path / "both.gtvm").target != "cuda"
    assert gensyn_tvm.load(tmp_path / "both.gtvm", target="cuda").target == "cuda"


@pytest.fixture(scope="module")
def compiled() -> Executable:
    return compile(training(), "cuda")


def run(exe: Executable) -> None:
    exe = Executable.from_library(exe.graph, exe.state, exe.library, target="cuda", schedule="fast", learning_rate=0.25)
    exe(exe.init(), [np.ones((4, 33), np.float32)])


def test_a_machine_without_a_driver_can_compile_and_save_but_not_run(
    compiled: Executable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    cuda_driver.driver.cache_clear()
    compiled.save(tmp_path / "step.gtvm")
    with pytest.raises(TargetError, match=r"no NVIDIA driver on this machine\n(.|\n)*what to do: install NVIDIA's driver"):
        run(gensyn_tvm.load(tmp_path / "step.gtvm"))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("EMULATED_DEVICE", "", r"no GPU can run this program\n  found: no GPU(.|\n)*CUDA_VISIBLE_DEVICES"),
        ("EMULATED_DEVICE", "Old;7;0", "found: Old of compute capability 7.0\n  expected: .* 7.5"),
        ("EMULATED_VERSION", "12020", r"too old\n  found: a driver for CUDA 12.2\n(.|\n)*580"),
        ("EMULATED_FAILURE", "cuInit=100", "CUDA_ERROR_NO_DEVICE"),
        ("EMULATED_FAILURE", "cuModuleLoadData=209", r"CUDA_ERROR_NO_BINARY_FOR_GPU(.|\n)*compile the program again"),
        ("EMULATED_FAILURE", "cuLaunchKernel=700", "cuLaunchKernel failed: CUDA_ERROR_EMULATED"),
        ("EMULATED_FAILURE", "cuMemAlloc_v2=2", "no memory left: run a smaller batch"),
        ("EMULATED_FAILURE", "cuMemcpyDtoH_v2=999", "cuMemcpyDtoH_v2 failed"),
    ],
)
def test_failures_say_what_to_do(
    compiled: Executable, log: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, message: str
) -> None:
    emulate(compiled, training(), log.parent)
    monkeypatch.setenv(setting, value)
    with pytest.raises((GensynError, MemoryError), match=message):
        run(compiled)


def test_the_doctor_names_the_gpu(log: Path) -> None:
    from gensyn_tvm.doctor import examine

    found = {c.name: c for c in examine() if c.name.startswith(("nvidia", "cuda"))}
    assert found["nvidia gpu"].found == "Emulated GPU, compute capability 9.0, driver for CUDA 13.0"
    assert {c.status for c in found.values()} == {"ok"}


def test_the_doctor_says_what_is_missing_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from gensyn_tvm.doctor import examine

    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    check = next(c for c in examine() if c.name == "nvidia gpu")
    assert (check.status, check.found) == ("warn", "there is no NVIDIA driver on this machine")
    assert check.remedy.startswith("to run target cuda: install NVIDIA's driver, 580 or newer")


def test_the_command_line_compiles_for_cuda_and_refuses_to_run_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    cuda_driver.driver.cache_clear()
    compile(graph_of("tanh")).save(tmp_path / "cpu.gtvm")
    np.savez(tmp_path / "x.npz", x=np.ones(64, np.float32))
    both = str(tmp_path / "both.gtvm")
    assert main(["compile", str(tmp_path / "cpu.gtvm"), "--target", "cuda", "--target", "native", "-o", both]) == 0
    assert main(["run", both, str(tmp_path / "x.npz")]) == 0
    assert main(["run", both, str(tmp_path / "x.npz"), "--target", "cuda"]) != 0
    assert "there is no NVIDIA driver on this machine" in capsys.readouterr().err
    assert main(["inspect", both, "--code", "--target", "cuda"]) == 0
    assert 'extern "C" __global__' in capsys.readouterr().out


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 4096])
def test_damaged_libraries_are_refused(damage: bytes) -> None:
    with pytest.raises(TargetError, match="target 'cuda' cannot be loaded"):
        unpack_device(damage)


def test_a_cut_library_is_refused(compiled: Executable) -> None:
    for library in (compiled.library[:-1], compiled.library[100:-40] + compiled.library[-40:-8] + b"\xff" * 8):
        with pytest.raises((TargetError, InvalidFileError)):
            unpack_device(library)


def graph_of(text: str) -> Graph:
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TensorType((64,), "float32"))
    b.add_output("y", b.emit(text, x))
    return b.finish()


def test_unknown_targets_are_named() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'rocm'; expected native, .*, c, cuda"):
        compile(graph_of("tanh"), "rocm")
