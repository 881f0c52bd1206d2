"""``make gpu`` with everything but the device: a small pack, checked and timed by the packed script on the emulated driver."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_pack
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile

from .emulator import driver
from .emulator.programs import library

COUNT = 1024
#: What a machine that runs a pack need not have.
ABSENT = ("tvm", "tvm_ffi", "safetensors", "mpmath", "rich", "torch")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked pack in ``pack`` and the emulated kernels in ``kernels``."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "kernels").mkdir()
    (folder / "absent").mkdir()
    for name in ABSENT:
        (folder / "absent" / f"{name}.py").write_text("raise ImportError('not on this machine')\n", encoding="ascii")
    items = [
        lambda: gpu_pack.operators("gather"),
        lambda: gpu_pack.operators("narrow movement"),
        lambda: gpu_pack.training("mlp", 3),
        lambda: gpu_pack.elementary(COUNT, ("exp", "sin", "tanh")),
        lambda: gpu_pack.matmul(17, 33, 9),
    ]
    gpu_pack.write_pack(folder / "pack.zip", iter(items), lambda graph: library(graph, folder / "kernels"), quiet=True)
    with zipfile.ZipFile(folder / "pack.zip") as archive:
        archive.extractall(folder / "pack")
    return folder


def check(place: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the packed script as on another machine: with the packed package only."""
    clean = {**os.environ, "PYTHONPATH": str(place / "absent")}
    emulated = {"LD_LIBRARY_PATH": str(Path(driver()).parent), "EMULATED_KERNELS": str(place / "kernels")}
    command = [sys.executable, str(place / "pack" / "gpu_check.py"), "--output", str(place / "result.json"), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env={**clean, **emulated, **environment})


def result(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "result.json").read_text(encoding="utf-8")))


def test_a_pack_is_checked_and_timed(place: Path) -> None:
    done = check(place, "--elementary", str(COUNT))
    assert done.returncode == 0, done.stdout + done.stderr
    found = result(place)
    assert found["device"]["name"] == "Emulated GPU"
    assert found["copy_gbytes_per_second"] > 0
    rows = found["programs"]
    assert [name for name, row in rows.items() if row.get("equal")] == [
        *("operators: gather", "operators: narrow movement", "training: mlp")
    ]
    assert rows["matmul 17x33x9"]["seconds"] > 0
    assert rows["matmul 17x33x9"]["tflops"] > 0
    x = np.arange(COUNT, dtype=np.uint32).view(np.float32)
    b = gpu_pack.GraphBuilder("f")
    b.add_output("y", b.emit("sin", b.add_input("x", "input", TensorType((COUNT,), "float32"))))
    expected = hashlib.sha256(compile(b.finish())(x)).hexdigest()
    assert rows["elementary functions"]["digests"]["sin"] == expected


def test_other_bits_are_named(place: Path) -> None:
    manifest = place / "pack" / "manifest.json"
    honest = manifest.read_text(encoding="utf-8")
    entries = json.loads(honest)
    entries["programs"][0]["digest"] = "0" * 64
    manifest.write_text(json.dumps(entries), encoding="utf-8")
    done = check(place, "--only", "operators: gather")
    manifest.write_text(honest, encoding="utf-8")
    assert done.returncode == 1
    assert "operators: gather: OTHER BITS" in done.stdout
    assert result(place)["programs"]["operators: gather"]["equal"] is False


@pytest.mark.parametrize(
    ("setting", "value", "code", "message"),
    [
        ("EMULATED_DEVICE", "", 2, "no GPU can run this program"),
        ("EMULATED_DEVICE", "Old;6;1", 2, "compute capability 6.1"),
        ("EMULATED_VERSION", "11080", 2, "install NVIDIA's driver, 580 or newer"),
        ("LD_LIBRARY_PATH", "/nowhere", 2, "no NVIDIA driver on this machine"),
        ("EMULATED_FAILURE", "cuModuleLoadData=209", 1, "compile the program again"),
        ("EMULATED_FAILURE", "cuLaunchKernel=2", 1, "no memory left: run a smaller batch"),
    ],
)
def test_errors_say_what_to_do(place: Path, setting: str, value: str, code: int, message: str) -> None:
    done = check(place, "--only", "operators: gather", **{setting: value})
    assert done.returncode == code
    assert message in done.stdout + done.stderr


def test_a_missing_pack_is_an_error(place: Path, tmp_path: Path) -> None:
    done = check(place, "--pack", str(tmp_path))
    assert done.returncode == 2
    assert "python -m benchmarks.gpu_pack" in done.stderr


def test_a_pack_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_pack, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="must be less than 1000"):
        gpu_pack.write_pack(tmp_path / "pack.zip", iter(()), lambda graph: b"", quiet=True)
    assert not list(tmp_path.iterdir())
