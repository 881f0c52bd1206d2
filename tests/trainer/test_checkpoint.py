"""Checkpoints: everything comes back, damage is named, and a kill at any moment leaves a whole one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes  # noqa: F401  (teaches NumPy the names of the narrow dtypes)
import numpy as np
import pytest

from gensyn_tvm.canonical.types import DTYPES, NARROW, carrier_of, from_carrier
from gensyn_tvm.errors import CheckpointError
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.trainer.checkpoint import (
    ARRAYS,
    MANIFEST,
    _own_digest,
    checkpoints,
    latest_checkpoint,
    read_checkpoint,
    remove_old,
    write_checkpoint,
)


def save(folder: Path, step: int, arrays: dict[str, np.ndarray] | None = None) -> Path:
    state = State(arrays or {"w": np.arange(step, step + 6, dtype=np.float32).reshape(2, 3)}, step, -3)
    return write_checkpoint(folder, state, program="p", data={"batches": step}, learning_rates={"count": step})


def test_every_dtype_comes_back_to_the_bit(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for dtype in DTYPES:
        bits = np.arange(256) % 2 ** NARROW.get(dtype, 8)
        for name, shape in (("v", (256,)), ("m", (8, 0, 3)), ("s", ())):
            count = int(np.prod(shape))
            plain = bits[:count].reshape(shape).astype(carrier_of(dtype))
            arrays[f"{dtype}.{name}"] = from_carrier(plain, dtype) if dtype in NARROW else plain.astype(dtype)
    arrays["special"] = np.array([0x7FF0000000000001, 0x8000000000000000, 1], np.uint64).view(np.float64)
    arrays["gamma/ü"] = np.array([[1.5]], np.float64)
    state = State(arrays, 12, -(2**63))
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, state, program="p", data={}, learning_rates={}))
    assert (checkpoint.state.step, checkpoint.state.seed) == (12, -(2**63))
    assert checkpoint.state.digest() == state.digest()
    assert set(checkpoint.state) == set(arrays)


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", 4), save(tmp_path / "b", 4)
    for name in (ARRAYS, MANIFEST):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def edit(path: Path, *, honest: bool, **changes: object) -> None:
    """Change the JSON; if not honest, its own digest too."""
    manifest = json.loads((path / MANIFEST).read_text())
    manifest.update(changes)
    if not honest:
        manifest["digest"] = _own_digest(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def cut(path: Path, name: str, keep: int) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:keep])


def flip(path: Path, name: str, at: int) -> None:
    data = bytearray((path / name).read_bytes())
    data[at] ^= 1
    (path / name).write_bytes(bytes(data))


FLOATS = {"w": {"dtype": "float64", "shape": [2, 3]}}


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda p: cut(p, ARRAYS, 50), ARRAYS, "found: 50 bytes"),
        (lambda p: cut(p, ARRAYS, 0), ARRAYS, "found: 0 bytes"),
        (lambda p: flip(p, ARRAYS, -1), ARRAYS, "found: SHA-256"),
        (lambda p: (p / ARRAYS).unlink(), ARRAYS, "No such file"),
        (lambda p: cut(p, MANIFEST, 100), MANIFEST, "no JSON"),
        (lambda p: cut(p, MANIFEST, 0), MANIFEST, "no JSON"),
        (lambda p: (p / MANIFEST).unlink(), MANIFEST, "No such file"),
        (lambda p: (p / MANIFEST).write_text("[]"), MANIFEST, "another format"),
        (lambda p: (p / MANIFEST).write_bytes(b"\xff"), MANIFEST, "no JSON"),
        (lambda p: edit(p, honest=True, step=8), MANIFEST, "do not have the digest that they state"),
        (lambda p: edit(p, honest=True, data={"batches": 1}), MANIFEST, "do not have the digest that they state"),
        (lambda p: edit(p, honest=True, step="7"), MANIFEST, "unusable keys step"),
        (lambda p: edit(p, honest=True, more=1), MANIFEST, "unusable keys more"),
        (lambda p: edit(p, honest=True, format_version=99), MANIFEST, "format version 99"),
        (lambda p: edit(p, honest=True, numerics="0"), MANIFEST, "numerics version '0'"),
        (lambda p: edit(p, honest=False, step=8), MANIFEST, "found: step 8"),
        (lambda p: edit(p, honest=False, state_digest="0"), ARRAYS, "a state with digest"),
        (lambda p: edit(p, honest=False, arrays={}), ARRAYS, r"arrays \['w'\]"),
        (lambda p: edit(p, honest=False, arrays=FLOATS), ARRAYS, "'w' stored as F32"),
        (lambda p: edit(p, honest=False, arrays={"w": {}}), MANIFEST, "array 'w'"),
        (lambda p: edit(p, honest=False, file={}), MANIFEST, "unusable keys file"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], file: str, message: str) -> None:
    good, bad = save(tmp_path, 3), save(tmp_path, 7)
    damage(bad)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_checkpoint(bad)
    assert str(bad / file) in str(raised.value)
    with pytest.warns(RuntimeWarning, match=message):
        assert latest_checkpoint(tmp_path).path == good
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match="nothing to continue"):
        latest_checkpoint(tmp_path)


def test_an_empty_or_missing_folder_has_nothing_to_continue(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=re.escape(f"in: {folder}\n  found: no checkpoint")):
            latest_checkpoint(folder)
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "none")


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    (tmp_path / ".unfinished-0123").mkdir()
    remove_old(tmp_path, 2, best_step=1)
    assert [p.name for p in checkpoints(tmp_path)] == [f"step-{n:012d}" for n in (1, 4, 5)]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_whole_one_of_the_same_state_is_not_written_again_and_a_damaged_one_is(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    before = (path / ARRAYS).stat().st_ino
    save(tmp_path, 5)
    assert (path / ARRAYS).stat().st_ino == before
    cut(path, ARRAYS, 9)
    save(tmp_path, 5)
    assert latest_checkpoint(tmp_path).state.step == 5


def test_a_save_that_fails_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path, 1)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [good]


#: Forks children that save step 2 over step 1 and are killed at their n-th call that touches the disk, for every n.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.trainer.checkpoint import latest_checkpoint, remove_old, write_checkpoint

folder = Path(sys.argv[1])

def save(step):
    state = State({"w": np.full((100, 100), step, np.float32)}, step, 0)
    write_checkpoint(folder, state, program="p", data={}, learning_rates={})
    remove_old(folder, 1)

def child(n):
    left = [n]
    def deadly(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for name in ("fsync", "rename", "mkdir", "unlink", "rmdir", "open"):
        setattr(os, name, deadly(getattr(os, name)))
    save(2)
    os._exit(0)

seen = []
for n in range(1, 100):
    save(1)
    pid = os.fork()
    if not pid:
        child(n)
    status = os.waitpid(pid, 0)[1]
    checkpoint = latest_checkpoint(folder)
    assert checkpoint.state["w"][0, 0] == checkpoint.state.step
    seen.append(checkpoint.state.step)
    if status == 0:
        break
    for path in folder.iterdir():
        if path.name.startswith("step-") and path.name.endswith("2"):
            import shutil
            shutil.rmtree(path)
print(*seen)
"""


def test_a_kill_at_any_call_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = [int(word) for word in done.stdout.split()]
    # First the old one, from the rename on the new one.
    assert len(seen) >= 8
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
