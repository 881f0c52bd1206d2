"""Each loss with other settings than its defaults, for golden digests of the programs that they emit."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.training.emit import build_function
from gensyn_tvm.training.losses import (
    CTC,
    L1,
    NLL,
    BinaryCrossEntropyWithLogits,
    CosineEmbedding,
    CosineSimilarity,
    CrossEntropy,
    Huber,
    KLDivergence,
    Loss,
    MeanSquaredError,
    SmoothL1,
    relax_type,
)

_ROWS, _MAPS = TensorType((7, 5), "float32"), TensorType((2, 4, 3, 5), "float32")
_WEIGHTS = [0.5, 0.0, 2.0, 1.25]

#: Loss, types of its outputs, type of the target if it has to be given.
LOSS_CASES: dict[str, tuple[Loss, tuple[TensorType, ...], TensorType | None]] = {
    "cross_entropy": (CrossEntropy(), (_ROWS,), None),
    "cross_entropy of maps": (CrossEntropy(_WEIGHTS, -100, label_smoothing=0.1), (_MAPS,), None),
    "cross_entropy of probabilities": (CrossEntropy(_WEIGHTS, label_smoothing=0.1), (_MAPS,), _MAPS),
    "nll": (NLL(None, 3, "sum"), (_MAPS,), TensorType((2, 3, 5), "int32")),
    "binary_cross_entropy_with_logits": (BinaryCrossEntropyWithLogits([[2.0]], [1, 2, 3, 4, 5]), (_ROWS,), None),
    "kl_divergence": (KLDivergence(reduction="batchmean"), (_ROWS,), None),
    "kl_divergence of logarithms": (KLDivergence(True), (_ROWS,), None),
    "mean_squared_error": (MeanSquaredError(), (_ROWS,), None),
    "l1": (L1(reduction="sum"), (_ROWS,), None),
    "huber": (Huber(0.5), (_ROWS,), None),
    "smooth_l1": (SmoothL1(0.5), (_ROWS,), None),
    "cosine_similarity": (CosineSimilarity(-1), (_MAPS,), None),
    "cosine_embedding": (CosineEmbedding(0.25), (_ROWS, _ROWS), None),
    "ctc": (CTC(1, True), (TensorType((3, 2, 6), "float32"),), TensorType((2, 2), "int64")),
    "ctc with lengths": (
        CTC(input_lengths=True, target_lengths=True),
        (TensorType((3, 2, 6), "float32"),),
        TensorType((2, 2), "int32"),
    ),
}


def program_digest(name: str) -> str:
    """Digest of the canonical graph (outputs, targets) → loss of a case."""
    loss, types, target = LOSS_CASES[name]
    outputs = _variables({f"y{k}": t for k, t in enumerate(types)})
    targets = _variables(loss.targets(outputs, target))
    parameters = {**outputs, **targets}
    module = build_function(list(parameters.values()), lambda e: [loss.emit(e, outputs, targets)])
    inputs = [(n, "input") for n in parameters]
    return serialise.digest(freeze(module, name=name, inputs=inputs, outputs=[("loss", False)]))


def digests() -> dict[str, str]:
    """``program_digest`` of every case."""
    return {name: program_digest(name) for name in LOSS_CASES}


def _variables(types: Mapping[str, TensorType]) -> dict[str, relax.Var]:
    return {name: relax.Var(name, relax_type(t)) for name, t in types.items()}
