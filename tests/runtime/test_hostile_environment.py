"""Libraries in the same process that flush subnormals or change the rounding mode do not reach our bits.

Each check runs in a process of its own: TVM's threads live as long as the process and inherit the environment of their birth.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gensyn_tvm.compiler import build_library
from gensyn_tvm.targets.cpu import TARGETS

from ..operators.support import NATIVE
from .hostile import sensitive

SCRIPT = Path(__file__).with_name("hostile.py")
KINDS = ("flush", "upward", "toward zero", "flush and upward")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once for all processes."""
    path = tmp_path_factory.mktemp("hostile") / "program.so"
    path.write_bytes(build_library(sensitive(), TARGETS[NATIVE], "fast"))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ("before the threads", "after the threads"))
def test_bits_survive(when: str, kind: str, library: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(library), when, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("as it should be")
