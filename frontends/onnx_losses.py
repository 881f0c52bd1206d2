"""ONNX's loss operators as compositions; their formulas are in docs/numerics.md."""

from __future__ import annotations

from gensyn_tvm.frontends.emit import Emitter, Expr, nn
from gensyn_tvm.frontends.losses import negative_log_likelihood
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, optional


def _loss(e: Emitter, log_p: Expr, x: Inputs, a: Attributes) -> Expr:
    weight = optional(x, 2)
    reduction = a.get("reduction", "mean")
    return negative_log_likelihood(e, log_p, x[1], weight, ignored=a.get("ignore_index"), reduction=reduction)


def convert_nll(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return _loss(e, x[0], x, a)


def convert_softmax_cross_entropy(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    log_p = e(nn.log_softmax(x[0], 1))
    return [_loss(e, log_p, x, a), log_p]


LOSSES: dict[str, Converter] = {
    "NegativeLogLikelihoodLoss": convert_nll,
    "SoftmaxCrossEntropyLoss": convert_softmax_cross_entropy,
}
