"""Type rules of elementwise operators, reductions, data movement and sources."""

from __future__ import annotations

import base64
import binascii
import math

from gensyn_tvm.canonical.rule_basics import (
    Attrs,
    Refused,
    Rule,
    Types,
    arity,
    axes_of,
    broadcast_shapes,
    ints,
    need,
    pairs,
    show,
)
from gensyn_tvm.canonical.types import DTYPES, FLOATS, INTEGERS, MAX_ELEMENTS, TensorType

# ---- elementwise ----------------------------------------------------------------------------------------------------


def unary(dtypes: tuple[str, ...]) -> Rule:
    """One input of a dtype in ``dtypes``, same result."""

    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        arity(inputs, 1)
        need(inputs[0].dtype in dtypes, show(inputs), f"dtype in {dtypes}")
        return (inputs[0],)

    return rule


def predicate(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """A float to bool."""
    arity(inputs, 1)
    need(inputs[0].is_float, show(inputs), f"dtype in {FLOATS}")
    return (TensorType(inputs[0].shape, "bool"),)


def binary(dtypes: tuple[str, ...], result: str | None = None) -> Rule:
    """Two inputs that broadcast; the result has their dtype unless ``result`` says otherwise."""

    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        arity(inputs, 2)
        a, b = inputs
        need(a.dtype == b.dtype and a.dtype in dtypes, show(inputs), f"two inputs of one dtype in {dtypes}")
        return (TensorType(broadcast_shapes(a.shape, b.shape), result or a.dtype),)

    return rule


def where(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """bool, x, y -> x or y."""
    arity(inputs, 3)
    c, a, b = inputs
    need(c.dtype == "bool" and a.dtype == b.dtype, show(inputs), "a bool condition and two inputs of one dtype")
    return (TensorType(broadcast_shapes(c.shape, a.shape, b.shape), a.dtype),)


def cast(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Another dtype."""
    arity(inputs, 1)
    need(attrs["dtype"] in DTYPES, attrs["dtype"], f"dtype in {DTYPES}")
    return (TensorType(inputs[0].shape, attrs["dtype"]),)


# ---- reductions -----------------------------------------------------------------------------------------------------


def _reduced(t: TensorType, attrs: Attrs) -> tuple[int, ...]:
    axes = axes_of(attrs["axes"], t.rank)
    need(type(attrs["keepdims"]) is bool, attrs["keepdims"], "keepdims: a boolean")
    if attrs["keepdims"]:
        return tuple(1 if k in axes else e for k, e in enumerate(t.shape))
    return tuple(e for k, e in enumerate(t.shape) if k not in axes)


def reduction(dtypes: tuple[str, ...], *, empty: bool) -> Rule:
    """Fewer axes; ``empty``: reducing no elements has a result."""

    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        arity(inputs, 1)
        (t,) = inputs
        need(t.dtype in dtypes, show(inputs), f"dtype in {dtypes}")
        shape = _reduced(t, attrs)
        need(empty or all(t.shape[a] for a in attrs["axes"]), show(inputs), "at least one element to reduce")
        return (TensorType(shape, t.dtype),)

    return rule


def arg_reduction(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The position of an extremum."""
    arity(inputs, 1)
    (t,) = inputs
    need(t.dtype in FLOATS + INTEGERS, show(inputs), "a number dtype")
    need(len(attrs["axes"]) == 1, attrs["axes"], "one axis")
    shape = _reduced(t, attrs)
    need(t.shape[attrs["axes"][0]] > 0, show(inputs), "at least one element to reduce")
    return (TensorType(shape, "int64"),)


# ---- data movement --------------------------------------------------------------------------------------------------


def reshape(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Another shape of as many elements."""
    arity(inputs, 1)
    shape = ints(attrs["shape"], None, "shape")
    need(math.prod(shape) == inputs[0].size, f"{show(inputs)} to {shape}", "as many elements as before")
    return (TensorType(shape, inputs[0].dtype),)


def transpose(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Permuted axes."""
    arity(inputs, 1)
    (t,) = inputs
    perm = ints(attrs["perm"], t.rank, "perm")
    need(sorted(perm) == list(range(t.rank)), f"perm={perm}", "a permutation of the axes")
    return (TensorType(tuple(t.shape[p] for p in perm), t.dtype),)


def broadcast_to(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """A larger shape."""
    arity(inputs, 1)
    shape = ints(attrs["shape"], None, "shape")
    need(
        broadcast_shapes(inputs[0].shape, shape) == shape, f"{show(inputs)} to {shape}", "a shape that the input broadcasts to"
    )
    return (TensorType(shape, inputs[0].dtype),)


def concat(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Joined along an axis."""
    need(len(inputs) >= 1, "no inputs", "at least one input")
    first, axis = inputs[0], attrs["axis"]
    need(type(axis) is int and 0 <= axis < first.rank, f"axis={axis!r}", f"an axis below {first.rank}")
    for t in inputs:
        same = t.dtype == first.dtype and t.rank == first.rank
        same = same and all(t.shape[k] == first.shape[k] for k in range(first.rank) if k != axis)
        need(same, show(inputs), f"equal dtypes and extents except on axis {axis}")
    total = sum(t.shape[axis] for t in inputs)
    return (TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def slice_(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """A part of each axis."""
    arity(inputs, 1)
    (t,) = inputs
    starts = ints(attrs["starts"], t.rank, "starts")
    limits = ints(attrs["limits"], t.rank, "limits")
    strides = ints(attrs["strides"], t.rank, "strides", 1)
    need(
        all(s <= e <= n for s, e, n in zip(starts, limits, t.shape, strict=True)),
        f"starts={starts}, limits={limits} of {t}",
        "0 <= start <= limit <= extent on every axis",
    )
    shape = tuple((e - s + d - 1) // d for s, e, d in zip(starts, limits, strides, strict=True))
    return (TensorType(shape, t.dtype),)


def pad(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Wider axes."""
    arity(inputs, 2)
    t, value = inputs
    need(value.shape == () and value.dtype == t.dtype, show(inputs), "a scalar pad value of the same dtype")
    padding = pairs(attrs["padding"], t.rank, "padding")
    return (TensorType(tuple(lo + n + hi for (lo, hi), n in zip(padding, t.shape, strict=True)), t.dtype),)


# ---- sources --------------------------------------------------------------------------------------------------------


def constant(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Bytes in the graph."""
    arity(inputs, 0)
    shape = ints(attrs["shape"], None, "shape")
    need(attrs["dtype"] in DTYPES, attrs["dtype"], f"dtype in {DTYPES}")
    t = TensorType(shape, attrs["dtype"])
    try:
        data = base64.b64decode(attrs["data"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise Refused("data that is not base64", "little-endian elements in base64") from None
    need(len(data) == t.size * t.numpy_dtype().itemsize, f"{len(data)} bytes for {t}", "as many bytes as the type has")
    need(t.dtype != "bool" or set(data) <= {0, 1}, "a bool byte above 1", "0 or 1")
    return (t,)


def iota(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Indices along an axis."""
    arity(inputs, 0)
    shape = ints(attrs["shape"], None, "shape")
    axis = attrs["axis"]
    need(type(axis) is int and 0 <= axis < len(shape), f"axis={axis!r}", f"an axis below {len(shape)}")
    need(attrs["dtype"] in ("int32", "int64"), attrs["dtype"], "int32 or int64")
    need(attrs["dtype"] == "int64" or shape[axis] <= 2**31, shape, "at most 2^31 elements on the axis for int32")
    return (TensorType(shape, attrs["dtype"]),)


def random_bits(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """seed, step -> uint32."""
    arity(inputs, 2)
    scalar = TensorType((), "int64")
    need(tuple(inputs) == (scalar, scalar), show(inputs), "seed and step: two int64 scalars")
    shape = ints(attrs["shape"], None, "shape")
    need(type(attrs["op_id"]) is int and 0 <= attrs["op_id"] < 2**32, attrs["op_id"], "op_id: an integer in [0, 2^32)")
    need(math.prod(shape) <= MAX_ELEMENTS, shape, "at most 2^40 elements")
    return (TensorType(shape, "uint32"),)
