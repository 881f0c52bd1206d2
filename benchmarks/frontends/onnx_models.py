"""ONNX models: what PyTorch's exporter makes of the models of PyTorch and of Keras on its torch backend."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch

import gensyn_tvm
from benchmarks.frontends.subject import Subject
from gensyn_tvm.conversion.importers import onnx_outputs


def _from_torch(name: str) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    from benchmarks.frontends.torch_models import build

    module, inputs = build(name)
    exported = torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False)
    assert exported is not None
    return exported.model_proto, [t.numpy() for t in inputs]


def _from_keras(name: str) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    import keras

    from benchmarks.frontends.keras_models import build

    model, x = build(name)
    model(torch.from_numpy(x), training=False)  # Keras exports only what was called
    # With the static shapes that Keras asks for on this backend it takes PyTorch's newer exporter, otherwise TorchScript's.
    signature = [keras.InputSpec(shape=x.shape, dtype=str(x.dtype), name=model.inputs[0].name)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(str(path), format="onnx", verbose=False, input_signature=signature)
        return onnx.load(path), [x]


def subject(name: str, source: str) -> Subject:
    """The model of a row. An exporter folds batch normalisation, so the file trains something else than its framework."""
    proto, arrays = {"torch": _from_torch, "keras": _from_keras}[source](name)
    named = dict(zip((i.name for i in proto.graph.input), arrays, strict=True))
    program = gensyn_tvm.from_onnx(proto, shapes={n: a.shape for n, a in named.items()})
    return Subject(program, tuple(named[n] for n in program.inputs), lambda: onnx_outputs(proto, named)[0])
