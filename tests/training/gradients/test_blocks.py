"""Gradients of what frontends make of larger operators, as a user differentiates them: ONNX import, ``differentiate``, freeze,
interpreter; against PyTorch's autograd in float64 and against finite differences of the imported graph in float64.

A block's tolerance is 4e-6 of its gradient's largest element (or of 1) unless it says otherwise. Larger ones belong to blocks
that subtract large numbers: sampling positions of grids and regions in pixels, determinants, transcendental chains of a
recurrent network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from .blocks import Array, Block, by_torch, forward_graph, gradients
from .reference import finite_differences

_rng = np.random.default_rng(17)


def normal(*shape: int) -> Array:
    return _rng.standard_normal(shape).astype(np.float32)


def distinct(*shape: int) -> Array:
    """Values that all differ by much more than the step of finite differences."""
    count = math.prod(shape)
    return ((_rng.permutation(count) - count / 2 + 0.3) * (4 / count)).reshape(shape).astype(np.float32)


def integers(*values: Any) -> Array:
    return np.array(values if len(values) > 1 else values[0], np.int64)


X, IMAGE = normal(3, 5), normal(1, 2, 4, 5)
P = np.abs(X) + np.float32(0.3)


# ---- sampling -------------------------------------------------------------------------------------------------------


def _resize(mode: str, theirs: dict[str, Any], *, size: tuple[int, int] = (7, 3), **attributes: Any) -> Block:
    sizes = integers((1, 2, *size))
    return Block(
        "Resize",
        [IMAGE, None, None, sizes],
        lambda x, *_: F.interpolate(x, size, **theirs),
        {"mode": mode, **attributes},
    )


def _sampled(mode: str, padding: str, align: bool) -> Block:
    """Positions between pixels, some outside."""
    grid = np.stack(np.meshgrid(np.linspace(-1.13, 1.09, 4), np.linspace(-0.93, 1.17, 3)), -1)[None] + normal(1, 3, 4, 2) * 0.02
    theirs = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[mode]
    return Block(
        "GridSample",
        [IMAGE, grid.astype(np.float32)],
        lambda x, g: F.grid_sample(x, g, theirs, padding, align),
        {"mode": mode, "padding_mode": padding, "align_corners": int(align)},
        fixed=(1,) if mode == "nearest" else (),
        tolerance=2e-5,
    )


ROIS = np.array([[0.3, 0.2, 3.1, 2.7], [1.13, 0.41, 4.27, 3.57]], np.float32)

SAMPLING = {
    "resize linear": _resize("linear", {"mode": "bilinear"}),
    "resize linear, corners aligned": _resize(
        "linear", {"mode": "bilinear", "align_corners": True}, coordinate_transformation_mode="align_corners"
    ),
    "resize cubic": _resize("cubic", {"mode": "bicubic"}, cubic_coeff_a=-0.75),
    "resize nearest": _resize(
        "nearest", {"mode": "nearest"}, nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    ),
    "resize antialiased": _resize(
        "linear", {"mode": "bilinear", "antialias": True}, size=(3, 2), antialias=1, exclude_outside=1
    ),
    "upsample by scales": Block(
        "Resize",
        [IMAGE, None, np.array([1, 1, 2, 3], np.float32)],
        lambda x, *_: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
        {"mode": "linear"},
        fixed=(2,),
    ),
    **{
        f"grid sample {mode} {padding}{' aligned' if align else ''}": _sampled(mode, padding, align)
        for mode, padding, align in (
            ("linear", "zeros", False),
            ("linear", "border", True),
            ("linear", "reflection", False),
            ("cubic", "zeros", True),
            ("nearest", "zeros", False),
        )
    },
    **{
        f"RoiAlign {mode}": Block(
            "RoiAlign",
            [IMAGE, ROIS, integers(0, 0)],
            None,
            {"mode": mode, "output_height": 2, "output_width": 3, "sampling_ratio": 2},
            tolerance=2e-5,
        )
        for mode in ("avg", "max")
    },
    "pixel shuffle": Block(
        "DepthToSpace", [normal(2, 8, 2, 3)], lambda x: F.pixel_shuffle(x, 2), {"blocksize": 2, "mode": "CRD"}
    ),
    "Col2Im": Block(
        "Col2Im",
        [normal(1, 2 * 6, 15), integers(4, 5), integers(2, 3)],
        lambda x, *_: F.fold(x, (4, 5), (2, 3), padding=(0, 1)),
        {"pads": [0, 1, 0, 1]},
    ),
}

# ---- recurrent networks, attention ----------------------------------------------------------------------------------

STEPS, BATCH, HIDDEN = 4, 2, 3


def _lstm(x: Any, w: Any, r: Any, b: Any, lengths: Any, h0: Any, c0: Any, p: Any) -> Any:
    """ONNX's gates i, o, f, c, with peepholes; states stay where a sample has ended, outputs are 0 there."""
    h, c, results = h0[0], c0[0], []
    for t in range(STEPS):
        i, o, f, g = (x[t] @ w[0].T + h @ r[0].T + b[0, : 4 * HIDDEN] + b[0, 4 * HIDDEN :]).chunk(4, 1)
        pi, po, pf = p[0].chunk(3)
        new = (f + pf * c).sigmoid() * c + (i + pi * c).sigmoid() * g.tanh()
        out = (o + po * new).sigmoid() * new.tanh()
        alive = (lengths > t)[:, None]
        h, c = torch.where(alive, out, h), torch.where(alive, new, c)
        results.append(torch.where(alive, out, 0.0))
    return torch.stack(results)[:, None]


