"""ATen operators beyond those of common layers, against PyTorch; one program for each group of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.step import inference_graph, training_step

TOLERANCE = 4e-6  # of the largest finite magnitude in an output

Function = Callable[..., Any]


class Apply(torch.nn.Module):
    def __init__(self, functions: list[Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        return [f(*inputs) for f in self.functions]


torch.manual_seed(0)
X, Y = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
IMAGE = torch.randn(2, 4, 6, 5)
N, M = torch.tensor([[-7, 7, 0, 5], [3, -2, 9, -8]]), torch.tensor([[2, -2, 3, -3], [5, 3, -4, 3]])
ROWS, COLUMNS = torch.tensor([[0, 2], [-1, 1]]), torch.tensor([[3, -2], [0, 4]])
K = torch.tensor([[[0, 4, 2, 2, 0, 1, 3]]]).expand(3, 2, 7).contiguous()
Q = torch.randn(2, 4, 5, 8)
KEY, VALUE = torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 3)
SEEN = torch.tensor([[True, False, True, True, False, True]] * 4 + [[False] * 6])
LABELS = torch.tensor([[0, 4, -100, 2, 1, 0, 3]] * 3)

GROUPS: dict[str, tuple[tuple[torch.Tensor, ...], list[Function]]] = {
    "quotients": (
        (X, Y),
        [
            lambda x, y: torch.div(x * 9, y, rounding_mode="floor"),
            lambda x, y: torch.div(x * 9, y, rounding_mode="trunc"),
            lambda x, y: torch.remainder(x * 9, y),
            lambda x, y: torch.fmod(x * 9, y),
            lambda x, y: torch.remainder(x, 0.75),
            lambda x, y: (x * 9) // 2,
            lambda x, y: torch.round(x, decimals=2),
            lambda x, y: x.trunc(),
            lambda x, y: (x / 0 - x / 0).sign(),
            lambda x, y: F.batch_norm(x, None, None, y[0, :, 0], y[1, :, 0], training=True),
        ],
    ),
    "integers": (
        (N, M),
        [
            lambda n, m: n // m,
            lambda n, m: n % m,
            lambda n, m: torch.fmod(n, m),
            lambda n, m: torch.div(n, m, rounding_mode="trunc"),
            lambda n, m: n & m,
            lambda n, m: n | 6,
            lambda n, m: n ^ m,
            lambda n, m: ~n,
            lambda n, m: n << 2,
            lambda n, m: n >> 1,
            lambda n, m: n.sign(),
            lambda n, m: n**3,
            lambda n, m: n.floor(),
            lambda n, m: (n > 0) ^ (m > 0),
            lambda n, m: torch.bucketize(n, torch.tensor([-2, 0, 5])),
            lambda n, m: torch.bucketize(n, torch.tensor([-2, 0, 5]), right=True),
            lambda n, m: F.one_hot(n.abs(), 10),
            lambda n, m: n.isinf(),
            lambda n, m: (n > 0).cumsum(1),
        ],
    ),
    "functions": (
        (X, Y),
        [
            lambda x, y: x.abs() ** 1.7,
            lambda x, y: x.abs() ** y,
            lambda x, y: 2.0**x,
            lambda x, y: torch.expm1(x),
            lambda x, y: torch.log1p(x.abs()),
            lambda x, y: x.abs().log2(),
            lambda x, y: x.abs().log10(),
            lambda x, y: torch.special.erfc(x),
            lambda x, y: torch.atan2(x, y),
            lambda x, y: F.logsigmoid(x),
            lambda x, y: F.glu(x[:, :4], 1),
            lambda x, y: F.hardshrink(x),
            lambda x, y: F.softshrink(x),
            lambda x, y: F.threshold(x, 0.1, -2.0),
            lambda x, y: torch.lerp(x, y, 0.3),
            lambda x, y: torch.addcmul(x, x, y, value=0.5),
            lambda x, y: torch.addcdiv(x, x, y.abs() + 1, value=0.5),
            lambda x, y: torch.nan_to_num(torch.log(x), nan=3.0),
            lambda x, y: (x / 0).isinf() | x.isfinite(),
        ],
    ),
    "reductions": (
        (X, Y),
        [
            lambda x, y: (x > 1).any(),
            lambda x, y: (x > -1).all(1),
            lambda x, y: torch.aminmax(x, dim=1),
            lambda x, y: torch.var_mean(x, (0, 2)),
            lambda x, y: torch.std_mean(x, 1, keepdim=True),
            lambda x, y: torch.logsumexp(x, (1, 2)),
            lambda x, y: torch.linalg.vector_norm(x, dim=1),
            lambda x, y: torch.linalg.vector_norm(x, 3, dim=(0, 2), keepdim=True),
            lambda x, y: torch.linalg.vector_norm(x, 1),
            lambda x, y: torch.linalg.vector_norm(x, float("inf"), dim=2),
            lambda x, y: x.norm(dim=1),
            lambda x, y: F.normalize(x, dim=2),
            lambda x, y: F.rms_norm(x, (7,), y[0, 0]),
            lambda x, y: F.cosine_similarity(x, y, dim=2),
            lambda x, y: torch.einsum("abc,adc->bd", x, y),
            lambda x, y: x.cumsum(1),
            lambda x, y: x.cumprod(2),
        ],
    ),
    "order": (
        (X,),
        [
            lambda x: x.sort(1),
            lambda x: torch.sort(x, 2, descending=True),
            lambda x: x.argsort(0),
            lambda x: x.topk(3, 1),
            lambda x: x.topk(2, 2, largest=False),
        ],
    ),
    "indexing": (
        (X, ROWS, COLUMNS, K),
        [
            lambda x, i, j, k: x[i],
            lambda x, i, j, k: x[i, j],
            lambda x, i, j, k: x[:, j, i],
            lambda x, i, j, k: x[i, :, j],
            lambda x, i, j, k: x.gather(1, k),
            lambda x, i, j, k: torch.take(x, j + 5),
            lambda x, i, j, k: x.index_select(1, j.flatten() % 5),
            lambda x, i, j, k: x.scatter(1, k, 2.0),
            lambda x, i, j, k: x.scatter_add(1, k, x[:, 2:4]),
            lambda x, i, j, k: x.scatter_reduce(1, k, x[:, 2:4], "mean"),
            lambda x, i, j, k: x.scatter_reduce(1, k, x[:, 2:4], "amax", include_self=False),
            lambda x, i, j, k: x.scatter_reduce(1, k, x[:, 2:4], "prod", include_self=False),
            lambda x, i, j, k: x.index_put((i, j), torch.tensor(1.5)),
            lambda x, i, j, k: x.index_put((i, j), x[0, :4].reshape(2, 2, 7), accumulate=True),
            lambda x, i, j, k: x.index_put((x > 0,), torch.tensor(0.25)),
            lambda x, i, j, k: x.index_add(1, j[0] % 5, x[:, :2], alpha=2),
            lambda x, i, j, k: x.index_copy(2, j[1], x[:, :, 1:3]),
            lambda x, i, j, k: x.index_fill(1, j[1], 3.0),
            lambda x, i, j, k: F.embedding(j % 5, x[0], padding_idx=3),
        ],
    ),
    "movement": (
        (X, Y),
        [
            lambda x, y: x.flip(0, 2),
            lambda x, y: x.roll((2, -1), (1, 2)),
            lambda x, y: x.roll(4),
            lambda x, y: torch.slice_scatter(x, y[:, 1:3], 1, 2, 4),
            lambda x, y: torch.slice_scatter(x, y[:, :, :3], 2, 1, 7, 2),
            lambda x, y: torch.select_scatter(x, y[:, 0], 1, -2),
            lambda x, y: x.diagonal(1, 1, 2),
            lambda x, y: x.diagonal(-2, 0, 1),
            lambda x, y: x.unfold(2, 3, 2),
            lambda x, y: x.repeat_interleave(2, 1),
            lambda x, y: x.movedim(0, 2),
            lambda x, y: F.pad(x, (2, 1), mode="reflect"),
            lambda x, y: F.pad(x, (2, 1), mode="replicate"),
            lambda x, y: F.pad(x, (2, 1), mode="circular"),
        ],
    ),
    "images": (
        (IMAGE,),
        [
            lambda x: F.interpolate(x, scale_factor=2),
            lambda x: F.interpolate(x, (9, 4)),
            lambda x: F.interpolate(x, (9, 4), mode="nearest-exact"),
            lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
            lambda x: F.interpolate(x, (9, 4), mode="bilinear", align_corners=True),
            lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True),
            lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
            lambda x: F.interpolate(x[:, :, 0], scale_factor=3, mode="linear"),
            lambda x: F.interpolate(x[:, None], (3, 5, 7), mode="trilinear"),
            lambda x: F.pixel_shuffle(x, 2),
            lambda x: F.pixel_unshuffle(x[:, :, :, :4], 2),
            lambda x: F.channel_shuffle(x, 2),
            lambda x: F.conv_transpose2d(x, x[:2, :, :3, :2].permute(1, 0, 2, 3), stride=2, padding=1, output_padding=1),
            lambda x: F.conv_transpose1d(x[:, :, 0], x[0, :, :3, :2], dilation=2),
            lambda x: F.conv_transpose2d(x, x[:1, :, :2, :2].permute(1, 0, 2, 3).contiguous(), groups=4),
        ],
    ),
    "images without a batch": (
        (IMAGE[0],),
        [
            lambda x: F.conv2d(x, x[None, :, :3, :2]),
            lambda x: F.conv_transpose2d(x, x[:, None, :3, :2], stride=2),
            lambda x: F.max_pool2d(x, 2),
            lambda x: F.max_pool1d(x[0], 2),
            lambda x: F.avg_pool2d(x, 2),
            lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
            lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
            lambda x: F.adaptive_avg_pool3d(x[None, :, :], (3, 4, 3)),
            lambda x: F.max_unpool2d(*F.max_pool2d(x[None, :, :, :4], 2, return_indices=True), 2),
        ],
    ),
    "attention": (
        (Q, KEY, VALUE, SEEN),
        [
            lambda q, k, v, s: F.scaled_dot_product_attention(q, q, q),
            lambda q, k, v, s: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=0.3),
            lambda q, k, v, s: F.scaled_dot_product_attention(q, k, v, s, enable_gqa=True),
            lambda q, k, v, s: F.scaled_dot_product_attention(q, k, v, q[0, 0, :, :6], enable_gqa=True),
            lambda q, k, v, s: F.scaled_dot_product_attention(q[0, 0], k[0, 0], v[0, 0], s),
            lambda q, k, v, s: F.scaled_dot_product_attention(q[None], q[None], q[None], torch.ones(5, 5).tril().bool()),
        ],
    ),
    "losses": (
        (X, Y, LABELS),
        [
            lambda x, y, t: F.cross_entropy(x, t),
            lambda x, y, t: F.cross_entropy(x, t, y[0, :, 0].abs(), reduction="sum"),
            lambda x, y, t: F.nll_loss(x, t, reduction="none"),
            lambda x, y, t: F.mse_loss(x, y),
            lambda x, y, t: F.l1_loss(x, y, reduction="sum"),
            lambda x, y, t: F.huber_loss(x, y, delta=0.7),
            lambda x, y, t: F.smooth_l1_loss(x, y, beta=0.5, reduction="none"),
            lambda x, y, t: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
            lambda x, y, t: F.binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=y[0, 0].abs()),
        ],
    ),
}


def _close(found: np.ndarray, expected: torch.Tensor, where: str) -> None:
    wanted = expected.detach().numpy()
    assert found.shape == wanted.shape and found.dtype == wanted.dtype, where
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, err_msg=where)
        return
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = max(float(finite.max(initial=0)), 1e-3)
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=TOLERANCE, err_msg=where)


@pytest.mark.parametrize("group", GROUPS)
def test_operators(group: str) -> None:
    inputs, functions = GROUPS[group]
    program = from_torch(Apply(functions), inputs)
    graph = inference_graph(program)
    arrays = dict(zip(program.inputs, (t.numpy() for t in inputs), strict=True))
    results = interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs})
    for name, found, expected in zip(
        program.outputs, results, torch.utils._pytree.tree_flatten(Apply(functions)(*inputs))[0], strict=True
    ):
        _close(found, expected, f"{group}: {name}")


def test_no_gradient_reaches_the_padding_row() -> None:
    """As in PyTorch, also where the row is not zero and other rows occur twice."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Embedding(6, 3, padding_idx=2), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    with torch.no_grad():
        model[0].weight[2] = torch.tensor([1.0, -2.0, 0.5])
    ids, target = torch.tensor([[2, 1, 1, 5], [0, 2, 1, 2]]), torch.tensor([3, 0])
    step = training_step(from_torch(model, (ids,)), optimizer=SGD(lr=0.5), metrics=())
    assert step.graph.inputs[0].type == TensorType((2, 4), "int64")
    clock = {"step": np.int64(0), "seed": np.int64(0), "learning_rate": np.float32(0.5)}
    arrays: dict[str, Any] = {"input": ids.numpy(), "target": target.numpy(), **step.parameters, **step.states}
    arrays |= {**step.optimizer_state, **{name: np.asarray(v) for name, v in clock.items()}}
    results = interpreter.run(step.graph, {i.name: arrays[i.name] for i in step.graph.inputs})
    named = {o.name: r for o, r in zip(step.graph.outputs, results, strict=True)}
    F.cross_entropy(model(ids), target).backward()
    expected = (model[0].weight - 0.5 * model[0].weight.grad).detach().numpy()
    np.testing.assert_array_equal(named["0.weight"][2].view(np.int32), model[0].weight[2].detach().numpy().view(np.int32))
    np.testing.assert_allclose(named["0.weight"], expected, rtol=0, atol=1e-6)
