"""``gensyn-tvm convert --train``: one step of training, compared with the model's framework; backends of Keras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # after Keras' backend is chosen

from gensyn_tvm.conversion import sources
from gensyn_tvm.errors import ImportModelError
from tests.frontends.convert_models import KERAS_MODEL, convert, write_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    ("model", "options", "note"),
    [
        ("model.onnx", ("--shape", "x=4,2"), "an ONNX file has no training"),
        ("models.py:moded", ("--loss", "mean_squared_error"), ""),
        ("saved_plain", ("--loss", "l1"), ""),
        ("model.keras", ("--batch", 4, "--loss", "huber"), ""),
        ("models.py:fixed", ("--loss", "cosine_similarity"), "mean_squared_error in place of cosine_similarity"),
    ],
)
def test_training_of_every_framework(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, options: tuple[object, ...], note: str
) -> None:
    """The same loss, gradients and next states, or a word why not."""
    arguments = (folder / model, *options, "--train", "-o", tmp_path / "a.gtvm", "--no-compile", "--report", "json")
    report = json.loads(convert(capsys, *arguments))
    step = report["training"]
    assert note in (report["note"] if step is None else step["note"])
    if model == "model.onnx":
        assert step is None
        return
    assert max(step["differences"].values()) <= 2e-5, step
    assert {f"gradient of {name}" for name in report["parameters"]} < set(step["differences"])
    if model in ("models.py:moded", "saved_plain", "model.keras"):
        assert any(name.startswith("next ") for name in step["differences"])


def test_another_gradient_is_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gtvm"
    right = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a: right(*a) * 1.001)
    text = convert(capsys, f"{folder}/models.py:fixed", "--train", "--no-compile", "-o", path, code=1)
    assert all(f"{what} differs by 0.00" in text for what in ("loss", "gradient of weight", "gradient of bias")), text
    assert not path.exists()


BACKENDS = """
import sys
from gensyn_tvm.cli import main
from gensyn_tvm.conversion.convert import Settings, convert
from gensyn_tvm.conversion.sources import Request
from gensyn_tvm.errors import ImportModelError
from pathlib import Path

model, output, backend = sys.argv[1:]
report = convert(Request(model, batch=3, train=True, backend=backend), Path(output), Settings(targets=()))
assert report.verification.reference.endswith("on " + backend) and report.training.reference.endswith("on " + backend)
assert max(report.verification.largest, report.training.largest) <= 2e-5, report
assert report.training.note == "dropout is off in both" and len(report.training.differences) == 9, report.training
try:
    convert(Request(model, batch=3, backend="tensorflow"), Path(output))
except ImportModelError as error:
    assert "another backend already" in str(error) and backend in str(error), error
else:
    raise SystemExit("a second backend")
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras_backends(tmp_path: Path, backend: str) -> None:
    """Convolution, batch normalisation and dropout, trained on each backend; Keras has one backend in a process."""
    pytest.importorskip(backend)
    (tmp_path / "model.py").write_text(KERAS_MODEL)
    command = [sys.executable, "-W", "ignore", "-c", BACKENDS, f"{tmp_path}/model.py:net", str(tmp_path / "a.gtvm"), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_backends_that_do_not_fit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ("-o", tmp_path / "a.gtvm")
    text = convert(capsys, folder / "model.pt2", "--backend", "tensorflow", *output, code=1)
    assert "--backend is for Keras" in text and "torch" in text
    text = convert(capsys, folder / "model.keras", "--batch", 2, "--backend", "torch", *output, code=1)
    assert "another backend already" in text and "tensorflow" in text
    with pytest.raises(ImportModelError, match="cannot run on mxnet here"):
        sources.find(sources.Request(str(folder / "model.keras"), backend="mxnet"))
