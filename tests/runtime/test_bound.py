"""Bound calls, prepared parameters and profiles: fast ways that never answer with what was true before."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tvm import runtime

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import InputError, TargetError
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.packaging import load
from gensyn_tvm.runtime.plan import VERSION, unpack

X = np.arange(12, dtype=np.float32).reshape(3, 4)
W = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
B = np.array([1, 2, 3, 4, 5], np.float32)


def dense() -> Graph:
    """y = x · exp(w) + sum of exp(w) over rows + b; exp(w) is prepared."""
    b = GraphBuilder("dense")
    x = b.add_input("x", "input", TensorType((3, 4), "float32"))
    w = b.add_input("w", "parameter", TensorType((4, 5), "float32"))
    bias = b.add_input("b", "parameter", TensorType((5,), "float32"))
    e = b.emit("exp", w)
    total = b.emit("add", b.emit("sum", e, axes=(0,), keepdims=False), bias)
    b.add_output("y", b.emit("add", b.emit("matmul", x, e), total))
    return b.finish()


@pytest.fixture(params=["native", "c"])
def exe(request: pytest.FixtureRequest) -> Executable:
    return compile(Source(dense(), State({"w": W, "b": B})), request.param)


def expected(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    (y,) = interpreter.run(dense(), {"x": x, "w": w, "b": b})
    return y


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_what_depends_on_parameters_only_is_prepared(exe: Executable) -> None:
    plan = unpack(exe.library)[1]
    assert 0 < plan.prepare < len(plan.steps)
    assert 1 in plan.fixed
    assert plan.areas["prepared"] >= W.nbytes


def test_a_call_binds_and_copies_nothing_twice(exe: Executable) -> None:
    call = exe.bind()
    for x in (X, -X, X[::-1], X.T.copy().T):
        assert equal(call(x), expected(x, W, B))
        assert equal(exe(x), expected(x, W, B))
    first = call(X)
    kept = first.copy()
    call(-X)
    assert equal(first, kept)


def test_results_go_into_given_arrays(exe: Executable) -> None:
    call = exe.bind()
    out = np.full((5, 3), 7, np.float32).T
    for _ in range(2):
        assert call(X, out=out) is out
        assert equal(np.ascontiguousarray(out), expected(X, W, B))
    for wrong in (np.empty((3, 4), np.float32), np.empty((3, 5)), [out, out]):
        with pytest.raises(InputError, match="the arrays for the results of program 'dense' do not fit"):
            call(X, out=wrong)
    with pytest.raises(InputError, match=r"2 inputs; expected x"):
        call(X, X)
    with pytest.raises(InputError, match=r"input 'x' is float64"):
        call(X.astype(np.float64))


def test_an_array_modified_in_place_is_noticed(exe: Executable) -> None:
    """The parameters of a bound call and of ``run``; those of the executable are its own."""
    w, b = W.copy(), B.copy()
    call = exe.bind({"w": w, "b": b})
    for step in range(4):
        assert equal(call(X), expected(X, w, b)), step
        assert equal(exe(X), expected(X, W, B)), step
        (y,) = exe.run({"x": X}, {"w": w, "b": b})
        assert equal(y.numpy(), expected(X, w, b)), step
        w[step, step] += 1
        b[step] *= 2
    for _ in range(2):
        assert equal(call(X), expected(X, w, b))
        b[4] += 1


def test_other_parameters_are_prepared_again(exe: Executable) -> None:
    tensors = [runtime.tensor(W * np.float32(k)) for k in (1, 2, 3)]
    for k in (0, 1, 2, 1, 1, 0):
        (y,) = exe.run({"x": X}, {"w": tensors[k], "b": B})
        assert equal(y.numpy(), expected(X, tensors[k].numpy(), B)), k
    for factor in (1.0, 2.0, 1.0):
        (y,) = exe.run({"x": X}, {"w": torch.from_numpy(W * np.float32(factor)), "b": B})
        assert equal(y.numpy(), expected(X, W * np.float32(factor), B)), factor


def test_the_model_of_the_caller_is_not_the_executable_s() -> None:
    w = W.copy()
    exe = compile(Source(dense(), State({"w": w, "b": B})), "c")
    w[...] = 0
    assert equal(exe(X), expected(X, W, B))
    with pytest.raises(ValueError, match="read-only"):
        exe.state.arrays["w"][0, 0] = 1


def test_another_state_of_the_executable_is_used(exe: Executable) -> None:
    assert equal(exe(X), expected(X, W, B))
    exe.state = State({"w": -W, "b": B})
    assert equal(exe(X), expected(X, -W, B))


def test_calls_from_several_threads() -> None:
    exe = compile(Source(dense(), State({"w": W, "b": B})), "c")
    calls: list[Any] = [exe.bind(), exe.bind({"w": -W, "b": B}), exe]
    weights = [W, -W, W]
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(200):
            x = X * np.float32(i)
            if not equal(calls[k](x), expected(x, weights[k], B)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def large() -> Graph:
    """y = x + x, z = x, of arrays that are not copied to fixed places."""
    b = GraphBuilder("large")
    x = b.add_input("x", "input", TensorType((200, 300), "float32"))
    k = b.add_input("k", "input", TensorType((100000,), "int64"))
    b.add_output("y", b.emit("add", x, x))
    b.add_output("k", k)
    b.add_output("flat", b.emit("reshape", k, shape=(100, 1000)))
    return b.finish()


def test_large_arrays_are_read_where_they_are_and_results_are_their_own() -> None:
    exe = compile(large(), "native")
    whole = np.arange(60001, dtype=np.float32)
    k = np.arange(100000)
    results = []
    for x in (whole[:-1].reshape(200, 300), whole[1:].reshape(200, 300), np.asfortranarray(whole[1:].reshape(200, 300))):
        y, same, flat = exe(x, k)
        assert equal(y, x + x)
        assert equal(same, k)
        assert equal(flat, k.reshape(100, 1000))
        assert not np.shares_memory(same, k)
        results.append((y, y.copy()))
    assert all(equal(a, b) for a, b in results)


def test_a_training_step_cannot_be_bound() -> None:
    b = GraphBuilder("step")
    w = b.add_input("w", "parameter", TensorType((2,), "float32"))
    b.add_output("w", b.emit("neg", w), updates=True)
    exe = compile(Source(b.finish(), State({"w": np.ones(2, np.float32)})), "c")
    with pytest.raises(InputError, match="cannot be bound"):
        exe.bind()


def test_a_profile_has_every_kernel_and_changes_nothing(exe: Executable) -> None:
    rows = exe.profile(X)
    plan = unpack(exe.library)[1]
    assert sum(r.calls for r in rows) == len(plan.steps)
    assert sum(r.calls for r in rows if r.prepared) == plan.prepare
    assert all(r.seconds > 0 for r in rows)
    assert equal(exe(X), expected(X, W, B))


def test_profile_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dense.gtvm"
    compile(Source(dense(), State({"w": W, "b": B})), "c").save(path)
    assert main(["profile", str(path), "--target", "c", "--top", "3"]) == 0
    text = capsys.readouterr().out
    assert "matmul" in text
    assert "a run of" in text


def test_a_library_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dense.gtvm"
    compile(Source(dense(), State({"w": W, "b": B})), "c").save(path)
    monkeypatch.setattr("gensyn_tvm.runtime.plan.VERSION", VERSION + 1)
    with pytest.raises(TargetError, match=rf"version {VERSION}, expected {VERSION + 1}[\s\S]*compile the program again"):
        load(path)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages are in memory")
@pytest.mark.usefixtures("exe")
def test_constants_of_a_library_are_in_memory_before_it_runs() -> None:
    """Otherwise a masked load of a constant that nobody else reads costs hundreds of cycles each time."""
    missing, mappings, size = 0, 0, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            size = -1 if words[1][:2] == "r-" and words[1][2] == "-" and "program.so" in line else 0
            mappings += size < 0
        elif size < 0 and words[0] == "Size:":
            missing += int(words[1])
        elif size < 0 and words[0] == "Rss:":
            missing -= int(words[1])
    assert mappings and missing == 0
