"""Models of TensorFlow: SavedModels of Keras networks, and modules written with TensorFlow alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import gensyn_tvm
from benchmarks.frontends import keras_models
from benchmarks.frontends.subject import STEPS, Subject

CLASSES, VOCABULARY, WIDTH, LENGTH = 5, 67, 12, 6


# ---- networks of Keras, exported ------------------------------------------------------------------------------------


def _residual(y: Any, width: int, stride: int) -> Any:
    short = layers.Conv2D(width, 1, stride)(y) if stride != 1 else y
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, stride, "same", use_bias=False)(y)))
    return layers.ReLU()(short + layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(y)))


def resnet() -> Any:
    """A small residual network."""
    inputs = keras.Input((16, 16, 3), name="x")
    y = layers.MaxPooling2D(3, 2, "same")(layers.Conv2D(8, 7, 2, "same", activation="relu")(inputs))
    for width, stride in ((8, 1), (12, 2), (12, 1)):
        y = _residual(y, width, stride)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(y)))


def unet() -> Any:
    """A network with a transposed convolution and a bilinear upsampling."""
    inputs = keras.Input((16, 16, 3), name="x")
    one = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    two = layers.Conv2D(12, 3, padding="same", activation="relu")(layers.AveragePooling2D(2)(one))
    three = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(two))
    y = layers.Concatenate()([two, layers.Conv2DTranspose(12, 2, 2)(three)])
    y = layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(8, 3, padding="same", activation="swish")(y))
    return keras.Model(inputs, layers.Conv2D(CLASSES, 1)(layers.Concatenate()([one, y])))


def vit() -> Any:
    """Patches, two blocks of attention, a mean."""
    inputs = keras.Input((16, 16, 3), name="x")
    y = layers.Reshape((16, 16))(layers.Conv2D(16, 4, 4)(inputs))
    y = keras_models.Positions(16, 16)(y)
    for _ in range(2):
        normal = layers.LayerNormalization()(y)
        y = y + layers.MultiHeadAttention(4, 4)(normal, normal)
        y = y + layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(y)))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(y))))


def separable() -> Any:
    """Depthwise convolutions, squeeze and excitation, hard swish."""
    inputs = keras.Input((16, 16, 3), name="x")
    y = layers.Conv2D(8, 3, 2, "same", activation="hard_swish")(inputs)
    for stride in (1, 2):
        y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, stride, "same")(y))
        gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
        y = layers.Conv2D(8, 1, activation="relu6")(y * gate)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(y)))


# ---- modules of TensorFlow ------------------------------------------------------------------------------------------


def _weights(*shape: int, name: str) -> tf.Variable:
    rng = np.random.default_rng(len(name) + sum(shape))
    return tf.Variable(rng.standard_normal(shape, dtype=np.float32) * np.float32(np.prod(shape[:-1]) ** -0.5), name=name)


class Mlp(tf.Module):
    """Two layers and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = _weights(8, 16, name="w1"), tf.Variable(tf.zeros(16), name="b1")
        self.w2, self.b2 = _weights(16, CLASSES, name="w2"), tf.Variable(tf.zeros(CLASSES), name="b2")

    @tf.function(input_signature=[tf.TensorSpec([3, 8], tf.float32, "x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.gelu(x @ self.w1 + self.b1)
        mean, variance = tf.nn.moments(y, [-1], keepdims=True)
        return ((y - mean) * tf.math.rsqrt(variance + 1e-5)) @ self.w2 + self.b2


class Decoder(tf.Module):
    """Greedy decoding by ``tf.while_loop``: a recurrent cell whose next input is its most probable token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = _weights(VOCABULARY, WIDTH, name="embedding")
        self.cell, self.head = _weights(2 * WIDTH, WIDTH, name="cell"), _weights(WIDTH, VOCABULARY, name="head")

    @tf.function(input_signature=[tf.TensorSpec([3], tf.int32, "start"), tf.TensorSpec([3, WIDTH], tf.float32, "memory")])
    def __call__(self, start: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        def body(k: Any, token: Any, state: Any, found: Any) -> tuple[Any, ...]:
            state = tf.tanh(tf.concat([tf.gather(self.embedding, token), state], -1) @ self.cell)
            logits = state @ self.head
            return k + 1, tf.argmax(logits, -1, tf.int32), state, found.write(k, logits)

        found = tf.TensorArray(tf.float32, LENGTH, element_shape=[3, VOCABULARY])
        *_, found = tf.while_loop(lambda k, *_: k < LENGTH, body, (0, start, memory, found))
        return tf.transpose(found.stack(), [1, 0, 2])


class RawOperators(tf.Module):
    """A convolutional network of ``tf.raw_ops`` only."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.bias = _weights(3, 3, 3, 8, name="kernel"), tf.Variable(tf.zeros(8), name="bias")
        self.depthwise, self.head = _weights(3, 3, 8, 1, name="depthwise"), _weights(128, CLASSES, name="head")
        self.scale, self.offset = tf.Variable(tf.ones(8), name="scale"), tf.Variable(tf.zeros(8), name="offset")

    @tf.function(input_signature=[tf.TensorSpec([2, 16, 16, 3], tf.float32, "x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        ops = tf.raw_ops
        y = ops.Conv2D(input=x, filter=self.kernel, strides=[1, 2, 2, 1], padding="SAME")
        y = ops.Relu6(features=ops.BiasAdd(value=y, bias=self.bias))
        mean = ops.Mean(input=y, axis=[0, 1, 2], keep_dims=False)
        variance = ops.Mean(input=ops.SquaredDifference(x=y, y=mean), axis=[0, 1, 2], keep_dims=False)
        y = ops.Mul(x=ops.Sub(x=y, y=mean), y=ops.Rsqrt(x=ops.AddV2(x=variance, y=1e-3)))
        y = ops.AddV2(x=ops.Mul(x=y, y=self.scale), y=self.offset)
        y = ops.DepthwiseConv2dNative(input=y, filter=self.depthwise, strides=[1, 1, 1, 1], padding="SAME")
        y = ops.MaxPool(input=ops.Elu(features=y), ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID")
        left, right = ops.Split(axis=0, value=y, num_split=2)
        y = ops.ConcatV2(values=[ops.ReverseV2(tensor=left, axis=[1]), ops.Softplus(features=right)], axis=0)
        y = ops.MatMul(a=ops.Reshape(tensor=y, shape=[2, -1]), b=self.head)
        return ops.LogSoftmax(logits=y)


SAVED: dict[str, Callable[[], Any]] = {
    "SavedModel ResNet": resnet,
    "SavedModel U-Net": unet,
    "SavedModel ViT": vit,
    "SavedModel separable CNN": separable,
    "SavedModel LSTM": keras_models.lstm,
    "SavedModel GRU": keras_models.gru,
    "SavedModel transformer": keras_models.transformer,
    "SavedModel MLP": Mlp,
    "SavedModel while_loop decoder": Decoder,
}
MODULES: dict[str, Callable[[], Any]] = {"tf.Module raw operators": RawOperators, "tf.Module while_loop decoder": Decoder}
BUILDERS = {**SAVED, **MODULES}


def _inputs(model: Any) -> list[np.ndarray]:
    """Arrays for a Keras model or for the signature of a module."""
    rng = np.random.default_rng(0)
    specs = model.inputs if isinstance(model, keras.Model) else model.__call__.input_signature
    found = []
    for spec in specs:
        shape = [2 if extent is None else extent for extent in spec.shape]
        integers = tf.as_dtype(spec.dtype).is_integer
        found.append(
            rng.integers(0, VOCABULARY, shape).astype(np.int32) if integers else rng.standard_normal(shape, np.float32)
        )
    return found


def _call(model: Any, inputs: list[np.ndarray]) -> Any:
    tensors = [tf.constant(a) for a in inputs]
    return model(*tensors, training=False) if isinstance(model, keras.Model) else model(*tensors)


def _train(model: Any, inputs: list[np.ndarray], target: np.ndarray, rate: float) -> list[float]:
    """Losses of the model's training in inference mode, in which SavedModels are; the model is as before afterwards."""
    losses, before = [], [tf.identity(v) for v in model.trainable_variables]
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.math.squared_difference(_call(model, inputs), target))
        variables = list(model.trainable_variables)
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            dense = tf.convert_to_tensor(gradient)
            (variable.value if isinstance(model, keras.Model) else variable).assign_sub(rate * dense)
        losses.append(float(loss))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        variable.assign(value)
    return losses


def subject(name: str, _source: str) -> Subject:
    """The model of a row; SavedModels by way of a folder."""
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    inputs = _inputs(model)
    if name in SAVED:
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(model, keras.Model):
                model.export(folder, format="tf_saved_model", verbose=False)
                program = gensyn_tvm.from_tensorflow(folder, input_shapes=[a.shape for a in inputs])
            else:
                tf.saved_model.save(model, folder, signatures={"serving_default": model.__call__.get_concrete_function()})
                program = gensyn_tvm.from_tensorflow(folder)
    else:
        program = gensyn_tvm.from_tensorflow(model)
    ordered = inputs
    if not isinstance(model, keras.Model):  # a signature has its inputs in the order of the alphabet
        named = dict(zip((s.name for s in model.__call__.input_signature), inputs, strict=True))
        ordered = [named[name] for name in program.inputs]
    return Subject(
        program,
        tuple(ordered),
        lambda: [np.asarray(_call(model, inputs))],
        lambda *given: _train(model, inputs, *given),
    )
