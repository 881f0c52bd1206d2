"""Neural-network operators of ONNX in training: gradients of every parameter against PyTorch's, to 2e-5 of the largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch.nn import functional as F

from gensyn_tvm import interpreter
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.step import inference_graph, training_step

from .test_onnx import build

TOLERANCE = 2e-5

Arrays = dict[str, np.ndarray]
node = helper.make_node


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _gradients(nodes: list[Any], inputs: Arrays, parameters: Arrays, target: np.ndarray, opset: int) -> Arrays:
    """Gradients of the mean squared error of output y, from one step of plain SGD with rate 1."""
    arrays = {**parameters, "axes": np.array([1])}
    program = from_onnx(build(nodes, inputs, ["y"], arrays, opset=opset), trainable=list(parameters))
    step = training_step(program, loss="mean_squared_error", optimizer=SGD(1.0))
    clock = {"step": np.array(0, "int64"), "seed": np.array(0, "int64"), "learning_rate": np.array(1.0, "float32")}
    state = {**inputs, "target": target, **step.parameters, **step.states, **step.optimizer_state, **clock}
    results = interpreter.run_named(step.graph, state)
    return {name: parameters[name] - results[name, True] for name in parameters}


def _close(found: np.ndarray, wanted: np.ndarray) -> None:
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(found / scale, wanted / scale, atol=TOLERANCE, rtol=0)


CAUSAL = np.tril(np.ones((5, 5), dtype=bool))
#: The third query sees nothing.
GAPS = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)
QKV = {"q": _random(2, 4, 5, 6), "k": _random(2, 2, 5, 6, seed=1), "v": _random(2, 2, 5, 3, seed=2)}


def _attention(mask: np.ndarray, cap: float = 0.0) -> Callable[..., Any]:
    def reference(q: Any, k: Any, v: Any) -> Any:
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / 6**0.5
        scores = cap * torch.tanh(scores / cap) if cap else scores
        seen = torch.from_numpy(mask)
        weights = torch.softmax(torch.where(seen, scores, torch.tensor(-1e30)), -1)
        return torch.where(seen.any(-1, keepdim=True), weights, torch.tensor(0.0)) @ v

    return reference


def _gru(x: Any, w: Any, r: Any, b: Any, lengths: Any) -> Any:
    """Cells of PyTorch, one step after the other; its gates are r, z, n where ONNX's are z, r, h."""
    w, r, bi, bh = (torch.cat([t[3:6], t[:3], t[6:]]) for t in (w, r, b[:9], b[9:]))
    h, outputs = torch.zeros(2, 3), []
    for k, step in enumerate(x):
        active = (k < lengths)[:, None]
        h = torch.where(active, torch.gru_cell(step, h, w, r, bi, bh), h)
        outputs.append(torch.where(active, h, torch.tensor(0.0)))
    return torch.stack(outputs)


