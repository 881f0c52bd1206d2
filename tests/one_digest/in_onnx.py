"""The networks in ONNX: the operators that the standard has for them, NCHW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import gensyn_tvm
from gensyn_tvm.program import Program

from .arrays import BATCH, BLOCK, CHANNELS, CNN, EPSILON, FEATURES, HEADS, LENGTH, LSTM, MLP, SIZE, STEPS, UNITS, WIDTH

node = helper.make_node


def _program(nodes: Sequence[onnx.NodeProto], arrays: Mapping[str, np.ndarray], shape: Sequence[int]) -> Program:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(a, order="C"), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return gensyn_tvm.from_onnx(onnx.shape_inference.infer_shapes(model))


def mlp() -> Program:
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["m"]),
        node("Add", ["b2", "m"], ["y"]),
    ]
    return _program(nodes, {**MLP, "w1": MLP["w1"].T}, (BATCH, FEATURES))


def cnn() -> Program:
    nodes = [
        node("Conv", ["x", "k1", "c1"], ["a"]),
        node("Relu", ["a"], ["b_"]),
        node("MaxPool", ["b_"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "k2", "c2"], ["d"], strides=[2, 2]),
        node("Relu", ["d"], ["e"]),
        node("GlobalAveragePool", ["e"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    kernels = {k: CNN[k].transpose(3, 2, 0, 1) for k in ("k1", "k2")}
    return _program(nodes, {**CNN, **kernels}, (BATCH, CHANNELS[0], SIZE, SIZE))


def _iofc(array: np.ndarray) -> np.ndarray:
    """Columns i, f, g, o as the rows i, o, f, g of ONNX's LSTM, with an axis for the direction."""
    i, f, g, o = np.split(array.T, 4)
    return np.concatenate([i, o, f, g])[None]


def lstm() -> Program:
    bias = np.concatenate([_iofc(LSTM["b"][None])[..., 0], np.zeros((1, 4 * UNITS), np.float32)], axis=1)
    arrays = {"w": _iofc(LSTM["w"]), "r": _iofc(LSTM["r"]), "b": bias, "o": LSTM["o"], "c": LSTM["c"]}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r", "b"], ["h"], hidden_size=UNITS),
        node("Squeeze", ["h", "direction"], ["s"]),
        node("MatMul", ["s", "o"], ["m"]),
        node("Add", ["m", "c"], ["a"]),
        node("Transpose", ["a"], ["y"], perm=[1, 0, 2]),
    ]
    return _program(nodes, {**arrays, "direction": np.array([1])}, (BATCH, STEPS, FEATURES))


def block() -> Program:
    nodes = [node("LayerNormalization", ["x", "scale1", "shift1"], ["n"], epsilon=EPSILON)]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["n", f"w{name}"], [f"{name}1"]),
            node("Add", [f"{name}1", f"b{name}"], [f"{name}2"]),
            node("Reshape", [f"{name}2", "heads"], [f"{name}3"]),
            node("Transpose", [f"{name}3"], [f"{name}4"], perm=perm),
        ]
    nodes += [
        node("Div", ["q4", "root"], ["q5"]),
        node("MatMul", ["q5", "k4"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "v4"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "joined"], ["j"]),
        node("MatMul", ["j", "wo"], ["o1"]),
        node("Add", ["o1", "bo"], ["o2"]),
        node("Add", ["x", "o2"], ["x2"]),
        node("LayerNormalization", ["x2", "scale2", "shift2"], ["n2"], epsilon=EPSILON),
        node("MatMul", ["n2", "up"], ["u1"]),
        node("Add", ["u1", "up_b"], ["u2"]),
        node("Relu", ["u2"], ["u3"]),
        node("MatMul", ["u3", "down"], ["d1"]),
        node("Add", ["d1", "down_b"], ["d2"]),
        node("Add", ["x2", "d2"], ["y"]),
    ]
    shapes = {"heads": np.array([BATCH, LENGTH, HEADS, WIDTH // HEADS]), "joined": np.array([BATCH, LENGTH, WIDTH])}
    root = {"root": np.sqrt(np.float32(WIDTH // HEADS))}
    return _program(nodes, {**BLOCK, **shapes, **root}, (BATCH, LENGTH, WIDTH))
