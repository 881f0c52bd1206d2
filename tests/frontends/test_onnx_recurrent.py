"""ONNX's RNN, GRU and LSTM against PyTorch's, to 2e-6, with lengths for each sample; options that it lacks against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gensyn_tvm import interpreter
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.step import inference_graph

from .test_onnx import build

STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6
LENGTHS = [5, 2, 4]

Arrays = dict[str, np.ndarray]

#: Where ONNX's gates (RNN i, GRU zrh, LSTM iofc) are among PyTorch's (i, rzn, ifgo).
_GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


def _run(kind: str, arrays: Arrays, names: list[str], **attributes: Any) -> list[np.ndarray]:
    outputs = ["y", "h", "c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, hidden_size=HIDDEN, **attributes)
    graph = inference_graph(from_onnx(build([node], arrays, outputs, opset=22)))
    return interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs})


def _weights(layer: nn.RNNBase, kind: str) -> Arrays:
    """PyTorch's weights with ONNX's order of gates, directions stacked."""

    def stacked(name: str) -> np.ndarray:
        parts = []
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            chunks = getattr(layer, f"{name}_l0{suffix}").detach().numpy().reshape(len(_GATES[kind]), HIDDEN, -1)
            parts.append(np.concatenate(chunks[_GATES[kind]]))
        return np.stack(parts)

    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)[..., 0]
    return {"w": stacked("weight_ih"), "r": stacked("weight_hh"), "b": bias}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("kind", _GATES)
def test_against_torch(kind: str, direction: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, kind)(FEATURES, HIDDEN, bidirectional=direction == "bidirectional")
    x, count = torch.randn(STEPS, BATCH, FEATURES), 1 + layer.bidirectional
    state = [torch.randn(count, BATCH, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    wanted, last = layer(packed, tuple(state) if kind == "LSTM" else state[0])
    wanted = pad_packed_sequence(wanted, total_length=STEPS)[0].reshape(STEPS, BATCH, count, HIDDEN).transpose(1, 2)
    lasts = [t.detach() for t in (last if kind == "LSTM" else [last])]
    if batch_first:
        x, wanted = x.transpose(0, 1), wanted.permute(2, 0, 1, 3)
        state, lasts = ([t.transpose(0, 1) for t in ts] for ts in (state, lasts))
    arrays = {"x": x.contiguous().numpy(), **_weights(layer, kind), "lengths": np.array(LENGTHS, dtype="int32")}
    arrays |= {f"s{k}": t.contiguous().numpy() for k, t in enumerate(state)}
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    found = _run(kind, arrays, list(arrays), direction=direction, layout=int(batch_first), **options)
    for result, expected in zip(found, [wanted.detach(), *lasts], strict=True):
        np.testing.assert_allclose(result, expected.numpy(), rtol=2e-6, atol=2e-6)


def test_options_of_an_lstm() -> None:
    """Peepholes, clipping, coupled gates and other activations, two steps in NumPy (float64)."""
    draw = np.random.default_rng(5).standard_normal
    x, w, r = draw((2, BATCH, FEATURES)), draw((1, 4 * HIDDEN, FEATURES)), draw((1, 4 * HIDDEN, HIDDEN))
    b, p = draw((1, 8 * HIDDEN)), draw((1, 3 * HIDDEN))
    arrays = {k: v.astype("float32") for k, v in {"x": x, "w": w, "r": r, "b": b, "p": p}.items()}
    options: dict[str, Any] = {
        "activations": ["HardSigmoid", "Affine", "LeakyRelu"],
        "activation_alpha": [0.25, 0.5],
        "activation_beta": [0.4, -0.1],
        "clip": 1.5,
        "input_forget": 1,
    }
    _, found_h, found_c = _run("LSTM", arrays, ["x", "w", "r", "b", "", "", "", "p"], **options)
    h, c = np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN))
    pi, po, _ = np.split(p[0], 3)
    for step in x:
        i, o, _, g = np.split(step @ w[0].T + h @ r[0].T + b[0, : 4 * HIDDEN] + b[0, 4 * HIDDEN :], 4, axis=1)
        f = lambda v: np.clip(0.25 * np.clip(v, -1.5, 1.5) + 0.4, 0, 1)  # noqa: E731
        i = f(i + pi * c)
        c = (1 - i) * c + i * (0.5 * np.clip(g, -1.5, 1.5) - 0.1)
        bounded = np.clip(c, -1.5, 1.5)
        h = f(o + po * c) * np.where(bounded > 0, bounded, 0.01 * bounded)
    np.testing.assert_allclose(found_h[0], h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_c[0], c, rtol=1e-5, atol=1e-5)


def test_unknown_activation_is_refused() -> None:
    arrays = {"x": np.zeros((1, 1, 1), "float32"), "w": np.zeros((1, 6, 1), "float32"), "r": np.zeros((1, 6, 6), "float32")}
    with pytest.raises(UnsupportedOperatorError, match=r"activation 'Sine'.*\n.*one of affine"):
        _run("RNN", arrays, ["x", "w", "r"], activations=["Sine"])
