"""Kernels: single operations with the shapes that networks give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cpu.cases import Case, Function, Workload, tensor, with_weights

SQUARES = (64, 128, 256, 512, 1024, 2048, 4096)
#: (rows, terms, columns): a vector's product, tall, flat and odd ones, and one layer of BERT.
OTHERS = (
    (1, 1024, 1024),
    (1024, 1, 1024),
    (8, 4096, 1024),
    (64, 4096, 4096),
    (4096, 64, 512),
    (1021, 1021, 1021),
    (31, 77, 129),
    (128, 768, 3072),
)
QUICK_PRODUCTS = ("64x64x64", "256x256x256", "1024x1024x1024", "1x1024x1024", "31x77x129", "128x768x3072 w.T")

#: name: input channels, size, output channels, kernel, stride, groups; ResNet-50's (He et al. 2016) by stage, then
#: MobileNetV2's (Sandler et al. 2018).
CONVOLUTIONS: dict[str, tuple[int, int, int, int, int, int]] = {
    "resnet stem": (3, 224, 64, 7, 2, 1),
    "resnet 1 reduce": (64, 56, 64, 1, 1, 1),
    "resnet 1 middle": (64, 56, 64, 3, 1, 1),
    "resnet 1 expand": (64, 56, 256, 1, 1, 1),
    "resnet 2 reduce": (256, 56, 128, 1, 1, 1),
    "resnet 2 stride": (128, 56, 128, 3, 2, 1),
    "resnet 2 middle": (128, 28, 128, 3, 1, 1),
    "resnet 2 short": (256, 56, 512, 1, 2, 1),
    "resnet 3 middle": (256, 14, 256, 3, 1, 1),
    "resnet 3 expand": (256, 14, 1024, 1, 1, 1),
    "resnet 4 reduce": (2048, 7, 512, 1, 1, 1),
    "resnet 4 middle": (512, 7, 512, 3, 1, 1),
    "mobilenet stem": (3, 224, 32, 3, 2, 1),
    "mobilenet depth 1": (32, 112, 32, 3, 1, 32),
    "mobilenet depth 2": (96, 112, 96, 3, 2, 96),
    "mobilenet depth 3": (192, 28, 192, 3, 1, 192),
    "mobilenet depth 5": (576, 14, 576, 3, 1, 576),
    "mobilenet depth 7": (960, 7, 960, 3, 1, 960),
    "mobilenet widen 2": (24, 56, 144, 1, 1, 1),
    "mobilenet narrow 5": (576, 14, 96, 1, 1, 1),
    "mobilenet last": (320, 7, 1280, 1, 1, 1),
}
QUICK_CONVOLUTIONS = (
    "resnet stem",
    "resnet 1 middle",
    "resnet 3 expand",
    "resnet 4 middle",
    "mobilenet depth 3",
    "mobilenet widen 2",
)

FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., np.ndarray] | None, float, float]] = {
    "exp": (torch.exp, np.exp, -10.0, 10.0),
    "log": (torch.log, np.log, 0.01, 10.0),
    "tanh": (torch.tanh, np.tanh, -4.0, 4.0),
    "sigmoid": (torch.sigmoid, None, -8.0, 8.0),
    "erf": (torch.erf, None, -3.0, 3.0),
    "gelu": (F.gelu, None, -4.0, 4.0),
    "silu": (F.silu, None, -4.0, 4.0),
    "sin": (torch.sin, np.sin, -10.0, 10.0),
    "cos": (torch.cos, np.cos, -10.0, 10.0),
    "rsqrt": (torch.rsqrt, None, 0.01, 10.0),
    "sqrt": (torch.sqrt, np.sqrt, 0.0, 10.0),
    "relu": (torch.relu, None, -1.0, 1.0),
}
QUICK_FUNCTIONS = ("exp", "tanh", "gelu")


def _product(m: int, k: int, n: int) -> Workload:
    return Workload(Function(torch.matmul), (tensor("a", m, k), tensor("b", k, n)), np.matmul)


def _linear(m: int, k: int, n: int) -> Workload:
    """x @ w.T with the weight as an input, as layers store it."""
    return Workload(Function(F.linear), (tensor("a", m, k), tensor("b", n, k)), lambda x, w: np.matmul(x, w.T))


def _batched(b: int, m: int, k: int, n: int) -> Workload:
    return Workload(Function(torch.matmul), (tensor("a", b, m, k), tensor("b", b, k, n)), np.matmul)


def products() -> Iterator[Case]:
    """Matrix products."""
    for m, k, n in [*((s, s, s) for s in SQUARES), *OTHERS]:
        name = f"{m}x{k}x{n}"
        yield Case("gemm", name, partial(_product, m, k, n), name in QUICK_PRODUCTS)
    for m, k, n in ((256, 256, 256), (1024, 1024, 1024), (1, 1024, 1024), (8, 1024, 4096), (128, 768, 3072), (128, 768, 768)):
        name = f"{m}x{k}x{n} w.T"
        yield Case("gemm", name, partial(_linear, m, k, n), name in QUICK_PRODUCTS)
    for b, m, k, n in ((12, 128, 64, 128), (12, 128, 128, 64), (96, 32, 32, 32), (16, 256, 256, 256)):
        yield Case("gemm", f"{b} of {m}x{k}x{n}", partial(_batched, b, m, k, n))


def convolution(i: int, size: int, o: int, kernel: int, stride: int, groups: int, batch: int = 1) -> Workload:
    """A convolution without bias whose weight is a parameter; padded as the networks do."""
    module = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return Workload(with_weights(module).eval(), (tensor("x", batch, i, size, size),))


def convolutions() -> Iterator[Case]:
    """Convolution layers at batch 1, some at batch 16."""
    for name, shape in CONVOLUTIONS.items():
        yield Case("conv", name, partial(convolution, *shape), name in QUICK_CONVOLUTIONS)
    for name in ("resnet 1 middle", "resnet 3 middle", "resnet 3 expand", "mobilenet depth 3"):
        yield Case("conv", f"{name}, batch 16", partial(convolution, *CONVOLUTIONS[name], 16))


def _softmax(shape: tuple[int, ...], dim: int = -1) -> Workload:
    return Workload(Function(partial(F.softmax, dim=dim)), (tensor("x", *shape, low=-4, high=4),))


def _module(module: nn.Module, *shape: int) -> Workload:
    return Workload(with_weights(module).eval(), (tensor("x", *shape),))


def rows() -> Iterator[Case]:
    """Softmax and norms."""
    for shape in ((128, 128), (12, 128, 128), (1024, 1024), (32, 50257), (8, 12, 197, 197)):
        name = "x".join(map(str, shape))
        yield Case("softmax", name, partial(_softmax, shape), shape in ((12, 128, 128), (1024, 1024)))
    yield Case("softmax", "64x1000x49, axis 1", partial(_softmax, (64, 1000, 49), 1))
    for n, width in ((128, 768), (2048, 768), (4096, 1024), (197, 384)):
        make = partial(_module, nn.LayerNorm(width), n, width)
        yield Case("norms", f"layer {n}x{width}", make, (n, width) in ((128, 768), (2048, 768)))
    for n, width in ((128, 768), (2048, 1024)):
        yield Case("norms", f"rms {n}x{width}", partial(_module, nn.RMSNorm(width, 1e-6), n, width), n == 128)
    for shape in ((1, 64, 56, 56), (16, 256, 14, 14)):
        name = "x".join(map(str, shape))
        yield Case("norms", f"batch {name}", partial(_module, nn.BatchNorm2d(shape[1]), *shape))
    yield Case("norms", "group 4x64x56x56", partial(_module, nn.GroupNorm(32, 64), 4, 64, 56, 56))


def _elementwise(name: str, n: int) -> Workload:
    function, array, low, high = FUNCTIONS[name]
    return Workload(Function(function), (tensor("x", n, low=low, high=high),), array)


def _binary(
    function: Callable[..., torch.Tensor],
    x: tuple[int, ...],
    y: tuple[int, ...],
    array: Callable[..., np.ndarray] | None = None,
) -> Workload:
    return Workload(Function(function), (tensor("x", *x), tensor("y", *y)), array)


def _add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def _swiglu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.silu(x) * y


def elementwise() -> Iterator[Case]:
    """Functions of a million elements, and of few."""
    for name in FUNCTIONS:
        yield Case("elementwise", name, partial(_elementwise, name, 1 << 20), name in QUICK_FUNCTIONS)
    yield Case("elementwise", "gelu 16384", partial(_elementwise, "gelu", 1 << 14))
    for n in (1 << 14, 1 << 20, 1 << 23):
        yield Case("elementwise", f"add {n}", partial(_binary, _add, (n,), (n,), np.add), n == 1 << 20)
    yield Case("elementwise", "silu(x) * y", partial(_binary, _swiglu, (512, 2048), (512, 2048)))
    yield Case("elementwise", "x + bias", partial(_binary, _add, (512, 2048), (2048,), np.add))


def _attention(batch: int, heads: int, queries: int, keys: int, width: int, causal: bool) -> Workload:
    shapes = ((batch, heads, queries, width), (batch, heads, keys, width), (batch, heads, keys, width))
    inputs = tuple(tensor(n, *s) for n, s in zip("qkv", shapes, strict=True))
    return Workload(Function(partial(F.scaled_dot_product_attention, is_causal=causal)), inputs)


def attentions() -> Iterator[Case]:
    """Attention of BERT, ViT and GPT-2, of one token with a cache, and of a long sequence."""
    for name, shape, quick in (
        ("bert 128", (1, 12, 128, 128, 64, False), True),
        ("gpt2 128", (1, 12, 128, 128, 64, True), True),
        ("vit 197", (1, 6, 197, 197, 64, False), False),
        ("bert 128, batch 8", (8, 12, 128, 128, 64, False), False),
        ("causal 512", (1, 12, 512, 512, 64, True), False),
        ("causal 1024", (1, 8, 1024, 1024, 64, True), False),
        ("decode 1024", (1, 12, 1, 1024, 64, False), False),
    ):
        yield Case("attention", name, partial(_attention, *shape), quick)


def poolings() -> Iterator[Case]:
    """Pooling and reductions."""
    yield Case("pooling", "max 3x3 stride 2", partial(_module, nn.MaxPool2d(3, 2, 1), 1, 64, 112, 112))
    yield Case("pooling", "average 2x2", partial(_module, nn.AvgPool2d(2), 4, 64, 56, 56))
    yield Case("pooling", "global average", partial(_module, nn.AdaptiveAvgPool2d(1), 1, 2048, 7, 7))
    for name, function, shape in (
        ("sum of all", torch.sum, (1 << 20,)),
        ("sum of rows", partial(torch.sum, dim=-1), (1024, 1024)),
        ("sum of columns", partial(torch.sum, dim=0), (1024, 1024)),
        ("max of rows", partial(torch.amax, dim=-1), (1024, 1024)),
        ("mean of channels", partial(torch.mean, dim=(2, 3)), (16, 256, 28, 28)),
    ):
        yield Case("reductions", name, partial(_module, Function(function), *shape))


def overheads() -> Iterator[Case]:
    """What a call costs that computes nothing to speak of."""
    yield Case("overhead", "one element", lambda: Workload(Function(torch.neg), (tensor("x", 1),), np.negative), True)


def cases() -> list[Case]:
    """All kernels."""
    return [*overheads(), *products(), *convolutions(), *rows(), *elementwise(), *attentions(), *poolings()]
