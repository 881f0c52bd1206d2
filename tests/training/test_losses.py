"""Losses and metrics against PyTorch: values and gradients with respect to the outputs (2e-5), bits on x86-64, errors."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.runtime.executable import as_array
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, build_function, inline
from gensyn_tvm.training.losses import (
    CTC,
    L1,
    LOSSES,
    METRICS,
    NLL,
    BinaryCrossEntropyWithLogits,
    CosineEmbedding,
    CosineSimilarity,
    CrossEntropy,
    Huber,
    KLDivergence,
    Loss,
    MeanSquaredError,
    Scored,
    SmoothL1,
    as_loss,
    check_metric,
    relax_type,
)

from .loss_cases import LOSS_CASES, digests

Arrays = dict[str, np.ndarray]
#: Tensors of the outputs and of the targets, by position → a scalar tensor.
Reference = Callable[..., torch.Tensor]


def type_of(array: np.ndarray) -> TensorType:
    return TensorType(array.shape, array.dtype.name)


def variables(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: relax.Var(name, relax_type(type_of(a))) for name, a in arrays.items()}


def graph_of(loss: Loss, outputs: Arrays, targets: Arrays, *, gradient: bool = True) -> Graph:
    """outputs, targets → the loss, then its gradients with respect to the outputs."""
    parameters = variables({**outputs, **targets})
    given = {name: parameters[name] for name in outputs}
    types = loss.targets(given, type_of(targets["target"]))
    assert types == {name: type_of(a) for name, a in targets.items()}

    def write(e: Emitter) -> Sequence[Any]:
        e.place = "loss"
        return [loss.emit(e, given, {name: parameters[name] for name in targets})]

    module = build_function(list(parameters.values()), write)
    inputs = [(name, "input") for name in parameters]
    if not gradient:
        return freeze(module, name="loss", inputs=inputs, outputs=[("loss", False)])
    check_differentiable(module["main"], slice(0, len(outputs)), list(outputs))
    adjoint = differentiate(module, slice(0, len(outputs)))
    outer = list(variables({**outputs, **targets}).values())

    def flat(e: Emitter) -> Sequence[Any]:
        results, gradients = inline(e, adjoint, outer)
        return [*(results if isinstance(results, tuple) else [results]), *gradients]

    names = [("loss", False), *((f"d {name}", False) for name in outputs)]
    return freeze(build_function(outer, flat), name="loss", inputs=inputs, outputs=names)


def expected_of(reference: Reference, outputs: Arrays, targets: Arrays) -> list[np.ndarray]:
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in outputs.values()]
    loss = reference(*leaves, *(torch.from_numpy(a.copy()) for a in targets.values()))
    loss.backward()
    return [loss.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves if leaf.grad is not None)]


def compare(loss: Loss, reference: Reference, outputs: Any, targets: Any, rtol: float = 2e-5) -> None:
    """Value and gradients, to rtol of them and rtol / 20 of the largest (of 1 for angles and paths: small differences)."""
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    targets = targets if isinstance(targets, dict) else {"target": targets}
    found = interpreter.run(graph_of(loss, outputs, targets), {**outputs, **targets})
    expected = expected_of(reference, outputs, targets)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        finite = np.abs(theirs[np.isfinite(theirs)])
        scale = 1.0 if isinstance(loss, CosineSimilarity | CTC) else min(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol / 20 * scale)


# ---- inputs ---------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(23)


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def uniform(*shape: int) -> np.ndarray:
    return RNG.random(shape).astype("float32")


def classes(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, count, shape)


def log_softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(x), axis).numpy()


X, T = normal(7, 5), classes(5, 7)
IMAGE, MAP = normal(2, 4, 3, 5), classes(4, 2, 3, 5)
IGNORING = np.where(np.arange(7) % 3 == 1, -100, T)
W5 = uniform(5) + np.float32(0.1)
W4 = (0.5, 0.0, 2.0, 1.25)
P = uniform(7, 5)
#: Rows in which the largest logit is extreme, beside targets that hit and miss it.
EXTREME = np.array([[1e4, -1e4, 0, 1], [-1e4, 1e4, 3, 1e4], [-math.inf, 0, 1, 2], [5, -math.inf, -1e4, 4]], "float32")
HITS, MISSES = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 2])
LINE = np.array([-math.inf, -1e4, -200, -20.5, -1.5, -1e-3, 0.0, 1e-30, 0.7, 19.5, 200, 1e4, math.inf], "float32")
ONES, ZEROS = np.ones_like(LINE), np.zeros_like(LINE)
A, B = normal(5, 6), normal(5, 6)
SIGNS = np.array([1, -1, -1, 1, 0])
SCORES = normal(9, 4, 6)
LABELS = np.array([[1, 2, 2, 5], [3, 3, 3, 3], [4, 1, 0, 0], [2, 5, 1, 4]])
LENGTHS = {"input_lengths": np.array([9, 9, 5, 4]), "target_lengths": np.array([4, 3, 0, 4])}


@dataclass(frozen=True)
class CTCOfLogits(CTC):
    """Behind a log_softmax: the gradient that torch gives for ``ctc_loss`` is right only there."""

    def emit(self, e: Emitter, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
        return super().emit(e, {name: e(op.nn.log_softmax(x, 2)) for name, x in outputs.items()}, targets)


def ctc(**kwargs: Any) -> Reference:
    def loss(x: torch.Tensor, target: torch.Tensor, input_lengths: Any = None, target_lengths: Any = None) -> torch.Tensor:
        # In float64, since torch's gradient in float32 is off by more than 2e-5.
        x = x.double().log_softmax(2)
        target = target.long()
        if input_lengths is None:
            input_lengths = torch.full((x.shape[1],), x.shape[0])
        if target_lengths is None:
            target_lengths = torch.full((x.shape[1],), target.shape[1])
        return F.ctc_loss(x, target, input_lengths, target_lengths, **kwargs)

    return loss


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (1 - F.cosine_similarity(x, y)).mean()


CASES: dict[str, tuple[Loss, Reference, Any, Any]] = {
    "cross_entropy": (CrossEntropy(), F.cross_entropy, X, T),
    "cross_entropy sum": (CrossEntropy(reduction="sum"), lambda x, t: F.cross_entropy(x, t, reduction="sum"), X, T),
    "cross_entropy of maps, int32": (CrossEntropy(), lambda x, t: F.cross_entropy(x, t.long()), IMAGE, MAP.astype("int32")),
    "cross_entropy weight": (CrossEntropy(W5), lambda x, t: F.cross_entropy(x, t, torch.tensor(W5)), X, T),
    "cross_entropy weight of maps": (CrossEntropy(W4), lambda x, t: F.cross_entropy(x, t, torch.tensor(W4)), IMAGE, MAP),
    "cross_entropy ignore": (CrossEntropy(ignore_index=-100), F.cross_entropy, X, IGNORING),
    "cross_entropy ignore a class": (CrossEntropy(ignore_index=2), lambda x, t: F.cross_entropy(x, t, ignore_index=2), X, T),
    "cross_entropy smoothed": (
        CrossEntropy(label_smoothing=0.1),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
        X,
        T,
    ),
    "cross_entropy all": (
        CrossEntropy(W5, -100, label_smoothing=0.3),
        lambda x, t: F.cross_entropy(x, t, torch.tensor(W5), label_smoothing=0.3),
        X,
        IGNORING,
    ),
    "cross_entropy all, sum of maps": (
        CrossEntropy(W4, 1, "sum", label_smoothing=1.0),
        lambda x, t: F.cross_entropy(x, t, torch.tensor(W4), ignore_index=1, reduction="sum", label_smoothing=1.0),
        IMAGE,
        MAP,
    ),
    "cross_entropy probabilities": (CrossEntropy(), F.cross_entropy, X, P),
    "cross_entropy probabilities all": (
        CrossEntropy(W4, label_smoothing=0.2),
        lambda x, t: F.cross_entropy(x, t, torch.tensor(W4), label_smoothing=0.2),
        IMAGE,
        uniform(2, 4, 3, 5),
    ),
    "cross_entropy extreme": (CrossEntropy(), F.cross_entropy, EXTREME, HITS),
    "cross_entropy extreme misses": (
        CrossEntropy(reduction="sum"),
        lambda x, t: F.cross_entropy(x, t, reduction="sum"),
        EXTREME,
        MISSES,
    ),
    "cross_entropy float64": (CrossEntropy(), F.cross_entropy, normal(3, 4, dtype="float64"), classes(4, 3)),
    "nll": (NLL(), F.nll_loss, log_softmax(X), T),
    "nll all of maps": (
        NLL(W4, 3),
        lambda x, t: F.nll_loss(x, t, torch.tensor(W4), ignore_index=3),
        log_softmax(IMAGE),
        MAP,
    ),
    "bce": (BinaryCrossEntropyWithLogits(), F.binary_cross_entropy_with_logits, X, P),
    "bce weights": (
        BinaryCrossEntropyWithLogits(P[:, :1], W5),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, torch.tensor(P[:, :1]), pos_weight=torch.tensor(W5)),
        X,
        uniform(7, 5),
    ),
    "bce sum": (
        BinaryCrossEntropyWithLogits(reduction="sum"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum"),
        LINE[1:-1],
        uniform(11),
    ),
    "bce extreme ones": (BinaryCrossEntropyWithLogits(), F.binary_cross_entropy_with_logits, LINE[1:-1], ONES[1:-1]),
    "bce extreme zeros": (BinaryCrossEntropyWithLogits(), F.binary_cross_entropy_with_logits, LINE[1:], ZEROS[1:]),
    "bce extreme pos_weight": (
        BinaryCrossEntropyWithLogits(pos_weight=3.0),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(3.0)),
        LINE[1:-1],
        ONES[1:-1],
    ),
    "mse": (MeanSquaredError(), F.mse_loss, X, P),
    "mse sum": (MeanSquaredError(reduction="sum"), lambda x, t: F.mse_loss(x, t, reduction="sum"), X, P),
    "l1": (L1(), F.l1_loss, np.where(np.arange(5) == 2, P, X), P),
    "huber": (Huber(0.6), lambda x, t: F.huber_loss(x, t, delta=0.6), X, P),
    "huber extreme": (Huber(1.5), lambda x, t: F.huber_loss(x, t, delta=1.5), LINE, ZEROS),
    "smooth_l1": (SmoothL1(0.6), lambda x, t: F.smooth_l1_loss(x, t, beta=0.6), X, P),
    "smooth_l1 extreme, sum": (
        SmoothL1(0.25, reduction="sum"),
        lambda x, t: F.smooth_l1_loss(x, t, beta=0.25, reduction="sum"),
        LINE,
        ZEROS,
    ),
    "smooth_l1 beta 0": (SmoothL1(0), lambda x, t: F.smooth_l1_loss(x, t, beta=0.0), X, P),
    "kl_divergence": (
        KLDivergence(),
        lambda x, t: F.kl_div(x, t, reduction="sum") / 35,
        log_softmax(X),
        np.where(P < 0.3, 0, P),
    ),
    "kl_divergence batchmean of logarithms": (
        KLDivergence(True, reduction="batchmean"),
        lambda x, t: F.kl_div(x, t, reduction="batchmean", log_target=True),
        log_softmax(IMAGE),
        log_softmax(normal(2, 4, 3, 5)),
    ),
    "cosine_embedding": (
        CosineEmbedding(0.1),
        lambda x, y, t: F.cosine_embedding_loss(x, y, t, 0.1),
        {"x": A, "y": B},
        SIGNS,
    ),
    "cosine_embedding of zeros, sum": (
        CosineEmbedding(-0.9, reduction="sum"),
        lambda x, y, t: F.cosine_embedding_loss(x, y, t, -0.9, reduction="sum"),
        {"x": A * (np.arange(5) > 2)[:, None].astype("float32"), "y": B},
        SIGNS.astype("float32"),
    ),
    "cosine_similarity": (CosineSimilarity(), cosine, IMAGE, normal(2, 4, 3, 5)),
    "cosine_similarity of zeros": (CosineSimilarity(), cosine, A * (np.arange(5) > 2)[:, None].astype("float32"), B),
    "ctc": (CTCOfLogits(), ctc(), SCORES, LABELS[[0, 3, 0, 3]]),
    "ctc lengths": (
        CTCOfLogits(input_lengths=True, target_lengths=True, zero_infinity=True),
        ctc(zero_infinity=True),
        SCORES,
        {"target": LABELS, **LENGTHS},
    ),
    "ctc sum, another blank, int32": (
        CTCOfLogits(5, reduction="sum", target_lengths=True),
        lambda x, t, n: ctc(blank=5, reduction="sum")(x, t, None, n),
        SCORES,
        {"target": (5 - LABELS).astype("int32"), "target_lengths": LENGTHS["target_lengths"].astype("int32")},
    ),
    "ctc impossible": (
        CTCOfLogits(zero_infinity=True, input_lengths=True),
        lambda x, t, n: ctc(zero_infinity=True)(x, t, n),
        SCORES,
        {"target": LABELS[[0, 1, 3, 3]], "input_lengths": np.array([4, 6, 0, 9])},
    ),
    "ctc padded": (
        CTCOfLogits(),
        lambda x, t: ctc()(x, t.clamp(min=0), None, torch.tensor([2, 0, 1, 4])),
        SCORES,
        np.array([[3, 3, -1, 2], [0, 1, 1, 1], [5, 7, 1, 1], [1, 2, 1, 2]]),
    ),
    "ctc no labels": (CTCOfLogits(), ctc(), SCORES, LABELS[:, :0]),
    "ctc one label": (CTCOfLogits(), ctc(), SCORES[:1], LABELS[:, :1]),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    compare(*CASES[name])


_DOUBLE = (
    *("cross_entropy smoothed", "cross_entropy probabilities", "nll", "mse", "l1", "huber", "smooth_l1", "kl_divergence"),
    *("kl_divergence batchmean of logarithms", "cosine_embedding", "cosine_similarity"),
)


def doubles(arrays: Any) -> Any:
    if isinstance(arrays, dict):
        return {name: doubles(a) for name, a in arrays.items()}
    return arrays.astype("float64") if arrays.dtype == np.float32 else arrays


@pytest.mark.parametrize("name", _DOUBLE)
def test_float64_against_torch(name: str) -> None:
    """To 1e-12."""
    loss, reference, outputs, targets = CASES[name]
    compare(loss, reference, doubles(outputs), doubles(targets), 1e-12)


@st.composite
def drawn(draw: Any) -> tuple[Loss, Reference, np.ndarray, np.ndarray]:
    """A cross entropy or a likelihood of any rank and setting, that counts something."""
    count = draw(st.integers(1, 6))
    shape = [draw(st.integers(1, 4)), *draw(st.lists(st.integers(1, 3), max_size=2))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = (rng.standard_normal([shape[0], count, *shape[1:]]) * draw(st.sampled_from([1, 30, 1e4]))).astype("float32")
    weight = draw(st.none() | st.just((rng.random(count) + 0.05).astype("float32")))
    reduction = draw(st.sampled_from(["mean", "sum"]))
    smoothing = draw(st.sampled_from([0.0, 0.1, 1.0]))
    tensor = None if weight is None else torch.tensor(weight)
    rest: dict[str, Any] = {"weight": tensor, "reduction": reduction, "label_smoothing": smoothing}
    if draw(st.booleans()):
        target = rng.dirichlet(np.ones(count), shape).astype("float32")
        target = np.ascontiguousarray(np.moveaxis(target, -1, 1))
        loss = CrossEntropy(weight, reduction=reduction, label_smoothing=smoothing)
        return loss, lambda x, t: F.cross_entropy(x, t, **rest), x, target
    ignored = draw(st.sampled_from([-100, 0, count]))
    target = np.where(rng.random(shape) < 0.3, ignored, rng.integers(0, count, shape))
    target.flat[0] = count - 1 if ignored != count - 1 else 0
    if (target == ignored).all():
        ignored = -100
    if draw(st.booleans()):
        x = log_softmax(x)
        likelihood = NLL(weight, ignored, reduction)
        return likelihood, lambda x, t: F.nll_loss(x, t, tensor, ignore_index=ignored, reduction=reduction), x, target
    loss = CrossEntropy(weight, ignored, reduction, smoothing)
    return loss, lambda x, t: F.cross_entropy(x, t, ignore_index=ignored, **rest), x, target


@st.composite
def drawn_elementwise(draw: Any) -> tuple[Loss, Reference, np.ndarray, np.ndarray]:
    """A loss of two tensors of one shape, of any rank and setting."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = (rng.standard_normal(shape) * draw(st.sampled_from([1, 30, 1e4]))).astype("float32")
    t = rng.random(shape).astype("float32")
    border, reduction = draw(st.floats(0.01, 50)), draw(st.sampled_from(["mean", "sum"]))
    kind = draw(st.sampled_from(["l1", "huber", "smooth_l1", "bce", "kl", "cosine"]))
    if kind == "l1":
        return L1(reduction=reduction), lambda x, t: F.l1_loss(x, t, reduction=reduction), x, t
    if kind == "huber":
        return Huber(border, reduction=reduction), lambda x, t: F.huber_loss(x, t, reduction, border), x, t
    if kind == "smooth_l1":
        return SmoothL1(border, reduction=reduction), lambda x, t: F.smooth_l1_loss(x, t, None, None, reduction, border), x, t
    if kind == "bce":
        weight, pos = (rng.random(shape[draw(st.integers(0, len(shape))) :]).astype("float32") for _ in range(2))
        theirs: dict[str, Any] = {"weight": torch.tensor(weight), "pos_weight": torch.tensor(pos), "reduction": reduction}
        return (
            BinaryCrossEntropyWithLogits(weight, pos, reduction=reduction),
            lambda x, t: F.binary_cross_entropy_with_logits(x, t, **theirs),
            x,
            t,
        )
    if kind == "kl":
        form = draw(st.sampled_from(["sum", "batchmean"]))
        logs = draw(st.booleans())
        return (
            KLDivergence(logs, reduction=form),
            lambda x, t: F.kl_div(x, t, reduction=form, log_target=logs),
            log_softmax(x, 0),
            t,
        )
    axis = draw(st.integers(-len(shape), len(shape) - 1))

    def similarity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        losses = 1 - F.cosine_similarity(x, t, axis)
        return losses.mean() if reduction == "mean" else losses.sum()

    x = np.copysign(rng.random(shape).astype("float32") + np.float32(0.5), x)
    return CosineSimilarity(axis, reduction=reduction), similarity, x, t + np.float32(0.5)


