"""Models for the tests of ``gensyn-tvm convert``: files of every framework, and Python that makes models."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
import numpy as np
import pytest

from gensyn_tvm.cli import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for package in ("torch", "onnx", "tensorflow", "keras"):
        pytest.importorskip(package)
    import keras
    import onnx
    import onnx.helper as oh
    import tensorflow as tf
    import torch

MODELS = """
import torch

def cnn(batch=2):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Dropout(0.3)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(48, 4)), torch.zeros(batch, 1, 6, 6)

def linear():
    return torch.nn.Linear(5, 3)

def fixed():
    return torch.nn.Linear(5, 3), torch.zeros(2, 5)

class Odd(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svd(torch.fft.fft(x).real).U + torch.linalg.qr(x).Q

def odd():
    return Odd(), torch.zeros(4, 4)

class Refused(torch.nn.Module):
    def forward(self, x):
        y = torch.nn.functional.avg_pool2d(x, 2, divisor_override=3)
        return torch.clamp(y, min=float("nan")).softmax(-1)

def refused():
    return Refused(), torch.zeros(1, 1, 4, 4)

class Both(torch.nn.Module):
    def forward(self, x):
        y = torch.nn.functional.avg_pool2d(x, 2, divisor_override=3)
        return torch.linalg.qr(y).Q + torch.clamp(y, min=float("nan"))

def both_torch():
    return Both(), torch.zeros(1, 1, 4, 4)

def both_onnx():
    import onnx
    import onnx.helper as oh
    nodes = [oh.make_node("LpNormalization", ["x"], ["a"], name="first", p=3)]
    nodes += [oh.make_node("Twist", ["a"], ["b"], name="second", domain="com.example")]
    nodes += [oh.make_node("LpNormalization", ["x"], ["c"], name="third", p=3), oh.make_node("Add", ["b", "c"], ["y"])]
    infos = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 4]) for n in "xy"]
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("com.example", 1)]
    return oh.make_model(oh.make_graph(nodes, "g", infos[:1], infos[1:]), opset_imports=opsets, ir_version=9)

def both_tensorflow():
    import tensorflow as tf
    def twice(x):
        y = tf.linalg.qr(x, name="first")[0]
        return tf.pad(y, [[1, 1], [0, 0]], "SYMMETRIC", name="second")
    return twice

def norms():
    import onnx
    import onnx.helper as oh
    nodes = [oh.make_node("LpNormalization", ["x"], [y], name=name, p=3) for y, name in (("a", "first"), ("c", "second"))]
    nodes += [oh.make_node("Relu", ["a"], ["b"], name="between"), oh.make_node("Add", ["b", "c"], ["y"], name="end")]
    infos = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["a", "b"]) for n in "xy"]
    graph = oh.make_graph(nodes, "g", infos[:1], infos[1:])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)

def mirrored():
    import tensorflow as tf
    def twice(x):
        y = tf.pad(x, [[1, 1], [0, 0]], "SYMMETRIC", name="first")
        return tf.pad(tf.nn.relu(y), [[1, 1], [0, 0]], "SYMMETRIC", name="second")
    return twice

def double():
    import tensorflow as tf
    return lambda x: tf.nn.relu(x) * 2.0

def moded():
    import numpy as np
    import tensorflow as tf
    class Moded(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(np.arange(15, dtype=np.float32).reshape(5, 3) / 10, name="w")
            self.n = tf.Variable(0.0, trainable=False, name="n")
        def __call__(self, x, training=False):
            if training:
                self.n.assign_add(tf.reduce_sum(x))
            return tf.tanh(x @ self.w) + self.n
    return Moded(), (tf.TensorSpec([4, 5], tf.float32, name="x"),)

def sequential():
    import keras
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])

def seven():
    return 7

broken = 3
"""


KERAS_MODEL = """
import keras
from keras import layers as L

def net(batch=2):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, name="c"), L.BatchNormalization(name="b"), L.Activation("gelu"), L.Dropout(0.3)]
    return keras.Sequential([keras.Input((6, 6, 2), name="x"), *layers, L.GlobalAveragePooling2D(), L.Dense(3, name="out")])
"""


def write_models(folder: Path) -> Path:
    """A model file of every framework, and Python with models, in a folder, which is returned."""
    (folder / "models.py").write_text(MODELS)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(4, 5),)), folder / "model.pt2")
    torch.export.save(torch.export.export(module.train(), (torch.zeros(4, 5),)), folder / "training.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _tensorflow_files(folder)
    onnx.save(onnx_model(["MatMul", "Relu"]), folder / "model.onnx")
    onnx.save(onnx_model(["MatMul", "Relu"], "com.example"), folder / "custom.onnx")
    return folder


def _tensorflow_files(folder: Path) -> None:
    model = keras.Sequential(
        [keras.Input((5,), name="x"), keras.layers.Dense(4, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    keras.Sequential([keras.Input((5,)), keras.layers.Lambda(lambda x: x + 1)]).save(folder / "lambda.keras")

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.arange(15, dtype=np.float32).reshape(5, 3) / 10, name="w")

        @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"second": tf.tanh(x), "first": tf.nn.relu(x @ self.w)}

        @tf.function(input_signature=[tf.TensorSpec([2, 2], tf.float32, name="x")])
        def odd(self, x: Any) -> Any:
            return tf.linalg.svd(x, compute_uv=False) + tf.linalg.qr(x)[0][0]

    class Counting(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.arange(15, dtype=np.float32).reshape(5, 3) / 10, name="w")
            self.n = tf.Variable(0.0, trainable=False, name="n")

        @tf.function(input_signature=[tf.TensorSpec([4, 5], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            self.n.assign_add(1.0)
            return tf.tanh(x @ self.w)

    counting = Counting()
    tf.saved_model.save(counting, str(folder / "saved_plain"), signatures=counting.__call__.get_concrete_function())
    module = Module()
    signatures = {"serving_default": module.__call__.get_concrete_function(), "odd": module.odd.get_concrete_function()}
    tf.saved_model.save(module, str(folder / "saved"), signatures=signatures)


def onnx_model(operators: list[str], domain: str = "") -> onnx.ModelProto:
    w = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3) - 2, "w")
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["z"], name="product"),
        oh.make_node("Relu", ["z"], ["y"], name="end"),
    ]
    if domain:
        nodes = [
            oh.make_node("Twist", ["x"], ["t"], name="first", domain=domain),
            oh.make_node("Bend", ["t"], ["u"], name="second", domain=domain),
            oh.make_node("MatMul", ["u", "w"], ["y"], name="product"),
        ]
    x, y = (oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", e]) for n, e in (("x", 2), ("y", 3)))
    graph = oh.make_graph(nodes, "small", [x], [y], [w])
    opsets = [oh.make_opsetid("", 17), *([oh.make_opsetid(domain, 1)] if domain else [])]
    return oh.make_model(graph, opset_imports=opsets, ir_version=9)


def convert(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """What is printed; on standard error if it fails."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's and PyTorch's own
        assert main(["convert", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 or "json" in arguments else captured.err