def _gru(x: Any, w: Any, r: Any, b: Any) -> Any:
    """ONNX's gates z, r, h, the reset after the product."""
    h, results = torch.zeros(BATCH, HIDDEN, dtype=x.dtype), []
    for t in range(STEPS):
        (xz, xr, xn), (hz, hr, hn) = (
            (x[t] @ w[0].T + b[0, : 3 * HIDDEN]).chunk(3, 1),
            (h @ r[0].T + b[0, 3 * HIDDEN :]).chunk(3, 1),
        )
        z = (xz + hz).sigmoid()
        h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
        results.append(h)
    return torch.stack(results)[:, None]


def _rnn(x: Any, w: Any, r: Any) -> Any:
    """Backwards in time."""
    h = torch.zeros(BATCH, HIDDEN, dtype=x.dtype)
    results: list[Any] = []
    for t in reversed(range(STEPS)):
        h = (x[t] @ w[0].T + h @ r[0].T).tanh()
        results.insert(0, h)
    return torch.stack(results)[:, None]


def _recurrent(kind: str, gates: int, reference: Callable[..., Any], more: list[Array | None], **attributes: Any) -> Block:
    weights = [normal(STEPS, BATCH, 2), normal(1, gates * HIDDEN, 2), normal(1, gates * HIDDEN, HIDDEN)]
    return Block(kind, [*weights, *more], reference, {"hidden_size": HIDDEN, **attributes}, tolerance=1e-5)


def _attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _causal(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


_QKV: list[Array | None] = [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 3)]
PADDING = np.array([[True, True, True, False, False], [True] * 5])[:, None, None].repeat(3, 2)

RECURRENT = {
    "LSTM": _recurrent(
        "LSTM",
        4,
        _lstm,
        [
            normal(1, 8 * HIDDEN),
            np.array([4, 2], np.int32),
            normal(1, BATCH, HIDDEN),
            normal(1, BATCH, HIDDEN),
            normal(1, 3 * HIDDEN),
        ],
    ),
    "GRU": _recurrent("GRU", 3, _gru, [normal(1, 6 * HIDDEN)], linear_before_reset=1),
    "RNN": _recurrent("RNN", 1, _rnn, [], direction="reverse"),
    "attention": Block("Attention", _QKV, _attention, opset=23),
    "attention causal": Block(
        "Attention", [_QKV[0], normal(2, 2, 3, 4), normal(2, 2, 3, 3)], _causal, {"is_causal": 1}, opset=23
    ),
    "attention with padding": Block("Attention", [*_QKV, PADDING], _attention, opset=23),
    "attention with a learned bias": Block("Attention", [*_QKV, normal(1, 2, 3, 5)], _attention, opset=23),
}

# ---- indexing and order ---------------------------------------------------------------------------------------------

