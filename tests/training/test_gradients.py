"""Gradients of single operators through ``relax.transform.Gradient`` and the freeze, against torch autograd (2e-5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.training import ops
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, build_function, inline

from ..canonical.relaxed import variables
from ..relax_cases import COMMON, CUBE, KINKS, LINE, A, B, Case, X, c, normals

normal = normals(13)

CASES: dict[str, Case] = {
    **COMMON,
    "maximum ties": (op.maximum, torch.maximum, (KINKS, KINKS)),
    "log_softmax": (lambda x: op.nn.log_softmax(x, 1), lambda x: F.log_softmax(x, 1), (X,)),
    "where": (lambda x, y: op.where(op.less(x, y), x, y), lambda x, y: torch.where(x < y, x, y), (A, B)),
    "astype": (lambda x: op.astype(op.astype(x, "float64"), "float32"), lambda x: x.double().float(), (A,)),
    "floor": (lambda x: op.add(x, op.floor(x)), lambda x: x + x.floor(), (A,)),
    "max ties": (lambda x: op.max(x, [0]), lambda x: x.amax(0), (np.ones((3,), "float32"),)),
    "matmul batch": (op.matmul, torch.matmul, (X, normal(7, 3))),
    "conv2d depthwise": (
        lambda x, w: op.nn.conv2d(x, w, (3, 2), groups=4),
        lambda x, w: F.conv2d(x, w, stride=(3, 2), groups=4),
        (X, normal(8, 1, 2, 2)),
    ),
    "conv2d NHWC": (
        lambda x, w: op.nn.conv2d(x, w, (1, 2), (1, 1), data_layout="NHWC", kernel_layout="HWIO", out_layout="NHWC"),
        lambda x, w: F.conv2d(x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), stride=(1, 2), padding=1).permute(0, 2, 3, 1),
        (X, normal(2, 3, 7, 5)),
    ),
    "max_pool2d": (
        lambda x: op.nn.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True),
        (X,),
    ),
    "max_pool2d ties": (
        lambda x: op.nn.max_pool2d(x, (2, 2), (1, 1)),
        lambda x: F.max_pool2d(x, 2, 1),
        (np.zeros((1, 1, 3, 3), "float32"),),
    ),
    "avg_pool1d": (
        lambda x: op.nn.avg_pool1d(x, 3, 2, 1, count_include_pad=True),
        lambda x: F.avg_pool1d(x, 3, 2, 1),
        (LINE,),
    ),
    "avg_pool2d": (
        lambda x: op.nn.avg_pool2d(x, (3, 2), (2, 2), (1, 1)),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), count_include_pad=False),
        (X,),
    ),
    "avg_pool3d": (
        lambda x: op.nn.avg_pool3d(x, (2, 3, 2), (1, 2, 2)),
        lambda x: F.avg_pool3d(x, (2, 3, 2), (1, 2, 2)),
        (CUBE,),
    ),
    "layer_norm whole": (
        lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[0, 1], epsilon=1e-3),
        lambda x, g, b: F.layer_norm(x, (3, 5), g, b, 1e-3),
        (A, normal(3, 5), normal(3, 5)),
    ),
    "layer_norm first axis": (
        lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[0], epsilon=1e-3),
        lambda x, g, b: F.layer_norm(x.T, (3,), g, b, 1e-3).T,
        (A, normal(3), normal(3)),
    ),
    "layer_norm without scale and shift": (
        lambda x: op.nn.layer_norm(x, c(np.ones(5)), c(np.zeros(5)), axes=[-1], center=False, scale=False),
        lambda x: F.layer_norm(x, (5,)),
        (A,),
    ),
    "group_norm": (
        lambda x, g, b: op.nn.group_norm(x, g, b, num_groups=2, channel_axis=1, axes=[2, 3], epsilon=1e-3),
        lambda x, g, b: F.group_norm(x, 2, g, b, 1e-3),
        (X, normal(4), normal(4)),
    ),
    "group_norm channels last": (
        lambda x, g, b: op.nn.group_norm(x, g, b, num_groups=3, channel_axis=-1, axes=[1], epsilon=1e-3),
        lambda x, g, b: F.group_norm(x.permute(0, 2, 1), 3, g, b, 1e-3).permute(0, 2, 1),
        (normal(2, 5, 6), normal(6), normal(6)),
    ),
    "group_norm shared over the batch": (
        lambda x, g, b: op.nn.group_norm(x, g, b, num_groups=2, channel_axis=1, axes=[0, 2], epsilon=1e-3),
        lambda x, g, b: F.group_norm(x.permute(1, 0, 2).reshape(1, 4, -1), 2, g, b, 1e-3).reshape(4, 3, 5).permute(1, 0, 2),
        (normal(3, 4, 5), normal(4), normal(4)),
    ),
    "instance_norm": (
        lambda x, g, b: op.nn.instance_norm(x, g, b, channel_axis=1, axes=[2, 3], epsilon=1e-3),
        lambda x, g, b: F.instance_norm(x, weight=g, bias=b, eps=1e-3),
        (X, normal(4), normal(4)),
    ),
    "rms_norm": (
        lambda x, g: op.nn.rms_norm(x, g, axes=[-1], epsilon=1e-3),
        lambda x, g: F.rms_norm(x, (5,), g, 1e-3),
        (A, normal(5)),
    ),
    "rms_norm whole": (
        lambda x, g: op.nn.rms_norm(x, g, axes=[1, 2], epsilon=1e-3),
        lambda x, g: F.rms_norm(x, (4, 3), g, 1e-3),
        (normal(2, 4, 3), normal(4, 3)),
    ),
    "variance of all": (lambda x: op.variance(x), lambda x: x.var(correction=0), (X,)),
    "std of all": (lambda x: op.std(x), lambda x: x.std(correction=0), (A,)),
    "prelu of channels": (lambda x, a: op.nn.prelu(x, a, 1), F.prelu, (X, normal(4))),
    "batch_normalise": (
        lambda x, g, b: ops.batch_normalise(x, g, b, epsilon=1e-3),
        lambda x, g, b: F.batch_norm(x, None, None, g, b, True, eps=1e-3),
        (X, normal(4), normal(4)),
    ),
    "strided_slice 3": (lambda x: op.strided_slice(x, [1], [1], [5], [3]), lambda x: x[:, 1:5:3], (A,)),
    "take computed": (
        lambda x: op.take(x, op.add(c([[3, -1], [3, 0], [9, -9]], "int64"), c(0, "int64")), 2),
        lambda x: x[:, :, [[3, -1], [3, 0], [5, 0]]],
        (X,),
    ),
    "take computed rows": (lambda x: op.take(x, op.add(c([2, 2, 0], "int32"), c(0, "int32")), 0), lambda x: x[[2, 2, 0]], (A,)),
    "used twice": (lambda x: op.multiply(op.exp(x), op.sigmoid(x)), lambda x: x.exp() * x.sigmoid(), (A,)),
}


def gradients(body: Callable[..., Any], arrays: Sequence[np.ndarray], weights: np.ndarray) -> list[np.ndarray]:
    """Gradients of sum(body(*arrays) * weights)."""
    parameters = variables(arrays)

    def forward(e: Emitter) -> Sequence[Any]:
        e.place = "forward"
        return [e(op.sum(e(op.multiply(e(body(*parameters)), relax.const(weights)))))]

    module = build_function(parameters, forward)
    check_differentiable(module["main"], slice(None), [p.name for p in parameters])
    adjoint = differentiate(module, slice(None))
    outer = [relax.Var(p.name, p.ty) for p in parameters]
    flat = build_function(outer, lambda e: inline(e, adjoint, outer)[1])
    names = [p.name for p in outer]
    graph = freeze(flat, name="g", inputs=[(n, "input") for n in names], outputs=[("d" + n, False) for n in names])
    return interpreter.run(graph, dict(zip(names, arrays, strict=True)))


@pytest.mark.parametrize("name", CASES)
def test_against_torch_autograd(name: str) -> None:
    body, reference, arrays = CASES[name]
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    output = reference(*tensors)
    weights = normal(*output.shape)
    (output * torch.from_numpy(weights)).sum().backward()
    for found, tensor in zip(gradients(body, arrays, weights), tensors, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=2e-5, atol=2e-5)
