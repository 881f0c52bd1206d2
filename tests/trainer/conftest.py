"""A small network with dropout and batch normalisation, compiled once, and data that it can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.executable import Executable
from gensyn_tvm.trainer import evaluation_graph
from gensyn_tvm.training.step import TrainingStep


@pytest.fixture(scope="session")
def program() -> Program:
    """(4, 5) float32 → (4, 3) logits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)).train()
    return gensyn_tvm.from_torch(model, (torch.zeros(4, 5),))


@pytest.fixture(scope="session")
def step(program: Program) -> TrainingStep:
    return gensyn_tvm.training_step(program, optimizer=gensyn_tvm.AdamW(lr=0.02))


@pytest.fixture(scope="session")
def exe(step: TrainingStep) -> Executable:
    return gensyn_tvm.compile(step, threads=1)


@pytest.fixture(scope="session")
def evaluated(program: Program) -> Executable:
    """Loss and accuracy in inference mode."""
    return gensyn_tvm.compile(evaluation_graph(program), threads=1)


@pytest.fixture(scope="session")
def data() -> dict[str, np.ndarray]:
    """22 samples: five batches of four, and two samples too many."""
    rng = np.random.Generator(np.random.Philox(1))
    x = rng.standard_normal((22, 5)).astype(np.float32)
    return {"x": x, "y": np.argmax(x[:, :3], axis=1)}


@pytest.fixture(scope="session")
def saved(exe: Executable, data: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``step.gtvm`` and ``data.npz`` for other processes."""
    folder = tmp_path_factory.mktemp("saved")
    exe.save(folder / "step.gtvm")
    np.savez(folder / "data.npz", allow_pickle=False, x=data["x"], y=data["y"])
    return folder
