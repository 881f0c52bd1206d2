"""A program against PyTorch's own intermediate tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.modules import compare_modules
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.frontends.torch_trace import capture
from gensyn_tvm.interpreter.registry import OPERATORS
from gensyn_tvm.training.step import training_step

TOLERANCE = 2e-5  # of the largest magnitude of each tensor; both sides are float32 with different orders of summation


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(self.act(x))) + x)


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), Block(), Block(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3))
    )


X = np.random.Generator(np.random.Philox(5)).standard_normal((2, 1, 8, 8)).astype(np.float32)


def test_every_module_agrees() -> None:
    model = cnn().eval()
    program = from_torch(model, (torch.from_numpy(X),), input_names=["x"])
    captured = capture(model, (X,))
    found = compare_modules(program, {"x": X}, captured, tolerance=TOLERANCE)
    assert found.first is None
    paths = [m.path for m in found.modules]
    assert paths[:5] == ["0", "1.conv", "1.norm", "1.act", "1"]
    assert paths[-2:] == ["6", ""]
    assert found.unmatched == ("4",)  # dropout in eval() mode computes nothing
    assert 0 < max(m.error or 0.0 for m in found.modules) < TOLERANCE
    assert found.modules[1].source == "1.conv:conv2d"


def test_first_module_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn().eval()
    program = from_torch(model, (torch.from_numpy(X),), input_names=["x"])
    captured = capture(model, (X,))
    with torch.no_grad():
        model[2].norm.bias[1] += 0.01
    other = capture(model, (X,))
    first = compare_modules(program, {"x": X}, other, tolerance=TOLERANCE, target="interpreter").first
    assert first is not None
    assert (first.path, first.op, first.source) == ("2.norm", "add", "2.norm:batch_norm")
    assert first.index == (0, 1, 0, 0)
    assert first.theirs in str(first)

    real = OPERATORS["max_pool"]
    monkeypatch.setitem(OPERATORS, "max_pool", lambda *a: real(*a) + np.float32(1))
    first = compare_modules(program, {"x": X}, captured, tolerance=TOLERANCE, target="interpreter").first
    assert first is not None
    assert first.path == "3"


def test_training_mode_is_compared_with_a_training_step() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train()
    step = training_step(from_torch(model, (torch.from_numpy(X),), input_names=["x"]))
    batch = {"x": X, "y": np.array([0, 2])}
    found = compare_modules(step, batch, capture(model, (X,)), tolerance=TOLERANCE)
    assert found.first is None
    assert [m.path for m in found.modules] == ["0", "1", "2", "3", ""]


def test_capture_changes_nothing_and_copies_before_work_in_place() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    captured = capture(model, (torch.arange(12.0).reshape(4, 3),))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert captured["0"].min() < 0 <= captured["1"].min()
    assert not any(child._forward_hooks for child in model.modules())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.linear = nn.Tanh(), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.linear(self.act(x)))


def test_a_module_that_is_called_twice_keeps_its_last_call() -> None:
    model = Twice()
    program = from_torch(model, (torch.zeros(2, 3),), input_names=["x"])
    x = X[0, 0, :2, :3].copy()
    captured = capture(model, (x,))
    assert captured["act"].tobytes() == captured[""].tobytes()
    found = compare_modules(program, {"x": x}, captured, tolerance=TOLERANCE)
    assert found.first is None
    assert [m.path for m in found.modules] == ["linear", "act", ""]


def test_a_module_with_two_paths_is_left_out() -> None:
    act = nn.Tanh()
    assert list(capture(nn.Sequential(act, nn.Linear(3, 3), act), (torch.zeros(2, 3),))) == ["1", ""]


def test_another_model_is_refused() -> None:
    program = from_torch(nn.Sequential(nn.Linear(3, 2)), (torch.zeros(2, 3),), input_names=["x"])
    with pytest.raises(InputError, match="no captured module is in the program"):
        compare_modules(program, {"x": X[0, 0, :2, :3]}, {"features": np.zeros((2, 2), np.float32)})
