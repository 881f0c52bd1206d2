"""For each canonical operator a way to draw inputs and attributes.

A sampler receives the draft and the operator's name and returns inputs and attributes that the operator's rule accepts; it
may emit nodes of its own to get there. If what it drew does not fit, it raises ``Unsuitable`` or leaves it to the operator's
rule to refuse, and is asked again.
"""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.canonical.elementary_rules import ELEMENTARY_BINARY, ELEMENTARY_UNARY
from gensyn_tvm.canonical.number_rules import bits_of
from gensyn_tvm.canonical.types import DTYPES, NARROW_FLOATS, TensorType
from gensyn_tvm.canonical.window_rules import conv_output_shape, pool_output_shape

from . import samplers_index
from .draft import DRAWN, MAX_ELEMENTS, MAX_WORK, Draft, Sample, Sampler, Shape, Unsuitable

# ---- elementwise ----------------------------------------------------------------------------------------------------


def unary(d: Draft, op: str) -> Sample:
    return (d.value(d.accepted(op, 1)),), {}


def binary(d: Draft, op: str) -> Sample:
    x = d.value(d.accepted(op, 2))
    y = d.partner(x)
    return ((x, y) if d.chance(0.6) else (y, x)), {}


def where(d: Draft, op: str) -> Sample:
    x = d.value()
    return (d.partner(x, "bool"), x, d.partner(x)), {}


def cast_saturating(d: Draft, op: str) -> Sample:
    return (d.value(("float32", "float64", *NARROW_FLOATS)),), {"dtype": d.choice(tuple(NARROW_FLOATS))}


def bitcast(d: Draft, op: str) -> Sample:
    x = d.value()
    dtypes = [t for t in DTYPES if t != "bool" and bits_of(t) == bits_of(d.types[x].dtype)]
    return (x,), {"dtype": d.choice(dtypes)}


def cast(d: Draft, op: str) -> Sample:
    return (d.value(),), {"dtype": d.choice(DRAWN if d.chance(0.7) else DTYPES)}


# ---- reductions -----------------------------------------------------------------------------------------------------


def reduction(d: Draft, op: str) -> Sample:
    x = d.value(d.accepted(op, 1, axes=(0,), keepdims=False))
    return (x,), {"axes": d.axes(d.types[x].rank), "keepdims": d.chance(0.5)}


def arg_reduction(d: Draft, op: str) -> Sample:
    x = d.value(d.accepted(op, 1, axes=(0,), keepdims=False), low=1)
    return (x,), {"axes": d.axes(d.types[x].rank, 1), "keepdims": d.chance(0.5)}


# ---- products and windows -------------------------------------------------------------------------------------------


def matmul(d: Draft, op: str) -> Sample:
    a = d.value(d.accepted(op, 2), low=2, high=4)
    *batch, m, k = d.types[a].shape
    n = d.choice((1, 2, 3, 5, 8, 16, 17, 32, 33))
    if math.prod(batch) * m * k * n > MAX_WORK:
        raise Unsuitable
    kept = tuple(batch) if d.chance(0.5) else ()
    return (a, d.shaped((*kept, k, n), d.types[a].dtype)), {}


def _windows(d: Draft, n: int) -> dict[str, Any]:
    return {
        "strides": d.numbers(1, 2, n) if d.chance(0.4) else (1,) * n,
        "padding": tuple(d.numbers(0, 2, 2) for _ in range(n)) if d.chance(0.5) else ((0, 0),) * n,
        "dilations": d.numbers(1, 2, n) if d.chance(0.2) else (1,) * n,
    }


