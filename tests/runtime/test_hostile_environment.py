"""Libraries in the same process that flush subnormals or change the rounding mode do not reach our bits.

Each check runs in a process of its own: TVM's threads live as long as the process and inherit the environment of their birth.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import build_library
from gensyn_tvm.targets.cpu import TARGETS, resolve_target

from ..operators.support import NATIVE

ROWS, COLUMNS = 400, 700
SCRIPT = Path(__file__).with_name("hostile.py")
KINDS = ("flush", "upward", "toward zero", "flush and upward")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels that use threads and whose results are subnormal or rounded."""
    b = GraphBuilder("sensitive")
    x, y = (b.add_input(n, "input", TensorType((ROWS, COLUMNS), "float32")) for n in "xy")
    b.add_output("product", b.emit("mul", x, y))
    b.add_output("sum", b.emit("sum", b.emit("add", x, y), axes=(1,), keepdims=False))
    b.add_output("matmul", b.emit("matmul", x, b.emit("transpose", y, perm=(1, 0))))
    b.add_output("exp", b.emit("exp", x))
    path = tmp_path_factory.mktemp("hostile") / "program.so"
    path.write_bytes(build_library(b.finish(), resolve_target(NATIVE), "none" if TARGETS[NATIVE].kind == "c" else "fast"))
    return path


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ("before the threads", "after the threads"))
def test_bits_survive(when: str, kind: str, threads: int, library: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(library), when, kind, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("as it should be")
