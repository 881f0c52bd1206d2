"""Runs whose steps accumulate gradients, and the other options of a step in a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm.cli import main
from gensyn_tvm.errors import CheckpointError, InputError
from gensyn_tvm.program import Program
from gensyn_tvm.trainer import Checkpoints, Trainer, epoch_order
from gensyn_tvm.training.accumulation import accumulated_step

Data = dict[str, np.ndarray]

MODEL = """
import torch

def line():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3), torch.zeros(4, 5)
"""


@pytest.fixture(scope="module")
def line() -> Program:
    torch.manual_seed(0)
    return gensyn_tvm.from_torch(nn.Linear(5, 3), (torch.zeros(4, 5),))


def test_both_ways_of_accumulating_take_the_same_samples_and_continue(line: Program, data: Data, tmp_path: Path) -> None:
    whole = gensyn_tvm.compile(gensyn_tvm.training_step(line, microbatches=2), threads=1)
    exe = gensyn_tvm.compile(accumulated_step(line, microbatches=2), threads=1)
    state = whole.init(3)
    for k in range(4):
        chosen = epoch_order(22, 3, k // 2)[8 * (k % 2) : 8 * (k % 2) + 8]
        batch = (data["x"][chosen].reshape(2, 4, 5), data["y"][chosen].reshape(2, 4))
        state, _ = whole(state, batch)
    assert Trainer(whole, microbatches=2, seed=3).fit(data, epochs=2).state.digest() == state.digest()
    assert Trainer(exe, seed=3).fit(data, epochs=2).state.digest() == state.digest()

    def trainer(step: Any, **options: Any) -> Trainer:
        return Trainer(step, seed=3, checkpoints=Checkpoints(tmp_path), **options)

    trainer(exe).fit(data, steps=3)
    with pytest.raises(CheckpointError, match="of another run"):
        trainer(whole, microbatches=2).fit(data, steps=4, resume=True)
    assert trainer(exe).fit(data, steps=4, resume=True).state.digest() == state.digest()
    with pytest.raises(InputError, match=r"^batch 0 \(epoch 0\): a batch cannot be cut into 2 micro"):
        Trainer(exe).fit([(data["x"][:7], data["y"][:7])], steps=1)
    for step, wrong in ((exe, 3), (whole, 3)):
        with pytest.raises(InputError, match="the step has not 3 microbatches"):
            Trainer(step, microbatches=wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_norm = 1.0\nclip_value = 1.0", "step: give one of clip_norm and clip_value"),
        ("loss_scale = 2.0", "step: loss_scale goes with precision"),
        ("clip_norm = -1.0", "step: ClipNorm"),
        ("precision = 'float64'", "step: MixedPrecision cannot use this dtype"),
        ("precision = 'float16'\nloss_scale = 3.0", "step: StaticLossScale"),
        ("precision = 'float16'\nloss_scale = 'big'", "step.loss_scale"),
        ("microbatches = 2", "accumulated steps are not saved"),
        ("frozen = ['conv*']", "no parameter matches the frozen pattern 'conv*'"),
    ],
)
def test_options_of_a_step_that_cannot_be(
    tmp_path: Path, data: Data, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", allow_pickle=False, x=data["x"], y=data["y"])
    config = tmp_path / "c.toml"
    config.write_text(f"[model]\nsource = 'model.py:line'\n[data]\nfiles = 'data.npz'\n[run]\nsteps = 2\n[step]\n{text}\n")
    assert main(["train", str(config), "--set", "output.step=s.gtvm", "--json"]) == 1
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_options_of_a_step(line: Program, tmp_path: Path, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", allow_pickle=False, x=data["x"], y=data["y"])
    config = tmp_path / "c.toml"
    config.write_text(
        "[model]\nsource = 'model.py:line'\n[data]\nfiles = 'data.npz'\n[run]\nsteps = 2\n"
        "metrics = ['accuracy', 'gradient_norm']\n"
        "[step]\nfrozen = ['bias']\nclip_norm = 0.1\nmicrobatches = 2\nprecision = 'bfloat16'\nloss_scale = 'dynamic'\n"
        "[evaluation]\ndata = { files = 'data.npz' }\nevery = 1\n[output]\nmodel = 'm.gtvm'\n"
    )
    assert main(["train", str(config), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"gradient_norm", "accuracy", "evaluation accuracy"} <= set(result)
    assert "evaluation gradient_norm" not in result
    trained = gensyn_tvm.load(tmp_path / "m.gtvm").state
    assert (trained["bias"] == line.parameters["bias"]).all()
    assert (trained["weight"] != line.parameters["weight"]).any()
