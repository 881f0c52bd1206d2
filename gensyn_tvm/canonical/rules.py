"""Shape and dtype rules of the canonical operators; their meaning is in docs/numerics.md.

``RULES`` maps an operator's name to its rule. A rule receives the input types and the attributes and returns the output
types, or raises ``InvalidProgramError``. The registry is a literal: importing modules in another order changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.canonical.types import DTYPES, FLOATS, INTEGERS, MAX_ELEMENTS, TensorType
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError, describe

#: Version of the numerics specification (docs/numerics.md). Part of every digest. 0.x: not yet final.
NUMERICS_VERSION = "0.1"

Types = Sequence[TensorType]
Attrs = Mapping[str, Any]
Rule = Callable[[Types, Attrs], tuple[TensorType, ...]]


class _Bad(Exception):
    """A rule's complaint: what was found, what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


def infer(op: str, inputs: Types, attrs: Attrs, *, where: str = "") -> tuple[TensorType, ...]:
    """Output types of ``op``.

    Raises:
        UnsupportedOperatorError: the operator does not exist.
        InvalidProgramError: input types or attributes break its rule.
    """
    rule = RULES.get(op)
    if rule is None:
        raise UnsupportedOperatorError(op, where=where, expected="one of the operators in docs/operators.md")
    try:
        return rule(inputs, attrs)
    except _Bad as bad:
        raise InvalidProgramError(
            describe(f"canonical operator {op!r} cannot be applied", where=where, found=bad.found, expected=bad.expected)
        ) from None
    except KeyError as error:
        raise InvalidProgramError(
            describe(f"canonical operator {op!r} cannot be applied", where=where, expected=f"an attribute {error}")
        ) from None


def validate(graph: Graph) -> None:
    """Check a graph from outside: names, numbering, and every node against its operator's rule.

    Raises:
        InvalidProgramError: with the first thing that is wrong.
    """
    names = [i.name for i in graph.inputs]
    if len(set(names)) != len(names):
        raise InvalidProgramError("two inputs have the same name")
    types: list[TensorType] = [i.type for i in graph.inputs]
    for k, node in enumerate(graph.nodes):
        if not all(0 <= i < len(types) for i in node.inputs):
            raise InvalidProgramError(f"node {k} ({node.op}) reads a value that is not defined before it")
        expected = infer(node.op, [types[i] for i in node.inputs], node.attrs, where=node.source)
        if set(node.attrs) != ATTRIBUTES[node.op]:
            raise InvalidProgramError(
                f"node {k} ({node.op}) has attributes {sorted(node.attrs)}, expected {sorted(ATTRIBUTES[node.op])}"
            )
        if expected != node.types:
            raise InvalidProgramError(
                f"node {k} ({node.op}) claims outputs {', '.join(map(str, node.types))}; "
                f"its operator gives {', '.join(map(str, expected))}"
            )
        types.extend(node.types)
    _validate_outputs(graph, types)


def _validate_outputs(graph: Graph, types: list[TensorType]) -> None:
    if not graph.outputs:
        raise InvalidProgramError("the program has no outputs")
    out_names = [(o.name, o.updates) for o in graph.outputs]
    if len(set(out_names)) != len(out_names):
        raise InvalidProgramError("two outputs have the same name")
    by_name = {i.name: i for i in graph.inputs}
    for o in graph.outputs:
        if not 0 <= o.value < len(types):
            raise InvalidProgramError(f"output {o.name!r} refers to a value that does not exist")
        if o.updates:
            state = by_name.get(o.name)
            if state is None or state.role not in STATE_ROLES or state.type != types[o.value]:
                raise InvalidProgramError(f"output {o.name!r} updates no state input of its name and type")


# ---- helpers --------------------------------------------------------------------------------------------------------


def _need(condition: bool, found: object, expected: str) -> None:
    if not condition:
        raise _Bad(str(found), expected)


def _arity(inputs: Types, n: int) -> None:
    _need(len(inputs) == n, f"{len(inputs)} inputs", f"{n} inputs")


def _show(inputs: Types) -> str:
    return ", ".join(map(str, inputs)) or "no inputs"


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy broadcasting of shapes; ``InvalidProgramError`` if they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for axis in range(rank):
        extents = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(extents) > 1:
            raise _Bad(" and ".join(map(str, shapes)), "shapes that broadcast")
        result.append(extents.pop() if extents else 1)
    return tuple(result)


