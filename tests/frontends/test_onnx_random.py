"""ONNX's random operators: reproducible, and distributed as they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from gensyn_tvm import interpreter
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.step import inference_graph


def _draw(*nodes: Any, x: np.ndarray | None = None) -> list[np.ndarray]:
    info = helper.make_tensor_value_info
    inputs = [] if x is None else [info("x", TensorProto.FLOAT, x.shape)]
    outputs = [info(n.output[0], TensorProto.FLOAT, ["k"] * (2 if n.op_type == "Multinomial" else 1)) for n in nodes]
    graph = helper.make_graph(list(nodes), "random", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return interpreter.run(inference_graph(from_onnx(model)), {} if x is None else {"x": x})


def test_uniform_and_normal() -> None:
    nodes = [
        helper.make_node("RandomUniform", [], ["u"], shape=[4000], low=-1.0, high=3.0, seed=7.0),
        helper.make_node("RandomNormal", [], ["n"], shape=[4000], mean=2.0, scale=0.5, seed=7.0),
    ]
    u, n = _draw(*nodes)
    assert u.min() >= -1 and u.max() < 3 and abs(u.mean() - 1) < 0.06
    assert abs(n.mean() - 2) < 0.03 and abs(n.std() - 0.5) < 0.02
    assert u.tobytes() == _draw(*nodes)[0].tobytes()
    assert u.tobytes() != _draw(helper.make_node("RandomUniform", [], ["u"], shape=[4000], low=-1.0, high=3.0))[0].tobytes()


def test_bernoulli() -> None:
    x = np.full(4000, 0.25, np.float32)
    (y,) = _draw(helper.make_node("Bernoulli", ["x"], ["y"]), x=x)
    assert set(y.tolist()) == {0.0, 1.0} and abs(y.mean() - 0.25) < 0.03


def test_multinomial() -> None:
    x = np.log(np.array([[0.1, 0.2, 0.7]], np.float32))
    (y,) = _draw(helper.make_node("Multinomial", ["x"], ["y"], sample_size=3000, dtype=TensorProto.FLOAT), x=x)
    assert np.abs(np.bincount(y[0].astype(int)) / 3000 - np.exp(x[0])).max() < 0.03
