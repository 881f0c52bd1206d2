"""Losses: frozen descriptions that emit a scalar as Relax (docs/losses.md)."""

from __future__ import annotations

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.losses.base import FunctionLoss, Loss, LossFunction, OutputLoss, TargetTypes, relax_type
from gensyn_tvm.training.losses.classification import NLL, BinaryCrossEntropyWithLogits, CrossEntropy, KLDivergence, class_mask
from gensyn_tvm.training.losses.cosine import CosineEmbedding, CosineSimilarity
from gensyn_tvm.training.losses.ctc import CTC
from gensyn_tvm.training.losses.metrics import METRICS, Scored, check_metric
from gensyn_tvm.training.losses.regression import L1, Huber, MeanSquaredError, SmoothL1

__all__ = [
    "CTC",
    "L1",
    "LOSSES",
    "METRICS",
    "NLL",
    "BinaryCrossEntropyWithLogits",
    "CosineEmbedding",
    "CosineSimilarity",
    "CrossEntropy",
    "FunctionLoss",
    "Huber",
    "KLDivergence",
    "Loss",
    "LossFunction",
    "MeanSquaredError",
    "OutputLoss",
    "Scored",
    "SmoothL1",
    "TargetTypes",
    "as_loss",
    "check_metric",
    "class_mask",
    "relax_type",
]

#: Losses by name, with their default settings.
LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        CrossEntropy(),
        MeanSquaredError(),
        BinaryCrossEntropyWithLogits(),
        L1(),
        Huber(),
        SmoothL1(),
        KLDivergence(),
        NLL(),
        CosineEmbedding(),
        CosineSimilarity(),
        CTC(),
    )
}


def as_loss(loss: str | Loss | LossFunction) -> Loss:
    """The loss of that name, the loss itself, or a function as a loss.

    Raises:
        InvalidProgramError: an unknown name, or something else.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if isinstance(loss, str | type) or not callable(loss):
        expected = f"one of {', '.join(LOSSES)}, a loss object, or a function (outputs…, targets…) → scalar"
        raise InvalidProgramError(describe(f"unknown loss {loss!r}", expected=expected))
    return FunctionLoss(loss)