INDEXING = {
    "embedding": Block(
        "Gather", [normal(6, 3), integers([[1, 4, 1], [5, 1, -1]])], lambda t, i: F.embedding(i % 6, t), {"axis": 0}
    ),
    "gather elements": Block(
        "GatherElements", [X, integers([[0, -1, 2], [0, 0, -3]])], lambda x, i: x.gather(1, i % 5), {"axis": 1}
    ),
    "gather tuples": Block(
        "GatherND", [IMAGE, integers([[0, 1, -1], [0, 1, 3], [-1, 0, 0]])], lambda x, i: x[0, i[:, 1], i[:, 2]]
    ),
    "scatter tuples": Block(
        "ScatterND",
        [X, integers([[0], [2]]), normal(2, 5)],
        lambda x, i, u: torch.stack([u[0], x[1], u[1]]),
    ),
    "scatter tuples adding": Block(
        "ScatterND",
        [X, integers([[0], [2], [0]]), normal(3, 5)],
        lambda x, i, u: x.index_add(0, i[:, 0], u),
        {"reduction": "add"},
    ),
    "scatter multiplying": Block(
        "ScatterElements",
        [X, integers([[0, 0, 1]]), normal(1, 3)],
        lambda x, i, u: x.scatter_reduce(1, i, u, "prod"),
        {"axis": 1, "reduction": "mul"},
    ),
    "top k": Block("TopK", [distinct(3, 5), integers([2])], lambda x, k: x.topk(2, 1)[0], {"axis": 1}, outputs=2),
    "sort": Block("TopK", [distinct(3, 5), integers([5])], lambda x, k: x.sort(1)[0], {"axis": 1, "largest": 0}, outputs=2),
    "max unpool": Block(
        "MaxUnpool",
        [normal(1, 1, 2, 2), integers([[[[1, 3], [4, 14]]]])],
        lambda x, i: F.max_unpool2d(x, i, 2),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "cumulative sum": Block(
        "CumSum", [X, np.array(1, np.int64)], lambda x, a: x.flip(1).cumsum(1).flip(1) - x, {"reverse": 1, "exclusive": 1}
    ),
    "where": Block("Where", [X > 0, X, normal(5)], lambda c, a, b: torch.where(c, a, b)),
    "pad reflect": Block(
        "Pad",
        [X, integers(1, 2, 0, 3)],
        lambda x, p: F.pad(F.pad(x[None], (2, 3), "reflect")[0].T[None], (1, 0), "reflect")[0].T,
        {"mode": "reflect"},
    ),
    "pad edge": Block("Pad", [X, integers(0, 2, 0, 3)], lambda x, p: F.pad(x[None], (2, 3), "replicate")[0], {"mode": "edge"}),
    "pad wrap": Block("Pad", [X, integers(0, 2, 0, 3)], lambda x, p: F.pad(x[None], (2, 3), "circular")[0], {"mode": "wrap"}),
    "triangle": Block("Trilu", [X, np.array(1, np.int64)], lambda x, k: x.triu(1)),
}

# ---- products, windows, norms ---------------------------------------------------------------------------------------


def _transposed(n: int, theirs: dict[str, Any], **attributes: Any) -> Block:
    x, w = normal(2, 4, *(4, 3, 3)[:n]), normal(4, 3, *(3, 2, 2)[:n])
    f = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[n]
    return Block(
        "ConvTranspose", [x, w, normal(3 * attributes.get("group", 1))], lambda x, w, b: f(x, w, b, **theirs), attributes
    )


def _pooled(kind: str, n: int, theirs: dict[str, Any], **attributes: Any) -> Block:
    f = getattr(F, {"MaxPool": "max_pool", "AveragePool": "avg_pool"}[kind] + f"{n}d")
    return Block(kind, [distinct(2, 2, *(7, 5, 4)[:n])], lambda x: f(x, **theirs), attributes)


WINDOWS = {
    "transposed convolution 1-D": _transposed(
        1, {"stride": 2, "padding": 1, "output_padding": 1}, strides=[2], pads=[1, 1], output_padding=[1]
    ),
    "transposed convolution 2-D": _transposed(
        2, {"stride": (2, 1), "groups": 2, "dilation": (1, 2)}, strides=[2, 1], group=2, dilations=[1, 2]
    ),
    "transposed convolution 3-D": _transposed(
        3, {"stride": 2, "padding": (1, 0, 1)}, strides=[2, 2, 2], pads=[1, 0, 1, 1, 0, 1]
    ),
    "convolution": Block(
        "Conv",
        [normal(2, 4, 7, 6), normal(6, 2, 3, 2), normal(6)],
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2),
        {"strides": [2, 1], "pads": [1, 2, 1, 2], "dilations": [1, 2], "group": 2},
    ),
    "depthwise convolution": Block(
        "Conv", [normal(1, 3, 6), normal(6, 1, 3)], lambda x, w: F.conv1d(x, w, groups=3), {"group": 3}
    ),
    "max pool": _pooled(
        "MaxPool",
        2,
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "ceil_mode": True},
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 0],
        dilations=[1, 2],
        ceil_mode=1,
    ),
    "average pool": _pooled(
        "AveragePool",
        3,
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        kernel_shape=[3, 3, 3],
        strides=[2, 2, 2],
        pads=[1] * 6,
        ceil_mode=1,
    ),
    "LpPool": Block(
        "LpPool",
        [normal(1, 2, 5, 4)],
        lambda x: F.avg_pool2d(x.abs() ** 3, 2, 1, divisor_override=1) ** (1 / 3),
        {"kernel_shape": [2, 2], "p": 3},
        tolerance=1e-5,
    ),
    "LRN": Block(
        "LRN",
        [normal(2, 5, 3)[..., None]],
        lambda x: F.local_response_norm(x, 3, 0.3, 0.75, 1.5),
        {"size": 3, "alpha": 0.3, "bias": 1.5},
    ),
    "layer norm": Block("LayerNormalization", [X, normal(5), normal(5)], lambda x, g, b: F.layer_norm(x, (5,), g, b, 1e-5)),
    "RMS norm": Block("RMSNormalization", [X, normal(5)], lambda x, g: F.rms_norm(x, (5,), g, 1e-5), opset=23),
    "group norm": Block(
        "GroupNormalization",
        [normal(2, 4, 3), normal(4), normal(4)],
        lambda x, g, b: F.group_norm(x, 2, g, b, 1e-5),
        {"num_groups": 2},
        rank=3,
    ),
    "instance norm": Block(
        "InstanceNormalization", [normal(2, 3, 5), normal(3), normal(3)], lambda x, g, b: F.instance_norm(x, weight=g, bias=b)
    ),
    "mean-variance norm": Block(
        "MeanVarianceNormalization",
        [normal(2, 3, 4, 2)],
        lambda x: (x - x.mean((0, 2, 3), True)) / x.std((0, 2, 3), keepdim=True, correction=0),
        rank=4,
    ),
    "L2 norm": Block("LpNormalization", [X], lambda x: F.normalize(x, dim=1), {"axis": 1, "p": 2}),
    "einsum": Block(
        "Einsum",
        [normal(2, 3, 4), normal(4, 3, 5)],
        lambda a, b: torch.einsum("bij,jik->bk", a, b),
        {"equation": "bij,jik->bk"},
    ),
    "einsum, a trace and a broadcast": Block(
        "Einsum",
        [normal(3, 3, 2), normal(4, 1, 2)],
        lambda a, b: torch.einsum("iik,...ik->...k", a, b),
        {"equation": "iik,...ik->...k"},
    ),
    "gemm": Block(
        "Gemm",
        [normal(4, 3), normal(5, 4), normal(3, 1)],
        lambda a, b, c: 0.5 * a.T @ b.T + 2 * c,
        {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1},
    ),
    **{
        f"matmul {a} {b}": Block("MatMul", [normal(*a), normal(*b)], torch.matmul)
        for a, b in (
            ((3,), (3,)),
            ((3,), (2, 3, 4)),
            ((2, 4, 3), (3,)),
            ((2, 1, 3, 4), (5, 4, 2)),
            ((4, 3), (2, 2, 3, 5)),
            ((1, 2, 4), (3, 4, 2)),
        )
    },
    **{f"Det {n}": Block("Det", [normal(2, n, n)], torch.linalg.det, tolerance=1e-5) for n in (1, 2, 3, 4)},
}

