"""TFLite files of a few operators, written with the schema that TensorFlow ships, and TFLite's interpreter as the peer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.conversion.importers import tflite_outputs
from gensyn_tvm.frontends.tflite import from_tflite
from gensyn_tvm.training.step import inference_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("tensorflow")
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema


@dataclass
class T:
    """A tensor: with an array a constant; scales and zeros say that it is quantised."""

    shape: Sequence[int]
    dtype: str = "float32"
    scale: Any = None
    zero: Any = 0
    array: Any = None
    axis: int = 0
    signature: Sequence[int] | None = None
    name: str = ""


def constant(array: Any, **settings: Any) -> T:
    """A tensor with a value."""
    array = np.asarray(array)
    return T(array.shape, array.dtype.name, array=array, **settings)


def options(kind: str, **values: Any) -> Any:
    """The options ``kind`` of an operator, by the schema's own names."""
    made = getattr(schema, f"{kind}OptionsT")()
    for key, value in values.items():
        assert hasattr(made, key), (kind, key)
        setattr(made, key, value)
    return made


def operator(name: str, inputs: Sequence[int], outputs: Sequence[int], settings: Any = None) -> Any:
    """An operator; ``name`` is TFLite's, or the name of a custom one."""
    made = schema.OperatorT()
    made.inputs, made.outputs, made.opcode = list(inputs), list(outputs), name
    if settings is not None:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, type(settings).__name__.removesuffix("T"))
        made.builtinOptions = settings
    return made


def model(
    tensors: Sequence[T], operators: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int], version: int = 3
) -> bytes:
    """The bytes of a file."""
    made, graph = schema.ModelT(), schema.SubGraphT()
    made.version, made.subgraphs, made.buffers, made.operatorCodes = version, [graph], [schema.BufferT()], []
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], list(inputs), list(outputs)
    for number, tensor in enumerate(tensors):
        graph.tensors.append(_tensor(tensor, tensor.name or f"t{number}", made.buffers))
    for op in operators:
        code = schema.OperatorCodeT()
        known: int | None = getattr(schema.BuiltinOperator, op.opcode, None)
        code.builtinCode = schema.BuiltinOperator.CUSTOM if known is None else known
        code.customCode = op.opcode if known is None else None
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 2 if op.opcode == "BROADCAST_TO" else 1
        op.opcodeIndex = len(made.operatorCodes)
        made.operatorCodes.append(code)
        graph.operators.append(op)
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(tensor: T, name: str, buffers: list[Any]) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.shapeSignature = name, list(tensor.shape), tensor.signature
    made.type, made.buffer = getattr(schema.TensorType, tensor.dtype.upper()), 0
    if tensor.array is not None:
        made.buffer = len(buffers)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(tensor.array).tobytes(), np.uint8)
        buffers.append(buffer)
    if tensor.scale is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.atleast_1d(np.asarray(tensor.scale, np.float32))
        made.quantization.zeroPoint = np.atleast_1d(np.asarray(tensor.zero, np.int64))
        made.quantization.quantizedDimension = tensor.axis
    return made


def single(name: str, tensors: Sequence[T], results: Sequence[T], settings: Any = None) -> bytes:
    """A file of one operator, whose inputs are the tensors without a value."""
    count = len(tensors)
    places = [k for k, t in enumerate(tensors) if t.array is None]
    op = operator(name, range(count), range(count, count + len(results)), settings)
    return model([*tensors, *results], [op], places, range(count, count + len(results)))


def reference(file: bytes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What TFLite's interpreter makes of arrays, with its reference kernels where it has them."""
    return tflite_outputs(file, list(arrays))[0]


def ours(file: bytes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What we make of them, by the interpreter."""
    program = from_tflite(file)
    graph = inference_graph(program)
    given = {**dict(zip(program.inputs, arrays, strict=True)), **program.states}
    return [np.asarray(y) for y in interpreter.run(graph, {i.name: given[i.name] for i in graph.inputs})]


def random(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Floats around 0, or integers over the whole range of 8 bits."""
    generator = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return generator.normal(0, 2, shape).astype(dtype)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(dtype)
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**20)), min(info.max, 2**20)
    return generator.integers(low, high + 1, shape).astype(dtype)
