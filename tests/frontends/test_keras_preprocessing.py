"""Keras' preprocessing layers inside of models, on TensorFlow and (in a process of its own) on PyTorch, against Keras."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.training.step import inference_graph
from tests.frontends.messages import check_parts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("keras")
    import keras
    from keras import layers as L

    from gensyn_tvm.frontends.keras import from_keras

TORCH = keras.backend.backend() == "torch"
#: torch.export takes a second for each model; what differs between the backends is in these.
FEW = (
    "Rescaling",
    "Normalization",
    "Discretization",
    "CategoryEncoding count",
    "CenterCrop",
    *(f"Resizing {m} {k}" for m in ("nearest", "bilinear", "bicubic") for k in (0, 4)),
    "flip",
    "hue",
    "mixup",
    "noise",
)
TOLERANCE = 2e-6  # of the largest magnitude in the output

_generator = np.random.default_rng(0)
IMAGES = (_generator.random((2, 9, 8, 3)) * 255).astype(np.float32)
VECTORS = _generator.normal(0, 3, (4, 5)).astype(np.float32)
VECTORS[0, :3] = [-1.0, 0.5, 2.0]  # on boundaries
CLASSES = _generator.integers(0, 6, (4, 5)).astype(np.int32)
BOUNDARIES = [-1.0, 0.0, 0.5, 2.0]


def adapted(invert: bool = False) -> Any:
    layer = L.Normalization(axis=-1, invert=invert)
    layer.adapt(np.random.default_rng(1).normal(3, 2, (50, 5)).astype(np.float32))
    return layer


LAYERS: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "Rescaling": (lambda: L.Rescaling(1 / 255, offset=-0.5), IMAGES),
    "Rescaling by channel": (lambda: L.Rescaling([0.1, 0.5, 2.0], offset=[0.0, 1.0, 2.0]), IMAGES),
    "Normalization": (adapted, VECTORS),
    "Normalization inverted": (lambda: adapted(invert=True), VECTORS),
    "Normalization given": (lambda: L.Normalization(mean=[1.0, 2, 3, 4, 5], variance=[1.0, 4, 9, 16, 25]), VECTORS),
    "Discretization": (lambda: L.Discretization(BOUNDARIES), VECTORS),
    "Discretization of integers": (lambda: L.Discretization(BOUNDARIES), CLASSES - 3),
    "Discretization one_hot": (lambda: L.Discretization(BOUNDARIES, output_mode="one_hot"), VECTORS[:, :1]),
    "Discretization multi_hot": (lambda: L.Discretization(BOUNDARIES, output_mode="multi_hot"), VECTORS),
    "Discretization count": (lambda: L.Discretization(BOUNDARIES, output_mode="count"), VECTORS),
    "CategoryEncoding one_hot": (lambda: L.CategoryEncoding(6, output_mode="one_hot"), CLASSES[:, :1]),
    "CategoryEncoding multi_hot": (lambda: L.CategoryEncoding(6, output_mode="multi_hot"), CLASSES),
    "CategoryEncoding count": (lambda: L.CategoryEncoding(6, output_mode="count"), CLASSES),
    "CenterCrop": (lambda: L.CenterCrop(4, 5), IMAGES),
    "CenterCrop of smaller images": (lambda: L.CenterCrop(12, 14), IMAGES),
    **{
        f"Resizing {mode} {number}": (functools.partial(L.Resizing, *size, mode, **how), IMAGES)
        for mode in ("nearest", "bilinear", "bicubic", *(() if TORCH else ("area",)))  # which Keras has on TensorFlow only
        for number, (size, how) in enumerate(
            (
                ((5, 6), {}),
                ((18, 11), {}),
                ((7, 11), {"crop_to_aspect_ratio": True}),
                ((7, 11), {"pad_to_aspect_ratio": True}),
                ((5, 6), {"antialias": True}),
            )
        )
    },
}
RANDOM: dict[str, Callable[[], Any]] = {
    "flip": lambda: L.RandomFlip(),
    "rotation": lambda: L.RandomRotation(0.2),
    "zoom": lambda: L.RandomZoom(0.2),
    "translation": lambda: L.RandomTranslation(0.2, 0.2),
    "contrast": lambda: L.RandomContrast(0.3),
    "brightness": lambda: L.RandomBrightness(0.3),
    "hue": lambda: L.RandomHue(0.2),
    "saturation": lambda: L.RandomSaturation(0.2),
    "grayscale": lambda: L.RandomGrayscale(),
    "sharpness": lambda: L.RandomSharpness(0.2),
    "degeneration": lambda: L.RandomColorDegeneration(0.2),
    "posterization": lambda: L.RandomPosterization(4),
    "mixup": lambda: L.MixUp(),
    "cutmix": lambda: L.CutMix(),
    "erasing": lambda: L.RandomErasing(),
    "noise": lambda: L.GaussianNoise(0.2, name="noise"),
}


def chosen(names: Iterable[str]) -> list[str]:
    return [name for name in names if not TORCH or name in FEW]


def model(layer: Any, x: np.ndarray) -> Any:
    return keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype.name, name="x"), layer], name="net")


def run(made: Any, x: np.ndarray, train: bool) -> np.ndarray:
    program = from_keras(made, batch_size=len(x), train=train)
    graph = inference_graph(program)
    given = {program.inputs[0]: x, **program.parameters, **program.states}
    return np.asarray(interpreter.run(graph, {i.name: given[i.name] for i in graph.inputs})[0])


def compare(layer: Any, x: np.ndarray, train: bool = True) -> None:
    made = model(layer, x)
    wanted = keras.ops.convert_to_numpy(made(x, training=False))
    found = run(made, x, train)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * float(np.abs(wanted).max()))
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", chosen(LAYERS))
def test_layers_of_tensor_operations(name: str) -> None:
    layer, x = LAYERS[name]
    compare(layer(), x)


def test_nan_is_in_the_last_bucket() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-40]], np.float32)
    compare(L.Discretization(BOUNDARIES), x)


@pytest.mark.parametrize("name", chosen(RANDOM))
def test_random_layers_change_nothing_in_inference(name: str) -> None:
    made = model(RANDOM[name](), IMAGES)
    np.testing.assert_array_equal(run(made, IMAGES, train=False), IMAGES)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(made(IMAGES, training=False)), IMAGES)


@pytest.mark.parametrize("name", chosen(RANDOM))
def test_random_layers_are_refused_in_training(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        from_keras(model(RANDOM[name](), IMAGES), batch_size=2, train=True)
    text = str(caught.value)
    check_parts(text)
    assert "import with train=False" in text and ("net" in text or "noise" in text)
    assert ("Random numbers of" in caught.value.operator) if TORCH else ("StatelessRandom" in caught.value.operator)


LOOKUPS: dict[str, Callable[[], Any]] = {
    "Hashing": lambda: L.Hashing(8, name="h"),
    "IntegerLookup": lambda: L.IntegerLookup(vocabulary=[1, 2, 5], name="h"),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        from_keras(model(LOOKUPS[name](), CLASSES), batch_size=4)
    check_parts(str(caught.value))
    assert caught.value.operator == name and "/h" in str(caught.value) and "before the model" in str(caught.value)


@pytest.mark.skipif(TORCH, reason="Keras looks text up on TensorFlow only")
def test_all_lookups_are_in_one_error() -> None:
    class Text(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.words, self.hashed = L.StringLookup(vocabulary=["a", "b"], name="words"), L.Hashing(4, name="hashed")

        def call(self, x: Any) -> Any:
            return self.hashed(x)

    with pytest.raises(UnsupportedOperatorError) as caught:
        from_keras(Text(), [CLASSES])
    assert caught.value.operator == "StringLookup, Hashing" and "words (StringLookup)" in str(caught.value)


@pytest.mark.skipif(TORCH, reason="runs this file")
def test_on_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    ignored = "ignore:__array__ implementation:DeprecationWarning"  # of Keras' own use of NumPy on PyTorch
    command = [sys.executable, "-m", "pytest", "-W", ignored, "-q", "-n", "0", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "failed" not in done.stdout