@st.composite
def drawn_sequences(draw: Any) -> tuple[Loss, Reference, np.ndarray, Arrays]:
    """CTC with any lengths, of targets that can and cannot be reached."""
    steps, batch, count, most = (draw(st.integers(low, high)) for low, high in ((1, 6), (1, 3), (2, 4), (1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = (rng.standard_normal([steps, batch, count]) * draw(st.sampled_from([1, 5]))).astype("float32")
    blank = draw(st.integers(0, count - 1))
    labels = (blank + rng.integers(1, count, [batch, most])) % count
    lengths = {"input_lengths": rng.integers(0, steps + 1, batch), "target_lengths": rng.integers(0, most + 1, batch)}
    reduction = draw(st.sampled_from(["mean", "sum"]))
    loss = CTCOfLogits(blank, True, input_lengths=True, target_lengths=True, reduction=reduction)
    return loss, ctc(blank=blank, zero_infinity=True, reduction=reduction), x, {"target": labels, **lengths}


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(drawn() | drawn_elementwise() | drawn_sequences())
def test_any_shape_and_setting(case: tuple[Loss, Reference, np.ndarray, Any]) -> None:
    compare(*case)


# ---- what PyTorch does not do, or does otherwise --------------------------------------------------------------------


def value(loss: Loss, outputs: Any, targets: Any) -> np.ndarray:
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    targets = targets if isinstance(targets, dict) else {"target": targets}
    return interpreter.run(graph_of(loss, outputs, targets, gradient=False), {**outputs, **targets})[0]


@pytest.mark.parametrize("loss", [CrossEntropy(ignore_index=1), CrossEntropy(W5, 1), CrossEntropy(W5, 1, label_smoothing=0.1)])
def test_mean_of_nothing_is_nan(loss: CrossEntropy) -> None:
    target = np.ones(7, "int64")
    weight = None if loss.weight is None else torch.tensor(W5)
    theirs = F.cross_entropy(
        torch.tensor(X), torch.tensor(target), weight, ignore_index=1, label_smoothing=loss.label_smoothing
    )
    assert theirs.isnan() and np.isnan(value(loss, X, target))


def test_an_index_outside_adds_nothing_and_counts() -> None:
    outside = np.where(np.arange(7) == 2, 5, T)
    inside = np.delete(T, 2)
    expected = F.cross_entropy(torch.tensor(np.delete(X, 2, 0)), torch.tensor(inside), reduction="sum") / 7
    np.testing.assert_allclose(value(CrossEntropy(), X, outside), expected.numpy(), rtol=2e-5)


def test_infinite_paths() -> None:
    """A target that is too long, or a label that is no class within the given length: loss inf, gradient 0 for that sample."""
    targets = {"target": np.array([[1, 1], [2, 9]]), "target_lengths": np.array([2, 2])}
    scores = normal(2, 2, 6)
    for loss, expected in ((CTCOfLogits(target_lengths=True), math.inf), (CTCOfLogits(0, True, target_lengths=True), 0.0)):
        found, gradient = interpreter.run(graph_of(loss, {"y": scores}, targets), {"y": scores, **targets})
        assert found == expected
        np.testing.assert_array_equal(gradient, np.zeros_like(scores))


# ---- bits -----------------------------------------------------------------------------------------------------------

_SHORT = {"target": LABELS[:2, :1], "input_lengths": np.array([2, 1]), "target_lengths": np.array([1, 1])}
_COMPILED = (
    *("cross_entropy all", "cross_entropy probabilities all", "nll all of maps", "bce weights", "mse", "l1", "huber extreme"),
    *("smooth_l1 extreme, sum", "kl_divergence", "cosine_embedding of zeros, sum", "cosine_similarity of zeros"),
)
BITS: dict[str, tuple[Loss, Any, Any]] = {
    **{name: (CASES[name][0], CASES[name][2], CASES[name][3]) for name in _COMPILED},
    "ctc": (CTC(input_lengths=True, target_lengths=True), log_softmax(SCORES[:2, :2], 2), _SHORT),
}


def test_bits_on_x86_64() -> None:
    """Every loss forward and backward, all in one program: compiled for x86-64 as interpreted."""
    parts, arrays = [], {}
    for k, (loss, outputs, targets) in enumerate(BITS.values()):
        outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
        targets = targets if isinstance(targets, dict) else {"target": targets}
        parts.append(graph_of(loss, outputs, targets))
        arrays.update({f"{k} {name}": a for name, a in {**outputs, **targets}.items()})
    graph = joined(parts)
    found = gensyn_tvm.compile(graph, "x86-64").run(arrays, {})
    for output, ours, expected in zip(graph.outputs, found, interpreter.run(graph, arrays), strict=True):
        bits = f"u{expected.dtype.itemsize}"
        name = f"{list(BITS)[int(output.name.split()[0])]}: {output.name}"
        np.testing.assert_array_equal(as_array(ours).view(bits), expected.view(bits), err_msg=name)


def joined(parts: Sequence[Graph]) -> Graph:
    """Graphs beside each other, the names of part k behind its number."""
    builder = GraphBuilder("losses")
    values = [[builder.add_input(f"{k} {i.name}", i.role, i.type) for i in part.inputs] for k, part in enumerate(parts)]
    for part, numbers in zip(parts, values, strict=True):
        for node in part.nodes:
            numbers.append(builder.emit(node.op, *(numbers[i] for i in node.inputs), **node.attrs))
    for k, (part, numbers) in enumerate(zip(parts, values, strict=True)):
        for o in part.outputs:
            builder.add_output(f"{k} {o.name}", numbers[o.value])
    return builder.finish()


def test_programs_have_the_recorded_digests() -> None:
    """``python scripts/record_golden.py`` adds new cases; every loss has one."""
    path = Path(__file__).parent.parent / "golden" / rules.NUMERICS_VERSION / "losses.json"
    assert digests() == json.loads(path.read_text(encoding="utf-8"))
    assert {loss.name for loss, _, _ in LOSS_CASES.values()} == set(LOSSES)


# ---- metrics --------------------------------------------------------------------------------------------------------


def metric(name: str, output: np.ndarray, target: np.ndarray, loss: float = 0.5, ignored: int | None = None) -> np.ndarray:
    arrays = {"y": output, "target": target, "loss": np.array(loss, "float32")}
    parameters = variables(arrays)
    y, t, shown = parameters.values()
    check_metric(name, y, t)
    module = build_function([y, t, shown], lambda e: [METRICS[name](e, Scored(y, t, shown, ignored))])
    graph = freeze(module, name="metric", inputs=[(n, "input") for n in arrays], outputs=[(name, False)])
    return interpreter.run(graph, arrays)[0]


def test_metrics_against_torch() -> None:
    x, target = normal(40, 9, 2), classes(9, 40, 2)
    scores, wanted = torch.tensor(x), torch.tensor(target)
    five = (scores.topk(5, 1).indices == wanted[:, None]).any(1)
    assert 0.3 < five.float().mean() < 0.9
    np.testing.assert_allclose(metric("top5_accuracy", x, target), five.float().mean(), rtol=1e-6)
    counted = wanted != 3
    np.testing.assert_allclose(metric("top5_accuracy", x, target, ignored=3), five[counted].float().mean(), rtol=1e-6)
    best = scores.argmax(1) == wanted
    np.testing.assert_allclose(
        metric("accuracy", x, target.astype("int32"), ignored=3), best[counted].float().mean(), rtol=1e-6
    )
    assert metric("perplexity", x, target, 1.25) == np.exp(np.float32(1.25))
    np.testing.assert_allclose(metric("mean_absolute_error", X, P), F.l1_loss(torch.tensor(X), torch.tensor(P)), rtol=2e-6)


def test_top_five_among_equals_and_few_classes() -> None:
    equal = np.zeros((8, 8), "float32")
    assert metric("top5_accuracy", equal, np.arange(8)) == np.float32(5 / 8)
    assert metric("top5_accuracy", equal[:, :3], np.arange(8)) == np.float32(3 / 8)


# ---- in a training step ---------------------------------------------------------------------------------------------


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(x).log_softmax(1)


X3 = normal(6, 3)


@functools.cache
def imported(model: torch.nn.Module) -> gensyn_tvm.Program:
    return gensyn_tvm.from_torch(model, (torch.tensor(X3),))


LINEAR = torch.nn.Linear(3, 4)


def step_of(model: torch.nn.Module, **kwargs: Any) -> tuple[Any, Arrays]:
    """A step and the arrays that it needs beside the targets."""
    program = imported(model)
    step = gensyn_tvm.training_step(program, optimizer="sgd", **kwargs)
    clock = {"step": np.int64(0), "seed": np.int64(0), "learning_rate": np.float32(0.1)}
    state = {**step.parameters, **step.states, **step.optimizer_state}
    return step, {program.inputs[0]: X3, **state, **{n: np.asarray(v) for n, v in clock.items()}}


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("cosine_embedding", "ctc")])
def test_a_name_is_the_object_with_default_settings(name: str) -> None:
    by_name, _ = step_of(LINEAR, loss=name)
    assert by_name.digest == step_of(LINEAR, loss=type(as_loss(name))())[0].digest
    shown = [o.name for o in by_name.graph.outputs if not o.updates]
    assert shown == (["loss", "accuracy"] if name in ("cross_entropy", "nll") else ["loss"])


def test_settings_are_in_the_digest() -> None:
    losses = [CrossEntropy(), CrossEntropy([1, 2, 3, 4]), CrossEntropy([1, 2, 3, 5]), CrossEntropy(label_smoothing=0.1)]
    assert len({step_of(LINEAR, loss=loss)[0].digest for loss in losses}) == 4
    assert CrossEntropy(np.array([1, 2])) == CrossEntropy([1.0, 2.0]) and hash(CrossEntropy(torch.ones(2))) is not None


def test_one_of_several_outputs() -> None:
    torch.manual_seed(2)
    model = TwoHeads()
    model.first.requires_grad_(False)
    target = classes(4, 6)
    expected = F.nll_loss(model(torch.tensor(X3))[1], torch.tensor(target)).detach().numpy()
    for which in (1, -1, imported(model).outputs[1]):
        step, arrays = step_of(model, loss=NLL(output=which), metrics=("perplexity",))
        found = interpreter.run_named(step.graph, {**arrays, "target": target})
        np.testing.assert_allclose(found["loss", False], expected, rtol=2e-5)
        np.testing.assert_allclose(found["perplexity", False], np.exp(expected), rtol=2e-5)


def test_a_function_with_several_targets_and_with_none() -> None:
    def weighted(y: Any, target: Any, scale: Any) -> Any:
        return op.mean(op.multiply(op.abs(op.subtract(y, target)), scale))

    types = {"target": TensorType((6, 4), "float32"), "scale": TensorType((6, 1), "float32")}
    step, arrays = step_of(LINEAR, loss=weighted, target=types, metrics=("mean_absolute_error",))
    assert [(i.name, i.role) for i in step.graph.inputs][1:3] == [("target", "target"), ("scale", "target")]
    t, w = normal(6, 4), uniform(6, 1)
    found = interpreter.run_named(step.graph, {**arrays, "target": t, "scale": w})
    expected = (LINEAR(torch.tensor(X3)).detach().numpy() - t) * w
    np.testing.assert_allclose(found["loss", False], np.abs(expected).mean(), rtol=2e-5)
    none, arrays = step_of(LINEAR, loss=lambda y: op.mean(op.multiply(y, y)), target={})
    assert ("loss", False) in interpreter.run_named(none.graph, arrays)


class Frames(torch.nn.Module):
    """(time, features) rows of one sample → log-probabilities (time, 1, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)[:, None].log_softmax(2)


def test_a_step_of_ctc_with_lengths() -> None:
    torch.manual_seed(2)
    model = Frames()
    loss = CTC(input_lengths=True, target_lengths=True)
    step, arrays = step_of(model, loss=loss, target=TensorType((1, 3), "int64"))
    assert [i.name for i in step.graph.inputs if i.role == "target"] == ["target", "input_lengths", "target_lengths"]
    labels, lengths = np.array([[2, 2, 3]]), {"input_lengths": np.array([5]), "target_lengths": np.array([2])}
    found = interpreter.run_named(step.graph, {**arrays, "target": labels, **lengths})
    expected = F.ctc_loss(model(torch.tensor(X3)), torch.tensor(labels), *(torch.tensor(n) for n in lengths.values()))
    expected.backward()
    np.testing.assert_allclose(found["loss", False], expected.detach().numpy(), rtol=2e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(found[name, True], (p - 0.1 * p.grad).detach().numpy(), rtol=2e-5, atol=1e-6)


# ---- errors ---------------------------------------------------------------------------------------------------------

F32 = TensorType((4, 3), "float32")


def targets_of(loss: Loss, output: TensorType, target: Any = None, count: int = 1) -> Any:
    return loss.targets({f"y{k}": relax.Var(f"y{k}", relax_type(output)) for k in range(count)}, target)


ERRORS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "unknown": (lambda: as_loss("hinge"), ["unknown loss 'hinge'", "cross_entropy, mean_squared_error", "a loss object"]),
    "a class": (lambda: as_loss(CrossEntropy), ["unknown loss <class", "a loss object"]),
    "no loss": (lambda: as_loss(3), ["unknown loss 3"]),  # type: ignore[arg-type]
    "reduction": (
        lambda: L1(reduction="none"),
        ["L1 cannot reduce like this", "reduction='none'", "'mean' or 'sum'", "scalar"],
    ),
    "batchmean": (lambda: NLL(reduction="batchmean"), ["NLL cannot reduce", "'mean' or 'sum'"]),
    "smoothing": (lambda: CrossEntropy(label_smoothing=1.5), ["CrossEntropy: label_smoothing must be in [0, 1]"]),
    "weight": (lambda: CrossEntropy("heavy"), ["CrossEntropy: weight must be numbers, found str"]),
    "nan weight": (lambda: NLL([1, math.nan]), ["NLL: weight must be finite"]),
    "weight of rank 2": (lambda: NLL([[1, 2]]), ["NLL: weight must be one number for each class"]),
    "ignored": (lambda: NLL(ignore_index="pad"), ["NLL: ignore_index must be an integer"]),  # type: ignore[arg-type]
    "delta": (lambda: Huber(0.0), ["Huber: delta must be finite and above 0"]),
    "beta": (lambda: SmoothL1(-1.0), ["SmoothL1: beta must be finite and at least 0"]),
    "margin": (lambda: CosineEmbedding(math.inf), ["CosineEmbedding: margin must be finite"]),
    "pair": (lambda: CosineEmbedding(outputs=(0,)), ["outputs must be two names or positions"]),  # type: ignore[arg-type]
    "eps": (lambda: CosineSimilarity(eps=0.0), ["CosineSimilarity: eps must be finite and at least"]),
    "blank": (lambda: CTC(-1), ["CTC: blank must be a class"]),
    "weights beside classes": (
        lambda: targets_of(CrossEntropy([1, 2]), F32),
        ["cross_entropy cannot take this output", "float32[4, 3] beside 2 class weights", "2 classes along axis 1"],
    ),
    "integer logits": (
        lambda: targets_of(NLL(), TensorType((4, 3), "int64")),
        ["nll cannot take", "int64[4, 3]", "log_softmax"],
    ),
    "target of classes": (
        lambda: targets_of(NLL(), F32, F32),
        ["the target does not suit nll", "found: float32[4, 3]", "int64[4] or int32[4]"],
    ),
    "ignored probabilities": (lambda: targets_of(CrossEntropy(ignore_index=0), F32, F32), ["ignore_index needs class indices"]),
    "regression target": (
        lambda: targets_of(Huber(), F32, TensorType((4,), "float32")),
        ["the target does not suit huber", "found: float32[4]", "expected: float32[4, 3]"],
    ),
    "integer output": (
        lambda: targets_of(L1(), TensorType((2,), "int32")),
        ["l1 cannot take", "int32[2]", "a float32 or float64 output"],
    ),
    "bce of float64": (
        lambda: targets_of(BinaryCrossEntropyWithLogits(), TensorType((2,), "float64")),
        ["float64[2]", "a float32 output"],
    ),
    "bce weight": (
        lambda: targets_of(BinaryCrossEntropyWithLogits(pos_weight=[1, 2]), F32),
        ["float32[4, 3] beside a pos_weight [2]", "broadcasts to the output"],
    ),
    "axis": (lambda: targets_of(CosineSimilarity(axis=2), F32), ["cosine_similarity cannot take", "an output that has axis 2"]),
    "several outputs": (
        lambda: targets_of(MeanSquaredError(), F32, count=2),
        ["mean_squared_error takes one output", "2 outputs: y0, y1", "CrossEntropy(output=0)"],
    ),
    "no such output": (lambda: targets_of(L1(output="z"), F32), ["l1 reads an output", "output='z'", "one of y0"]),
    "no such position": (lambda: targets_of(CosineEmbedding(), F32), ["cosine_embedding reads", "output=1"]),
    "pair of rank 3": (
        lambda: targets_of(CosineEmbedding(), TensorType((2, 3, 4), "float32"), count=2),
        ["float32[2, 3, 4] and float32[2, 3, 4]", "two outputs (N, D)"],
    ),
    "batch of scalars": (
        lambda: targets_of(KLDivergence(reduction="batchmean"), TensorType((), "float32")),
        ["kl_divergence cannot take", "a batch (N, …)"],
    ),
    "several targets": (lambda: targets_of(L1(), F32, {"a": F32}), ["l1 takes one target", "target=TensorType"]),
    "ctc output": (
        lambda: targets_of(CTC(), F32),
        ["ctc cannot take", "float32 log-probabilities (time, N, classes)", "time first"],
    ),
    "ctc blank": (lambda: targets_of(CTC(7), TensorType((9, 4, 7), "float32")), ["more than 7 classes"]),
    "ctc target": (
        lambda: targets_of(CTC(), TensorType((9, 4, 7), "float32")),
        ["the target does not suit ctc", "found: none", "int64[4, S]", "TensorType((4, S), 'int64')"],
    ),
    "ctc batch": (
        lambda: targets_of(CTC(), TensorType((9, 4, 7), "float32"), TensorType((5, 2), "int64")),
        ["found: int64[5, 2]", "int64[4, S]"],
    ),
    "a function without target": (lambda: targets_of(as_loss(lambda y: y), F32), ["needs target=TensorType"]),
    "metric of probabilities": (lambda: metric("accuracy", X, P), ["metric 'accuracy' needs class indices"]),
    "absolute error of classes": (lambda: metric("mean_absolute_error", X, T), ["needs a target like the output"]),
    "unknown metric": (lambda: metric("f1", X, T), ["unknown metric 'f1'", "top5_accuracy, perplexity"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    make, texts = ERRORS[name]
    with pytest.raises(InvalidProgramError) as info:
        make()
    for text in texts:
        assert text in str(info.value)
