"""The networks in Keras: layers, and ``keras.ops`` where Keras' layer computes something else (``own_…`` is that layer)."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

import gensyn_tvm
from gensyn_tvm.program import Program

from .arrays import (
    BATCH,
    BLOCK,
    CHANNELS,
    CLASSES,
    CNN,
    EPSILON,
    FEATURES,
    FLAT,
    HEADS,
    HIDDEN,
    INNER,
    LENGTH,
    LSTM,
    MLP,
    SIZE,
    STEPS,
    UNITS,
    WIDTH,
)


def _program(x: Any, y: Any, arrays: list[np.ndarray]) -> Program:
    model = keras.Model(x, y, name="model")
    model.set_weights(arrays)
    return gensyn_tvm.from_keras(model, batch_size=BATCH)


def mlp() -> Program:
    x = keras.Input((FEATURES,), name="x")
    y = L.Dense(CLASSES, name="out")(L.Dense(HIDDEN, "relu", name="hidden")(x))
    return _program(x, y, [MLP[n] for n in ("w1", "b1", "w2", "b2")])


def cnn() -> Program:
    x = keras.Input((SIZE, SIZE, CHANNELS[0]), name="x")
    y = L.MaxPooling2D(2, name="pool")(L.Conv2D(CHANNELS[1], 3, activation="relu", name="first")(x))
    y = L.GlobalAveragePooling2D()(L.Conv2D(CHANNELS[2], 3, 2, activation="relu", name="second")(y))
    return _program(x, L.Dense(CLASSES, name="out")(y), [CNN[n] for n in ("k1", "c1", "k2", "c2", "w", "b")])


def flattened() -> Program:
    """The features as Keras numbers them: place by place."""
    x = keras.Input((SIZE, SIZE, CHANNELS[0]), name="x")
    y = L.Dense(CLASSES, name="out")(L.Flatten()(L.Conv2D(CHANNELS[1], 3, name="first")(x)))
    return _program(x, y, [CNN["k1"], CNN["c1"], FLAT, MLP["b2"]])


def gelu() -> Program:
    x = keras.Input((FEATURES,), name="x")
    y = L.Dense(CLASSES, name="out")(L.Dense(HIDDEN, "gelu", name="hidden")(x))
    return _program(x, y, [MLP[n] for n in ("w1", "b1", "w2", "b2")])


class Cell(L.Layer):
    """The sums of PyTorch's LSTM, with its two biases."""

    def build(self, shape: Any) -> None:
        for name, array in (*LSTM.items(), ("zero", np.zeros_like(LSTM["b"]))):
            setattr(self, f"a_{name}", self.add_weight(shape=array.shape, name=name))

    def call(self, x: Any) -> Any:
        h = c = ops.zeros((BATCH, UNITS))
        outputs = []
        for step in range(STEPS):
            gates = (x[:, step] @ self.a_w + self.a_b) + (h @ self.a_r + self.a_zero)
            i, f, g, o = ops.split(gates, 4, axis=1)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            outputs.append(h)
        return ops.matmul(ops.stack(outputs, axis=1), self.a_o) + self.a_c


def lstm() -> Program:
    x = keras.Input((STEPS, FEATURES), name="x")
    return _program(x, Cell(name="cell")(x), [*LSTM.values(), np.zeros_like(LSTM["b"])])


def own_lstm() -> Program:
    x = keras.Input((STEPS, FEATURES), name="x")
    y = L.Dense(CLASSES, name="out")(L.LSTM(UNITS, return_sequences=True, name="lstm")(x))
    return _program(x, y, [LSTM[n] for n in ("w", "r", "b", "o", "c")])


class Norm(L.Layer):
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(WIDTH,), name="scale")
        self.shift = self.add_weight(shape=(WIDTH,), name="shift")

    def call(self, x: Any) -> Any:
        centred = x - ops.mean(x, -1, keepdims=True)
        return centred / ops.sqrt(ops.mean(centred * centred, -1, keepdims=True) + EPSILON) * self.scale + self.shift


def _heads(y: Any) -> Any:
    return ops.transpose(ops.reshape(y, (BATCH, LENGTH, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))


def _attention(y: Any) -> Any:
    q, k, v = (_heads(L.Dense(WIDTH, name=n)(y)) for n in "qkv")
    scores = ops.matmul(q / math.sqrt(WIDTH // HEADS), ops.transpose(k, (0, 1, 3, 2)))
    mixed = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
    return L.Dense(WIDTH, name="o")(ops.reshape(mixed, (BATCH, LENGTH, WIDTH)))


def _block(norm: Any, attention: Any) -> Program:
    x = keras.Input(batch_shape=(BATCH, LENGTH, WIDTH), name="x")
    y = x + attention(norm(name="norm1")(x))
    z = L.Dense(WIDTH, name="down")(L.Dense(INNER, "relu", name="up")(norm(name="norm2")(y)))
    model = keras.Model(x, y + z, name="model")
    for variable in model.variables:
        layer, kind = variable.path.split("/")[0], variable.path.split("/")[-1]
        if layer.startswith("norm"):
            variable.assign(BLOCK[{"gamma": "scale", "beta": "shift"}.get(kind, kind) + layer[-1]])
        elif layer in ("up", "down"):
            variable.assign(BLOCK[layer if kind == "kernel" else f"{layer}_b"])
        else:
            name = variable.path.split("/")[-2].replace("attention_output", "o").replace("query", "q").replace("key", "k")
            array = BLOCK[("w" if kind == "kernel" else "b") + name.replace("value", "v")]
            variable.assign(array.reshape(variable.shape))
    return gensyn_tvm.from_keras(model)


def block() -> Program:
    return _block(Norm, _attention)


def own_attention() -> Program:
    attention = L.MultiHeadAttention(HEADS, WIDTH // HEADS, name="mha")
    return _block(Norm, lambda y: attention(y, y))


def own_norm() -> Program:
    return _block(lambda name: L.LayerNormalization(epsilon=EPSILON, name=name), _attention)
