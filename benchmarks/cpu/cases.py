"""What is measured: a module of PyTorch with its inputs, which every contestant gets.

Inputs and weights are uniform numbers of NumPy's generator, computed with integers and single multiplications only, so that
they are the same bits on every machine and the digests of our outputs can be compared with recorded ones.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gensyn_tvm.canonical.graph import Graph

#: Groups in the order of reports; models are compared with each peer, kernels with the fastest.
KERNEL_GROUPS = (
    "gemm",
    "conv",
    "softmax",
    "norms",
    "elementwise",
    "attention",
    "pooling",
    "reductions",
    "conv_gradients",
    "overhead",
)
MODEL_GROUPS = ("inference", "training", "scaling")


@dataclass(frozen=True)
class Workload:
    """A module with example inputs.

    Attributes:
        module: in ``train()`` mode for a training step, else in ``eval()`` mode.
        inputs: of ``module.forward``.
        numpy: the same function of NumPy arrays, where NumPy has it.
        target: int64 classes of a training step with cross entropy, None for inference.
        graph: what we compile where it is not the module; ONNX Runtime has no such operator then.
    """

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    numpy: Callable[..., np.ndarray] | None = None
    target: np.ndarray | None = None
    graph: Graph | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        group: one of ``KERNEL_GROUPS`` or ``MODEL_GROUPS``.
        name: unique within the group.
        make: builds the workload.
        quick: whether the quick sample has it.
        tolerance: largest difference from PyTorch's output, relative to its largest element.
    """

    group: str
    name: str
    make: Callable[[], Workload]
    quick: bool = False
    tolerance: float = 1e-4


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


def uniform(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Float32 numbers between ``low`` and ``high`` that depend on the name and the shape only."""
    values = np.random.default_rng(zlib.crc32(name.encode())).random(shape, np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


def tensor(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """``uniform`` as a tensor."""
    return torch.from_numpy(uniform(name, shape, low, high))


def indices(name: str, shape: tuple[int, ...], below: int) -> np.ndarray:
    """Int64 numbers from 0 to ``below`` (exclusive)."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, below, shape)


def with_weights(module: nn.Module) -> nn.Module:
    """The module with new weights: matrices with variance 1 / fan-in, vectors near 1 (norms' scales) or near 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            if len(shape) > 1:
                bound = math.sqrt(3.0 / math.prod(shape[1:]))
                parameter.copy_(tensor(name, *shape, low=-bound, high=bound))
            else:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(tensor(name, *shape, low=centre - 0.1, high=centre + 0.1))
    return module
