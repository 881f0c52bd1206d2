"""Calling compiled programs: conventions, what is refused and how, arrays of other libraries."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tvm import runtime

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import InputError, InvalidProgramError, TargetError
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.packaging import load, load_source
from gensyn_tvm.training.step import training_step

TARGET = "c"  # compiles fastest, and runs everywhere


def constant(b: GraphBuilder, value: np.generic) -> int:
    return b.emit("constant", dtype=value.dtype.name, shape=(), data=base64.b64encode(value.tobytes()).decode())


def affine() -> Graph:
    """y = x * scale + shift, s = sum of x over its rows; ``scale`` is a parameter."""
    b = GraphBuilder("affine")
    x = b.add_input("x", "input", TensorType((3, 4), "float32"))
    shift = b.add_input("shift", "input", TensorType((), "float32"))
    scale = b.add_input("scale", "parameter", TensorType((4,), "float32"))
    b.add_output("y", b.emit("add", b.emit("mul", x, scale), shift))
    b.add_output("s", b.emit("sum", x, axes=(1,), keepdims=False))
    return b.finish()


def descent() -> Graph:
    """weight -= learning rate * (weight - target); counts its steps in an integer buffer and shows the seed."""
    b = GraphBuilder("descent")
    batch = b.add_input("batch", "input", TensorType((2,), "float32"))
    target = b.add_input("target", "target", TensorType((2,), "float32"))
    weight = b.add_input("weight", "parameter", TensorType((2,), "float32"))
    kept = b.add_input("untouched", "buffer", TensorType((1,), "float32"))
    rate = b.add_input("rate", "learning_rate", TensorType((), "float32"))
    step = b.add_input("step", "step", TensorType((), "int64"))
    seed = b.add_input("seed", "seed", TensorType((), "int64"))
    difference = b.emit("sub", weight, b.emit("mul", batch, target))
    b.add_output("weight", b.emit("sub", weight, b.emit("mul", rate, difference)), updates=True)
    b.add_output("loss", b.emit("sum", b.emit("abs", difference), axes=(0,), keepdims=False))
    b.add_output("when", b.emit("add", step, constant(b, np.int64(0))))
    b.add_output("seed", seed)
    b.add_output("kept", kept)
    return b.finish()


SCALE = np.array([1, 2, 3, 4], np.float32)
X = np.arange(12, dtype=np.float32).reshape(3, 4)
SHIFT = np.array(0.5, np.float32)


@pytest.fixture(scope="module")
def inference() -> Executable:
    return compile(Source(affine(), State({"scale": SCALE})), TARGET)


@pytest.fixture(scope="module")
def training() -> Executable:
    state = State({"weight": np.array([1, 2], np.float32), "untouched": np.ones(1, np.float32)})
    return compile(Source(descent(), state, 0.5), TARGET)


def is_right(outputs: list[np.ndarray]) -> None:
    y, s = outputs
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y.view(np.uint32), (X * SCALE + SHIFT).view(np.uint32))
    np.testing.assert_array_equal(s.view(np.uint32), X.sum(1).view(np.uint32))


# ---- inference ------------------------------------------------------------------------------------------------------


def test_by_position_and_by_name(inference: Executable) -> None:
    is_right(inference(X, SHIFT))
    is_right(inference(shift=SHIFT, x=X))


def test_a_single_output_comes_alone() -> None:
    b = GraphBuilder("one")
    b.add_output("y", b.emit("neg", b.add_input("x", "input", TensorType((), "float64"))))
    exe = compile(b.finish(), TARGET)
    y = exe(np.float64(2.5))
    assert (y.shape, y.dtype, y[()]) == ((), np.float64, -2.5)
    assert exe(np.array(0.0)).view(np.uint64) == 1 << 63


def test_scalars(inference: Executable) -> None:
    is_right(inference(X, np.float32(0.5)))
    is_right(inference(X, torch.tensor(0.5)))


def test_arrays_of_any_layout(inference: Executable) -> None:
    fortran = np.asfortranarray(X)
    spread = np.zeros((6, 8), np.float32)[::2, ::2]
    spread[...] = X
    backwards = np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1]
    unaligned = np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 4)
    for x in (fortran, spread, backwards, unaligned):
        is_right(inference(x, SHIFT))


def test_inputs_are_not_modified_and_outputs_are_their_own(inference: Executable) -> None:
    x = X.copy()
    first = inference(x, SHIFT)
    kept = [a.copy() for a in first]
    x[...] = 7
    inference(x, SHIFT)
    np.testing.assert_array_equal(first[0], kept[0])
    np.testing.assert_array_equal(first[1], kept[1])
    assert (x == 7).all()


def test_dlpack(inference: Executable) -> None:
    is_right(inference(torch.from_numpy(X), torch.tensor(0.5)))
    is_right(inference(torch.from_numpy(X.T.copy()).T, SHIFT))
    is_right(inference(runtime.tensor(X), runtime.tensor(SHIFT)))


def test_results_go_out_through_dlpack(inference: Executable) -> None:
    y, _ = inference.run({"x": X, "shift": SHIFT}, {"scale": SCALE})
    assert torch.from_dlpack(y).shape == (3, 4)


def message(exe: Executable, *arguments: Any, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        exe(*arguments, **named)
    return str(caught.value)


def test_missing_unknown_and_ill_typed_arrays_are_named(inference: Executable) -> None:
    text = message(inference, X)
    assert "program 'affine' cannot run on these arrays" in text
    assert "missing input 'shift' of type float32[]" in text
    assert "unknown input 'z'" in message(inference, x=X, shift=SHIFT, z=X)
    assert "input 'x' is float64[3, 4], expected float32[3, 4]" in message(inference, X.astype(np.float64), SHIFT)
    assert "input 'x' is float32[4, 3], expected float32[3, 4]" in message(inference, X.T, SHIFT)
    assert "input 'x' is int32[3, 4], expected" in message(inference, X.astype(np.int32), SHIFT)
    assert "input 'shift' is float32[1], expected float32[]" in message(inference, X, SHIFT.reshape(1))
    assert "input 'x' is float64[3, 4]" in message(inference, torch.zeros(3, 4, dtype=torch.float64), SHIFT)
    assert "input 'x' is float32[2, 2]" in message(inference, runtime.tensor(np.zeros((2, 2), np.float32)), SHIFT)


def test_all_problems_at_once(inference: Executable) -> None:
    text = message(inference, x=X.T, y=X)
    assert "unknown input 'y'" in text
    assert "input 'x' is float32[4, 3]" in text
    assert "missing input 'shift'" in text


def test_other_byte_orders_are_refused(inference: Executable) -> None:
    assert "input 'x' is >f4[3, 4], expected float32[3, 4]" in message(inference, X.astype(">f4"), SHIFT)


def test_arrays_that_numpy_cannot_read_are_refused(inference: Executable) -> None:
    assert "input 'x' is a Tensor that NumPy cannot read" in message(inference, torch.zeros(3, 4, requires_grad=True), SHIFT)
    assert "input 'x' is a Tensor that NumPy cannot read" in message(inference, torch.zeros(3, 4, dtype=torch.bfloat16), SHIFT)
    assert "input 'x' is a list that NumPy cannot read" in message(inference, [[1], [2, 3]], SHIFT)


def test_things_that_are_no_arrays_are_refused(inference: Executable) -> None:
    assert "input 'x' is" in message(inference, "a string", SHIFT)
    assert "input 'x' is" in message(inference, None, SHIFT)


def test_too_many_or_mixed_arguments(inference: Executable) -> None:
    assert "expected the inputs x, shift, by position or by name" in message(inference, X, SHIFT, X)
    assert "expected the inputs x, shift, by position or by name" in message(inference, X, shift=SHIFT)


def test_missing_parameters_are_named(inference: Executable) -> None:
    with pytest.raises(InputError, match=r"missing parameter 'scale' of type float32\[4\]"):
        inference.run({"x": X, "shift": SHIFT}, {})
    with pytest.raises(InputError, match=r"parameter 'scale' is float32\[5\], expected float32\[4\]"):
        inference.run({"x": X, "shift": SHIFT}, {"scale": np.ones(5, np.float32)})


# ---- training -------------------------------------------------------------------------------------------------------

BATCH = (np.array([1, 1], np.float32), np.array([3, 4], np.float32))


def test_a_training_step(training: Executable) -> None:
    state = training.init(seed=42)
    after, metrics = training(state, BATCH)
    assert after["weight"].tolist() == [2.0, 3.0]
    assert after["untouched"].tolist() == [1.0]
    assert (metrics["loss"], metrics["when"], metrics["seed"]) == (4.0, 0, 42)
    assert (after.step, after.seed, state.step) == (1, 42, 0)
    assert state["weight"].tolist() == [1.0, 2.0]
    later, metrics = training(after, {"target": BATCH[1], "batch": BATCH[0]}, learning_rate=1.0)
    assert later["weight"].tolist() == [3.0, 4.0]
    assert metrics["when"] == 1
    assert later.digest() != after.digest()
    assert training(after, BATCH, learning_rate=1.0)[0].digest() == later.digest()


def test_wrong_calls_of_a_training_step(training: Executable) -> None:
    state = training.init()
    assert "called as exe(state, batch)" in message(training, BATCH)
    assert "called as exe(state, batch)" in message(training, state)
    assert "the batch has 1 arrays, expected 2: batch, target" in message(training, state, BATCH[:1])
    assert "missing target 'target'" in message(training, state, {"batch": BATCH[0]})
    assert "unknown input 'label'" in message(training, state, {"batch": BATCH[0], "target": BATCH[1], "label": BATCH[1]})
    assert "missing parameter 'weight'" in message(training, State({}), BATCH)


@pytest.mark.parametrize("seed", (2**63, -(2**63) - 1, 1.5, "1", None))
def test_seeds_have_64_bits(training: Executable, seed: Any) -> None:
    with pytest.raises(InputError, match=f"seed={seed!r}; expected a 64-bit integer"):
        training.init(seed)


@pytest.mark.parametrize("batch", (5, iter(BATCH)))
def test_a_batch_is_a_sequence_or_a_mapping(training: Executable, batch: Any) -> None:
    assert "expected batch, target in a tuple or by name" in message(training, training.init(), batch)


@pytest.mark.parametrize("rate", (float("nan"), float("inf"), 1e300, "0.1"))
def test_unusable_learning_rates(training: Executable, rate: Any) -> None:
    with pytest.raises(InputError, match="expected a finite number"):
        training(training.init(), BATCH, learning_rate=rate)


def test_a_learning_rate_is_never_made_up() -> None:
    state = {"weight": np.array([1, 2], np.float32), "untouched": np.array([1], np.float32)}
    exe = compile(Source(descent(), State(state)), TARGET)
    with pytest.raises(InputError, match="learning_rate=None; expected a finite number"):
        exe(exe.init(), BATCH)


def test_writing_into_the_arrays_of_a_state_changes_nothing(training: Executable) -> None:
    training.init()["weight"][...] = 7
    assert training.init()["weight"].tolist() == [1.0, 2.0]


def test_training_continues_from_a_file(training: Executable, tmp_path: Path) -> None:
    state = training(training.init(seed=-(2**63)), BATCH)[0]
    training.save(tmp_path / "step.gtvm", state=state)
    loaded = load(tmp_path / "step.gtvm")
    assert (loaded.state.step, loaded.state.seed) == (1, -(2**63))
    after, metrics = loaded(loaded.state, BATCH)
    assert (metrics["when"], metrics["seed"]) == (1, -(2**63))
    assert after.digest() == training(state, BATCH)[0].digest()
    assert (load_source(tmp_path / "step.gtvm").state.step, loaded.init().step) == (1, 0)


def test_an_empty_state_is_not_replaced_by_the_initial_one(training: Executable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing arrays"):
        training.save(tmp_path / "step.gtvm", state=State({}))


# ---- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", (0, -1, 1.5, "2"))
def test_fewer_than_one_thread_is_refused(threads: Any, inference: Executable) -> None:
    with pytest.raises(InputError, match=f"threads={threads!r}; expected at least 1"):
        Executable.from_library(
            inference.graph, inference.state, inference.library, target=TARGET, schedule="none", threads=threads
        )
    with pytest.raises(InputError, match=f"threads={threads!r}; expected at least 1"):
        compile(inference.graph, TARGET, threads=threads)


@pytest.mark.parametrize("library", (b"", b"not a library", b"\x7fELF" + bytes(100)))
def test_damaged_libraries_are_refused(library: bytes) -> None:
    with pytest.raises(TargetError, match=r"the library for target 'c' cannot be loaded[\s\S]*what to do"):
        Executable.from_library(affine(), State({}), library, target="c", schedule="none")


def test_properties(inference: Executable, training: Executable) -> None:
    assert inference.digest == serialise.digest(inference.graph)
    assert not inference.is_training_step
    assert training.is_training_step
    assert training.learning_rate == 0.5
    assert inference.threads >= 1


@pytest.mark.parametrize("thing", (None, torch.nn.Linear(1, 1), "model.onnx"))
def test_things_that_cannot_be_compiled(thing: Any) -> None:
    with pytest.raises(InvalidProgramError, match=f"this cannot be compiled\\n  found: {type(thing).__name__}"):
        compile(thing, TARGET)
    with pytest.raises(InvalidProgramError, match="a training step needs a program"):
        training_step(thing)


@pytest.mark.parametrize(
    ("name", "text"), [("arm", "unknown target 'arm'; expected native, x86-64"), ("", "unknown target ''")]
)
def test_unknown_targets(name: str, text: str) -> None:
    with pytest.raises(TargetError, match=text):
        compile(affine(), name)


@pytest.mark.parametrize("offset", (0, 4, 16, 20, 32, 64))
def test_an_input_anywhere_in_memory(offset: int) -> None:
    b = GraphBuilder("anywhere")
    x = b.add_input("x", "input", TensorType((171, 129), "float32"))
    b.add_output("y", b.emit("matmul", b.emit("exp", x), b.emit("transpose", x, perm=(1, 0))))
    exe = compile(b.finish())
    values = np.random.default_rng(0).standard_normal((171, 129)).astype("float32")
    memory = np.empty(values.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    moved = memory[start : start + values.nbytes].view("float32").reshape(values.shape)
    moved[...] = values
    assert np.array_equal(exe(moved).view("u4"), exe(values.copy()).view("u4"))
