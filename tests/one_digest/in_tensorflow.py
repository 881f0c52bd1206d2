"""The networks in TensorFlow: variables and ``tf.nn``, NHWC."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

import gensyn_tvm
from gensyn_tvm.program import Program

from .arrays import BATCH, BLOCK, CHANNELS, CNN, EPSILON, FEATURES, HEADS, LENGTH, LSTM, MLP, SIZE, STEPS, UNITS, WIDTH


class Variables(tf.Module):
    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.v = {name: tf.Variable(array, name=name) for name, array in arrays.items()}


class Mlp(Variables):
    def __call__(self, x: Any) -> Any:
        return tf.matmul(tf.nn.relu(x @ self.v["w1"] + self.v["b1"]), self.v["w2"]) + self.v["b2"]


def mlp() -> Program:
    return gensyn_tvm.from_tensorflow(Mlp(MLP), (tf.TensorSpec((BATCH, FEATURES), name="x"),))


class Cnn(Variables):
    def __call__(self, x: Any) -> Any:
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, self.v["k1"], 1, "VALID"), self.v["c1"]))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.nn.relu(tf.nn.conv2d(x, self.v["k2"], 2, "VALID") + self.v["c2"])
        return tf.reduce_mean(x, (1, 2)) @ self.v["w"] + self.v["b"]


def cnn() -> Program:
    return gensyn_tvm.from_tensorflow(Cnn(CNN), (tf.TensorSpec((BATCH, SIZE, SIZE, CHANNELS[0]), name="x"),))


class Lstm(Variables):
    """A loop over time; the two biases that PyTorch has, so that the sums are the same ones."""

    def __call__(self, x: Any) -> Any:
        h = c = tf.zeros((BATCH, UNITS))
        outputs = []
        for step in tf.unstack(x, axis=1):
            gates = (step @ self.v["w"] + self.v["b"]) + (h @ self.v["r"] + self.v["zero"])
            i, f, g, o = tf.split(gates, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            outputs.append(h)
        return tf.tensordot(tf.stack(outputs, axis=1), self.v["o"], 1) + self.v["c"]


def lstm() -> Program:
    arrays = {**LSTM, "zero": np.zeros_like(LSTM["b"])}
    return gensyn_tvm.from_tensorflow(Lstm(arrays), (tf.TensorSpec((BATCH, STEPS, FEATURES), name="x"),))


class Block(Variables):
    def _norm(self, x: Any, number: int) -> Any:
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
        return centred / tf.sqrt(variance + EPSILON) * self.v[f"scale{number}"] + self.v[f"shift{number}"]

    def _heads(self, x: Any, name: str) -> Any:
        y = tf.tensordot(x, self.v[f"w{name}"], 1) + self.v[f"b{name}"]
        return tf.transpose(tf.reshape(y, (BATCH, LENGTH, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))

    def __call__(self, x: Any) -> Any:
        y = self._norm(x, 1)
        q, k, v = (self._heads(y, n) for n in "qkv")
        scores = tf.einsum("bhqd,bhkd->bhqk", q / np.float32(np.sqrt(WIDTH // HEADS)), k)
        mixed = tf.reshape(tf.transpose(tf.nn.softmax(scores) @ v, (0, 2, 1, 3)), (BATCH * LENGTH, WIDTH))
        x = x + tf.reshape(mixed @ self.v["wo"] + self.v["bo"], (BATCH, LENGTH, WIDTH))
        y = tf.nn.relu(tf.tensordot(self._norm(x, 2), self.v["up"], 1) + self.v["up_b"])
        return x + (tf.tensordot(y, self.v["down"], 1) + self.v["down_b"])


def block() -> Program:
    return gensyn_tvm.from_tensorflow(Block(BLOCK), (tf.TensorSpec((BATCH, LENGTH, WIDTH), name="x"),))
