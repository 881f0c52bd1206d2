"""Programs whose products have tuned records: ``gensyn-tvm tune benchmarks.cpu.tuned:gemm``, ``:conv``, ``:bert``, …"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.cpu import kernels, models
from benchmarks.cpu.cases import Case, Workload


class Together(nn.Module):
    """Several modules, each with inputs of its own, as one."""

    def __init__(self, workloads: list[Workload]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(w.module for w in workloads)
        self.counts = [len(w.inputs) for w in workloads]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(inputs)
        return tuple(part(*(next(given) for _ in range(count))) for part, count in zip(self.parts, self.counts, strict=True))


def _together(cases: Iterator[Case]) -> tuple[nn.Module, tuple[Any, ...]]:
    workloads = [case.make() for case in cases]
    return Together(workloads).eval(), tuple(x for w in workloads for x in w.inputs)


def gemm() -> tuple[nn.Module, tuple[Any, ...]]:
    """All matrix products of the suite."""
    return _together(kernels.products())


def conv() -> tuple[nn.Module, tuple[Any, ...]]:
    """All convolution layers of the suite."""
    return _together(kernels.convolutions())


def attention() -> tuple[nn.Module, tuple[Any, ...]]:
    """All attentions of the suite."""
    return _together(kernels.attentions())


def _network(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    workload = models.inference(models.NETWORKS[name], 1)
    return workload.module, workload.inputs


def bert() -> tuple[nn.Module, tuple[Any, ...]]:
    """BERT-base, a sentence of 128 tokens."""
    return _network("bert-base")


def gpt2() -> tuple[nn.Module, tuple[Any, ...]]:
    """GPT-2, 128 tokens."""
    return _network("gpt2")


def resnet50() -> tuple[nn.Module, tuple[Any, ...]]:
    """ResNet-50, one image."""
    return _network("resnet50")