# ---- activations and losses -----------------------------------------------------------------------------------------

ACTIVATIONS = {
    **{
        name: Block(name, [distinct(4, 5)], f, attributes)
        for name, f, attributes in (
            ("Elu", lambda x: F.elu(x, 1.5), {"alpha": 1.5}),
            ("Selu", F.selu, {}),
            ("Celu", lambda x: F.celu(x, 2.0), {"alpha": 2.0}),
            ("Mish", F.mish, {}),
            ("HardSigmoid", lambda x: (0.4 * x + 0.5).clamp(0, 1), {"alpha": 0.4}),
            ("HardSwish", F.hardswish, {}),
            ("Softplus", F.softplus, {}),
            ("Softsign", F.softsign, {}),
            ("ThresholdedRelu", lambda x: F.threshold(x, 0.5, 0.0), {"alpha": 0.5}),
            ("Shrink", lambda x: F.softshrink(x, 0.5), {"lambd": 0.5, "bias": 0.5}),
            ("Gelu", F.gelu, {}),
            ("Softmax", lambda x: x.softmax(1), {"axis": 1}),
            ("LogSoftmax", lambda x: x.log_softmax(0), {"axis": 0}),
            ("ReduceLogSumExp", lambda x: x.logsumexp((0, 1), True), {}),
            ("ReduceL2", lambda x: x.norm(dim=(0, 1), keepdim=True), {}),
            ("ReduceL1", lambda x: x.abs().sum((0, 1), True), {}),
            ("ReduceSumSquare", lambda x: (x * x).sum((0, 1), True), {}),
            ("ReduceProd", lambda x: x.prod()[None, None], {}),
            ("ReduceMax", lambda x: x.amax((0, 1), True), {}),
        )
    },
    "Swish": Block("Swish", [X], lambda x: x * (1.5 * x).sigmoid(), {"alpha": 1.5}, opset=24),
    "PRelu": Block("PRelu", [distinct(3, 5), normal(5)], lambda x, a: torch.where(x > 0, x, x * a)),
    "Clip": Block(
        "Clip", [distinct(3, 5), np.float32(-0.77), np.float32(0.83)], lambda x, a, b: x.clamp(-0.77, 0.83), fixed=(1, 2)
    ),
    "Pow": Block("Pow", [P, normal(5)], torch.pow, fixed=(1,)),
    "Max of three": Block(
        "Max", [distinct(3, 5), normal(5) * 0.9, normal(3, 1) * 1.1], lambda a, b, c: torch.maximum(torch.maximum(a, b), c)
    ),
    "Mean of three": Block("Mean", [X, normal(5), normal(3, 1)], lambda a, b, c: (a + b + c) / 3),
    "one hot times a table": Block(
        "OneHot",
        [integers([1, 0, 2, 1]), integers([3]), np.array([0.5, 2.0], np.float32)],
        lambda i, n, v: v[0] + F.one_hot(i, 3) * (v[1] - v[0]),
        {"axis": -1},
    ),
    "softmax cross entropy": Block(
        "SoftmaxCrossEntropyLoss",
        [normal(4, 3), integers([0, 2, 1, 2]), np.array([1.0, 0.5, 2.0], np.float32)],
        lambda x, t, w: F.cross_entropy(x, t, w),
        {"reduction": "mean"},
        fixed=(2,),
    ),
    "log likelihood": Block(
        "NegativeLogLikelihoodLoss",
        [normal(4, 3), integers([0, 2, 1, 2])],
        lambda x, t: F.nll_loss(x, t, reduction="none", ignore_index=2),
        {"reduction": "none", "ignore_index": 2},
    ),
    "discrete Fourier transform": Block(
        "DFT", [normal(1, 5, 1)], lambda x: torch.view_as_real(torch.fft.fft(x[..., 0])), {}, opset=20
    ),
    "rounding inside": Block(
        "Mod",
        [distinct(3, 5), np.full((5,), 1.7, np.float32)],
        lambda a, b: torch.fmod(a, b),
        {"fmod": 1},
        fixed=(1,),
        differences=False,
    ),
}