#: Nodes, inputs, parameters, the same in PyTorch (parameters, then inputs), opset.
CASES: dict[str, tuple[list[Any], Arrays, Arrays, Callable[..., Any], int]] = {
    "attention causal": (
        [node("Attention", ["q", "k", "v"], ["y"], is_causal=1, softcap=2.0)],
        {},
        QKV,
        _attention(CAUSAL, 2.0),
        24,
    ),
    "attention mask": (
        [node("Attention", ["q", "k", "v", "m"], ["y"])],
        {"m": GAPS},
        QKV,
        lambda q, k, v, m: _attention(GAPS)(q, k, v),
        24,
    ),
    "attention bias": (
        [node("Attention", ["q", "k", "v", "b"], ["y"], is_causal=1)],
        {},
        {**QKV, "b": _random(4, 5, 5)},
        lambda q, k, v, b: F.scaled_dot_product_attention(
            q,
            k.repeat_interleave(2, 1),
            v.repeat_interleave(2, 1),
            attn_mask=torch.where(torch.from_numpy(CAUSAL), b, torch.tensor(-torch.inf)),
        ),
        24,
    ),
    "layer norm": (
        [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=1)],
        {},
        {"x": _random(3, 4, 5), "s": _random(4, 5, seed=1), "b": _random(4, 5, seed=2)},
        lambda x, s, b: F.layer_norm(x, (4, 5), s, b),
        17,
    ),
    "rms norm": (
        [node("RMSNormalization", ["x", "s"], ["y"])],
        {},
        {"x": _random(3, 4, 5), "s": _random(5)},
        lambda x, s: F.rms_norm(x, (5,), s, 1e-5),
        23,
    ),
    "group norm": (
        [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        {},
        {"x": _random(3, 4, 5), "s": _random(4), "b": _random(4, seed=2)},
        lambda x, s, b: F.group_norm(x, 2, s, b),
        21,
    ),
    "gru": (
        [
            node("GRU", ["x", "w", "r", "b", "n"], ["o"], hidden_size=3, linear_before_reset=1),
            node("Squeeze", ["o", "axes"], ["y"]),
        ],
        {"n": np.array([4, 2], dtype="int32")},
        {"x": _random(4, 2, 5), "w": _random(1, 9, 5), "r": _random(1, 9, 3), "b": _random(1, 18)},
        lambda x, w, r, b, n: _gru(x, w[0], r[0], b[0], n),
        22,
    ),
    "losses": (
        [
            node("SoftmaxCrossEntropyLoss", ["x", "t", "w"], ["l"], ignore_index=2, reduction="mean"),
            node("Mul", ["l", "l"], ["y"]),
        ],
        {"t": np.array([[0, 2, 1], [3, 1, 2]]), "w": np.abs(_random(4))},
        {"x": _random(2, 4, 3)},
        lambda x, t, w: F.cross_entropy(x, t, w, ignore_index=2) ** 2,
        13,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    nodes, inputs, parameters, reference, opset = CASES[name]
    leaves = [torch.from_numpy(p.copy()).requires_grad_() for p in parameters.values()]
    result = reference(*leaves, *map(torch.from_numpy, inputs.values()))
    target = _random(*result.shape, seed=9) if result.ndim else np.float32(0.5)
    F.mse_loss(result, torch.tensor(target)).backward()
    found = _gradients(nodes, inputs, parameters, np.asarray(target), opset)
    for leaf, gradient in zip(leaves, found.values(), strict=True):
        _close(gradient, leaf.grad.numpy())


def test_label_encoder() -> None:
    """Floats to integers, NaN among the keys; later ones of equal keys win."""
    encoder = node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_floats=[1.5, float("nan"), -0.0, 1.5],
        values_int64s=[1, 2, 3, 4],
        default_int64=-7,
    )
    x = np.array([[1.5, np.nan, 0.0], [2.0, -0.0, np.inf]], dtype="float32")
    graph = inference_graph(from_onnx(build([encoder], {"x": x}, ["y"], opset=4, domain="ai.onnx.ml")))
    (found,) = interpreter.run(graph, {"x": x})
    assert found.dtype == np.int64 and found.tolist() == [[4, 2, 3], [-7, 3, -7]]


def test_trees_with_a_circle_are_refused() -> None:
    tree = node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        tree_roots=[0],
        nodes_featureids=[0, 0],
        nodes_splits=helper.make_tensor("s", 1, [2], [0.5, 0.5]),
        nodes_modes=helper.make_tensor("m", 2, [2], [0, 0]),
        nodes_truenodeids=[1, 0],
        nodes_trueleafs=[0, 1],
        nodes_falsenodeids=[0, 0],
        nodes_falseleafs=[1, 0],
        leaf_targetids=[0],
        leaf_weights=helper.make_tensor("w", 1, [1], [1.0]),
        n_targets=1,
    )
    with pytest.raises(UnsupportedOperatorError, match="run in a circle"):
        from_onnx(build([tree], {"x": np.zeros((2, 1), "float32")}, ["y"], opset=5, domain="ai.onnx.ml"))
