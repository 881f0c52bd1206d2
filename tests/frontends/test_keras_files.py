"""Keras files whose code would leave a mark, truncated ones, and the settings of compile()."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from tests.frontends.messages import refused
from tests.frontends.test_keras import L, from_keras, keras


def _rewritten(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a .keras file with another architecture."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config["config"]["layers"][-1]["config"])
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


def _function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


HOSTILE = {
    "of another package": _function("os", "system"),
    "of Keras that loads": _function("keras.models", "load_model"),
    "of Keras that fetches": _function("keras.utils", "get_file"),
    "of Keras that unlocks": _function("keras.config", "enable_unsafe_deserialization"),
    "class": {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}, "registered_name": None},
    "SavedModel": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}, "registered_name": None},
    "file": {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configurations(name: str, tmp_path: Path) -> None:
    keras.Sequential([keras.Input((2,)), L.Dense(2)]).save(tmp_path / "good.keras")
    entry = HOSTILE[name]
    bad = _rewritten(tmp_path / "good.keras", tmp_path / "bad.keras", lambda config: config.update(activation=entry))
    with refused(r"asks for code to be run\n.*\n  found: .*(" + "|".join(NAMES) + ")"):
        from_keras(bad, batch_size=1)
    from_keras(tmp_path / "good.keras", batch_size=1)


NAMES = ("os.system", "load_model", "get_file", "enable_unsafe", "Popen", "TFSMLayer", "StringLookup")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_of_a_file_does_not_run(suffix: str, tmp_path: Path) -> None:
    """It would write a file; with trusted=True it does, so the payload works."""
    mark = str(tmp_path / "mark")
    path = tmp_path / f"model.{suffix}"
    layer = L.Lambda(lambda x: (open(mark, "w").write("ran"), x)[1], output_shape=(2,))  # noqa: SIM115
    keras.Sequential([keras.Input((2,)), layer]).save(path)
    (tmp_path / "mark").unlink(missing_ok=True)
    with refused("code to be run"):
        from_keras(path, batch_size=1)
    assert not (tmp_path / "mark").exists()
    from_keras(path, batch_size=1, trusted=True)
    assert (tmp_path / "mark").read_text() == "ran"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    keras.Sequential([keras.Input((2,)), L.Dense(3)]).save(path)
    whole = path.read_bytes()
    for part in (0, 1, 10, len(whole) // 4, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:part])
        with refused(r"damaged|cannot load"):
            from_keras(path, batch_size=1)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.5),
        lambda: keras.optimizers.Adam(0.01, beta_1=0.8, epsilon=1e-12),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipvalue=0.02, epsilon=1e-12),
        lambda: keras.optimizers.Lion(0.01),
    ],
)
def test_compiled_settings_train_alike(optimizer: Callable[[], Any]) -> None:
    """Three steps of Keras' own training and of ours with its settings."""
    from gensyn_tvm import interpreter
    from gensyn_tvm.frontends.keras_settings import compiled_settings

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,), name="x"), L.Dense(5, "tanh"), L.Dense(3)])
    model.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    step = gensyn_tvm.training_step(from_keras(model, batch_size=4), **compiled_settings(model))
    x, y = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32), np.arange(4) % 3
    state: dict[str, Any] = {**step.parameters, **step.states, **step.optimizer_state}
    rate = np.float32(compiled_settings(model)["optimizer"].lr)
    for k in range(3):
        given = {**state, "x": x, "target": y, "step": k, "seed": 0, "learning_rate": rate}
        results = interpreter.run(step.graph, {i.name: np.asarray(given[i.name]) for i in step.graph.inputs})
        named = {o.name: np.asarray(r) for o, r in zip(step.graph.outputs, results, strict=True)}
        state = {name: named[name] for name in state}
        model.train_on_batch(x, y)
    for v in model.trainable_variables:
        np.testing.assert_allclose(state[v.path], v.numpy(), rtol=0, atol=3e-5)


def test_compiled_settings_refuse_by_name() -> None:
    from gensyn_tvm.frontends.keras_settings import compiled_settings

    model = keras.Sequential([keras.Input((2,)), L.Dense(3)])
    with refused("not compiled"):
        compiled_settings(model)
    model.compile(keras.optimizers.Ftrl(0.1, use_ema=True), "sparse_categorical_crossentropy")
    with refused(r"(?s)loss 'sparse_categorical_crossentropy'.*optimizer Ftrl\(use_ema=True\)"):
        compiled_settings(model)
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 5)), keras.losses.Huber(reduction="sum"))
    with refused(r"(?s)loss Huber\(reduction='sum'\).*schedule"):
        compiled_settings(model)