BLOCKS: dict[str, Block] = {**SAMPLING, **RECURRENT, **INDEXING, **WINDOWS, **ACTIVATIONS}


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str) -> None:
    block = BLOCKS[name]
    program = block.program()
    graph, arrays = forward_graph(program)
    out = graph.value_types()[graph.outputs[0].value]
    rng = np.random.default_rng(3)
    weights = np.asarray(rng.uniform(0.5, 1.5, out.shape) * rng.choice([-1.0, 1.0], out.shape), np.float32)
    found = gradients(program, weights)
    assert list(found) == [f"x{k}" for k in block.wanted]
    expected = by_torch(block, weights) if block.reference else [None] * len(found)
    names = [i.name for i in graph.inputs]
    for (parameter, gradient), theirs in zip(found.items(), expected, strict=True):
        scale = max(1.0, float(abs(gradient).max(initial=0.0)))
        if theirs is not None:
            assert abs(gradient - theirs).max(initial=0.0) <= block.tolerance * scale, parameter
        if block.differences:
            places = np.random.default_rng(gradient.size).permutation(gradient.size)[:12]
            slopes = finite_differences(graph, arrays, weights, names.index(parameter), places)
            assert abs(gradient.reshape(-1)[places] - slopes).max(initial=0.0) <= block.tolerance * scale, parameter
