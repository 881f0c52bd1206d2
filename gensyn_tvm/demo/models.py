"""The two models: a CNN written in PyTorch, and an MLP that comes as an ONNX file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.program import Program

MLP_FILE = Path(__file__).with_name("digits_mlp.onnx")


def initial_values(shape: tuple[int, ...], fan_in: int, seed: int) -> np.ndarray:
    """Uniform in ±1 / sqrt(fan_in) from raw Philox words by exact arithmetic, so that they are the same bits everywhere."""
    words = np.random.Philox(key=seed).random_raw(math.prod(shape)) >> np.uint64(40)
    unit = words.astype(np.float64) / 2.0**23 - 1.0
    return (unit / np.sqrt(np.float64(fan_in))).astype(np.float32).reshape(shape)


def build_cnn() -> Any:
    """Convolutions with batch normalisation, max pooling, dropout: (N, 1, 8, 8) -> (N, 10) logits."""
    import torch
    from torch import nn

    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 16, 3, padding=1, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(16))
    model.add_module("relu1", nn.ReLU())
    model.add_module("conv2", nn.Conv2d(16, 32, 3, padding=1, bias=False))
    model.add_module("bn2", nn.BatchNorm2d(32))
    model.add_module("relu2", nn.ReLU())
    model.add_module("pool", nn.MaxPool2d(2))
    model.add_module("flatten", nn.Flatten())
    model.add_module("drop", nn.Dropout(0.25))
    model.add_module("fc1", nn.Linear(32 * 4 * 4, 64))
    model.add_module("gelu", nn.GELU())
    model.add_module("fc2", nn.Linear(64, 10))
    with torch.no_grad():
        for k, (name, parameter) in enumerate(model.named_parameters()):
            if not name.startswith("bn"):
                shape = tuple(parameter.shape)
                weight = model.get_parameter(name.rsplit(".", 1)[0] + ".weight")
                fan_in = math.prod(weight.shape[1:])
                parameter.copy_(torch.from_numpy(initial_values(shape, fan_in, seed=100 + k)))
    return model.train()


def import_cnn(batch: int) -> Program:
    """The CNN through PyTorch's exporter."""
    import torch

    from gensyn_tvm.frontends.torch import from_torch

    return from_torch(build_cnn(), (torch.zeros(batch, 1, 8, 8),))


def import_mlp(batch: int) -> Program:
    """The MLP from its ONNX file, whose batch dimension is free."""
    from gensyn_tvm.frontends.onnx import from_onnx

    return from_onnx(MLP_FILE, shapes={"image": (batch, 64)})


@dataclass(frozen=True)
class Model:
    """A model of the demonstration.

    Attributes:
        name: for the report.
        origin: where it comes from, in words.
        load: program for a batch size.
        shape: of one sample.
        learning_rate: of AdamW.
        steps: optimizer steps of the full training.
    """

    name: str
    origin: str
    load: Callable[[int], Program]
    shape: tuple[int, ...]
    learning_rate: float
    steps: int


MODELS = (
    Model("CNN", "PyTorch module", import_cnn, (1, 8, 8), 2e-3, 330),
    Model("MLP", "ONNX file", import_mlp, (64,), 2e-3, 1100),
)
