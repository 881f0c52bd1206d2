"""ONNX products, convolutions and poolings against PyTorch and ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from gensyn_tvm.errors import GensynError

from .onnx_peer import assert_close, model, ours, random, reference


@pytest.mark.parametrize(
    ("x", "w", "given"),
    [
        ((2, 4, 9), (4, 3, 3), {"strides": [2], "output_padding": [1], "pads": [1, 1]}),
        ((1, 6, 5, 4), (6, 2, 3, 2), {"group": 3, "strides": [2, 3], "dilations": [2, 1], "pads": [1, 0, 1, 0]}),
        ((1, 2, 4, 4), (2, 2, 1, 1), {"strides": [3, 3], "output_padding": [2, 1]}),
        ((1, 2, 3, 4, 3), (2, 3, 2, 3, 2), {"strides": [1, 2, 2], "output_padding": [0, 1, 0]}),
    ],
)
def test_conv_transpose_is_torch(x: Any, w: Any, given: dict[str, Any]) -> None:
    data, weight, groups = random(*x), random(*w, seed=1), given.get("group", 1)
    bias = random(w[1] * groups, seed=2)
    n = len(x) - 2
    wanted = getattr(torch.nn.functional, f"conv_transpose{n}d")(
        *(torch.from_numpy(t) for t in (data, weight, bias)),
        stride=given["strides"],
        padding=given.get("pads", [0] * n)[:n],
        output_padding=given.get("output_padding", [0] * n),
        groups=groups,
        dilation=given.get("dilations", [1] * n),
    )
    inputs = [data, weight, bias]
    assert_close(ours(model("ConvTranspose", inputs, **given), inputs)[0], wanted.numpy())


@pytest.mark.parametrize("mode", ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"))
@pytest.mark.parametrize("shape", (None, [12, 9], [7, 11]))
def test_conv_transpose_to_a_shape(mode: str, shape: list[int] | None) -> None:
    """An output shape larger than what the input reaches is filled with zeros."""
    if shape is not None and mode == "VALID":
        pytest.skip("an output shape decides the padding")
    inputs = [random(1, 2, 4, 5), random(2, 3, 3, 3, seed=1)]
    given: dict[str, Any] = {"strides": [2, 2], "auto_pad": mode} | ({} if shape is None else {"output_shape": shape})
    full = torch.nn.functional.conv_transpose2d(*(torch.from_numpy(t) for t in inputs), stride=2).numpy()
    target = shape or {"VALID": [9, 11], "NOTSET": [9, 11]}.get(mode, [8, 10])
    for axis, extent in enumerate(target, start=2):
        total = full.shape[axis] - extent
        low = total // 2 if mode == "SAME_UPPER" else total - total // 2
        full = np.pad(full, [(5, 5) if a == axis else (0, 0) for a in range(4)])
        full = np.take(full, np.arange(extent) + low + 5, axis=axis)
    assert_close(ours(model("ConvTranspose", inputs, **given), inputs)[0], full)


@pytest.mark.parametrize("operator", ("MaxPool", "AveragePool"))
@pytest.mark.parametrize(
    "given",
    [
        {"ceil_mode": 1, "strides": [2, 3], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 2], "strides": [2, 1]},
        {"dilations": [2, 1], "ceil_mode": 1, "strides": [3, 3], "pads": [1, 0, 1, 1]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
    ],
)
def test_pools_are_the_reference(operator: str, given: dict[str, Any]) -> None:
    inputs = [random(2, 3, 9, 11)]
    for include in ({},) if operator == "MaxPool" else ({}, {"count_include_pad": 1}):
        attributes: dict[str, Any] = {"kernel_shape": [3, 2], **given, **include}
        proto = model(operator, inputs, **attributes)
        peer = proto
        if operator == "MaxPool" and given.get("auto_pad") == "SAME_LOWER":  # the reference has an element too few here
            peer = model(operator, inputs, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 0])
        assert_close(ours(proto, inputs)[0], reference(peer, inputs)[0])


def test_average_pool_of_a_last_window_beyond_the_padding_is_torch() -> None:
    inputs = [random(1, 2, 6, 7)]
    proto = model(
        "AveragePool", inputs, kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
    )
    wanted = torch.nn.functional.avg_pool2d(torch.from_numpy(inputs[0]), 3, (2, 3), 1, ceil_mode=True)
    assert_close(ours(proto, inputs)[0], wanted.numpy())


@pytest.mark.parametrize("dtype", ("float32", "float16", "int8", "uint8"))
def test_indices_of_maxima_are_torch(dtype: str) -> None:
    x = random(2, 3, 7, 8, dtype=dtype)
    proto = model("MaxPool", [x], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[2, 1], outputs=2)
    values, places = ours(proto, [x])
    wanted, indices = torch.nn.functional.max_pool2d(
        torch.from_numpy(x.astype(np.float32)), (3, 2), 2, 1, (2, 1), return_indices=True
    )
    np.testing.assert_array_equal(values, wanted.numpy().astype(dtype))
    np.testing.assert_array_equal(places, indices.numpy() + np.arange(6).reshape(2, 3, 1, 1) * 56)
    proto.graph.node[0].attribute.append(helper.make_attribute("storage_order", 1))
    local = indices.numpy()
    by_column = local // 8 + local % 8 * 7 + np.arange(6).reshape(2, 3, 1, 1) * 56
    np.testing.assert_array_equal(ours(proto, [x])[1], by_column)


@pytest.mark.parametrize("dtype", ("int32", "int64", "uint32", "uint64"))
def test_integer_products_wrap(dtype: str) -> None:
    for a, b in (((3, 4), (4, 5)), ((4,), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,))):
        inputs = [random(*a, dtype=dtype), random(*b, seed=1, dtype=dtype)]
        assert_close(ours(model("MatMul", inputs), inputs)[0], np.matmul(*inputs))
    if dtype == "uint64":
        return  # no addition of its own yet
    inputs = [random(4, 3, dtype=dtype), random(5, 4, seed=1, dtype=dtype), random(5, seed=2, dtype=dtype)]
    proto = model("Gemm", inputs, transA=1, transB=1, alpha=2.0, beta=3.0)
    two, three = np.array(2, dtype), np.array(3, dtype)
    assert_close(ours(proto, inputs)[0], inputs[0].T @ inputs[1].T * two + inputs[2] * three)
    with pytest.raises(GensynError, match="whole number"):
        ours(model("Gemm", inputs, transA=1, transB=1, alpha=0.5), inputs)
