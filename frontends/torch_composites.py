"""ATen-like operators that stand for operators of ours while a model is exported; they say the results' types only."""

from __future__ import annotations

from typing import Any

import torch

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Expr
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import Arguments, Converter
from gensyn_tvm.training import ops as gensyn

_LIBRARY = torch.library.Library("gensyn_tvm", "DEF")
_LIBRARY.define(
    "composite_batch_norm(Tensor x, Tensor gamma, Tensor beta, Tensor mean, Tensor variance, int axis, float epsilon, "
    "float momentum, bool frozen) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define("composite_dropout(Tensor x, float rate, int[] shared) -> Tensor")


@torch.library.register_fake("gensyn_tvm::composite_batch_norm", lib=_LIBRARY)
def _batch_norm_types(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(mean), torch.empty_like(variance)


@torch.library.register_fake("gensyn_tvm::composite_dropout", lib=_LIBRARY)
def _dropout_type(x: Any, *_: Any) -> Any:
    return torch.empty_like(x)


def batch_norm(
    x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, *, axis: int, epsilon: float, momentum: float, frozen: bool
) -> Any:
    """``gensyn.batch_norm`` along any axis, with the variance of the batch divided by its count."""
    return torch.ops.gensyn_tvm.composite_batch_norm(x, gamma, beta, mean, variance, axis, epsilon, momentum, frozen)


def dropout(x: Any, rate: float, shared: list[int]) -> Any:
    """``gensyn.dropout``."""
    return torch.ops.gensyn_tvm.composite_dropout(x, rate, shared)


def convert_batch_norm(e: FoldingEmitter, a: Arguments) -> list[Expr]:
    values = [a.x, a.gamma, a.beta, a.mean, a.variance]
    return blocks.batch_norm_along(e, values, a.axis, epsilon=a.epsilon, momentum=a.momentum, frozen=a.frozen)


COMPOSITES: dict[str, Converter] = {
    "composite_batch_norm.default": convert_batch_norm,
    "composite_dropout.default": lambda e, a: e(gensyn.dropout(a.x, p=a.rate, shared_axes=a.shared)),
}
