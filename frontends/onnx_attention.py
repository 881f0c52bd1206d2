"""ONNX's attention operators as compositions; their formulas are in docs/numerics.md."""

from __future__ import annotations

import math

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import attention, blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_shortest, optional
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter
from gensyn_tvm.frontends.onnx_reader import element_type


def convert_attention(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """[Y, present_key, present_value, qk_matmul_output]"""
    q, k, v = _heads(e, x, a)
    dtype = dtype_of(q)
    past_k, past_v, lengths = optional(x, 4), optional(x, 5), optional(x, 6)
    if (past_k is None) != (past_v is None) or (past_k is not None and lengths is not None):
        raise e.refuse("past_key, past_value and nonpad_kv_seqlen", expected="both of the past, or the lengths, or none")
    offset = 0 if past_k is None else shape_of(past_k)[2]
    k, v = attention.joined(e, past_k, k), attention.joined(e, past_v, v)
    attention.check_heads(e, q, k, v)
    mask = _mask(e, x, a, (*shape_of(q)[:3], shape_of(k)[2]), offset, dtype)
    raw = attention.scores(e, q, k, _scale(a, q))
    cap = float(a.get("softcap", 0.0))
    capped = attention.soft_cap(e, raw, cap) if cap > 0 else raw
    masked, empty = mask.apply(e, capped)
    weights = attention.weights(e, masked, empty, _precision(e, a, dtype))
    y = attention.grouped_matmul(e, weights, e.cast(v, dtype))
    y = attention.merge_heads(e, y) if rank_of(x[0]) == 3 else y
    return [y, k, v, (raw, capped, masked, weights)[int(a.get("qk_matmul_output_mode", 0))]]


def _heads(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """Query, key and value as (batch, heads, sequence, features)."""
    ranks = [rank_of(t) for t in x[:3]]
    if ranks == [4, 4, 4]:
        return list(x[:3])
    if ranks != [3, 3, 3] or "q_num_heads" not in a or "kv_num_heads" not in a:
        raise e.refuse(f"inputs of rank {ranks}", expected="rank 4, or rank 3 with q_num_heads and kv_num_heads")
    counts = [int(a["q_num_heads"]), int(a["kv_num_heads"]), int(a["kv_num_heads"])]
    return [attention.split_heads(e, t, n) for t, n in zip(x[:3], counts, strict=True)]


def _scale(a: Attributes, q: Expr) -> float:
    return float(a["scale"]) if "scale" in a else 1.0 / math.sqrt(shape_of(q)[3])


def _precision(e: Emitter, a: Attributes, dtype: str) -> str:
    """The dtype of the softmax."""
    if not a.get("softmax_precision"):
        return dtype
    wanted = element_type(int(a["softmax_precision"]), e.place)
    if wanted not in FLOATS:
        # Narrow floats are for storage: rounding the scores and the weights is not computing in them.
        return "float32"
    return wanted


def _mask(e: Emitter, x: Inputs, a: Attributes, shape: tuple[int, ...], offset: int, dtype: str) -> attention.Mask:
    """The mask of scores of ``shape``; ``offset`` is the length of the cache."""
    mask = attention.Mask(queries=shape[2], keys=shape[3])
    given, lengths = optional(x, 3), optional(x, 6)
    place: int | Expr = offset
    if lengths is not None:
        place = e.sub(lengths, shape[2])
    if given is not None:
        mask.add_given(e, given, dtype)
        if not attention.broadcasts(shape_of(mask.allowed[0] if mask.bias is None else mask.bias), shape):
            raise e.refuse(f"a mask of shape {tuple(shape_of(given))}", expected=f"one that broadcasts to {shape}")
    sides = [int(a.get(name, -1)) for name in ("left_window_size", "right_window_size")]
    left, right = (None if side < 0 else side for side in sides)
    if a.get("is_causal"):
        right = 0
    if left is not None or right is not None:
        mask.add_window(e, place, left, right)
    if lengths is not None:
        mask.add_lengths(e, lengths)
    return mask


def convert_flex_attention(e: OnnxEmitter, x: Inputs, a: Attributes) -> Expr:
    """Attention whose scores and weights are what subgraphs make of them."""
    q, k, v = x
    attention.check_heads(e, q, k, v)
    dtype = _precision(e, a, dtype_of(q))
    scores = e.cast(attention.scores(e, q, k, _scale(a, q)), dtype)
    weights = e(nn.softmax(_modified(e, a, "score_mod", scores), -1))
    weights = _modified(e, a, "prob_mod", weights)
    return e.cast(attention.grouped_matmul(e, weights, e.cast(v, dtype)), dtype_of(v))


def _modified(e: OnnxEmitter, a: Attributes, name: str, x: Expr) -> Expr:
    """What the subgraph of an attribute makes of x, of the same type."""
    if name not in a:
        return x
    (y,) = e.run_graph(a[name], [x])
    if shape_of(y) != shape_of(x) or dtype_of(y) != dtype_of(x):
        found = f"{name} makes {dtype_of(y)}{tuple(shape_of(y))} of {dtype_of(x)}{tuple(shape_of(x))}"
        raise e.refuse(found, expected="a result of the same type")
    return y


def convert_rotary_embedding(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Pairs (p, q) of features become (cos * p - sin * q, sin * p + cos * q)."""
    shape = shape_of(x[0])
    heads = int(a.get("num_heads", 0))
    if len(shape) != 4 and (len(shape) != 3 or heads < 1 or shape[2] % heads):
        raise e.refuse(f"an input of shape {tuple(shape)}, num_heads={heads}", expected="rank 4, or rank 3 with num_heads")
    y = x[0] if len(shape) == 4 else e.reshape(x[0], [*shape[:2], heads, shape[2] // heads])
    width = shape_of(y)[3]
    turned = int(a.get("rotary_embedding_dim", 0)) or width
    if turned % 2 or turned > width:
        raise e.refuse(f"{turned} of {width} features", expected="an even number, at most all of them")
    cos, sin = (_rotation(e, cache, optional(x, 3), turned // 2, 1 if len(shape) == 4 else 2) for cache in x[1:3])
    rest = e.slice(y, 3, turned, width)
    y = _rotated(e, e.slice(y, 3, 0, turned), cos, sin, interleaved=bool(a.get("interleaved", 0)))
    return e.reshape(e.concat([y, rest], 3) if turned < width else y, shape)


def _rotation(e: Emitter, cache: Expr, positions: Expr | None, half: int, heads_axis: int) -> Expr:
    """The cosines or sines of every token, (batch, sequence, half) with an axis for the heads."""
    if positions is not None:
        cache = blocks.take(e, cache, positions, 0)
    shape = shape_of(cache)
    if len(shape) != 3 or shape[2] != half:
        expected = f"({'positions' if positions is not None else 'batch, sequence'}, {half})"
        raise e.refuse(f"a cache that gives {tuple(shape)}", expected=expected)
    return e.reshape(cache, [*shape[:heads_axis], 1, *shape[heads_axis:]])


def _rotated(e: Emitter, x: Expr, cos: Expr, sin: Expr, *, interleaved: bool) -> Expr:
    shape = shape_of(x)
    half = shape[3] // 2
    if interleaved:
        p, q = e.slice(x, 3, 0, shape[3], 2), e.slice(x, 3, 1, shape[3], 2)
    else:
        p, q = e.slice(x, 3, 0, half), e.slice(x, 3, half, shape[3])
    real = e.sub(e.mul(cos, p), e.mul(sin, q))
    imaginary = e.add(e.mul(sin, p), e.mul(cos, q))
    if not interleaved:
        return e.concat([real, imaginary], 3)
    column = [*shape[:3], half, 1]
    return e.reshape(e.concat([e.reshape(real, column), e.reshape(imaginary, column)], 4), shape)


def convert_swish(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x * sigmoid(alpha * x)"""
    alpha = convert_shortest(a.get("alpha", 1.0))
    return e(nn.silu(x[0])) if alpha == 1.0 else e.mul(x[0], e(op.sigmoid(e.mul(x[0], alpha))))


def convert_swiglu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """swish(x0) * x1"""
    if shape_of(x[0]) != shape_of(x[1]):
        raise e.refuse(f"shapes {tuple(shape_of(x[0]))} and {tuple(shape_of(x[1]))}", expected="one shape")
    return e.mul(convert_swish(e, x, a), x[1])


ATTENTION: dict[str, Converter] = {
    "Attention": convert_attention,
    "RotaryEmbedding": convert_rotary_embedding,
    "ai.onnx.preview.FlexAttention": convert_flex_attention,  # type: ignore[dict-item]
    "SwiGLU": convert_swiglu,
    "Swish": convert_swish,
}
