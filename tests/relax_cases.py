"""Single Relax operators beside what PyTorch calls them, with inputs; for the freeze and for gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op


def normals(seed: int) -> Callable[..., np.ndarray]:
    """A source of normally distributed float32 arrays of given extents."""
    generator = np.random.default_rng(seed)
    return lambda *shape: generator.standard_normal(shape).astype("float32")


normal = normals(11)
A, B, G5 = normal(3, 5), normal(3, 5), normal(5)
P = np.abs(A) + np.float32(0.25)
X, LINE, CUBE = normal(2, 4, 6, 7), normal(2, 4, 11), normal(2, 2, 5, 6, 4)
KINKS = np.array([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0], dtype="float32")

#: Relax function, PyTorch function, inputs.
Case = tuple[Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]


def c(value: Any, dtype: str = "float32") -> Any:
    return relax.const(value, dtype)


#: Cases that both have a gradient and freeze.
COMMON: dict[str, Case] = {
    "add": (op.add, torch.add, (A, G5)),
    "subtract": (op.subtract, torch.sub, (A, G5)),
    "multiply": (op.multiply, torch.mul, (A, G5)),
    "divide": (op.divide, torch.div, (A, P)),
    "maximum": (op.maximum, torch.maximum, (A, B)),
    "minimum": (op.minimum, torch.minimum, (A, G5)),
    "negative": (op.negative, torch.neg, (A,)),
    "abs": (op.abs, torch.abs, (KINKS,)),
    "sqrt": (op.sqrt, torch.sqrt, (P,)),
    "rsqrt": (op.rsqrt, torch.rsqrt, (P,)),
    "exp": (op.exp, torch.exp, (A,)),
    "log": (op.log, torch.log, (P,)),
    "tanh": (op.tanh, torch.tanh, (A,)),
    "sigmoid": (op.sigmoid, torch.sigmoid, (A,)),
    "erf": (op.erf, torch.erf, (A,)),
    "sinh": (op.sinh, torch.sinh, (A,)),
    "cosh": (op.cosh, torch.cosh, (A,)),
    "atan": (op.atan, torch.atan, (A,)),
    "square": (op.square, torch.square, (A,)),
    "power 3": (lambda x: op.power(x, c(3.0)), lambda x: x**3, (A,)),
    "power -2": (lambda x: op.power(x, c(-2.0)), lambda x: x**-2, (P,)),
    "power 0.5": (lambda x: op.power(x, c(0.5)), lambda x: x**0.5, (P,)),
    "clip": (lambda x: op.clip(x, 0.0, 1.0), lambda x: x.clamp(0, 1), (KINKS,)),
    "relu": (op.nn.relu, F.relu, (KINKS,)),
    "leakyrelu": (lambda x: op.nn.leakyrelu(x, 0.2), lambda x: F.leaky_relu(x, 0.2), (KINKS,)),
    "prelu": (op.nn.prelu, F.prelu, (A, G5)),
    "gelu": (op.nn.gelu, F.gelu, (A,)),
    "gelu_tanh": (op.nn.gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), (A,)),
    "silu": (op.nn.silu, F.silu, (A,)),
    "softplus": (lambda x: op.nn.softplus(x, 2.0, 1.0), lambda x: F.softplus(x, 2.0, 1.0), (A,)),
    "softmax": (lambda x: op.nn.softmax(x, 1), lambda x: F.softmax(x, 1), (X,)),
    "sum": (lambda x: op.sum(x, [1, -1]), lambda x: x.sum((1, 3)), (X,)),
    "mean": (lambda x: op.mean(x, [0, 2], True), lambda x: x.mean((0, 2), True), (X,)),
    "max": (lambda x: op.max(x, [1]), lambda x: x.amax(1), (X,)),
    "min": (lambda x: op.min(x, [-1], True), lambda x: x.amin(-1, True), (X,)),
    "variance": (lambda x: op.variance(x, [2, 3]), lambda x: x.var((2, 3), correction=0), (X,)),
    "std": (lambda x: op.std(x, [1], True), lambda x: x.std(1, correction=0, keepdim=True), (X,)),
    "where": (
        lambda x, y: op.where(op.greater(x, c(0.0)), x, y),
        lambda x, y: torch.where(x > 0, x, y),
        (A, G5),
    ),
    "matmul": (op.matmul, torch.matmul, (A, B.T.copy())),
    "matmul row": (op.matmul, torch.matmul, (G5, B.T.copy())),
    "matmul column": (op.matmul, torch.matmul, (A, G5)),
    "conv1d": (
        lambda x, w: op.nn.conv1d(x, w, 2, 1, 2),
        lambda x, w: F.conv1d(x, w, stride=2, padding=1, dilation=2),
        (LINE, normal(3, 4, 3)),
    ),
    "conv2d": (
        lambda x, w: op.nn.conv2d(x, w, (2, 1), (1, 2), (1, 2), groups=2),
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (X, normal(6, 2, 3, 2)),
    ),
    "conv3d": (op.nn.conv3d, F.conv3d, (CUBE, normal(2, 2, 2, 3, 1))),
    "max_pool1d": (lambda x: op.nn.max_pool1d(x, 3, 2, 1), lambda x: F.max_pool1d(x, 3, 2, 1), (LINE,)),
    "max_pool3d": (
        lambda x: op.nn.max_pool3d(x, (2, 3, 2), (1, 2, 2)),
        lambda x: F.max_pool3d(x, (2, 3, 2), (1, 2, 2)),
        (CUBE,),
    ),
    "adaptive global": (lambda x: op.nn.adaptive_avg_pool2d(x, (1, 1)), lambda x: F.adaptive_avg_pool2d(x, 1), (X,)),
    "adaptive": (lambda x: op.nn.adaptive_avg_pool2d(x, (3, 1)), lambda x: F.adaptive_avg_pool2d(x, (3, 1)), (X,)),
    "layer_norm": (
        lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[-1], epsilon=1e-3),
        lambda x, g, b: F.layer_norm(x, (5,), g, b, 1e-3),
        (A, normal(5), normal(5)),
    ),
    "reshape": (lambda x: op.reshape(x, (8, -1)), lambda x: x.reshape(8, -1), (X,)),
    "flatten": (op.flatten, torch.flatten, (X,)),
    "permute_dims": (lambda x: op.permute_dims(x, [0, -1, 1, 2]), lambda x: x.permute(0, 3, 1, 2), (X,)),
    "expand_dims": (lambda x: op.expand_dims(x, [0, -1]), lambda x: x[None, ..., None], (A,)),
    "squeeze": (lambda x: op.squeeze(x, [0]), lambda x: x[0], (A[:1],)),
    "concat": (lambda x, y: op.concat([x, y], -1), lambda x, y: torch.cat([x, y], -1), (A, B)),
    "stack": (lambda x, y: op.stack([x, y], -1), lambda x, y: torch.stack([x, y], -1), (A, B)),
    "split": (lambda x: relax.TupleGetItem(op.split(x, [1, 3], -1), 1), lambda x: x[:, 1:3], (A,)),
    "strided_slice": (
        lambda x: op.strided_slice(x, [-1, 1], [-6, 0], [100, -1], [2, 1]),
        lambda x: x[:, :-1, :, -6::2],
        (X,),
    ),
    "broadcast_to": (lambda x: op.broadcast_to(x, (2, 3, 5)), lambda x: x.expand(2, 3, 5), (G5,)),
    "pad": (lambda x: op.nn.pad(x, [0, 1, 2, 0], "constant", 0.5), lambda x: F.pad(x, (2, 0, 0, 1), value=0.5), (A,)),
    "tile": (lambda x: op.tile(x, (2, 1, 3)), lambda x: x.tile(2, 1, 3), (A,)),
    "repeat": (lambda x: op.repeat(x, 3, 1), lambda x: x.repeat_interleave(3, 1), (A,)),
    "take scalar": (lambda x: op.take(x, c(-1, "int64"), 1), lambda x: x[:, -1], (A,)),
    "take list": (lambda x: op.take(x, c([0, 2, 1, 1, -1], "int64"), 1), lambda x: x[:, [0, 2, 1, 1, -1]], (A,)),
    "take matrix": (lambda x: op.take(x, c([[0, 1], [2, 0]], "int64"), 0), lambda x: x[torch.tensor([[0, 1], [2, 0]])], (A,)),
    "triu": (lambda x: op.triu(x, 1), lambda x: x.triu(1), (X,)),
    "tril": (lambda x: op.tril(x, -1), lambda x: x.tril(-1), (X,)),
}
