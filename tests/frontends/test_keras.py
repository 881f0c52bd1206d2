"""Keras models: values and training against Keras, files, names and errors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.errors import ImportModelError, UnsupportedOperatorError
from gensyn_tvm.program import Program
from gensyn_tvm.training.step import inference_graph
from tests.frontends.messages import refused

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    import keras
    import tensorflow as tf
    from keras import layers as L

    from gensyn_tvm.frontends.keras import from_keras
    from gensyn_tvm.weights.keras import to_keras

TOLERANCE = 2e-5  # of the largest magnitude in the output; both sides are float32 with different orders of summation


def outputs(graph: Any, given: dict[str, Any]) -> dict[str, np.ndarray]:
    results = interpreter.run(graph, {i.name: np.asarray(given[i.name]) for i in graph.inputs})
    return {o.name: np.asarray(y) for o, y in zip(graph.outputs, results, strict=True)}


def run(program: Program, x: np.ndarray) -> np.ndarray:
    """The output in inference, by the interpreter."""
    given = {program.inputs[0]: x, **program.parameters, **program.states}
    return outputs(inference_graph(program), given)[program.outputs[0]]


def close(found: np.ndarray, wanted: Any, tolerance: float = TOLERANCE) -> None:
    wanted = np.asarray(wanted.detach().numpy() if hasattr(wanted, "detach") else wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    scale = max(1e-6, float(np.abs(wanted).max()))
    np.testing.assert_allclose(found / scale, wanted / scale, atol=tolerance, rtol=0)


def mlp() -> Any:
    return [L.Dense(16, "gelu", name="a"), L.LayerNormalization(name="n"), L.Dropout(0.0), L.Dense(3, name="out")], (6,)


def cnn() -> Any:
    first = [L.Conv2D(4, 3, padding="same", name="c"), L.BatchNormalization(name="b"), L.ReLU(), L.MaxPooling2D()]
    last = [
        L.SeparableConv2D(5, 3, 2, "same", activation="swish", name="s"),
        L.GlobalAveragePooling2D(),
        L.Dense(3, name="out"),
    ]
    return [*first, L.SpatialDropout2D(0.0), *last], (6, 6, 2)


def upsampling() -> Any:
    return [L.Conv2DTranspose(3, 3, 2, name="t"), L.UpSampling2D(2, interpolation="bilinear"), L.GlobalAveragePooling2D()], (
        4,
        4,
        2,
    )


def lstm() -> Any:
    return [L.Bidirectional(L.LSTM(4, name="l"), name="bi"), L.Dense(3, name="out")], (5, 4)


def gru() -> Any:
    return [L.GRU(4, return_sequences=True, name="g"), L.Conv1D(3, 2, padding="causal", name="c"), L.GlobalMaxPooling1D()], (
        5,
        4,
    )


class Block(L.Layer):
    """Self-attention with a residual connection."""

    def __init__(self) -> None:
        super().__init__(name="block")
        self.norm, self.attention = L.LayerNormalization(name="norm"), L.MultiHeadAttention(2, 4, name="attention")

    def call(self, x: Any) -> Any:
        y = self.norm(x)
        return x + self.attention(y, y, use_causal_mask=True)


def transformer() -> Any:
    return [Block(), L.GlobalAveragePooling1D(), L.Dense(3, name="out")], (5, 8)


MODELS: dict[str, Callable[[], Any]] = {
    "mlp": mlp,
    "cnn": cnn,
    "upsampling": upsampling,
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
}


def build(name: str) -> tuple[Any, np.ndarray]:
    keras.utils.set_random_seed(0)
    stack, shape = MODELS[name]()
    rng = np.random.default_rng(0)
    return keras.Sequential([keras.Input(shape, name="x"), *stack]), rng.standard_normal((4, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_inference_and_training(name: str) -> None:
    """Inference, and three steps of gradient descent with momentum through ``fit``'s own step."""
    model, x = build(name)
    program = from_keras(model, batch_size=4)
    assert list(program.parameters) == [v.path for v in model.trainable_variables]
    close(run(program, x), model(x, training=False))
    y = np.arange(4) % 3
    step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.SGD(lr=0.1, momentum=0.9))
    state: dict[str, Any] = {**step.parameters, **step.states, **step.optimizer_state}
    model.compile(
        keras.optimizers.SGD(0.1, 0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    for k in range(3):
        found = outputs(step.graph, {**state, "x": x, "target": y, "step": k, "seed": 0, "learning_rate": np.float32(0.1)})
        close(found["loss"], np.float32(model.train_on_batch(x, y)), 1e-4)
        state = {n: found[n] for n in state}
    for v in model.variables:
        if v.path in state:
            np.testing.assert_allclose(state[v.path], v.numpy(), atol=1e-4, rtol=1e-3)
    trained = {n: state[n] for n in [*program.parameters, *program.states]}
    to_keras(model, trained)
    assert all(np.array_equal(v.numpy().view(np.uint32), trained[v.path].view(np.uint32)) for v in model.trainable_variables)


@pytest.mark.parametrize("kind", ["MobileNetV2"])
def test_applications(kind: str) -> None:
    model = getattr(keras.applications, kind)(weights=None, input_shape=(32, 32, 3), classes=5, alpha=0.35)
    x = np.random.default_rng(1).standard_normal((1, 32, 32, 3)).astype(np.float32)
    close(run(from_keras(model, batch_size=1), x), model(x, training=False), 1e-4)


def test_file_modes_and_equal_bits(tmp_path: Path) -> None:
    """Files give the program that the model gives; layers are restored; frozen batch norm and dropout; two targets."""
    model, x = build("cnn")
    model.layers[1].trainable = False
    program = from_keras(model, input_shapes={"x": (4, 6, 6, 2)})
    assert program.state_updates == () and "call" not in vars(model.layers[1])
    for suffix in ("keras", "h5"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(tmp_path / f"m.{suffix}")
        again = from_keras(tmp_path / f"m.{suffix}", batch_size=4)
        # Keras names a loaded Sequential's variables without the model's name in front.
        assert [n.split("/")[-2:] for n in again.parameters] == [n.split("/")[-2:] for n in program.parameters]
        assert np.array_equal(run(again, x).view(np.uint32), run(program, x).view(np.uint32))
    results = [gensyn_tvm.compile(program, target)(x) for target in ("native", "c")]
    assert np.array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


def _saved(path: Path, layer: Any) -> Path:
    keras.Sequential([keras.Input((2,)), layer]).save(path)
    return path


class Foreign(L.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BAD: dict[str, tuple[Callable[[Path], Program], type[Exception], str]] = {
    "no_model": (lambda p: from_keras(3), ImportModelError, "cannot read this model"),
    "missing": (lambda p: from_keras(p / "no.keras"), ImportModelError, "no such file"),
    "damaged": (lambda p: from_keras(_write(p / "m.keras", b"PK no zip")), ImportModelError, "damaged"),
    "damaged_h5": (lambda p: from_keras(_write(p / "m.h5", b"no hdf5")), ImportModelError, "damaged"),
    "lambda": (
        lambda p: from_keras(_saved(p / "m.keras", L.Lambda(lambda x: x + 1))),
        ImportModelError,
        "code to be run\n.*\n.*Lambda",
    ),
    "lambda_h5": (lambda p: from_keras(_saved(p / "m.h5", L.Lambda(lambda x: x + 1))), ImportModelError, "code to be run"),
    "custom": (lambda p: from_keras(_saved(p / "m.keras", Foreign())), ImportModelError, "code to be run\n.*\n.*Foreign"),
    "open_batch": (lambda p: from_keras(build("mlp")[0]), ImportModelError, "input 'x' needs a static shape"),
    "wrong_shape": (lambda p: from_keras(build("mlp")[0], input_shapes=[(2, 5)]), ImportModelError, "extents that fit"),
    "unknown_input": (
        lambda p: from_keras(build("mlp")[0], input_shapes={"z": (2, 6)}),
        ImportModelError,
        "static shape|no input",
    ),
    "no_inputs": (lambda p: from_keras(keras.Sequential([L.Dense(2)])), ImportModelError, "example_inputs"),
    "strings": (
        lambda p: from_keras(keras.Sequential([keras.Input((2,), dtype="string", name="x"), L.Flatten()]), batch_size=1),
        ImportModelError,
        "an input of dtype string\n  in: input 'x'",
    ),
    "noise": (
        lambda p: from_keras(keras.Sequential([keras.Input((2,)), L.GaussianNoise(0.1)]), batch_size=1),
        UnsupportedOperatorError,
        "Random",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str, tmp_path: Path) -> None:
    call, error, message = BAD[name]
    with refused(message, error):
        call(tmp_path)


def test_subclassed_model() -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(2, name="d")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.dense(x)

    model, x = Model(), np.ones((1, 3), np.float32)
    model(x)
    close(run(from_keras(model, (tf.TensorSpec((1, 3)),)), x), model(x))
