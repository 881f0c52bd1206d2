"""Write the ONNX file of the demonstration's MLP (64-256-128-10, ReLU) with reproducible initial weights."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gensyn_tvm.demo.models import MLP_FILE, initial_values

WIDTHS = (64, 256, 128, 10)


def build() -> onnx.ModelProto:
    """The model: ``image`` (batch, 64) -> ``logits`` (batch, 10)."""
    nodes, weights, value = [], [], "image"
    for k, (fan_in, width) in enumerate(itertools.pairwise(WIDTHS), start=1):
        weights.append(numpy_helper.from_array(initial_values((width, fan_in), fan_in, seed=200 + k), f"fc{k}.weight"))
        weights.append(numpy_helper.from_array(initial_values((width,), fan_in, seed=300 + k), f"fc{k}.bias"))
        last = k == len(WIDTHS) - 1
        result = "logits" if last else f"hidden{k}"
        nodes.append(helper.make_node("Gemm", [value, f"fc{k}.weight", f"fc{k}.bias"], [result], f"fc{k}", transB=1))
        value = result
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"relu{k}_out"], f"relu{k}"))
            value = f"relu{k}_out"
    graph = helper.make_graph(
        nodes,
        "digits_mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="gensyn_tvm")


if __name__ == "__main__":
    model = build()
    onnx.checker.check_model(model)
    MLP_FILE.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{MLP_FILE}: {sum(np.prod(w.dims) for w in model.graph.initializer)} parameters")
