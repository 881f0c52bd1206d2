"""What PyTorch does beside our programs on a GPU: single operators, and training steps of two networks.

ResNet-50 (He et al. 2016; 25.6 million parameters) and GPT-2 (Radford et al. 2019; 124 million), with cross entropy. They are
written here, in PyTorch alone, because the machine with the GPU need have no other library; ``benchmarks/gpu_pack.py`` imports
them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight


class _Bottleneck(nn.Module):
    """Three convolutions and a way around them; the stride is that of the second."""

    def __init__(self, i: int, width: int, stride: int) -> None:
        super().__init__()
        o = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(i, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, o, 1, bias=False), nn.BatchNorm2d(o)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.short(x), inplace=True)


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> nn.Module:
    """ResNet-50, or a smaller one of the same kind."""
    layers: list[nn.Module] = []
    i = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            layers.append(_Bottleneck(i, inner, 2 if stage and not block else 1))
            i = 4 * inner
    stem = (nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, classes))


class _Block(nn.Module):
    """Attention to what came before, and two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = (y.view(n, t, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """GPT-2; the head is the embedding. Logits (N, vocabulary, T)."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 50257, length: int = 1024
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight).transpose(1, 2)


@dataclass(frozen=True)
class Trained:
    """A network, its batch and its optimizer.

    Attributes:
        make: the module.
        shape: of the input.
        classes: of the targets; for tokens also of the input.
        per_token: whether inputs are tokens, each with a target.
        optimizer: of PyTorch, from parameters.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    per_token: bool
    optimizer: Callable[[Any], torch.optim.Optimizer]

    def example(self, device: str = "cpu") -> torch.Tensor:
        """An input."""
        if self.per_token:
            return torch.randint(self.classes, self.shape, device=device)
        return torch.randn(self.shape, device=device)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """With momentum, as ResNets are trained."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """As GPTs are trained."""
    return torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.01)


TRAINED: dict[str, Trained] = {
    "resnet50, batch 32": Trained(resnet, (32, 3, 224, 224), 1000, False, sgd),
    "gpt2 124M, batch 4 x 128": Trained(Gpt2, (4, 128), 50257, True, adamw),
}


@dataclass(frozen=True)
class Operator:
    """A function in a shape that large networks have.

    Attributes:
        run: of PyTorch.
        shapes: of its inputs, float32.
        below: the first input is of int64 from 0 up to this number; 0: it is not.
        canonical: our operator and its attributes, where ``run`` is not what ``torch.export`` makes a program of.
    """

    run: Callable[..., torch.Tensor]
    shapes: tuple[tuple[int, ...], ...]
    below: int = 0
    canonical: tuple[str, Mapping[str, Any]] | None = None

    def example(self, device: str = "cpu") -> list[torch.Tensor]:
        """Inputs."""
        found = [torch.randn(shape, device=device) for shape in self.shapes]
        if self.below:
            found[0] = torch.randint(self.below, self.shapes[0], device=device)
        return found


def _convolution(n: int, channels: int, size: int, filters: int, kernel: int, stride: int = 1) -> Operator:
    run = partial(F.conv2d, stride=stride, padding=kernel // 2)
    return Operator(run, ((n, channels, size, size), (filters, channels, kernel, kernel)))


def _gradients(n: int, channels: int, size: int, filters: int) -> tuple[Operator, Operator]:
    """Of images and of weights, for a convolution with a 3x3 kernel that keeps their size."""
    image, weight, result = (n, channels, size, size), (filters, channels, 3, 3), (n, filters, size, size)
    common = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    return (
        Operator(
            lambda y, w: conv2d_input(image, w, y, padding=1),
            (result, weight),
            canonical=("conv_backward_data", {**common, "input_spatial": (size, size)}),
        ),
        Operator(
            lambda x, y: conv2d_weight(x, weight, y, padding=1),
            (image, result),
            canonical=("conv_backward_weight", {**common, "kernel": (3, 3)}),
        ),
    )


_LARGE = (8192, 4096)
_OF_IMAGES, _OF_WEIGHTS = _gradients(32, 64, 56, 64)
OPERATORS: dict[str, Operator] = {
    **{f"matmul {n}x{n}x{n}": Operator(torch.matmul, ((n, n), (n, n))) for n in (1024, 2048, 4096)},
    "matmul 1x4096x4096": Operator(torch.matmul, ((1, 4096), (4096, 4096))),
    "matmul 48 x 512x64x512": Operator(torch.matmul, ((48, 512, 64), (48, 64, 512))),
    "linear 2048x768x3072": Operator(F.linear, ((2048, 768), (3072, 768))),
    "conv 3x3 32x64x56x56 64": _convolution(32, 64, 56, 64, 3),
    "conv 3x3's gradient of images": _OF_IMAGES,
    "conv 3x3's gradient of weights": _OF_WEIGHTS,
    "conv 1x1 32x256x56x56 64": _convolution(32, 256, 56, 64, 1),
    "conv 7x7 32x3x224x224 64, stride 2": _convolution(32, 3, 224, 64, 7, 2),
    "add 8192x4096": Operator(torch.add, (_LARGE, _LARGE)),
    "tanh 8192x4096": Operator(torch.tanh, (_LARGE,)),
    "gelu 8192x4096": Operator(partial(F.gelu, approximate="tanh"), (_LARGE,)),
    "sum of rows 8192x4096": Operator(lambda x: torch.sum(x, 1), (_LARGE,)),
    "sum of columns 8192x4096": Operator(lambda x: torch.sum(x, 0), (_LARGE,)),
    "softmax 8192x4096": Operator(lambda x: torch.softmax(x, 1), (_LARGE,)),
    "layer norm 8192x768": Operator(lambda x, w, b: F.layer_norm(x, (768,), w, b), ((8192, 768), (768,), (768,))),
    "sum of channels 32x256x56x56": Operator(lambda x: torch.sum(x, (0, 2, 3)), ((32, 256, 56, 56),)),
    "embedding 4096 of 50257x768": Operator(F.embedding, ((4096,), (50257, 768)), below=50257),
}


def operator(chosen: Operator, device: str) -> Callable[[], torch.Tensor]:
    """A function that computes an operator on arrays that are on the device."""
    inputs = chosen.example(device)
    return lambda: chosen.run(*inputs)


def training_step(chosen: Trained, device: str) -> Callable[[], torch.Tensor]:
    """A function that trains for one step on a batch that is on the device, eagerly; it returns the loss."""
    model = chosen.make().train().to(device)
    optimizer = chosen.optimizer(model.parameters())
    x = chosen.example(device)
    target = torch.randint(chosen.classes, chosen.shape if chosen.per_token else chosen.shape[:1], device=device)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def peer(name: str, number: int) -> Callable[[], object]:
    """What PyTorch does of this name, in float32 without TF32 on a GPU; it works on the default stream, as our programs do.

    Args:
        name: of ``OPERATORS`` or of ``TRAINED``.
        number: of the GPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device = f"cuda:{number}"
    torch.cuda.set_device(device)
    return training_step(TRAINED[name], device) if name in TRAINED else operator(OPERATORS[name], device)
