"""Keras on PyTorch, jax and NumPy, each in a process of its own, because Keras has one backend in a process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")

HERE = Path(__file__).parent

#: Imports a model, and writes its inference's result, Keras' own, and the names of the program.
SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import keras, numpy as np
from keras import layers as L
from gensyn_tvm import interpreter
from gensyn_tvm.frontends.keras import from_keras
from gensyn_tvm.training.step import inference_graph

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((6, 6, 2), name="x"), L.Conv2D(4, 3, name="c"), L.BatchNormalization(name="b"), L.SpatialDropout2D(0.3),
    L.GlobalAveragePooling2D(), L.Dense(3, name="out"),
], name="net")
x = np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype(np.float32)
program = from_keras(model, batch_size=2)
graph = inference_graph(program)
given = {"x": x, **program.parameters, **program.states}
found = interpreter.run(graph, {i.name: given[i.name] for i in graph.inputs})[0]
wanted = keras.ops.convert_to_numpy(model(x, training=False))
names = [*program.parameters, "|", *program.state_updates]
assert names[:-3] == [v.path for v in model.trainable_variables]
np.savez(sys.argv[1], found=found, wanted=wanted, names=" ".join(names), backend=keras.backend.backend())

class Own(L.Layer):
    def call(self, x):
        return x * 2

from gensyn_tvm.errors import ImportModelError
for layer in (L.Lambda(lambda x: x + 1), Own()):
    try:
        from_keras(keras.Sequential([keras.Input((2,)), layer]), batch_size=1)
    except ImportModelError as error:
        assert "KERAS_BACKEND" in str(error) and type(layer).__name__ in str(error), error
    else:
        assert keras.backend.backend() == "torch"
"""


def _run(backend: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("backend", ["torch", "numpy", "jax"])
def test_backend(backend: str, tmp_path: Path) -> None:
    """Values, and the names of the model, whose file would give shorter ones."""
    needed = "jax" if backend == "numpy" else backend  # Keras' backend numpy takes functions from the one for jax
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = _run(backend, "-c", SCRIPT, str(tmp_path / "results.npz"))
    assert done.returncode == 0, done.stderr[-2000:]
    results = np.load(tmp_path / "results.npz")
    assert str(results["backend"]) == backend
    assert "net/c/kernel" in str(results["names"]) and str(results["names"]).endswith(
        "| net/b/moving_mean net/b/moving_variance"
    )
    scale = np.abs(results["wanted"]).max()
    np.testing.assert_allclose(results["found"], results["wanted"], atol=2e-5 * scale, rtol=0)


def test_torch_models_train() -> None:
    """The models of ``test_keras``: inference and three training steps against Keras on PyTorch, and the refusals."""
    chosen = "inference_and_training or subclassed or bad_inputs"
    ignored = "ignore:__array__ implementation:DeprecationWarning"  # of Keras' own use of NumPy on PyTorch
    done = _run(
        "torch",
        "-m",
        "pytest",
        "-W",
        ignored,
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(HERE / "test_keras.py"),
        "-k",
        chosen,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "failed" not in done.stdout
