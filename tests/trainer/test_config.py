"""``gensyn-tvm train config.toml``: from a file to a run, and what the file may not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.cli import main
from gensyn_tvm.errors import ConfigError
from gensyn_tvm.trainer import Trainer, checkpoints
from gensyn_tvm.trainer.config import read_config

MODEL = """
import torch

def small(batch):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(5, 3)), torch.zeros(batch, 5)

def data():
    return {"x": torch.zeros(8, 5).numpy(), "y": torch.zeros(8, dtype=torch.int64).numpy()}
"""

CONFIG = """
loss = { kind = "cross_entropy", label_smoothing = 0.1 }

[model]
source = "model.py:small"
batch = 4

[data]
files = "data.npz"

[run]
epochs = 2
seed = 3
threads = 1

[optimizer]
kind = "adamw"
lr = 0.02
betas = [0.8, 0.99]

[evaluation]
data = { files = { x = "x.npy", y = "y.npy" } }
every = 4

[checkpoints]
folder = "checkpoints"
every = 3

[logs]
csv = "log.csv"
tensorboard = "events"

[output]
model = "trained.gtvm"
step = "step.gtvm"
"""


@pytest.fixture
def folder(tmp_path: Path, data: dict[str, np.ndarray]) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "config.toml").write_text(CONFIG)
    np.savez(tmp_path / "data.npz", allow_pickle=False, x=data["x"], y=data["y"])
    for name in data:
        np.save(tmp_path / f"{name}.npy", data[name])
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def test_a_configuration_is_the_run_that_it_describes(
    folder: Path, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config = folder / "config.toml"
    result = call(capsys, "train", config)
    program = gensyn_tvm.commands.load_model(f"{folder}/model.py:small", batch=4)
    optimizer = gensyn_tvm.AdamW(lr=0.02, betas=(0.8, 0.99))
    step = gensyn_tvm.training_step(program, loss=gensyn_tvm.CrossEntropy(label_smoothing=0.1), optimizer=optimizer)
    expected = Trainer(step, seed=3, threads=1).fit(data, epochs=2).state.digest()
    assert (result["training_program"], result["steps"], result["weights"]) == (step.digest, 10, expected)
    assert result["checkpoint"] == str(checkpoints(folder / "checkpoints")[-1])
    assert result["best"].startswith("step ")
    assert {"loss", "accuracy", "evaluation loss", "evaluation accuracy"} <= set(result)
    assert len((folder / "log.csv").read_text().splitlines()) == 11
    assert list((folder / "events").glob("events.out.tfevents.*"))
    trained = gensyn_tvm.load(folder / "trained.gtvm")
    assert trained(np.zeros((4, 5), np.float32)).shape == (4, 3)

    # A saved step goes on where it was: its own random numbers, its own learning rate.
    (folder / "more.toml").write_text('[model]\nsource = "step.gtvm"\n[data]\nfiles = "data.npz"\n[run]\nsteps = 2\nseed = 3\n')
    more = call(capsys, "train", folder / "more.toml")
    exe = gensyn_tvm.load(folder / "step.gtvm")
    state = Trainer(exe, seed=3).fit(data, steps=2, state=exe.state).state
    assert (more["steps"], more["weights"]) == (12, state.digest())


def test_resume_and_overrides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder / "config.toml"
    (folder / "plain.toml").write_text(CONFIG.split("[evaluation]")[0] + '[checkpoints]\nfolder = "c"\n')
    whole = call(capsys, "train", folder / "plain.toml", "--set", "checkpoints.folder=whole", "--steps", 7)
    part = call(capsys, "train", folder / "plain.toml", "--steps", 4)
    assert part["steps"] == 4
    assert "there are checkpoints already" in call(capsys, "train", folder / "plain.toml", code=1)["error"]["message"]
    rest = call(capsys, "train", folder / "plain.toml", "--steps", 7, "--resume")
    assert rest["weights"] == whole["weights"]
    schedule = "learning_rate = {kind = 'warmup', steps = 2, then = {kind = 'constant', lr = 0.1}}"
    assert call(capsys, "train", folder / "plain.toml", "--set", "checkpoints.folder=s", "--set", schedule)["steps"] == 10
    other = read_config(config, ["optimizer.lr=1e-3", "run.target=x86-64", "run.seed = 9", "learning_rate=0.5"], steps=5)
    assert not isinstance(other.optimizer, str | None)
    assert other.optimizer.settings() == {"lr": 1e-3, "betas": [0.8, 0.99]}
    assert (other.run.target, other.run.seed, other.run.steps, other.run.epochs) == ("x86-64", 9, 5, None)
    assert other.learning_rate == 0.5


def test_averages_are_evaluated_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = "optimizer={kind='exponential_moving_average', decay=0.5, optimizer={kind='sgd', lr=0.5}}"
    averaged = ("--set", "evaluation.averaged=true", "--set", "output.averaged=true")
    result = call(capsys, "train", folder / "config.toml", "--set", optimizer, *averaged)
    step, model = (gensyn_tvm.load(folder / name).state for name in ("step.gtvm", "trained.gtvm"))
    assert all((step[f"{name}.ema"] == model[name]).all() for name in model)
    assert any((step[name] != model[name]).any() for name in model)
    plain = call(capsys, "train", folder / "config.toml", "--set", optimizer, "--set", "checkpoints.folder=plain")
    assert plain["weights"] == result["weights"]
    assert plain["evaluation loss"] != result["evaluation loss"]
    message = call(capsys, "train", folder / "config.toml", *averaged, "--set", "checkpoints.folder=c", code=1)
    assert "the state has no averages of parameters" in message["error"]["message"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.epoch=3"], "run.epoch: unknown key"),
        (["optimiser.lr=3"], "optimiser: unknown key"),
        (["evaluation.data.file=a.npz"], "evaluation.data.file: unknown key"),
        (["run.epochs=0"], "run.epochs: Input should be greater than 0"),
        (["run.epochs=two"], "run.epochs: Input should be a valid integer"),
        (["run.seed=1.5"], "run.seed: "),
        (["run.steps=3"], "run: give one of steps and epochs"),
        (["data.tokens=t.bin"], "data: give one of files, tokens and source"),
        (["data.block=8"], "data: tokens and block go together"),
        (["model.batch=-1", "logs.every=0"], "logs.every: "),
        (["checkpoints.keep=true"], "checkpoints.keep: "),
        (["model.shapes.x=[1, 'a']"], "model.shapes.x.1: "),
        (["loss=3"], "loss: "),
        (["loss.kind=3"], "loss.kind: "),
        (["run.seed"], "unusable override\n  found: run.seed"),
        (["run..seed=1"], "unusable override\n  found: run..seed=1"),
        (["run.seed.low=1"], "expected: seed to be a table"),
    ],
)
def test_invalid_configurations_are_named(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_config(folder / "config.toml", overrides)
    assert message in str(raised.value)


def test_unreadable_configurations(tmp_path: Path) -> None:
    for name, contents, message in (
        ("a", None, "No such file"),
        ("b", b"[run", "b.toml"),
        ("c", b"\xff", "c.toml"),
        ("d", b"", "model: "),
    ):
        path = tmp_path / f"{name}.toml"
        if contents is not None:
            path.write_bytes(contents)
        with pytest.raises(ConfigError, match=message):
            read_config(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.momentum=0.9"], "optimizer: optimizer 'adamw' does not have the setting 'momentum'"),
        (["optimizer.kind=adamx"], "optimizer: unknown optimizer 'adamx'"),
        (["optimizer.lr=-1"], "optimizer: AdamW: lr"),
        (["learning_rate.kind=sawtooth"], "learning_rate: unknown learning-rate schedule 'sawtooth'"),
        (["learning_rate={kind = 'cosine', begin = 1}"], "does not have the setting 'begin'"),
        (["loss.smoothing=1"], "unknown settings of cross_entropy\n  found: loss.smoothing"),
        (["loss=hinge"], "loss: no such kind\n  found: hinge"),
        (["data.files=none.npz"], "arrays cannot be read"),
        (["model.source=none.py:small"], "no such Python file"),
        (["model.source=none.onnx", "model.batch=1"], "none.onnx"),
        (["model.source=no_such_module_here:f"], "no such Python module"),
        (["model.source=model.pt"], "this is not a model"),
        (["run.target=avr"], "avr"),
        (["output.model=none/m.gtvm"], "No such file"),
    ],
)
def test_errors_of_a_run_name_the_key_or_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    settings = [part for override in overrides for part in ("--set", override)]
    assert message in call(capsys, "train", folder / "config.toml", *settings, code=1)["error"]["message"]
    assert not checkpoints(folder / "checkpoints")


def test_keys_that_a_saved_step_decides(folder: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "train", folder / "config.toml", "--set", f"model.source={saved}/step.gtvm", code=1)
    found = "found: loss, optimizer, evaluation, output.model, model.batch"
    assert found in result["error"]["message"]


def test_resume_needs_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.toml").write_text(CONFIG.replace("[checkpoints]", "").replace('folder = "checkpoints"\nevery = 3', ""))
    assert "--resume needs checkpoints" in call(capsys, "train", folder / "config.toml", "--resume", code=1)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.toml", "--lr", "1"], "not with a configuration: --lr; use --set"),
        (["c.toml", "-o", "x.gtvm"], "not with a configuration: --output"),
        (["m.onnx", "--data", "d.npz", "-o", "x.gtvm", "--resume"], "not with a model: --resume"),
        (["m.onnx", "--data", "d.npz"], "required: --data, -o/--output"),
    ],
)
def test_options_of_the_other_way_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["train", *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_data_of_a_function_and_an_interrupted_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "f.toml").write_text(
        '[model]\nsource = "model.py:small"\nbatch = 4\n[data]\nsource = "model.py:data"\n[run]\nsteps = 3\n'
        '[checkpoints]\nfolder = "c"\n'
    )

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("stopped after step 2; saved as here")

    assert call(capsys, "train", folder / "f.toml")["steps"] == 3
    monkeypatch.setattr(Trainer, "fit", interrupted)
    assert main(["train", str(folder / "f.toml"), "--resume"]) == 130
    assert capsys.readouterr().err == "stopped after step 2; saved as here\n"
