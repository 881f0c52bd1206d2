"""One-node ONNX models: what we compute with the interpreter, beside a peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from gensyn_tvm import interpreter
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.step import inference_graph

Array = np.ndarray


def model(
    operator: str,
    inputs: Sequence[Array | None],
    *,
    constants: Sequence[int] = (),
    outputs: int = 1,
    opset: int = 21,
    rank: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node whose inputs x0, x1, … (None: left out) are graph inputs, or initializers where ``constants`` says so.

    With ``rank`` the outputs have that many axes of open extents and x0's dtype; otherwise onnx infers their types.
    """
    names = ["" if array is None else f"x{k}" for k, array in enumerate(inputs)]
    infos, stored = [], []
    for k, array in enumerate(inputs):
        if array is None:
            continue
        if k in constants:
            stored.append(numpy_helper.from_array(array, f"x{k}"))
        else:
            infos.append(helper.make_tensor_value_info(f"x{k}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
    results = [onnx.ValueInfoProto(name=f"y{k}") for k in range(outputs)]
    node = helper.make_node(operator, names, [r.name for r in results], **attributes)
    if rank is not None:
        kind = infos[0].type.tensor_type.elem_type
        results = [helper.make_tensor_value_info(r.name, kind, [f"{r.name}_{k}" for k in range(rank)]) for r in results]
    graph = helper.make_graph([node], "graph", infos, results, stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return proto if rank is not None else onnx.shape_inference.infer_shapes(proto)


def ours(proto: onnx.ModelProto, inputs: Sequence[Array | None]) -> list[Array]:
    """The outputs by import and interpretation."""
    program = from_onnx(proto)
    graph = inference_graph(program)
    given: Mapping[str, Array] = {f"x{k}": array for k, array in enumerate(inputs) if array is not None}
    known = {**program.parameters, **program.states, **given}
    return interpreter.run(graph, {i.name: known[i.name] for i in graph.inputs})


def reference(proto: onnx.ModelProto, inputs: Sequence[Array | None]) -> list[Array]:
    """The outputs by ONNX's own evaluator."""
    wanted = {i.name for i in proto.graph.input}
    given = {f"x{k}": array for k, array in enumerate(inputs) if f"x{k}" in wanted}
    return [np.asarray(r) for r in ReferenceEvaluator(proto).run(None, given)]


def assert_close(found: Array, wanted: Array, tolerance: float = 2e-6) -> None:
    """Same shape and dtype, and a difference of at most ``tolerance`` times the largest magnitude; integers are equal."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    if found.dtype.kind in "iub":
        np.testing.assert_array_equal(found, wanted)
        return
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    scale = max(float(np.abs(b).max(initial=0.0, where=np.isfinite(b))), 1e-3)
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance, rtol=0)


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    """Normal floats, or integers over the whole range."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)