def _convolution(d: Draft) -> tuple[Shape, Shape, Shape, dict[str, Any]]:
    """Shapes of x, w and y, and attributes."""
    n = d.choice((1, 2, 2, 2, 3))
    groups = d.choice((1, 1, 1, 2, 3))
    channels, outputs = groups * d.number(1, 4), groups * d.number(1, 6)
    x = (d.number(1, 2), channels, *d.numbers(1, (20, 9, 5)[n - 1], n))
    w = (outputs, channels // groups, *d.numbers(1, 3, n))
    attrs = {**_windows(d, n), "groups": groups}
    y = conv_output_shape(x, w, attrs)
    if math.prod(y) * math.prod(w[1:]) > MAX_WORK or max(map(math.prod, (x, y))) > MAX_ELEMENTS:
        raise Unsuitable
    return x, w, y, attrs


def conv(d: Draft, op: str) -> Sample:
    x, w, _, attrs = _convolution(d)
    return d.operands(op, (x, w), attrs), attrs


def conv_backward_data(d: Draft, op: str) -> Sample:
    x, w, y, attrs = _convolution(d)
    attrs["input_spatial"] = x[2:]
    return d.operands(op, (y, w), attrs), attrs


def conv_backward_weight(d: Draft, op: str) -> Sample:
    x, w, y, attrs = _convolution(d)
    attrs["kernel"] = w[2:]
    return d.operands(op, (x, y), attrs), attrs


def _pool(d: Draft) -> tuple[Shape, Shape, dict[str, Any]]:
    """Shapes of x and y, and attributes."""
    n = d.choice((1, 2, 2, 2, 3))
    x = (*d.numbers(1, 3, 2), *d.numbers(1, (30, 10, 6)[n - 1], n))
    attrs = {**_windows(d, n), "kernel": d.numbers(1, 3, n)}
    y = pool_output_shape(x, attrs)
    if math.prod(y) * math.prod(attrs["kernel"]) > MAX_WORK or max(map(math.prod, (x, y))) > MAX_ELEMENTS:
        raise Unsuitable
    return x, y, attrs


def max_pool(d: Draft, op: str) -> Sample:
    x, _, attrs = _pool(d)
    return d.operands(op, (x,), attrs), attrs


def max_pool_indices(d: Draft, op: str) -> Sample:
    x, _, attrs = _pool(d)
    attrs["column_major"] = d.chance(0.5)
    return d.operands(op, (x,), attrs), attrs


def max_pool_backward(d: Draft, op: str) -> Sample:
    x, y, attrs = _pool(d)
    return d.operands(op, (y, x), attrs), attrs


def avg_pool(d: Draft, op: str) -> Sample:
    x, _, attrs = _pool(d)
    attrs["count_include_pad"] = d.chance(0.5)
    return d.operands(op, (x,), attrs), attrs


def avg_pool_backward(d: Draft, op: str) -> Sample:
    x, y, attrs = _pool(d)
    attrs |= {"count_include_pad": d.chance(0.5), "input_spatial": x[2:]}
    return d.operands(op, (y,), attrs), attrs


# ---- data movement --------------------------------------------------------------------------------------------------


def reshape(d: Draft, op: str) -> Sample:
    x = d.value()
    rest = d.types[x].size
    shape: list[int] = []
    if not rest:
        return (x,), {"shape": (0, *d.shape(0, 2))}
    while rest > 1 and len(shape) < 4 and d.chance(0.8):
        factor = d.choice([f for f in range(1, rest + 1) if rest % f == 0])
        shape.append(factor)
        rest //= factor
    return (x,), {"shape": (*shape, rest) if rest > 1 or d.chance(0.2) else tuple(shape)}


def transpose(d: Draft, op: str) -> Sample:
    x = d.value(low=2)
    return (x,), {"perm": tuple(int(p) for p in d.rng.permutation(d.types[x].rank))}


def broadcast_to(d: Draft, op: str) -> Sample:
    x = d.value()
    shape = tuple(d.number(1, 8) if e == 1 else e for e in d.types[x].shape)
    return (x,), {"shape": (*d.numbers(1, 4, d.number(0, 1)), *shape)}


def concat(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    t, axis = d.types[x], d.number(0, d.types[x].rank - 1)
    parts = [x]
    for _ in range(d.number(0, 3)):
        extent = d.choice((0, 1, 2, 5, 16, t.shape[axis], t.shape[axis]))
        parts.append(d.shaped((*t.shape[:axis], extent, *t.shape[axis + 1 :]), t.dtype))
    return tuple(parts), {"axis": axis}


def slice_(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    shape = d.types[x].shape
    starts = tuple(d.number(0, e // 2) if d.chance(0.6) else 0 for e in shape)
    limits = tuple(e - d.number(0, (e - s) // (1 if d.chance(0.1) else 2)) for s, e in zip(starts, shape, strict=True))
    return (x,), {"starts": starts, "limits": limits, "strides": tuple(d.choice((1, 1, 1, 2, 3)) for _ in shape)}


def pad(d: Draft, op: str) -> Sample:
    x = d.value()
    t = d.types[x]
    padding = tuple((d.choice((0, 0, 1, 3)), d.choice((0, 0, 1, 2))) for _ in t.shape)
    return (x, d.shaped((), t.dtype)), {"padding": padding}


# ---- sources --------------------------------------------------------------------------------------------------------


def constant(d: Draft, op: str) -> Sample:
    return (), d.constant(TensorType(d.shape(), d.choice(DRAWN)))


def iota(d: Draft, op: str) -> Sample:
    shape = d.shape(1)
    return (), {"dtype": d.choice(("int32", "int64")), "shape": shape, "axis": d.number(0, len(shape) - 1)}


def random_bits(d: Draft, op: str) -> Sample:
    scalars = (d.shaped((), "int64"), d.shaped((), "int64"))
    return scalars, {"op_id": d.choice((0, 1, 7, 2**31, 2**32 - 1)), "shape": d.shape()}


SAMPLERS: dict[str, Sampler] = {
    **dict.fromkeys(("neg", "abs", "sqrt", "floor", "ceil", "round", "sign", "is_nan", "logical_not"), unary),
    **dict.fromkeys(ELEMENTARY_UNARY, unary),
    **dict.fromkeys(ELEMENTARY_BINARY, binary),
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum", "logical_and", "logical_or"), binary),
    **dict.fromkeys(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"), binary),
    **dict.fromkeys(("rem", "bit_and", "bit_or", "bit_xor", "shift_left", "shift_right"), binary),
    "bit_not": unary,
    "cast_saturating": cast_saturating,
    "bitcast": bitcast,
    "where": where,
    "cast": cast,
    **dict.fromkeys(("sum", "prod", "reduce_max", "reduce_min"), reduction),
    **dict.fromkeys(("argmax", "argmin"), arg_reduction),
    "matmul": matmul,
    "conv": conv,
    "conv_backward_data": conv_backward_data,
    "conv_backward_weight": conv_backward_weight,
    "max_pool": max_pool,
    "max_pool_indices": max_pool_indices,
    "max_pool_backward": max_pool_backward,
    "avg_pool": avg_pool,
    "avg_pool_backward": avg_pool_backward,
    "reshape": reshape,
    "transpose": transpose,
    "broadcast_to": broadcast_to,
    "concat": concat,
    "slice": slice_,
    "pad": pad,
    **samplers_index.SAMPLERS,
    "constant": constant,
    "iota": iota,
    "random_bits": random_bits,
}

#: How often an operator is drawn, where that is not once.
WEIGHTS: dict[str, float] = {
    **dict.fromkeys(("add", "mul", "sub", "transpose", "reshape", "sum"), 2.5),
    **dict.fromkeys(("div", "maximum", "minimum", "where", "cast", "matmul", "concat", "slice", "broadcast_to"), 1.5),
    **dict.fromkeys(ELEMENTARY_UNARY, 5.0 / len(ELEMENTARY_UNARY)),
    **dict.fromkeys(ELEMENTARY_BINARY, 0.3),
    **dict.fromkeys(("constant", "iota", "random_bits"), 0.4),
    **dict.fromkeys(samplers_index.SAMPLERS, 0.8),
}
