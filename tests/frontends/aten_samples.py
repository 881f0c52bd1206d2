"""A call of every Core ATen operator that can be imported, and how near to PyTorch its result has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

A = torch.ops.aten

#: A function of tensors that calls the operator, and the tensors.
Sample = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]

torch.manual_seed(11)
#: Both zeros, infinities, NaN, subnormals, halves, tiny and huge numbers; 19 elements, which fill no vector.
V = torch.tensor(
    [
        *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1.5, 1e-45, -1e-40, 1.2e-38, 3.4e38, -3.4e38),
        *(float("inf"), float("-inf"), float("nan"), 0.3, -7.25),
    ]
)
W = V.flip(0).roll(5)
#: Finite numbers of moderate size, for functions that amplify differences of their operands.
F1 = torch.linspace(-3.1, 3.3, 23)
G1 = torch.randn(23)
X, Y = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
P = torch.randn(2, 4, 7, 6)
Q3 = torch.randn(2, 4, 5, 6, 4)
N, M = torch.tensor([[-7, 7, 0, 5, 2**40], [3, -2, 9, -8, -1]]), torch.tensor([[2, -2, 3, -3, 7], [5, 3, -4, 3, 1]])
B, C = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
INDEX = torch.tensor([[[0, 4, 2, 2, 0, 1, 3]]]).expand(3, 2, 7).contiguous()
ROWS = torch.tensor([4, 0, 0, 2])
MASK = X > 0.3


def _unary(name: str, x: torch.Tensor = V) -> Sample:
    return getattr(A, name).default, (x,)


def _binary(name: str, x: torch.Tensor = V, y: torch.Tensor = W) -> Sample:
    packet, overload = name.split(".")
    return getattr(getattr(A, packet), overload), (x, y)


def _scalar(name: str, value: float, x: torch.Tensor = V) -> Sample:
    packet, overload = name.split(".")
    return lambda v: getattr(getattr(A, packet), overload)(v, value), (x,)


def _bags(weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, factors: torch.Tensor) -> list[torch.Tensor]:
    """Sums, weighted sums, means and maxima; one bag is empty, one row counts as padding."""
    return [
        A._embedding_bag(weight, indices, offsets)[0],
        A._embedding_bag(weight, indices, offsets, False, 0, False, factors)[0],
        A._embedding_bag(weight, indices, offsets, False, 1, False, None, True, 2)[0],
        A._embedding_bag(weight, indices, offsets, False, 2)[0],
    ]


def _convolution_gradients(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
    """Of a grouped convolution, and of a transposed one."""
    settings = ([2, 1], [1, 0], [1, 2], False, [0, 0], 2)
    y = A.convolution(x, w, None, *settings)
    back = ([2, 2], [1, 1], [1, 1], True, [1, 0], 1)
    z = A.convolution(x, w, None, *back)
    mask = [True, True, True]
    return [*A.convolution_backward(y + 1, x, w, [4], *settings, mask), *A.convolution_backward(z, x, w, [2], *back, mask)]


_EXACT_UNARY = ("abs", "alias", "ceil", "clone", "floor", "isinf", "isnan", "neg", "reciprocal", "round", "sign", "sqrt")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

ELEMENTWISE: dict[str, Sample] = {
    **{f"{name}.default": _unary(name) for name in (*_EXACT_UNARY, "trunc", "logical_not")},
    **{f"{name}.Tensor": _binary(f"{name}.Tensor") for name in (*_COMPARISONS, "add", "sub", "mul", "div")},
    **{f"{name}.Scalar": _scalar(f"{name}.Scalar", 0.5) for name in (*_COMPARISONS, "add", "sub", "mul", "div")},
    **{f"{name}.default": _binary(f"{name}.default") for name in ("logical_and", "logical_or", "logical_xor")},
    **{f"{name}.Tensor": _binary(f"{name}.Tensor", N, M) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    **{f"{name}.Scalar": _scalar(f"{name}.Scalar", 6, N) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    "bitwise_not.default": _unary("bitwise_not", N),
    "div.Tensor_mode": (lambda x, y: [A.div.Tensor_mode(x, y, rounding_mode=m) for m in ("floor", "trunc", None)], (N, M)),
    "div.Scalar_mode": (lambda x: [A.div.Scalar_mode(x, 3, rounding_mode=m) for m in ("floor", "trunc", None)], (N,)),
    **{f"{name}.Tensor": _binary(f"{name}.Tensor", N, M) for name in ("fmod", "remainder")},
    **{f"{name}.Scalar": _scalar(f"{name}.Scalar", -3, N) for name in ("fmod", "remainder")},
    "clamp.Tensor": (lambda x, y: A.clamp.Tensor(x, y, y + 1), (F1, G1)),
    "leaky_relu.default": (lambda x: A.leaky_relu(x, 0.125), (V,)),
    "where.self": (lambda x, y: A.where.self(x > 0, x, y), (V, W)),
}
#: Of two zeros PyTorch takes any, we the positive one as the larger one.
ZEROS: dict[str, Sample] = {
    **{f"{name}.default": _binary(f"{name}.default") for name in ("maximum", "minimum")},
    "relu.default": _unary("relu"),
    "clamp.default": (lambda x: [A.clamp(x, -1.0, 2.0), A.clamp(x, None, 0.25), A.clamp(x, 0.0)], (V,)),
    "hardtanh.default": (lambda x: A.hardtanh(x, -0.75, 2.0), (V,)),
}
FUNCTIONS: dict[str, Sample] = {
    **{f"{name}.default": _unary(name) for name in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "erf", "exp")},
    **{
        f"{name}.default": _unary(name)
        for name in ("expm1", "log", "log10", "log1p", "log2", "rsqrt", "sigmoid", "sinh", "tanh")
    },
    **{f"{name}.default": _unary(name, F1) for name in ("cos", "sin", "tan")},
    "atan2.default": _binary("atan2.default", F1, G1),
    "atan2.out": (lambda x, y: A.atan2.out(x, y, out=torch.empty_like(x)), (F1, G1)),
    "pow.Scalar": (lambda x: A.pow.Scalar(2.5, x), (F1,)),
    "pow.Tensor_Scalar": (lambda x: [A.pow.Tensor_Scalar(x, 3), A.pow.Tensor_Scalar(x.abs(), 1.7)], (F1,)),
    "pow.Tensor_Tensor": (lambda x, y: A.pow.Tensor_Tensor(x.abs(), y), (F1, G1)),
}
SUMS: dict[str, Sample] = {
    "elu.default": (lambda x: [A.elu(x), A.elu(x, 0.7, 1.1, 0.9)], (F1,)),
    "gelu.default": (lambda x: [A.gelu(x), A.gelu(x, approximate="tanh")], (F1,)),
    "_softmax.default": (lambda x: A._softmax(x, 1, False), (X,)),
    "_log_softmax.default": (lambda x: A._log_softmax(x, -1, False), (X,)),
    "mean.default": _unary("mean", X),
    "mean.dim": (lambda x: A.mean.dim(x, [0, 2], True), (X,)),
    "prod.default": _unary("prod", X[0]),
    "prod.dim_int": (lambda x: A.prod.dim_int(x, 1), (X,)),
    "sum.dim_IntList": (lambda x: A.sum.dim_IntList(x, [0, 2]), (X,)),
    "cumsum.default": (lambda x: A.cumsum(x, 1), (X,)),
    "var.correction": (lambda x: A.var.correction(x, [0, 1], correction=0, keepdim=True), (X,)),
    "var.dim": (lambda x: A.var.dim(x, [1]), (X,)),
    "addmm.default": (lambda x, y: A.addmm(x[0, :, :5], x[1], y[1].T, beta=0.5, alpha=2), (X, Y)),
    "bmm.default": (lambda x, y: A.bmm(x, y.transpose(1, 2)), (X, Y)),
    "mm.default": (lambda x, y: A.mm(x[0], y[0].T), (X, Y)),
    "convolution.default": (
        lambda x, w: [
            A.convolution(x, w[:, :2], None, [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
            A.convolution(x, w, x[0, :2, 0, 0], [2, 2], [1, 1], [1, 1], True, [1, 0], 1),
        ],
        (P, torch.randn(4, 2, 3, 2)),
    ),
    "_adaptive_avg_pool2d.default": (lambda x: A._adaptive_avg_pool2d(x, [1, 3]), (P,)),
    "_adaptive_avg_pool3d.default": (lambda x: A._adaptive_avg_pool3d(x, [5, 2, 1]), (Q3,)),
    "adaptive_avg_pool1d.default": (lambda x: A.adaptive_avg_pool1d(x[:, :, 0], [3]), (P,)),
    "avg_pool1d.default": (lambda x: A.avg_pool1d(x[0], [3], [2], [1]), (P,)),
    "avg_pool2d.default": (lambda x: A.avg_pool2d(x, [3, 2], [2, 2], [1, 0], True, False), (P,)),
    "avg_pool3d.default": (lambda x: A.avg_pool3d(x, [2, 3, 2]), (Q3,)),
    "_native_batch_norm_legit_no_training.default": (
        lambda x, v: A._native_batch_norm_legit_no_training(x, v, -v, v / 2, v.abs() + 1, 0.1, 1e-5)[0],
        (P, torch.randn(4)),
    ),
    "native_group_norm.default": (lambda x, v: A.native_group_norm(x, v, -v, 2, 4, 42, 2, 1e-5)[0], (P, torch.randn(4))),
    "native_layer_norm.default": (lambda x, y: A.native_layer_norm(x, [7], y[0, 0], y[0, 1], 1e-5)[0], (X, Y)),
    "scatter_add.default": (lambda x, i: A.scatter_add(x, 1, i, x[:, 2:4]), (X, INDEX)),
    "scatter_reduce.two": (
        lambda x, i: [A.scatter_reduce.two(x, 1, i, x[:, 2:4], m) for m in ("sum", "prod", "mean", "amax", "amin")],
        (X, INDEX),
    ),
    "upsample_bilinear2d.vec": (lambda x: A.upsample_bilinear2d.vec(x, [9, 4], False, None), (P,)),
    "_native_batch_norm_legit.default": (
        lambda x, v: A._native_batch_norm_legit(x, v, -v, v.clone(), v.abs() + 1, False, 0.1, 1e-5)[0],
        (P, torch.randn(4)),
    ),
    "_native_batch_norm_legit.no_stats": (
        lambda x, v: A._native_batch_norm_legit.no_stats(x, v, -v, True, 0.1, 1e-5)[0],
        (P, torch.randn(4)),
    ),
    "_adaptive_avg_pool2d_backward.default": (lambda g, x: A._adaptive_avg_pool2d_backward(g, x), (torch.randn(2, 4, 7, 3), P)),
    "_cdist_forward.default": (
        lambda x, y: [A._cdist_forward(x, y[:1, :3], p, None) for p in (0.0, 1.0, 2.0, 2.5, float("inf"))],
        (X, Y),
    ),
    "_pdist_forward.default": (lambda x: [A._pdist_forward(x[0], p) for p in (1.0, 2.0)], (X,)),
    "_embedding_bag.default": (_bags, (X[0], torch.tensor([3, 0, 0, 4, 2, 1]), torch.tensor([0, 2, 2, 5]), torch.randn(6))),
    "avg_pool2d_backward.default": (
        lambda g, x: A.avg_pool2d_backward(g, x, [3, 2], [2, 2], [1, 0], True, False, None),
        (torch.randn(2, 4, 4, 3), P),
    ),
    "convolution_backward.default": (_convolution_gradients, (P, torch.randn(4, 2, 3, 2))),
    "embedding_dense_backward.default": (
        lambda g, i: [A.embedding_dense_backward(g, i, 5, k, False) for k in (-1, 2)],
        (X[0, :4], ROWS),
    ),
    "grid_sampler_2d.default": (
        lambda x, g: [
            A.grid_sampler_2d(x, g, mode, padding, align)
            for mode in range(3)
            for padding in range(3)
            for align in (False, True)
        ],
        (P, torch.rand(2, 3, 5, 2) * 3 - 1.5),
    ),
    "native_group_norm_backward.default": (
        lambda g, x, w: A.native_group_norm_backward(
            g, x, *A.native_group_norm(x, w, w, 2, 4, 42, 2, 1e-5)[1:], w, 2, 4, 42, 2, [True, True, True]
        ),
        (torch.randn_like(P), P, torch.randn(4)),
    ),
    "native_layer_norm_backward.default": (
        lambda g, x, w: A.native_layer_norm_backward(
            g, x, [7], *A.native_layer_norm(x, [7], w, w, 1e-5)[1:], w, w, [True, True, True]
        ),
        (Y, X, torch.randn(7)),
    ),
    "col2im.default": (lambda x: A.col2im(x, [4, 5], [2, 2], [1, 1], [1, 0], [1, 2]), (torch.randn(2, 8, 10),)),
}
MOVEMENT: dict[str, Sample] = {
    "_to_copy.default": (lambda x: [A._to_copy(x, dtype=d) for d in (torch.float64, torch.bfloat16, torch.bool)], (V,)),
    "amax.default": (lambda x: A.amax(x, [0, 2], True), (X,)),
    "amin.default": (lambda x: A.amin(x, [1]), (X,)),
    "any.default": (lambda x: A.any(x > 3), (X,)),
    "any.dim": (lambda x: A.any.dim(x > 1, 1, True), (X,)),
    "any.dims": (lambda x: A.any.dims(x > 1, [0, 2]), (X,)),
    "arange.start_step": (lambda x: A.arange.start_step(2, 17, 3), (X,)),
    "argmax.default": (lambda x: [A.argmax(x), A.argmax(x, 1, True)], (X,)),
    "argmin.default": (lambda x: [A.argmin(x), A.argmin(x, 2)], (X,)),
    "as_strided.default": (
        lambda x: [A.as_strided(x, [4, 3, 2], [7, 2, 1], 5), A.as_strided(x.permute(2, 0, 1), [5, 7], [1, 9])],
        (X,),
    ),
    "cat.default": (lambda x, y: A.cat([x, y[:, :2]], 1), (X, Y)),
    "constant_pad_nd.default": (lambda x: A.constant_pad_nd(x, [1, -2, 0, 3], 0.5), (X,)),
    "copy.default": (lambda x, y: A.copy(x, y[:1]), (X, Y)),
    "diagonal.default": (lambda x: A.diagonal(x, 1, 1, 2), (X,)),
    "embedding.default": (lambda w, i: A.embedding(w, i, 2), (X[0], ROWS)),
    "empty.memory_format": (lambda x: A.copy(A.empty([3, 5, 7]), x), (X,)),
    "empty_strided.default": (lambda x: A.copy(A.empty_strided([3, 5, 7], [1, 21, 3]), x), (X,)),
    "expand.default": (lambda x: A.expand(x[:, :1], [2, 3, 5, 7]), (X,)),
    "fill.Scalar": (lambda x: A.fill.Scalar(x, 1.5), (X,)),
    "flip.default": (lambda x: A.flip(x, [0, 2]), (X,)),
    "full.default": (lambda x: A.full([2, 3], 1.5), (X,)),
    "full_like.default": (lambda x: A.full_like(x, -2.0), (X,)),
    "gather.default": (lambda x, i: A.gather(x, 1, i), (X, INDEX)),
    "index.Tensor": (lambda x, i: A.index.Tensor(x, [None, i, i - 5]), (X, ROWS)),
    "index_put.default": (lambda x, i: A.index_put(x, [None, i], x[:, 1:2], True), (X, ROWS)),
    "index_select.default": (lambda x, i: A.index_select(x, 1, i), (X, ROWS)),
    "max.dim": (lambda x: A.max.dim(x, 1), (X,)),
    "min.dim": (lambda x: A.min.dim(x, 2, True), (X,)),
    "masked_scatter.default": (lambda x, m, y: A.masked_scatter(x, m, y), (X, MASK, Y)),
    "max_pool2d_with_indices.default": (lambda x: A.max_pool2d_with_indices(x, [3, 2], [2, 1], [1, 0]), (P,)),
    "max_pool2d_with_indices_backward.default": (
        lambda g, x: A.max_pool2d_with_indices_backward(
            g, x, [3, 2], [2, 1], [1, 0], [1, 1], True, A.max_pool2d_with_indices(x, [3, 2], [2, 1], [1, 0], 1, True)[1]
        ),
        (torch.randn(2, 4, 4, 5), P),
    ),
    "max_pool3d_with_indices.default": (lambda x: A.max_pool3d_with_indices(x, [2, 2, 3], [1, 2, 1], 0, 1, True), (Q3,)),
    "native_dropout.default": (lambda x: A.native_dropout(x, 0.5, False)[0], (X,)),
    "permute.default": (lambda x: A.permute(x, [2, 0, 1]), (X,)),
    "reflection_pad1d.default": (lambda x: A.reflection_pad1d(x, [2, 3]), (X,)),
    "reflection_pad2d.default": (lambda x: A.reflection_pad2d(x, [1, 2, 3, 0]), (P,)),
    "reflection_pad3d.default": (lambda x: A.reflection_pad3d(x, [1, 2, 3, 0, 1, 1]), (Q3,)),
    "replication_pad2d.default": (lambda x: A.replication_pad2d(x, [1, 2, 3, 0]), (P,)),
    "replication_pad3d.default": (lambda x: A.replication_pad3d(x, [1, 2, 3, 0, 1, 1]), (Q3,)),
    "repeat.default": (lambda x: A.repeat(x, [2, 1, 3, 1]), (X,)),
    "resize_.default": (lambda x: A.resize_(x.clone(), [4, 6]), (X,)),
    "scalar_tensor.default": (lambda x: A.scalar_tensor(2.5), (X,)),
    "scatter.src": (lambda x, i: A.scatter.src(x, 1, i[:, :1], x[:, 2:4]), (X, INDEX)),
    "scatter.value": (lambda x, i: A.scatter.value(x, 1, i, 2.0), (X, INDEX)),
    "select.int": (lambda x: A.select.int(x, 1, -2), (X,)),
    "select_scatter.default": (lambda x, y: A.select_scatter(x, y[:, 0], 1, -2), (X, Y)),
    "slice.Tensor": (lambda x: A.slice.Tensor(x, 2, 1, -1, 2), (X,)),
    "slice_scatter.default": (lambda x, y: A.slice_scatter(x, y[:, 1:3], 1, 2, 4), (X, Y)),
    "sort.default": (lambda x: A.sort(x, 1, True), (X,)),
    "split_with_sizes.default": (lambda x: A.split_with_sizes(x, [1, 4, 2], 2), (X,)),
    "squeeze.dim": (lambda x: A.squeeze.dim(x[:, :1], 1), (X,)),
    "squeeze.dims": (lambda x: A.squeeze.dims(x[:1, :1], [0, 1]), (X,)),
    "topk.default": (lambda x: A.topk(x, 3, 1), (X,)),
    "unsqueeze.default": (lambda x: A.unsqueeze(x, -1), (X,)),
    "upsample_nearest2d.vec": (lambda x: A.upsample_nearest2d.vec(x, None, [2.0, 1.5]), (P,)),
    "view.default": (lambda x: A.view(x, [15, 7]), (X,)),
    "sym_is_contiguous.default": (lambda x: x * int(bool(A.sym_is_contiguous(x))), (X,)),
    "sym_numel.default": (lambda x: x * A.sym_numel(x), (X,)),
    "sym_size.int": (lambda x: x * A.sym_size.int(x, 1), (X,)),
    "sym_storage_offset.default": (lambda x: x + A.sym_storage_offset(x), (X,)),
    "sym_stride.int": (lambda x: x * A.sym_stride.int(x, 0), (X,)),
}
#: By how near the results are: on bits, but for the sign of a zero, units in the last place, a part of the largest magnitude.
GROUPS = {"exact": {**ELEMENTWISE, **MOVEMENT}, "zeros": ZEROS, "ulp": FUNCTIONS, "scale": SUMS}
ULPS, TOLERANCE = 4, 4e-6
SAMPLES = {name: sample for group in GROUPS.values() for name, sample in group.items()}

#: Calls of those that are refused.
REFUSED: dict[str, Sample] = {
    "_fft_c2r.default": (lambda x: torch.fft.irfft(torch.fft.rfft(x)), (X,)),
    "_fft_r2c.default": (lambda x: torch.fft.rfft(x).abs(), (X,)),
    "_local_scalar_dense.default": (lambda x: x * x.sum().item(), (X,)),
    "nonzero.default": (lambda x: A.nonzero(x > 0), (X,)),
    "rand.default": (lambda x: x + A.rand([3, 5, 7]), (X,)),
    "randn.default": (lambda x: x + A.randn([3, 5, 7]), (X,)),
    "randperm.default": (lambda x: x[A.randperm(3)], (X,)),
}
