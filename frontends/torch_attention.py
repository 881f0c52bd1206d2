"""Attention of ATen, with ``frontends.attention``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gensyn_tvm.frontends import attention
from gensyn_tvm.frontends.emit import Expr, dtype_of, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import Arguments, Converter
from gensyn_tvm.training import ops as gensyn


def _heads(e: FoldingEmitter, x: Expr, batch: list[int]) -> Expr:
    """(…, heads, sequence, features) with its outer axes broadcast to ``batch`` and joined into one."""
    *outer, heads, sequence, features = [1] * (3 - rank_of(x)) + shape_of(x)
    inner = [heads, sequence, features]
    x = e.broadcast(e.reshape(x, [*[1] * (len(batch) - len(outer)), *outer, *inner]), [*batch, *inner])
    return e.reshape(x, [math.prod(batch), *inner])


def _mask(e: FoldingEmitter, a: Arguments, batch: list[int], shape: tuple[int, int]) -> attention.Mask:
    """What the arguments say; a mask that is constant tells whether a query sees no key."""
    mask = attention.Mask(*shape)
    if a.is_causal:
        mask.add_window(e, 0, None, 0)
    if a.attn_mask is None:
        return mask
    given = a.attn_mask
    *outer, _, _, _ = [1] * (3 - rank_of(given)) + shape_of(given)
    if any(n != 1 for n in outer) and len(batch) != 1:
        given = _heads(e, given, batch)
    elif rank_of(given) > 4:
        given = e.reshape(given, shape_of(given)[-4:])
    mask.add_given(e, given, dtype_of(a.query))
    array = e.fold(given)
    if array is not None:
        seen = array if array.dtype == np.bool_ else array != -math.inf
        seen = np.broadcast_to(seen, np.broadcast_shapes(seen.shape, shape))
        if a.is_causal:
            seen = seen & np.tri(*shape, dtype=bool)
        mask.empty_rows = bool((~seen.any(axis=-1)).any())
    return mask


def convert_attention(e: FoldingEmitter, a: Arguments) -> Expr:
    """``scaled_dot_product_attention``; the weights of a query that sees no key are 0."""
    batch = list(np.broadcast_shapes(*(tuple(shape_of(x)[:-3]) for x in (a.query, a.key, a.value))))
    joined = batch or [1]
    q, k, v = (_heads(e, x, joined) for x in (a.query, a.key, a.value))
    attention.check_heads(e, q, k, v)
    scale = 1.0 / math.sqrt(shape_of(q)[-1]) if a.scale is None else a.scale
    mask = _mask(e, a, joined, (shape_of(q)[-2], shape_of(k)[-2]))
    scores, empty = mask.apply(e, attention.scores(e, q, k, scale))
    weights = attention.weights(e, scores, empty)
    if a.dropout_p >= 1:
        raise e.refuse(f"dropout_p={a.dropout_p}", expected="0 <= dropout_p < 1")
    if a.dropout_p > 0:
        weights = e(gensyn.dropout(weights, p=a.dropout_p))
    y = attention.grouped_matmul(e, weights, v)
    return e.reshape(y, [*shape_of(a.query)[:-1], shape_of(a.value)[-1]] if not batch else [*batch, *shape_of(y)[1:]])


def convert_kernel(e: FoldingEmitter, a: Arguments) -> Any:
    """One of PyTorch's kernels for it, which an exported program may name; only its first result can be used."""
    a.attn_mask = getattr(a, "attn_mask", getattr(a, "attn_bias", None))
    return [convert_attention(e, a), None]


ATTENTION: dict[str, Converter] = {
    "scaled_dot_product_attention.default": convert_attention,
    "_scaled_dot_product_attention_math.default": convert_kernel,
    "_scaled_dot_product_flash_attention_for_cpu.default": convert_kernel,
}
