"""Each Relax operator, frozen and interpreted, against PyTorch; exact where no rounding is involved, else to 2e-6."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.from_relax import CONVERTERS, freeze
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError
from gensyn_tvm.training.emit import Emitter, build_function

from ..relax_cases import COMMON, G5, A, B, Case, P, X, c, normals
from .relaxed import evaluate, frozen

normal = normals(7)
MASK = A > 0
INTS = np.array([[1, -7, 3], [0, 5, -2]], dtype="int64")
INDEX = np.array([2, 0, 4], dtype="int64")
PAIRS = np.array([[2, 0], [0, 4], [1, -1], [-3, 2]], dtype="int64")
SCATTERED = np.random.default_rng(5).integers(0, 5, 60)


def _nhwc(x: Any, w: Any) -> Any:
    return op.nn.conv2d(x, w, (1, 2), (1, 0, 2, 1), data_layout="NHWC", kernel_layout="HWIO", out_layout="NCHW")


def _attention(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """PyTorch's attention in Relax's layout (batch, sequence, heads, features)."""
    return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), **options).transpose(1, 2)


Q, KEYS = normal(2, 4, 3, 8), normal(2, 9, 3, 8)

CASES: dict[str, Case] = {
    **COMMON,
    "equal": (op.equal, torch.eq, (A, A)),
    "not_equal": (op.not_equal, torch.ne, (A, B)),
    "less": (op.less, torch.lt, (A, B)),
    "less_equal": (op.less_equal, torch.le, (A, A)),
    "greater": (op.greater, torch.gt, (A, B)),
    "greater_equal": (op.greater_equal, torch.ge, (INTS, INTS)),
    "logical_and": (op.logical_and, torch.logical_and, (MASK, ~MASK)),
    "logical_or": (op.logical_or, torch.logical_or, (MASK, ~MASK)),
    "logical_xor": (op.logical_xor, torch.logical_xor, (MASK, MASK)),
    "logical_not": (op.logical_not, torch.logical_not, (MASK,)),
    "where": (op.where, torch.where, (MASK, A, B)),
    "sign": (op.sign, torch.sign, (A,)),
    "floor": (op.floor, torch.floor, (A * 3,)),
    "ceil": (op.ceil, torch.ceil, (A * 3,)),
    "round": (op.round, torch.round, (np.array([0.5, 1.5, -0.5, 2.5, 2.4], "float32"),)),
    "trunc": (op.trunc, torch.trunc, (A * 3,)),
    "isnan": (op.isnan, torch.isnan, (np.array([1, np.nan, np.inf], "float32"),)),
    "isinf": (op.isinf, torch.isinf, (np.array([1, np.nan, -np.inf], "float32"),)),
    "isfinite": (op.isfinite, torch.isfinite, (np.array([1, np.nan, -np.inf], "float32"),)),
    "power 0": (lambda x: op.power(x, c(0.0)), lambda x: x**0, (A,)),
    "power -0.5": (lambda x: op.power(x, c(-0.5)), torch.rsqrt, (P,)),
    "relu6": (op.nn.relu6, F.relu6, (A * 8,)),
    "astype": (lambda x: op.astype(x, "int32"), lambda x: x.int(), (A * 9,)),
    "log_softmax": (op.nn.log_softmax, lambda x: F.log_softmax(x, -1), (X,)),
    "group_norm": (
        lambda x, g, b: op.nn.group_norm(x, g, b, 2, 1, [2, 3], 1e-3),
        lambda x, g, b: F.group_norm(x, 2, g, b, 1e-3),
        (X, normal(4), normal(4)),
    ),
    "group_norm channels last": (
        lambda x, g, b: op.nn.group_norm(x, g, b, 2, 3, [1, 2], 1e-3, center=False),
        lambda x, g, b: F.group_norm(x.permute(0, 3, 1, 2), 2, g, None, 1e-3).permute(0, 2, 3, 1),
        (X[..., :4].copy(), normal(4), normal(4)),
    ),
    "instance_norm": (
        lambda x, g, b: op.nn.instance_norm(x, g, b, 1, [2, 3], 1e-3, scale=False),
        lambda x, g, b: F.instance_norm(x, None, None, None, b, eps=1e-3),
        (X, normal(4), normal(4)),
    ),
    "rms_norm": (
        lambda x, g: op.nn.rms_norm(x, g, [-2, -1], 1e-3),
        lambda x, g: F.rms_norm(x, (6, 7), g, 1e-3),
        (X, normal(6, 7)),
    ),
    "attention": (op.nn.attention, _attention, (Q, KEYS, KEYS[..., :5].copy())),
    "attention bias scale": (
        lambda q, k, v, b: op.nn.attention(q, k, v, b, 0.25),
        lambda q, k, v, b: _attention(q, k, v, attn_mask=b, scale=0.25),
        (Q, KEYS, KEYS, normal(2, 1, 4, 9)),
    ),
    "attention top left": (
        lambda q, k, v: op.nn.attention(q, k, v, causal_mask="TopLeft"),
        lambda q, k, v: _attention(q, k, v, is_causal=True),
        (Q, KEYS, KEYS),
    ),
    "attention bottom right": (
        lambda q, k, v: op.nn.attention(q, k, v, causal_mask="BottomRight"),
        lambda q, k, v: _attention(q, k, v, attn_mask=torch.ones(4, 9).tril(5).bool()),
        (Q, KEYS, KEYS),
    ),
    "sum all": (op.sum, torch.sum, (X,)),
    "prod": (lambda x: op.prod(x, [1]), lambda x: x.prod(1), (X,)),
    "argmax": (lambda x: op.argmax(x, 1), lambda x: x.argmax(1), (X,)),
    "argmin all": (lambda x: op.argmin(x, keepdims=True), lambda x: x.argmin().reshape(1, 1), (A,)),
    "matmul dot": (op.matmul, torch.matmul, (G5, G5)),
    "matmul batch": (op.matmul, torch.matmul, (X, X.transpose(0, 1, 3, 2).copy())),
    "outer": (op.outer, torch.outer, (G5, G5)),
    "conv2d NHWC": (
        _nhwc,
        lambda x, w: F.conv2d(F.pad(x.permute(0, 3, 1, 2), (0, 1, 1, 2)), w.permute(3, 2, 0, 1), stride=(1, 2)),
        (X, normal(2, 3, 7, 5)),
    ),
    "conv2d_transpose": (
        lambda x, w: op.nn.conv2d_transpose(x, w, (2, 3), (1, 0), (1, 2), (1, 1), groups=2),
        lambda x, w: F.conv_transpose2d(x, w, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2),
        (X, normal(4, 3, 3, 2)),
    ),
    "max_pool2d ceil": (
        lambda x: op.nn.max_pool2d(x, (2, 2), (2, 2), ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
        (X,),
    ),
    "avg_pool2d": (
        lambda x: op.nn.avg_pool2d(x, (3, 2), (2, 2), (1, 1), count_include_pad=True),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1)),
        (X,),
    ),
    "avg_pool2d ceil": (
        lambda x: op.nn.avg_pool2d(x, (2, 2), (2, 2), ceil_mode=True),
        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
        (X,),
    ),
    "collapse_sum_to": (lambda x: op.collapse_sum_to(x, (4, 1, 7)), lambda x: x.sum(0).sum(1, True), (X,)),
    "cross_entropy_with_logits": (op.nn.cross_entropy_with_logits, lambda x, y: -(x * y).sum() / 3, (A, B)),
    "batch_flatten": (op.nn.batch_flatten, lambda x: x.flatten(1), (X,)),
    "permute_dims all": (op.permute_dims, lambda x: x.permute(3, 2, 1, 0), (X,)),
    "split even": (lambda x: relax.TupleGetItem(op.split(x, 2, 1), 1), lambda x: x[:, 2:], (X,)),
    "repeat flat": (lambda x: op.repeat(x, 2), lambda x: x.repeat_interleave(2), (A,)),
    "take flat": (lambda x: op.take(x, c([4, 3], "int64")), lambda x: x[[4, 3]], (G5,)),
    "take computed": (lambda x, i: op.take(x, i, 1), lambda x, i: x[:, i], (A, INDEX)),
    "take computed flat": (op.take, lambda x, i: x[i], (G5, INDEX.astype("int32"))),
    "take many": (lambda x: op.take(x, c(list(SCATTERED), "int64"), 1), lambda x: x[:, SCATTERED], (A,)),
    "gather_elements": (lambda x, i: op.gather_elements(x, i, 1), lambda x, i: x.gather(1, i), (A, INDEX.reshape(1, 3))),
    "gather_nd": (op.gather_nd, lambda x, i: x[i[:, 0], i[:, 1]], (A, PAIRS)),
    "gather_nd batch": (lambda x, i: op.gather_nd(x, i, 1), lambda x, i: x[range(3), i[:, 0]], (A, INDEX.reshape(3, 1))),
    "scatter_elements": (
        lambda x, i, u: op.scatter_elements(x, i, u, 1),
        lambda x, i, u: x.scatter(1, i, u),
        (A, INDEX.reshape(1, 3), B[:1, :3]),
    ),
    "scatter_elements add": (
        lambda x, i, u: op.scatter_elements(x, i, u, 1, "add"),
        lambda x, i, u: x.scatter_add(1, i, u),
        (A, np.array([[2, 2, 0, 2]]), B[1:2, :4]),
    ),
    "scatter_nd": (
        lambda x, i, u: op.scatter_nd(x, i, u, "add"),
        lambda x, i, u: x.index_put((i[:, 0] % 3,), u, accumulate=True),
        (A, np.array([[2], [-1], [0]]), B),
    ),
    "flip": (lambda x: op.flip(x, -1), lambda x: x.flip(1), (A,)),
    "zeros_like": (op.zeros_like, torch.zeros_like, (A,)),
    "ones_like": (op.ones_like, torch.ones_like, (A,)),
    "full_like": (lambda x: op.full_like(x, c(0.3)), lambda x: torch.full_like(x, 0.3), (A,)),
    "zeros": (lambda x: op.add(x, op.zeros((3, 1), "float32")), lambda x: x, (A,)),
    "full": (lambda x: op.add(x, op.full((3, 5), c(2.0), "float32")), lambda x: x + 2, (A,)),
    "arange": (lambda x: op.add(x, op.arange(0, 5, 1, "float32")), lambda x: x + torch.arange(5), (A,)),
    "arange iota": (lambda x: op.add(x, op.arange(0, 3, 1, "int64")), lambda x: x + torch.arange(3), (INTS,)),
    "arange step": (lambda x: op.add(x, op.arange(2, 8, 2, "int64")), lambda x: x + torch.arange(2, 8, 2), (INTS,)),
    "one_hot": (
        lambda x: op.one_hot(x, tvm.tirx.FloatImm("float32", 1.0), tvm.tirx.FloatImm("float32", 0.0), 6),
        lambda x: F.one_hot(x, 6).float(),
        (INDEX,),
    ),
    "eye": (lambda x: op.multiply(x, op.eye(3, 5, 1)), lambda x: x * torch.eye(3, 6)[:, :5].roll(1, 1), (A,)),
    "negative int": (op.negative, torch.neg, (INTS,)),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    body, reference, arrays = CASES[name]
    (found,) = evaluate(body, *arrays)
    expected = reference(*(torch.from_numpy(a.copy()) for a in arrays)).numpy()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(found, expected)


def test_every_frozen_case_survives_serialisation() -> None:
    for body, _, arrays in CASES.values():
        graph = frozen(body, *arrays)
        assert serialise.loads(serialise.dumps(graph)) == graph


def test_converters_emit_only_canonical_operators() -> None:
    used = {node.op for body, _, arrays in CASES.values() for node in frozen(body, *arrays).nodes}
    assert used <= set(rules.RULES)
    assert len(CONVERTERS) > 100


def test_relu_and_clip_keep_nan() -> None:
    x = np.array([np.nan, -0.0, 0.0, -1.0, 1e-45, np.inf, -np.inf], dtype="float32")
    (y,) = evaluate(op.nn.relu, x)
    assert y.view(np.uint32).tolist() == [0x7FC00000, 0, 0, 0, 1, 0x7F800000, 0]
    (y,) = evaluate(lambda v: op.clip(v, 0.0, 6.0), x)
    assert y.view(np.uint32).tolist() == [0x7FC00000, 0, 0, 0, 1, 0x40C00000, 0]


def test_python_scalars_round_once() -> None:
    value = 1.0 + 2**-24 + 2**-50
    (y,) = evaluate(lambda x: op.nn.leakyrelu(x, value), np.array([-1.0], dtype="float32"))
    assert y.view(np.uint32).tolist() == [np.float32(-(1.0 + 2**-23)).view(np.uint32)]


def test_equal_expressions_are_shared_and_dead_ones_dropped() -> None:
    graph = frozen(lambda x: op.add(op.exp(x), op.exp(x)), A)
    assert [n.op for n in graph.nodes] == ["exp", "add"]

    def write(e: Emitter) -> list[Any]:
        e(op.cumprod(x))  # unsupported, but nothing needs it
        return [e(op.exp(x))]

    x = relax.Var("x", relax.TensorType((2,), "float32"))
    graph = freeze(build_function([x], write), name="dead", inputs=[("x", "input")], outputs=[("y", False)])
    assert [n.op for n in graph.nodes] == ["exp"]


def test_sources_are_places_in_the_model() -> None:
    graph = frozen(op.nn.gelu, A, place="block.0:gelu")
    assert {n.source for n in graph.nodes} == {"block.0:gelu"}


def test_digest_ignores_names_and_places() -> None:
    one, two = (frozen(op.nn.gelu, A, place=p) for p in ("a", "b"))
    assert serialise.dumps(one) != serialise.dumps(two)
    assert serialise.digest(one) == serialise.digest(two)
    assert serialise.digest(one) != serialise.digest(frozen(op.nn.silu, A))


# ---- refusals -------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...], str]] = {
    "unknown operator": (op.cumprod, (A,), "an operator without a deterministic variant"),
    "computed exponent": (op.power, (A, B), "an exponent that is not one constant number"),
    "odd exponent": (lambda x: op.power(x, c(1.5)), (A,), "exponent 1.5"),
    "index outside": (lambda x: op.take(x, c([9], "int64"), 1), (A,), "indices from 9 to 9"),
    "negative stride": (lambda x: op.strided_slice(x, [0], [2], [-9], [-1]), (A,), "stride -1"),
    "reflect padding": (lambda x: op.nn.pad(x, [1, 1, 1, 1], "reflect"), (A,), "pad_mode reflect"),
    "int8 matmul": (op.matmul, (INTS.astype("int8"), INTS.T.astype("int8")), "int8[2, 3], int8[3, 2]"),
    "integer mean": (op.mean, (INTS,), "a mean of int64[2, 3]"),
    "float64 tanh": (op.tanh, (A.astype("float64"),), "float64[3, 5]"),
    "indivisible adaptive pooling": (lambda x: op.nn.adaptive_avg_pool2d(x, (4, 1)), (X,), "(6, 7) to (4, 1)"),
    "ceil with padding counted": (
        lambda x: op.nn.avg_pool2d(x, (2, 2), (2, 2), ceil_mode=True, count_include_pad=True),
        (X,),
        "ceil_mode with count_include_pad",
    ),
    "window in the padding": (lambda x: op.nn.max_pool2d(x, (2, 2), (1, 1), (2, 2)), (X,), "padding"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    body, arrays, found = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError) as info:
        frozen(body, *arrays, place="layer.3:op")
    assert found in str(info.value)
    assert "in: layer.3:op" in str(info.value) and "unsupported operator 'relax." in str(info.value)
    assert "expected" in str(info.value)


def test_all_unsupported_operators_in_one_error() -> None:
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))

    def write(e: Emitter) -> list[Any]:
        e.place = "first"
        y = e(op.cumprod(x))
        e.place = "second"
        return [e(op.cumsum(y, 1))]

    with pytest.raises(UnsupportedOperatorError) as info:
        freeze(build_function([x], write), name="t", inputs=[("x", "input")], outputs=[("y", False)])
    text = str(info.value)
    assert "relax.cumprod, relax.cumsum" in text and "in: first" in text and "in: second" in text


def test_symbolic_dimension_is_refused() -> None:
    x = relax.Var("x", relax.TensorType((tvm.tirx.Var("n", "int64"), 3), "float32"))
    module = build_function([x], lambda e: [e(op.exp(x))])
    with pytest.raises(UnsupportedOperatorError, match="static shape"):
        freeze(module, name="t", inputs=[("batch", "input")], outputs=[("y", False)])


def test_wrong_number_of_names() -> None:
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    module = build_function([x], lambda e: [e(op.exp(x))])
    with pytest.raises(InvalidProgramError, match="1 parameters and 1 results, expected 1 and 2"):
        freeze(module, name="t", inputs=[("x", "input")], outputs=[("y", False), ("z", False)])


def test_infinite_constants() -> None:
    (y,) = evaluate(lambda x: op.maximum(x, c(-math.inf)), A)
    np.testing.assert_array_equal(y.view(np.uint32), A.view(np.uint32))
