"""Layers that PyTorch and Keras compute in one way, and those of docs/one-digest.md that they do not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("torch", "tensorflow", "keras"):
        pytest.importorskip(name)
    import keras
    import torch
    from keras import layers as L
    from torch import nn

import gensyn_tvm
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.structure_diff import diff_structures


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


IMAGE, VECTOR, SEQUENCE = (3, 8, 8), (5,), (4, 5)
Layers = tuple[Callable[[], nn.Module], Callable[[], Any], tuple[int, ...]]

SAME: dict[str, Layers] = {
    "average pooling": (lambda: nn.AvgPool2d(2), lambda: L.AveragePooling2D(2), IMAGE),
    "padding same": (lambda: nn.Conv2d(3, 4, 3, padding=1), lambda: L.Conv2D(4, 3, padding="same"), IMAGE),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3), lambda: L.DepthwiseConv2D(3), IMAGE),
    "batch normalisation": (lambda: nn.BatchNorm2d(3), lambda: L.BatchNormalization(epsilon=1e-5), IMAGE),
    "SiLU": (nn.SiLU, lambda: L.Activation("silu"), VECTOR),
    "ELU": (nn.ELU, lambda: L.Activation("elu"), VECTOR),
    "GRU": (Gru, lambda: L.GRU(6, return_sequences=True), SEQUENCE),
}


def sources(layers: Layers, dtype: torch.dtype = torch.float32) -> tuple[Source, Source]:
    """Both layers as programs for batches of 2, images in each one's own layout."""
    ours, theirs, shape = layers
    layout = (*shape[1:], shape[0]) if shape == IMAGE else shape
    x = keras.Input(layout, dtype=str(dtype).removeprefix("torch."))
    model = keras.Model(x, theirs()(x))
    return (
        source_of(gensyn_tvm.from_torch(ours().eval(), (torch.zeros(2, *shape, dtype=dtype),))),
        source_of(gensyn_tvm.from_keras(model, batch_size=2)),
    )


@pytest.mark.parametrize("name", SAME)
def test_same(name: str) -> None:
    found = diff_structures(*sources(SAME[name]))
    assert found.equal, "\n".join(found.as_lines(("torch", "keras")))


def test_other_negative_indices() -> None:
    layers: Layers = (lambda: nn.Embedding(10, 6), lambda: L.Embedding(10, 6), (4,))
    lines = diff_structures(*sources(layers, torch.int32)).as_lines(("torch", "keras"))
    assert "operators only in keras: add, constant, less, where" in lines


def test_other_threshold() -> None:
    layers: Layers = (nn.Softplus, lambda: L.Activation("softplus"), VECTOR)
    lines = diff_structures(*sources(layers)).as_lines(("torch", "keras"))
    assert any(line.startswith("  - less(20.0, ") for line in lines) and any("less(inf, " in line for line in lines)
