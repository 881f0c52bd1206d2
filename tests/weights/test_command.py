"""``gensyn-tvm weights``: out of a .gtvm file, into files of the frameworks, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gensyn_tvm
from gensyn_tvm import weights
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import source_of
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.file import read_gtvm
from gensyn_tvm.runtime.packaging import save_source
from gensyn_tvm.trainer.checkpoint import write_checkpoint
from tests.weights.training import all_same, trained, with_specials


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def program() -> gensyn_tvm.Program:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    return gensyn_tvm.from_torch(module, (torch.zeros(4, 5),))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_out_and_in(program: gensyn_tvm.Program, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = with_specials(weights.weights_of(program))
    model, other, file = tmp_path / "m.gtvm", tmp_path / "n.gtvm", tmp_path / f"w.{suffix}"
    save_source(model, source_of(weights.with_weights(program, arrays)))
    told = call(capsys, "weights", "export", model, "-o", file)
    assert told["arrays"] == len(arrays)
    gensyn_tvm.compile(program, "c").save(other)
    again = call(capsys, "weights", "import", other, file, "-o", tmp_path / "o.gtvm", "--trusted")
    assert again["weights"] == told["weights"] and "unused" not in again
    contents = read_gtvm(tmp_path / "o.gtvm")
    assert all_same(dict(contents.arrays), arrays)
    assert contents.graph == read_gtvm(other).graph and list(contents.libraries) == ["c"]
    x = np.ones((4, 5), np.float32)
    expected = gensyn_tvm.compile(weights.with_weights(program, arrays), "c")(x)
    assert gensyn_tvm.load(tmp_path / "o.gtvm")(x).tobytes() == expected.tobytes()


def test_checkpoints_and_training_steps(
    program: gensyn_tvm.Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run's checkpoint the model's arrays are taken; a training step keeps its optimizer state."""
    state = trained(program)
    arrays = weights.weights_of(program, state)
    step = gensyn_tvm.training_step(program, optimizer=gensyn_tvm.SGD(lr=0.1, momentum=0.9))
    folder = write_checkpoint(tmp_path / "run", State(state, 2), program=step.digest, data={}, learning_rates={})
    model = tmp_path / "m.gtvm"
    save_source(model, source_of(program))
    call(capsys, "weights", "export", model, "--checkpoint", folder, "-o", tmp_path / "w.safetensors")
    assert all_same(weights.load_weights(tmp_path / "w.safetensors"), arrays)
    told = call(capsys, "weights", "import", model, folder, "-o", tmp_path / "n.gtvm")
    assert sorted(told["unused"]) == sorted(set(state) - set(arrays)) and told["unused"]
    assert all_same(dict(read_gtvm(tmp_path / "n.gtvm").arrays), arrays)
    save_source(tmp_path / "step.gtvm", source_of(step))
    call(capsys, "weights", "import", tmp_path / "step.gtvm", tmp_path / "w.safetensors", "-o", tmp_path / "s.gtvm")
    assert all_same(dict(read_gtvm(tmp_path / "s.gtvm").arrays), {**step.optimizer_state, **arrays})


def test_errors(program: gensyn_tvm.Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.gtvm"
    save_source(model, source_of(program))
    weights.save_weights(tmp_path / "w.safetensors", {**weights.weights_of(program), "more": np.zeros(1)})
    arguments = ("weights", "import", model, tmp_path / "w.safetensors", "-o", tmp_path / "n.gtvm")
    error = call(capsys, *arguments, code=1)["error"]
    assert error["message"] == "the weights do not fit the program\n  found: unknown: more"
    assert not (tmp_path / "n.gtvm").exists()
    assert call(capsys, *arguments, "--allow-unknown")["unused"] == ["more"]
    error = call(capsys, "weights", "export", model, "-o", tmp_path / "w.onnx", code=1)["error"]
    assert "--template" in error["message"]
    error = call(capsys, "weights", "export", model, "-o", tmp_path / "no" / "w.pt", code=1)["error"]
    assert "No such file or directory" in error["message"]
    with pytest.raises(SystemExit):
        main(["weights", "export", str(model)])
    assert "--output" in capsys.readouterr().err
