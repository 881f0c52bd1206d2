"""``make gpu`` with everything but the device: a small pack, checked and timed by the packed script on the emulated driver."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import gpu_pack
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import compile
from scripts import gpu_check, gpu_peers
from scripts.gpu_peers import OPERATORS, Gpt2, Operator, Trained, adamw, resnet, sgd, training_step

from .emulator import driver
from .emulator.programs import emulated, library

COUNT = 1024
#: GPT-2 without layers: embeddings, a normalisation and the head, which is the embedding, too.
TOKENS = Trained(lambda: Gpt2(0, 16, 2, 11, 8), (3, 8), 11, True, adamw)
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
        lambda: gpu_pack.timed("matmul 17x33x9", Operator(torch.matmul, ((17, 33), (33, 9)))),
        lambda: gpu_pack.timed_training("tokens", TOKENS),
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
        *("operators: gather", "operators: narrow movement", "training: mlp", "training step: tokens")
    ]
    assert rows["training step: tokens"]["seconds"] > 0
    assert "training step: tokens: equal, " in done.stdout
    assert rows["training step: tokens"]["torch"].startswith("not installed")
    assert found["torch"] is None
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


def test_peers_take_turns_and_the_ratio_is_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for PyTorch on a GPU, which is twice as long at work."""
    entries = {e["name"]: e for e in json.loads((place / "pack" / "manifest.json").read_text(encoding="utf-8"))["programs"]}
    turns: list[str] = []
    with emulated(monkeypatch, tmp_path) as log:
        monkeypatch.setenv("EMULATED_KERNELS", str(place / "kernels"))
        context = gpu_check.Context()
        found = gpu_check.alternating(context, {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")})
        assert turns == ["a", "b"] * (len(turns) // 2)
        assert {name: len(seconds) for name, seconds in found.items()} == {"a": 20, "b": 20}
        monkeypatch.setattr(gpu_check, "_peer", lambda *_: (lambda: time.sleep(0.05), ""))
        row = gpu_check.trained(context, place / "pack", entries["training step: tokens"])
        assert row["equal"]
        assert row["of_torch"] == row["torch_seconds"] / row["seconds"]
        assert row["torch_seconds"] > 0.05
        assert row["tflops"] > 0
        assert "cuMemcpyDtoDAsync_v2" not in log.read_text(encoding="ascii").split("cuEventCreate", 3)[3], "state was copied"


def test_networks_beside_learn() -> None:
    torch.manual_seed(0)
    images = Trained(lambda: resnet((1, 1), 4, 10), (4, 3, 32, 32), 10, False, sgd)
    for chosen in (images, Trained(lambda: Gpt2(1, 16, 2, 11, 8), (3, 8), 11, True, adamw)):
        step = training_step(chosen, "cpu")
        losses = [float(step()) for _ in range(8)]
        assert losses[-1] < losses[0]
    assert sum(p.numel() for p in resnet().parameters()) == 25_557_032
    with torch.device("meta"):
        assert sum(p.numel() for p in Gpt2().parameters()) == 124_439_808


@pytest.mark.parametrize("name", ["conv", "images", "weights", "layer norm", "channels", "embedding", "linear"])
def test_operators_beside_compute_what_ours_do(name: str) -> None:
    images, weights = gpu_peers._gradients(2, 3, 7, 4)
    found = {
        "conv": gpu_peers._convolution(2, 3, 8, 4, 3, 2),
        "images": images,
        "weights": weights,
        "layer norm": replace(OPERATORS["layer norm 8192x768"], shapes=((3, 768), (768,), (768,))),
        "channels": replace(OPERATORS["sum of channels 32x256x56x56"], shapes=((3, 5, 4, 4),)),
        "embedding": Operator(F.embedding, ((7,), (11, 3)), below=11),
        "linear": Operator(F.linear, ((5, 4), (3, 4))),
    }[name]
    torch.manual_seed(0)
    graph, inputs = gpu_pack.graph_of(found), found.example()
    ours = interpreter.run(graph, {i.name: x.numpy() for i, x in zip(graph.inputs, inputs, strict=True)})
    np.testing.assert_allclose(ours[0], found.run(*inputs).numpy(), rtol=1e-4, atol=1e-5)
