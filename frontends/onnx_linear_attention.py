"""ONNX's recurrent attention and its causal convolution, unrolled over the sequence; their formulas are in docs/numerics.md."""

from __future__ import annotations

import math

from gensyn_tvm.frontends import attention, blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, optional, padded_inputs

_RULES = ("linear", "gated", "delta", "gated_delta")


def convert_linear_attention(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """[output, present_state]; for each token in turn

    S = S * exp(g), v' = (v - k^T S) * beta, S = S + k v'^T, o = (q^T S) * scale, leaving out what the rule has not.
    """
    dtype, kept = dtype_of(x[0]), dtype_of(x[0] if optional(x, 3) is None else x[3])
    q, k, v, past, decay, beta = (None if t is None else e.cast(t, "float32") for t in padded_inputs(x, 6))
    rule = a.get("update_rule", "gated_delta")
    if rule not in _RULES or (decay is None) == ("gated" in rule) or (beta is None) == ("delta" in rule):
        found = f"update_rule {rule!r}{' with' if decay is not None else ' without'} decay,"
        expected = "a rule of linear, gated, delta, gated_delta; decay and beta just where it uses them"
        raise e.refuse(f"{found}{' with' if beta is not None else ' without'} beta", expected=expected)
    heads, groups = int(a["q_num_heads"]), int(a["kv_num_heads"])
    q, k, v = attention.split_heads(e, q, heads), attention.split_heads(e, k, groups), attention.split_heads(e, v, groups)
    attention.check_heads(e, q, k, v)
    batch, _, tokens, width = shape_of(q)
    gate = None if decay is None else e(op.exp(_each(e, decay, groups, width)))
    rate = None if beta is None else _each(e, beta, 1 if shape_of(beta)[2] == 1 else groups, 1)
    state = e.full([batch, groups, width, shape_of(v)[3]], 0, dtype_of(q)) if past is None else past
    scale = float(a.get("scale", 0.0)) or 1.0 / math.sqrt(width)
    outputs = []
    for token in range(tokens):
        row, column, value = (e.slice(t, 2, token, token + 1) for t in (q, k, v))
        column = e.transpose(column, [0, 1, 3, 2])
        if gate is not None:
            state = e.mul(state, e.transpose(e.slice(gate, 2, token, token + 1), [0, 1, 3, 2]))
        if rate is not None:
            seen = e(op.matmul(e.slice(k, 2, token, token + 1), state))
            value = e.mul(e.sub(value, seen), e.slice(rate, 2, token, token + 1))
        state = e.add(state, e.mul(column, value))
        outputs.append(e.mul(attention.grouped_matmul(e, row, state), scale))
    output = e.concat(outputs, 2) if outputs else e.full([batch, heads, 0, shape_of(v)[3]], 0, dtype_of(q))
    return [e.cast(attention.merge_heads(e, output), dtype), e.cast(state, kept)]


def _each(e: Emitter, x: Expr, heads: int, width: int) -> Expr:
    """(batch, tokens, heads) or (batch, tokens, heads * width) → (batch, heads, tokens, 1 or width)"""
    if rank_of(x) != 3 or shape_of(x)[2] not in (heads, heads * width):
        raise e.refuse(f"a gate of shape {tuple(shape_of(x))}", expected=f"(batch, tokens, {heads} or {heads * width})")
    return attention.split_heads(e, x, heads)


def convert_causal_conv(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """[output, present_state]: a depthwise convolution over what came before and the input, then SiLU if asked for."""
    given, weight, bias, past = padded_inputs(x, 4)
    if rank_of(given) != 3 or rank_of(weight) != 3 or shape_of(weight)[:2] != [shape_of(given)[1], 1]:
        found = f"input {tuple(shape_of(given))}, weight {tuple(shape_of(weight))}"
        raise e.refuse(found, expected="(batch, channels, length) and (channels, 1, kernel)")
    activation = a.get("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise e.refuse(f"activation {activation!r}", expected="none, silu or swish")
    batch, channels, length = shape_of(given)
    kept = shape_of(weight)[2] - 1
    before = e.full([batch, channels, kept], 0, dtype_of(given)) if past is None else past
    padded = e.concat([before, given], 2) if kept else given
    none, one = [0], [1]
    y = blocks.conv(e, padded, weight, bias, strides=one, lows=none, highs=none, dilation=one, groups=channels)
    return [y if activation == "none" else e(nn.silu(y)), e.slice(padded, 2, length, length + kept)]


LINEAR_ATTENTION: dict[str, Converter] = {
    "CausalConvWithState": convert_causal_conv,
    "LinearAttention": convert_linear_attention,
}
