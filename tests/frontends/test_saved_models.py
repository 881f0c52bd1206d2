"""SavedModels whose graphs would leave a mark, and damaged ones."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.conversion.convert import Settings, convert
from gensyn_tvm.conversion.sources import Request
from gensyn_tvm.errors import VerificationError
from tests.frontends.messages import refused
from tests.frontends.test_tensorflow import from_tensorflow, run, tf, values


class Model(tf.Module):
    """A product, with whatever else a case adds."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(values(5, 3), name="w")

    @tf.function(input_signature=[tf.TensorSpec([2, 5], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        return tf.matmul(x, self.w)


def _save(model: Any, folder: Path) -> Path:
    tf.saved_model.save(model, str(folder), signatures=model.__call__)
    return folder


def _write(mark: str) -> None:
    tf.raw_ops.WriteFile(filename=mark, contents="ran")


def _resource(model: Any, mark: str, method: str) -> None:
    from tensorflow.python.trackable.resource import TrackableResource

    class Resource(TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

    setattr(Resource, method, lambda self: _write(mark))
    model.resource = Resource()
    assert model.resource.resource_handle is not None


def _nested(model: Any, mark: str) -> None:
    def branch() -> int:
        _write(mark)
        return 1

    inner = tf.function(lambda: tf.cond(tf.constant(1.0) > 0, branch, lambda: 0))
    model.inner = inner
    from tensorflow.python.trackable.resource import TrackableResource

    class Resource(TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

        def _initialize(self) -> None:
            inner()

    model.resource = Resource()
    assert model.resource.resource_handle is not None


def _restoring(model: Any, mark: str) -> None:
    """A function that the loader calls to restore an object."""

    class Restored(tf.__internal__.tracking.AutoTrackable):
        def _serialize_to_tensors(self) -> dict[str, Any]:
            return {"value": tf.constant(1.0)}

        def _restore_from_tensors(self, tensors: dict[str, Any]) -> Any:
            _write(mark)
            return tf.no_op()

    model.restored = Restored()


PAYLOADS: dict[str, Callable[[Any, str], None]] = {
    "initialise": lambda model, mark: _resource(model, mark, "_initialize"),
    "destroy": lambda model, mark: _resource(model, mark, "_destroy_resource"),
    "nested": _nested,
    "restore": _restoring,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_do_not_run(name: str, tmp_path: Path) -> None:
    """They would write a file; TensorFlow's own loader does let them, so the payload works."""
    mark, model = tmp_path / "mark", Model()
    PAYLOADS[name](model, str(mark))
    folder = _save(model, tmp_path / "m")
    del model
    gc.collect()
    mark.unlink(missing_ok=True)
    with refused(r"asks for code to be run while it is loaded\n  in: .*\n  found: WriteFile \(.*\n"):
        from_tensorflow(folder)
    gc.collect()
    assert not mark.exists()
    loaded = tf.saved_model.load(str(folder))
    del loaded
    gc.collect()
    assert mark.read_text() == "ran"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("payload", ["write", "print"])
def test_verification_does_not_run_payloads(payload: str, tmp_path: Path) -> None:
    """No result depends on the operator, so the import leaves it out; TensorFlow would run it."""
    from gensyn_tvm.frontends.tensorflow_files import check_runnable, load_saved_model

    class Writes(Model):
        @tf.function(input_signature=[tf.TensorSpec([2, 5], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            if payload == "write":
                _write(str(tmp_path / "mark"))
            else:
                tf.print("ran", output_stream=f"file://{tmp_path / 'mark'}")
            return tf.matmul(x, self.w)

    folder = _save(Writes(), tmp_path / "m")
    x = values(2, 5, seed=1)
    from_tensorflow(folder)
    loaded = load_saved_model(folder)
    with refused(r"code to be run when its signature is\n.*\n  found: (WriteFile|PrintV2) \(\w+\)\n"):
        check_runnable(loaded.signatures["serving_default"], str(folder))
    with pytest.raises(VerificationError, match="--no-verify"):
        convert(Request(str(folder)), tmp_path / "m.gtvm")
    assert not (tmp_path / "mark").exists()
    loaded.signatures["serving_default"](x=tf.constant(x))
    assert (tmp_path / "mark").exists()


@pytest.mark.filterwarnings("ignore")
def test_tables_that_are_not_used_are_loaded(tmp_path: Path) -> None:
    model, x = Model(), values(2, 5, seed=1)
    model.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4]), -1)
    model.other = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    program = from_tensorflow(_save(model, tmp_path / "m"))
    np.testing.assert_allclose(run(program, x)[0], model(tf.constant(x)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_draws_that_are_not_used_are_compared(tmp_path: Path) -> None:
    """Keras exports dropout as a branch; TensorFlow may run it."""
    keras = tf.keras
    layers = [keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dropout(0.3), keras.layers.Reshape((2, 2))]
    layers.append(keras.layers.LSTM(3, dropout=0.1))
    keras.Sequential(layers).export(str(tmp_path / "m"), verbose=False)
    report = convert(Request(str(tmp_path / "m"), batch=2), tmp_path / "m.gtvm", Settings(targets=()))
    assert report.verification is not None


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_1_is_refused(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [2], name="x")
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x}, {"y": x * 2})
    with refused(r"a SavedModel of TensorFlow 1.*\n(.*\n)*  what to do: .*tf.saved_model.load"):
        from_tensorflow(tmp_path / "m")


@pytest.mark.filterwarnings("ignore")
def test_damaged_saved_models(tmp_path: Path) -> None:
    whole = _save(Model(), tmp_path / "whole")
    sizes = {p.relative_to(whole): p.stat().st_size for p in whole.rglob("*") if p.is_file()}
    named = [Path("saved_model.pb"), Path("variables/variables.index"), Path("variables/variables.data-00000-of-00001")]
    assert set(named) <= set(sizes)
    for k, (name, part) in enumerate((n, p) for n in named for p in (None, 0, 1, sizes[n] // 2, sizes[n] - 1)):
        folder = tmp_path / f"m{k}"
        shutil.copytree(whole, folder)
        if part is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes((whole / name).read_bytes()[:part])
        with refused(rf"(cannot be read|no SavedModel|of TensorFlow 1)(.|\n)*  in: {re.escape(str(folder))}"):
            from_tensorflow(folder)