def _ints(value: Any, n: int | None, what: str, low: int = 0) -> tuple[int, ...]:
    ok = isinstance(value, tuple) and all(type(v) is int and v >= low for v in value) and (n is None or len(value) == n)
    _need(ok, f"{what}={value!r}", f"{what}: {'' if n is None else n} integers >= {low}")
    return value


def _axes(value: Any, rank: int) -> tuple[int, ...]:
    axes = _ints(value, None, "axes")
    _need(tuple(sorted(set(axes))) == axes and all(a < rank for a in axes), f"axes={axes}", f"ascending axes below {rank}")
    return axes


def _pairs(value: Any, n: int, what: str) -> tuple[tuple[int, int], ...]:
    _need(isinstance(value, tuple) and len(value) == n, f"{what}={value!r}", f"{what}: {n} pairs")
    for pair in value:
        _ints(pair, 2, what)
    return value


# ---- elementwise ----------------------------------------------------------------------------------------------------


def _unary(dtypes: tuple[str, ...]) -> Rule:
    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        _arity(inputs, 1)
        _need(inputs[0].dtype in dtypes, _show(inputs), f"dtype in {dtypes}")
        return (inputs[0],)

    return rule


def _predicate(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    _need(inputs[0].is_float, _show(inputs), f"dtype in {FLOATS}")
    return (TensorType(inputs[0].shape, "bool"),)


def _binary(dtypes: tuple[str, ...], result: str | None = None) -> Rule:
    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        _arity(inputs, 2)
        a, b = inputs
        _need(a.dtype == b.dtype and a.dtype in dtypes, _show(inputs), f"two inputs of one dtype in {dtypes}")
        return (TensorType(broadcast_shapes(a.shape, b.shape), result or a.dtype),)

    return rule


def _where(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 3)
    c, a, b = inputs
    _need(c.dtype == "bool" and a.dtype == b.dtype, _show(inputs), "a bool condition and two inputs of one dtype")
    return (TensorType(broadcast_shapes(c.shape, a.shape, b.shape), a.dtype),)


def _cast(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    _need(attrs["dtype"] in DTYPES, attrs["dtype"], f"dtype in {DTYPES}")
    return (TensorType(inputs[0].shape, attrs["dtype"]),)


# ---- reductions -----------------------------------------------------------------------------------------------------


def _reduced(t: TensorType, attrs: Attrs) -> tuple[int, ...]:
    axes = _axes(attrs["axes"], t.rank)
    _need(type(attrs["keepdims"]) is bool, attrs["keepdims"], "keepdims: a boolean")
    if attrs["keepdims"]:
        return tuple(1 if k in axes else e for k, e in enumerate(t.shape))
    return tuple(e for k, e in enumerate(t.shape) if k not in axes)


def _reduce(dtypes: tuple[str, ...], *, empty: bool) -> Rule:
    def rule(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        _arity(inputs, 1)
        (t,) = inputs
        _need(t.dtype in dtypes, _show(inputs), f"dtype in {dtypes}")
        shape = _reduced(t, attrs)
        _need(empty or all(t.shape[a] for a in attrs["axes"]), _show(inputs), "at least one element to reduce")
        return (TensorType(shape, t.dtype),)

    return rule


def _arg_reduce(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    (t,) = inputs
    _need(t.dtype != "bool", _show(inputs), "a number dtype")
    _need(len(attrs["axes"]) == 1, attrs["axes"], "one axis")
    shape = _reduced(t, attrs)
    _need(t.shape[attrs["axes"][0]] > 0, _show(inputs), "at least one element to reduce")
    return (TensorType(shape, "int64"),)


# ---- linear algebra and convolution ---------------------------------------------------------------------------------


def _matmul(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    a, b = inputs
    _need(a.dtype == b.dtype and a.is_float and a.rank >= 2 and b.rank >= 2, _show(inputs), "two float inputs of rank >= 2")
    _need(a.shape[-1] == b.shape[-2], _show(inputs), "equal inner extents")
    return (TensorType((*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype),)


def window_extent(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Number of window positions along one axis: floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1."""
    return (size + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1


def _conv_attrs(n: int, attrs: Attrs) -> tuple[Any, Any, Any, int]:
    strides = _ints(attrs["strides"], n, "strides", 1)
    padding = _pairs(attrs["padding"], n, "padding")
    dilations = _ints(attrs["dilations"], n, "dilations", 1)
    groups = attrs["groups"]
    _need(type(groups) is int and groups >= 1, f"groups={groups!r}", "groups: a positive integer")
    return strides, padding, dilations, groups


def conv_output_shape(x: tuple[int, ...], w: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    """Shape of ``conv``: x is (N, C, spatial...), w is (O, C / groups, kernel...)."""
    n = len(x) - 2
    _need(n >= 1 and len(w) == n + 2, f"{x} and {w}", "x (N, C, spatial...) and w (O, C / groups, kernel...)")
    strides, padding, dilations, groups = _conv_attrs(n, attrs)
    _need(x[1] == w[1] * groups and w[0] % groups == 0, f"{x}, {w}, groups={groups}", "C = w.shape[1] * groups, O % groups = 0")
    _need(all(k >= 1 for k in w[2:]), w, "a kernel of at least one element")
    out = tuple(window_extent(x[2 + k], w[2 + k], strides[k], padding[k], dilations[k]) for k in range(n))
    _need(all(o >= 1 for o in out), f"{x}, {w}", "a kernel that fits into the padded input")
    return (x[0], w[0], *out)


def _conv(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    x, w = inputs
    _need(x.dtype == w.dtype and x.is_float, _show(inputs), "two float inputs of one dtype")
    return (TensorType(conv_output_shape(x.shape, w.shape, attrs), x.dtype),)


def _conv_backward_data(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    dy, w = inputs
    _need(dy.dtype == w.dtype and dy.is_float, _show(inputs), "two float inputs of one dtype")
    spatial = _ints(attrs["input_spatial"], dy.rank - 2, "input_spatial", 1)
    shape = (dy.shape[0], w.shape[1] * attrs["groups"], *spatial)
    _need(conv_output_shape(shape, w.shape, attrs) == dy.shape, _show(inputs), "dy of the convolution's output shape")
    return (TensorType(shape, dy.dtype),)


def _conv_backward_weight(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    x, dy = inputs
    _need(x.dtype == dy.dtype and x.is_float and x.rank == dy.rank >= 3, _show(inputs), "two float inputs (N, C, spatial...)")
    kernel = _ints(attrs["kernel"], x.rank - 2, "kernel", 1)
    _conv_attrs(x.rank - 2, attrs)
    _need(x.shape[1] % attrs["groups"] == 0, _show(inputs), "C % groups = 0")
    shape = (dy.shape[1], x.shape[1] // attrs["groups"], *kernel)
    _need(conv_output_shape(x.shape, shape, attrs) == dy.shape, _show(inputs), "dy of the convolution's output shape")
    return (TensorType(shape, x.dtype),)


def pool_output_shape(x: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    """Shape of a pooling of x (N, C, spatial...); every window must contain at least one real element."""
    n = len(x) - 2
    _need(n >= 1, x, "x (N, C, spatial...)")
    kernel = _ints(attrs["kernel"], n, "kernel", 1)
    strides = _ints(attrs["strides"], n, "strides", 1)
    padding = _pairs(attrs["padding"], n, "padding")
    dilations = _ints(attrs["dilations"], n, "dilations", 1)
    out = []
    for k in range(n):
        o = window_extent(x[2 + k], kernel[k], strides[k], padding[k], dilations[k])
        _need(o >= 1, x, "a window that fits into the padded input")
        # Without dilation only the outermost windows can miss the input.
        for position in range(o) if dilations[k] > 1 else (0, o - 1):
            start = position * strides[k] - padding[k][0]
            inside = any(0 <= start + j * dilations[k] < x[2 + k] for j in range(kernel[k]))
            _need(inside, f"padding={padding}", "padding that leaves an input element in every window")
        out.append(o)
    return (*x[:2], *out)


def _pool(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    (x,) = inputs
    _need(x.is_float, _show(inputs), f"dtype in {FLOATS}")
    if "count_include_pad" in attrs:
        _need(type(attrs["count_include_pad"]) is bool, attrs["count_include_pad"], "count_include_pad: a boolean")
    return (TensorType(pool_output_shape(x.shape, attrs), x.dtype),)


def _max_pool_backward(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    dy, x = inputs
    _need(dy.dtype == x.dtype and x.is_float, _show(inputs), "two float inputs of one dtype")
    _need(pool_output_shape(x.shape, attrs) == dy.shape, _show(inputs), "dy of the pool's output shape")
    return (x,)


def _avg_pool_backward(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    (dy,) = inputs
    spatial = _ints(attrs["input_spatial"], dy.rank - 2, "input_spatial", 1)
    shape = (*dy.shape[:2], *spatial)
    _need(dy.is_float and pool_output_shape(shape, attrs) == dy.shape, _show(inputs), "dy of the pool's output shape")
    return (TensorType(shape, dy.dtype),)


# ---- data movement --------------------------------------------------------------------------------------------------


def _reshape(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    shape = _ints(attrs["shape"], None, "shape")
    _need(math.prod(shape) == inputs[0].size, f"{_show(inputs)} to {shape}", "as many elements as before")
    return (TensorType(shape, inputs[0].dtype),)


def _transpose(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    (t,) = inputs
    perm = _ints(attrs["perm"], t.rank, "perm")
    _need(sorted(perm) == list(range(t.rank)), f"perm={perm}", "a permutation of the axes")
    return (TensorType(tuple(t.shape[p] for p in perm), t.dtype),)


def _broadcast_to(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    shape = _ints(attrs["shape"], None, "shape")
    _need(
        broadcast_shapes(inputs[0].shape, shape) == shape, f"{_show(inputs)} to {shape}", "a shape that the input broadcasts to"
    )
    return (TensorType(shape, inputs[0].dtype),)


def _concat(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _need(len(inputs) >= 1, "no inputs", "at least one input")
    first, axis = inputs[0], attrs["axis"]
    _need(type(axis) is int and 0 <= axis < first.rank, f"axis={axis!r}", f"an axis below {first.rank}")
    for t in inputs:
        same = t.dtype == first.dtype and t.rank == first.rank
        same = same and all(t.shape[k] == first.shape[k] for k in range(first.rank) if k != axis)
        _need(same, _show(inputs), f"equal dtypes and extents except on axis {axis}")
    total = sum(t.shape[axis] for t in inputs)
    return (TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def _slice(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 1)
    (t,) = inputs
    starts = _ints(attrs["starts"], t.rank, "starts")
    limits = _ints(attrs["limits"], t.rank, "limits")
    strides = _ints(attrs["strides"], t.rank, "strides", 1)
    _need(
        all(s <= e <= n for s, e, n in zip(starts, limits, t.shape, strict=True)),
        f"starts={starts}, limits={limits} of {t}",
        "0 <= start <= limit <= extent on every axis",
    )
    shape = tuple((e - s + d - 1) // d for s, e, d in zip(starts, limits, strides, strict=True))
    return (TensorType(shape, t.dtype),)


def _pad(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    t, value = inputs
    _need(value.shape == () and value.dtype == t.dtype, _show(inputs), "a scalar pad value of the same dtype")
    padding = _pairs(attrs["padding"], t.rank, "padding")
    return (TensorType(tuple(lo + n + hi for (lo, hi), n in zip(padding, t.shape, strict=True)), t.dtype),)


# ---- sources --------------------------------------------------------------------------------------------------------


def _constant(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 0)
    shape = _ints(attrs["shape"], None, "shape")
    _need(attrs["dtype"] in DTYPES, attrs["dtype"], f"dtype in {DTYPES}")
    t = TensorType(shape, attrs["dtype"])
    try:
        data = base64.b64decode(attrs["data"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _Bad("data that is not base64", "little-endian elements in base64") from None
    _need(len(data) == t.size * t.numpy_dtype().itemsize, f"{len(data)} bytes for {t}", "as many bytes as the type has")
    _need(t.dtype != "bool" or set(data) <= {0, 1}, "a bool byte above 1", "0 or 1")
    return (t,)


def _iota(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 0)
    shape = _ints(attrs["shape"], None, "shape")
    axis = attrs["axis"]
    _need(type(axis) is int and 0 <= axis < len(shape), f"axis={axis!r}", f"an axis below {len(shape)}")
    _need(attrs["dtype"] in ("int32", "int64"), attrs["dtype"], "int32 or int64")
    return (TensorType(shape, attrs["dtype"]),)


def _random_bits(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _arity(inputs, 2)
    scalar = TensorType((), "int64")
    _need(tuple(inputs) == (scalar, scalar), _show(inputs), "seed and step: two int64 scalars")
    shape = _ints(attrs["shape"], None, "shape")
    _need(type(attrs["op_id"]) is int and 0 <= attrs["op_id"] < 2**32, attrs["op_id"], "op_id: an integer in [0, 2^32)")
    _need(math.prod(shape) <= MAX_ELEMENTS, shape, "at most 2^40 elements")
    return (TensorType(shape, "uint32"),)


NUMBERS = FLOATS + INTEGERS
ARITHMETIC = (*FLOATS, "int32", "int64", "uint32")

RULES: dict[str, Rule] = {
    # elementwise, one input
    "neg": _unary((*FLOATS, "int32", "int64")),
    "abs": _unary((*FLOATS, "int32", "int64")),
    "sqrt": _unary(FLOATS),
    "floor": _unary(FLOATS),
    "ceil": _unary(FLOATS),
    "round": _unary(FLOATS),
    "sign": _unary(FLOATS),
    "exp": _unary(("float32",)),
    "expm1": _unary(("float32",)),
    "log": _unary(("float32",)),
    "log1p": _unary(("float32",)),
    "tanh": _unary(("float32",)),
    "sigmoid": _unary(("float32",)),
    "erf": _unary(("float32",)),
    "is_nan": _predicate,
    "logical_not": _unary(("bool",)),
    # elementwise, several inputs, NumPy broadcasting
    "add": _binary(ARITHMETIC),
    "sub": _binary(ARITHMETIC),
    "mul": _binary(ARITHMETIC),
    "div": _binary(FLOATS),
    "maximum": _binary(NUMBERS),
    "minimum": _binary(NUMBERS),
    "equal": _binary(DTYPES, "bool"),
    "not_equal": _binary(DTYPES, "bool"),
    "less": _binary(NUMBERS, "bool"),
    "less_equal": _binary(NUMBERS, "bool"),
    "greater": _binary(NUMBERS, "bool"),
    "greater_equal": _binary(NUMBERS, "bool"),
    "logical_and": _binary(("bool",)),
    "logical_or": _binary(("bool",)),
    "where": _where,
    "cast": _cast,
    # reductions
    "sum": _reduce(ARITHMETIC, empty=True),
    "prod": _reduce(ARITHMETIC, empty=True),
    "reduce_max": _reduce(NUMBERS, empty=False),
    "reduce_min": _reduce(NUMBERS, empty=False),
    "argmax": _arg_reduce,
    "argmin": _arg_reduce,
    # linear algebra, convolution, pooling
    "matmul": _matmul,
    "conv": _conv,
    "conv_backward_data": _conv_backward_data,
    "conv_backward_weight": _conv_backward_weight,
    "max_pool": _pool,
    "max_pool_backward": _max_pool_backward,
    "avg_pool": _pool,
    "avg_pool_backward": _avg_pool_backward,
    # data movement
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    # sources
    "constant": _constant,
    "iota": _iota,
    "random_bits": _random_bits,
}

_CONV = {"strides", "padding", "dilations", "groups"}
_POOL = {"kernel", "strides", "padding", "dilations"}
_REDUCE = {"axes", "keepdims"}

#: The attributes that a node of each operator has, no more and no fewer.
ATTRIBUTES: dict[str, set[str]] = {name: set() for name in RULES} | {
    "cast": {"dtype"},
    "sum": _REDUCE,
    "prod": _REDUCE,
    "reduce_max": _REDUCE,
    "reduce_min": _REDUCE,
    "argmax": _REDUCE,
    "argmin": _REDUCE,
    "conv": _CONV,
    "conv_backward_data": _CONV | {"input_spatial"},
    "conv_backward_weight": _CONV | {"kernel"},
    "max_pool": _POOL,
    "max_pool_backward": _POOL,
    "avg_pool": _POOL | {"count_include_pad"},
    "avg_pool_backward": _POOL | {"count_include_pad", "input_spatial"},
    "reshape": {"shape"},
    "transpose": {"perm"},
    "broadcast_to": {"shape"},
    "concat": {"axis"},
    "slice": {"starts", "limits", "strides"},
    "pad": {"padding"},
    "constant": {"dtype", "shape", "data"},
    "iota": {"dtype", "shape", "axis"},
    "random_bits": {"op_id", "shape"},
}
