"""The networks in PyTorch: modules and functions that everybody uses, batch first, NCHW."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

import gensyn_tvm
from gensyn_tvm.program import Program

from .arrays import (
    BATCH,
    BLOCK,
    CHANNELS,
    CNN,
    EPSILON,
    FEATURES,
    FLAT_CHANNELS_FIRST,
    HEADS,
    LENGTH,
    LSTM,
    MLP,
    SIZE,
    STEPS,
    UNITS,
    WIDTH,
)


def _set(parameter: torch.Tensor, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(array, order="C", copy=True)))


def _linear(weight: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(*weight.shape)
    _set(layer.weight, weight.T)
    _set(layer.bias, bias)
    return layer


def _convolution(kernel: np.ndarray, bias: np.ndarray, stride: int) -> torch.nn.Conv2d:
    layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, stride)
    _set(layer.weight, kernel.transpose(3, 2, 0, 1))
    _set(layer.bias, bias)
    return layer


def mlp() -> Program:
    model = torch.nn.Sequential(_linear(MLP["w1"], MLP["b1"]), torch.nn.ReLU(), _linear(MLP["w2"], MLP["b2"]))
    return gensyn_tvm.from_torch(model, (torch.zeros(BATCH, FEATURES),))


class Cnn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = _convolution(CNN["k1"], CNN["c1"], 1)
        self.second = _convolution(CNN["k2"], CNN["c2"], 2)
        self.out = _linear(CNN["w"], CNN["b"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(self.second(x))
        return self.out(x.mean((2, 3)))


def cnn() -> Program:
    return gensyn_tvm.from_torch(Cnn(), (torch.zeros(BATCH, CHANNELS[0], SIZE, SIZE),))


def flattened() -> Program:
    """The features as PyTorch numbers them: channel by channel."""
    model = torch.nn.Sequential(
        _convolution(CNN["k1"], CNN["c1"], 1), torch.nn.Flatten(), _linear(FLAT_CHANNELS_FIRST, MLP["b2"])
    )
    return gensyn_tvm.from_torch(model, (torch.zeros(BATCH, CHANNELS[0], SIZE, SIZE),))


class Lstm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(FEATURES, UNITS, batch_first=True)
        self.out = _linear(LSTM["o"], LSTM["c"])
        for parameter, array in zip(
            self.lstm.parameters(), (LSTM["w"].T, LSTM["r"].T, LSTM["b"], np.zeros_like(LSTM["b"])), strict=True
        ):
            _set(parameter, array)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0])


def lstm() -> Program:
    return gensyn_tvm.from_torch(Lstm(), (torch.zeros(BATCH, STEPS, FEATURES),))


class Block(torch.nn.Module):
    """Normalisation before attention and before the feed-forward part; both are added to their input."""

    def __init__(self) -> None:
        super().__init__()
        for n in "qkvo":
            setattr(self, n, _linear(BLOCK[f"w{n}"], BLOCK[f"b{n}"]))
        self.up, self.down = _linear(BLOCK["up"], BLOCK["up_b"]), _linear(BLOCK["down"], BLOCK["down_b"])
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(WIDTH, EPSILON) for _ in range(2)])
        for k, norm in enumerate(self.norms, 1):
            _set(norm.weight, BLOCK[f"scale{k}"])
            _set(norm.bias, BLOCK[f"shift{k}"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(BATCH, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)

        y = self.norms[0](x)
        q, k, v = heads(self.q(y)), heads(self.k(y)), heads(self.v(y))
        scores = (q / math.sqrt(WIDTH // HEADS)) @ k.transpose(-1, -2)
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)
        x = x + self.o(mixed)
        return x + self.down(F.relu(self.up(self.norms[1](x))))


def gelu() -> Program:
    model = torch.nn.Sequential(_linear(MLP["w1"], MLP["b1"]), torch.nn.GELU(), _linear(MLP["w2"], MLP["b2"]))
    return gensyn_tvm.from_torch(model, (torch.zeros(BATCH, FEATURES),))


def block() -> Program:
    return gensyn_tvm.from_torch(Block(), (torch.zeros(BATCH, LENGTH, WIDTH),))
