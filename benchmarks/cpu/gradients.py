"""The two gradients of convolution layers, which a training step computes; PyTorch has them as one operator with a mask."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.cpu.cases import Case, Workload, tensor
from benchmarks.cpu.kernels import CONVOLUTIONS
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType

BATCH = 4
QUICK = ("resnet 1 middle", "mobilenet depth 3")


class Gradient(nn.Module):
    """Gradient of a convolution by its input (from dy, w) or its weight (from x, dy)."""

    def __init__(self, of_input: bool, shape: tuple[int, ...], stride: int, padding: int, groups: int) -> None:
        super().__init__()
        self.of_input, self.shape = of_input, shape
        self.options = (None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [of_input, not of_input, False])

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # The operator takes x and w for either gradient; of the one that is not needed it reads the shape only.
        dy, x, w = (a, b.new_empty(self.shape), b) if self.of_input else (b, a, a.new_empty(self.shape))
        return torch.ops.aten.convolution_backward(dy, x, w, *self.options)[0 if self.of_input else 1]


def gradient(of_input: bool, i: int, size: int, o: int, kernel: int, stride: int, groups: int) -> Workload:
    """The gradient by input or weight of ``kernels.convolution``'s layer."""
    padding = kernel // 2
    after = (size + 2 * padding - kernel) // stride + 1
    x, w, dy = (BATCH, i, size, size), (o, i // groups, kernel, kernel), (BATCH, o, after, after)
    shapes, missing = ((dy, w), x) if of_input else ((x, dy), w)
    builder = GraphBuilder("gradient")
    values = [builder.add_input(n, "input", TensorType(s, "float32")) for n, s in zip("ab", shapes, strict=True)]
    pairs = ((padding, padding), (padding, padding))
    if of_input:
        op, last = "conv_backward_data", {"input_spatial": (size, size)}
    else:
        op, last = "conv_backward_weight", {"kernel": (kernel, kernel)}
    result = builder.emit(op, *values, strides=(stride, stride), padding=pairs, dilations=(1, 1), groups=groups, **last)
    builder.add_output("gradient", result)
    module = Gradient(of_input, missing, stride, padding, groups).eval()
    return Workload(module, tuple(tensor(n, *s) for n, s in zip("ab", shapes, strict=True)), graph=builder.finish())


def cases() -> Iterator[Case]:
    """Both gradients of every layer; of a network's first layer only the weight's is ever needed."""
    for name, shape in CONVOLUTIONS.items():
        for what, of_input in (("input", True), ("weight", False)):
            if not (of_input and name.endswith("stem")):
                yield Case("conv_gradients", f"{name}, {what}", partial(gradient, of_input, *shape), name in QUICK)
