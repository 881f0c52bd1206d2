"""Programs for cuda with kernels that the emulated driver executes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.compiler import build_cuda, compile, source_of
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime import cuda_driver
from gensyn_tvm.runtime.cuda import unpack_device
from gensyn_tvm.runtime.executable import Executable
from gensyn_tvm.targets.gpu import CUDA

from . import add_kernels, driver


@contextmanager
def emulated(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """Within, the driver of this process is the emulated one; ``folder`` has its kernels and its log, whose path is given."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    log.touch()
    cuda_driver.driver.cache_clear()
    monkeypatch.setattr(cuda_driver, "LIBRARY", driver())
    monkeypatch.setenv("EMULATED_KERNELS", str(folder))
    monkeypatch.setenv("EMULATED_LOG", str(log))
    yield log
    cuda_driver.driver.cache_clear()


def executable(program: Any, folder: Path) -> Executable:
    """``compile(program, "cuda")`` whose kernels the emulated driver finds in ``folder``."""
    exe = compile(program, "cuda")
    emulate(exe, program, folder)
    return exe


def emulate(exe: Executable, program: Any, folder: Path) -> None:
    """Put the kernels of a compiled program where the emulated driver looks for them."""
    source = source_of(program)
    _emulate(source.graph, exe.library, folder, source.recomputed)


def library(graph: Graph, folder: Path) -> bytes:
    """The library of a graph for cuda, whose kernels the emulated driver finds in ``folder``."""
    built = build_cuda(graph, CUDA, "fast")
    _emulate(graph, built, folder)
    return built


def _emulate(graph: Graph, library: bytes, folder: Path, recomputed: Collection[int] = ()) -> None:
    fatbin, _ = unpack_device(library)
    add_kernels(folder, device_program(graph, CUDA, "fast", recomputed).source, fatbin)


def calls(log: Path) -> list[str]:
    """The functions that were called since the last time, without those that ask for something."""
    lines = log.read_text(encoding="ascii").splitlines()
    log.write_text("", encoding="ascii")
    return [line.split()[0] for line in lines if line.split()[0] != "cuCtxSetCurrent"]
