"""Run by test_hostile_environment.py in a process of its own: a hostile library first, then a program of ours."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.fpenv import is_default
from gensyn_tvm.runtime.machine import Machine, use_threads

LIBC = ctypes.PyDLL(None)
# x86-64 <fenv.h>
ROUNDING = {"upward": 0x800, "toward zero": 0xC00}
ROWS, COLUMNS = 400, 700


def sensitive() -> Graph:
    """The graph that the library was built from."""
    b = GraphBuilder("sensitive")
    x, y = (b.add_input(n, "input", TensorType((ROWS, COLUMNS), "float32")) for n in "xy")
    b.add_output("product", b.emit("mul", x, y))
    b.add_output("sum", b.emit("sum", b.emit("add", x, y), axes=(1,), keepdims=False))
    b.add_output("matmul", b.emit("matmul", x, b.emit("transpose", y, perm=(1, 0))))
    b.add_output("exp", b.emit("exp", x))
    return b.finish()


def inputs() -> dict[str, np.ndarray]:
    """Half of the rows ordinary numbers, half around the smallest normal one."""
    rng = np.random.default_rng(2)
    arrays = {n: rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) for n in "xy"}
    arrays["x"][::2] *= np.float32(2.0**-126)
    return arrays


def be_hostile(kind: str) -> None:
    """What any library may do to its process."""
    if "flush" in kind:
        assert torch.set_flush_denormal(True)
    for name, mode in ROUNDING.items():
        if name in kind:
            assert LIBC.fesetround(mode) == 0


def environment() -> bytes:
    """The floating-point environment of this thread as bytes."""
    buffer = (ctypes.c_uint8 * 256)()
    assert LIBC.fegetenv(ctypes.byref(buffer)) == 0
    return bytes(buffer)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> list[bool]:
    """Whether the bits of each output are equal; no float arithmetic, which is hostile here."""
    return [bool((f.view(np.uint32) == e.view(np.uint32)).all()) for f, e in zip(found, expected, strict=True)]


def unguarded(exe: Executable, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A run without the guard."""
    machine = exe._machine
    assert isinstance(machine, Machine)
    use_threads(exe.threads)
    held = exe._give(given, {})
    outputs = machine.outputs([True] * len(machine.plan.outputs))
    machine.unguarded(exe.threads)
    del held
    return outputs


def main(library: str, when: str, kind: str) -> None:
    """``when``: whether TVM's threads exist before the hostility or inherit it."""
    given = inputs()
    graph = sensitive()
    expected = interpreter.run(graph, given)
    exe = Executable.from_library(graph, State({}), Path(library).read_bytes(), target="native", schedule="fast", threads=2)
    if when == "after the threads":
        assert all(same([o.numpy() for o in exe.run(given, {})], expected)), "wrong without any hostility"
    be_hostile(kind)
    assert not is_default()
    spoiled = same(unguarded(exe, given), expected)
    assert not all(spoiled), "nothing here depends on the environment: the check proves nothing"
    before = environment()
    for threads in (2, 1, 2):
        guarded = same([o.numpy() for o in replace(exe, threads=threads).run(given, {})], expected)
        assert all(guarded), f"the guard let hostility through with {threads} threads: {guarded}"
        assert environment() == before, "the caller's environment is not what it was"
        call = replace(exe, threads=threads).bind()
        call(*given.values())
        assert call.is_short
        called = same(call(*given.values()), expected)
        assert all(called), f"a call in C let hostility through with {threads} threads: {called}"
        assert environment() == before, "the caller's environment is not what it was after a call in C"
        assert not is_default()
    print("as it should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
