"""Models of Keras: Keras Applications without weights, an LSTM and a transformer; on the backend that KERAS_BACKEND names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import gensyn_tvm
from benchmarks.frontends.subject import STEPS, Subject

CLASSES, VOCABULARY = 5, 67
#: Learning rates at which losses fall within ten steps where those of two trainings by Keras itself, in float32 and in float64,
#: go apart at the usual one: gradients grow with the number of batch normalisations before anything is trained, and with the
#: small weights that depthwise kernels begin with.
RATES = {
    "ResNet50": 1e-9,
    "ResNet50V2": 1e-7,
    "InceptionV3": 1e-10,
    "MobileNet": 1e-7,
    "MobileNetV2": 1e-6,
    "DenseNet121": 1e-6,
}
#: Networks that begin with Keras' own preprocessing of pixels from 0 to 255.
PIXELS = ("MobileNetV3Small", "EfficientNetB0")

#: Makes a model with one input.
Made = Callable[[], Any]


def application(kind: str, size: int = 64, **options: Any) -> Made:
    """A network of Keras Applications on small images with few classes, without softmax."""

    def build() -> Any:
        network = getattr(keras.applications, kind)(
            weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3), **options
        )
        return keras.Model(network.inputs, layers.Dense(CLASSES, name="logits")(network.output), name=network.name)

    return build


def lstm() -> Any:
    """An embedding, a bidirectional LSTM, an LSTM."""
    inputs = keras.Input((9,), dtype="int32", name="ids")
    y = layers.Embedding(VOCABULARY, 12)(inputs)
    y = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(y)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.LSTM(10)(y)), name="lstm")


def gru() -> Any:
    """A convolution over time and a GRU."""
    inputs = keras.Input((10, 6), name="x")
    y = layers.Conv1D(8, 3, padding="causal", activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GRU(8)(y)), name="gru")


class Positions(layers.Layer):
    """Adds an embedding of each position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length, self.table = length, layers.Embedding(length, width)

    def call(self, x: Any) -> Any:
        """x: (N, length, width)."""
        return x + self.table(keras.ops.arange(self.length, dtype="int32"))


def transformer() -> Any:
    """A causal decoder of two blocks with MultiHeadAttention."""
    inputs = keras.Input((9,), dtype="int32", name="ids")
    y = Positions(9, 16)(layers.Embedding(VOCABULARY, 16)(inputs))
    for _ in range(2):
        normal = layers.LayerNormalization()(y)
        y = y + layers.MultiHeadAttention(4, 4)(normal, normal, use_causal_mask=True)
        y = y + layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(y)))
    return keras.Model(inputs, layers.Dense(VOCABULARY)(layers.LayerNormalization()(y)), name="transformer")


BUILDERS: dict[str, Made] = {
    "VGG16": application("VGG16"),
    "ResNet50": application("ResNet50"),
    "ResNet50V2": application("ResNet50V2"),
    "InceptionV3": application("InceptionV3", 96),
    "Xception": application("Xception", 80),
    "MobileNet": application("MobileNet", alpha=0.25),
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "MobileNetV3Small": application("MobileNetV3Small", alpha=0.25, include_preprocessing=True),
    "DenseNet121": application("DenseNet121"),
    "EfficientNetB0": application("EfficientNetB0"),
    "LSTM": lstm,
    "GRU": gru,
    "transformer": transformer,
}


def build(name: str) -> tuple[Any, np.ndarray]:
    """A model without dropout and its input."""
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    for layer in model._flatten_layers():
        for attribute in ("rate", "drop_path_rate"):
            if isinstance(getattr(layer, attribute, None), float):
                setattr(layer, attribute, 0.0)
    (given,), rng = model.inputs, np.random.default_rng(0)
    shape = (4, *given.shape[1:])
    if given.dtype == "int32":
        return model, rng.integers(0, VOCABULARY, shape).astype(np.int32)
    if name in PIXELS:
        return model, rng.uniform(0, 255, shape).astype(np.float32)
    return model, rng.standard_normal(shape, dtype=np.float32)


def infer(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """The output in inference."""
    return [np.asarray(keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(x), training=False)))]


def train(model: Any, x: np.ndarray, target: np.ndarray, rate: float) -> list[float]:
    """Losses of the model's training; the model is as before afterwards."""
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mean_squared_error")
    weights = model.get_weights()
    losses = [float(model.train_on_batch(x, target)) for _ in range(STEPS)]
    model.set_weights(weights)
    return losses


def subject(name: str, _backend: str) -> Subject:
    """The model of a row."""
    model, x = build(name)
    program = gensyn_tvm.from_keras(model, batch_size=len(x))
    return Subject(program, (x,), lambda: infer(model, x), lambda *given: train(model, x, *given), RATES.get(name))
