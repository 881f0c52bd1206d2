"""Weights from Keras, TensorFlow and ONNX into a program, through two steps, and back; across frameworks by safetensors."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import gensyn_tvm
from gensyn_tvm import weights
from gensyn_tvm.errors import InputError
from gensyn_tvm.weights.onnx import to_onnx, weights_of_onnx
from tests.weights.training import all_same, same, trained, with_specials

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow as tf

    from gensyn_tvm.weights.keras import to_keras, weights_of_keras
    from gensyn_tvm.weights.tensorflow import to_tensorflow, weights_of_tensorflow

#: Keras' own use of NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def through_safetensors(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Written, read again, and equal."""
    weights.save_weights(folder / "w.safetensors", arrays)
    found = weights.load_weights(folder / "w.safetensors")
    assert all_same(found, arrays)
    return found


# ---- Keras ----------------------------------------------------------------------------------------------------------


def keras_model(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    x = keras.Input((6, 6, 2), name="x")
    y = keras.layers.Conv2D(4, 3, name="conv")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.Dropout(0.25, name="drop")(keras.layers.GlobalAveragePooling2D()(y))
    return keras.Model(x, keras.layers.Dense(3, name="out")(y), name="model")


def test_keras_there_and_back(tmp_path: Path) -> None:
    model = keras_model()
    program = gensyn_tvm.from_keras(model, batch_size=4)
    arrays = through_safetensors(tmp_path, with_specials(weights.weights_of(program, trained(program))))
    assert "norm/moving_variance" in arrays and "conv/kernel" in arrays
    model.save(tmp_path / "m.keras")
    untouched = to_keras(model, arrays)
    assert [name.split("/")[-1] for name in untouched] == ["seed_generator_state"]
    assert all_same(weights_of_keras(model), arrays)
    again = gensyn_tvm.from_keras(model, batch_size=4)
    assert all_same(weights.weights_of(again), arrays)
    assert again.module.script() == program.module.script()
    for name in ("new.weights.h5", "new.keras"):
        assert len(weights.save_weights(tmp_path / name, arrays, template=tmp_path / "m.keras")) == 1
        assert all_same(weights.load_weights(tmp_path / name, template=tmp_path / "m.keras"), arrays)
    other = keras_model(1)
    other.load_weights(tmp_path / "new.weights.h5")
    assert all_same(weights_of_keras(other), arrays)
    assert all_same(weights_of_keras(keras.models.load_model(tmp_path / "new.keras")), arrays)
    assert all_same(weights.weights_of(gensyn_tvm.from_keras(tmp_path / "new.keras", batch_size=4)), arrays)


def test_a_keras_template_stays_as_it_is(tmp_path: Path) -> None:
    model = keras_model()
    before = weights_of_keras(model)
    changed = {name: array + 1 for name, array in before.items()}
    weights.save_weights(tmp_path / "w.weights.h5", changed, template=model)
    assert all_same(weights_of_keras(model), before)


_OTHER_BACKEND = """
import numpy as np, keras
from gensyn_tvm.weights.keras import to_keras, weights_of_keras
assert keras.backend.backend() == "torch"
layers = [keras.Input((4,)), keras.layers.Dense(3, name="d"), keras.layers.BatchNormalization(name="n")]
model = keras.Sequential(layers, name="m")
arrays = {name: np.nextafter(a + 1, 9, dtype=a.dtype) for name, a in weights_of_keras(model).items()}
assert sorted(arrays)[:2] == ["m/d/bias", "m/d/kernel"] and to_keras(model, arrays) == ()
assert all(weights_of_keras(model)[name].tobytes() == a.tobytes() for name, a in arrays.items())
print(len(arrays))
"""


def test_keras_on_another_backend() -> None:
    pytest.importorskip("torch")
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", _OTHER_BACKEND], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


def test_keras_names_all_that_does_not_fit(tmp_path: Path) -> None:
    model = keras_model()
    arrays = weights_of_keras(model)
    before = dict(arrays)
    del arrays["conv/bias"]
    arrays |= {"other": np.zeros(1, np.float32), "out/bias": np.zeros(4, np.float32)}
    arrays["norm/gamma"] = arrays["norm/gamma"].astype(np.float64)
    with pytest.raises(InputError) as caught:
        to_keras(model, arrays)
    assert str(caught.value) == (
        "the weights do not fit the Keras model 'model'\n"
        "  found: missing: conv/bias\n"
        "    unknown: other\n"
        "    norm/gamma: float64[4], expected float32[4]\n"
        "    out/bias: float32[4], expected float32[3]"
    )
    assert all_same(weights_of_keras(model), before)
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="unknown: other"):
        weights.save_weights(tmp_path / "w.keras", arrays, template=tmp_path / "m.keras")
    (tmp_path / "bad.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="Keras cannot load the weights into the template"):
        weights.load_weights(tmp_path / "bad.weights.h5", template=tmp_path / "m.keras")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.weights.h5", "m.keras"]


# ---- TensorFlow -----------------------------------------------------------------------------------------------------


class Unnamed(tf.Module):
    """All variables have one name, as those that nobody named; one of them is a state that the model updates."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.w = tf.Variable(rng.standard_normal((5, 4)).astype(np.float32))
        self.b = tf.Variable(np.zeros(4, np.float32))
        self.v = tf.Variable(rng.standard_normal((4, 3)).astype(np.float32))
        self.calls = tf.Variable(np.float32(0), trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, "x")])
    def __call__(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return tf.nn.relu(x @ self.w + self.b) @ self.v * (self.calls / self.calls)


def test_tensorflow_there_and_back(tmp_path: Path) -> None:
    model, shapes = Unnamed(0), {"x": (4, 5)}
    program = gensyn_tvm.from_tensorflow(model, input_shapes=shapes)
    assert set(weights.weights_of(program)) == {"Variable", "Variable_1", "Variable_2", "Variable_3"}
    arrays = through_safetensors(tmp_path, with_specials(weights.weights_of(program, trained(program))))
    tf.saved_model.save(model, str(tmp_path / "m"))
    assert to_tensorflow(model, arrays, input_shapes=shapes) == ()
    assert all_same(weights.weights_of(gensyn_tvm.from_tensorflow(model, input_shapes=shapes)), arrays)
    assert all_same(weights_of_tensorflow(model, input_shapes=shapes), arrays)
    # The folder, which nobody traces again: graphs as they were, other variables.
    stored = gensyn_tvm.from_tensorflow(tmp_path / "m", input_shapes=shapes)
    from_file = {name: arrays[name] for name in weights.weights_of(stored)}
    assert weights.save_weights(tmp_path / "new", from_file, template=tmp_path / "m") == ()
    assert all_same(weights.load_weights(tmp_path / "new"), from_file)
    again = gensyn_tvm.from_tensorflow(tmp_path / "new", input_shapes=shapes)
    assert all_same(weights.weights_of(again), from_file) and again.module.script() == stored.module.script()
    loaded = tf.saved_model.load(str(tmp_path / "new"))
    assert same(loaded.w.numpy(), model.w.numpy()) and same(loaded.calls.numpy(), model.calls.numpy())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "new", "w.safetensors"]


class Named(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.arange(15, dtype=np.float32).reshape(5, 3) / 7, name="w")
        self.b = tf.Variable(np.zeros(3, np.float32), name="b")

    @tf.function(input_signature=[tf.TensorSpec([4, 5], tf.float32, "x")])
    def __call__(self, x: Any) -> Any:
        return x @ self.w + self.b


def test_tensorflow_checkpoints(tmp_path: Path) -> None:
    model, counter = Named(), tf.Variable(np.int64(7), name="counter")
    prefix = tf.train.Checkpoint(model=model, counter=counter).write(str(tmp_path / "old"))
    program = gensyn_tvm.from_tensorflow(model)
    arrays = with_specials(weights.weights_of(program, trained(program)))
    assert weights.save_weights(tmp_path / "new.index", arrays, template=prefix) == ("counter",)
    found = weights.load_weights(tmp_path / "new.index")
    assert all_same(found, {**arrays, "counter": np.array(7)})
    assert all_same(weights.weights_of(weights.with_weights(program, found, may_exceed=True)), arrays)
    other = Named()
    tf.train.Checkpoint(model=other, counter=counter).read(str(tmp_path / "new")).assert_consumed()
    assert same(other.w.numpy(), arrays["w"]) and same(other.b.numpy(), arrays["b"])
    names = ["new.data-00000-of-00001", "new.index", "old.data-00000-of-00001", "old.index"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    with pytest.raises(InputError, match="unknown: x\n    w: float32\\[2\\], expected float32\\[5, 3\\]"):
        weights.save_weights(tmp_path / "bad.index", {"x": np.zeros(2), "w": np.zeros(2, np.float32)}, template=prefix)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_tensorflow_bad_targets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the variables share names\n  found: several called Variable\n"):
        to_tensorflow(Unnamed(0).variables, {})
    prefix = tf.train.Checkpoint(model=Unnamed(0)).write(str(tmp_path / "c"))
    with pytest.raises(InputError, match="share names"):
        weights.load_weights(tmp_path / "c.index")
    (tmp_path / "d.index").write_bytes(b"damaged")
    with pytest.raises(InputError, match="a TensorFlow checkpoint cannot be read"):
        weights.load_weights(tmp_path / "d.index")
    with pytest.raises(InputError, match="the folder to write is there already"):
        weights.save_weights(tmp_path, {}, template=prefix)
    with pytest.raises(InputError, match="the template is no SavedModel"):
        weights.save_weights(tmp_path / "new", {}, template=tmp_path)
    tf.saved_model.save(Named(), str(tmp_path / "m"))
    with pytest.raises(InputError, match="unknown: y, z"):
        weights.save_weights(tmp_path / "new", {"y": np.zeros(1), "z": np.zeros(1)}, template=tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.data-00000-of-00001", "c.index", "d.index", "m"]


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def onnx_model() -> onnx.ModelProto:
    """Two batch normalisations that share their statistics, a scalar, integers, a constant of an operator."""
    rng = np.random.default_rng(0)
    arrays = {
        "conv.w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "conv.b": np.zeros(4, np.float32),
        "scale": np.ones(4, np.float32),
        "mean": np.zeros(4, np.float32),
        "var": np.ones(4, np.float32),
        "half": np.float32(0.5),
        "shape": np.array([0, -1], np.int64),
        "out.w": rng.standard_normal((4, 3)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.w", "conv.b"], ["c"], "conv"),
        node("BatchNormalization", ["c", "scale", "conv.b", "mean", "var"], ["n"], "n1"),
        node("BatchNormalization", ["n", "scale", "conv.b", "mean", "var"], ["m"], "n2"),
        node("GlobalAveragePool", ["m"], ["p"], "pool"),
        node("Reshape", ["p", "shape"], ["r"], "flat"),
        node("MatMul", ["r", "out.w"], ["d"], "dense"),
        node("Mul", ["d", "half"], ["y"], "mul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.filterwarnings("ignore:.*is shared by")
@pytest.mark.parametrize("external", [False, True])
def test_onnx_there_and_back(tmp_path: Path, external: bool) -> None:
    onnx.save_model(onnx_model(), tmp_path / "m.onnx", save_as_external_data=external, size_threshold=0, location="data.bin")
    program = gensyn_tvm.from_onnx(tmp_path / "m.onnx")
    assert {"mean", "mean@n2", "conv.w"} < set(weights.weights_of(program))
    arrays = through_safetensors(tmp_path, with_specials(weights.weights_of(program, trained(program))))
    untouched = weights.save_weights(tmp_path / "new.onnx", arrays, template=tmp_path / "m.onnx")
    assert untouched == ("half", "shape")
    again = gensyn_tvm.from_onnx(tmp_path / "new.onnx")
    assert all_same(weights.weights_of(again), arrays)
    found = weights.load_weights(tmp_path / "new.onnx")
    assert all_same({name: found[name] for name in arrays}, arrays) and set(found) - set(arrays) == {"half", "shape"}
    assert all_same(weights.weights_of(weights.with_weights(program, found, may_exceed=True)), arrays)
    written = onnx.load_model(tmp_path / "new.onnx")
    assert [n.name for n in written.graph.node] == [n.name for n in onnx_model().graph.node]


@pytest.mark.filterwarnings("ignore:.*is shared by")
def test_onnx_runtime_reads_what_was_written(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    program = gensyn_tvm.from_onnx(onnx_model())
    arrays = weights.weights_of(program, trained(program))
    weights.save_weights(tmp_path / "new.onnx", arrays, template=onnx_model())
    x = np.random.default_rng(1).standard_normal((4, 2, 6, 6)).astype(np.float32)
    (theirs,) = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    ours = gensyn_tvm.compile(weights.with_weights(program, arrays), "c")(x)
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


def test_onnx_names_all_that_does_not_fit() -> None:
    arrays: dict[str, Any] = {
        "conv.w": np.zeros((4, 2, 3, 3)),
        "out.w": np.zeros((3, 4), np.float32),
        "y": np.zeros(1),
        "z": np.zeros(1),
    }
    with pytest.raises(InputError) as caught:
        to_onnx(onnx_model(), arrays)
    assert str(caught.value) == (
        "the weights do not fit the ONNX model\n"
        "  in: onnx:ModelProto\n"
        "  found: unknown: y, z\n"
        "    conv.w: float64[4, 2, 3, 3], expected float32[4, 2, 3, 3]\n"
        "    out.w: float32[3, 4], expected float32[4, 3]"
    )


def test_onnx_of_another_opset_and_functions() -> None:
    """Initialisers are replaced in the model as it is, not in the one that the reader makes of it."""
    model = onnx_model()
    model.producer_name = "somebody"
    new, _ = to_onnx(model, {"half": np.array(np.float32(0.25))})
    assert new.producer_name == "somebody" and same(weights_of_onnx(new)["half"], np.array(np.float32(0.25)))
