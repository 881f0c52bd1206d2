"""Canonical operators as ONNX's: one table, an entry for each operator that the standard has.

An entry gets a ``Writer``, the node, and the names of its inputs, and returns the name of its result. ``ENTRIES`` has operators
of which ONNX specifies the same function; how exactly it is computed is up to whoever runs the file. ``APPROXIMATE`` has
compositions of several roundings in place of one, for those who ask for them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.canonical.types import TensorType

#: The oldest operator set that files are written in.
OPSET = 18


class NoOperatorError(Exception):
    """ONNX has no such operator, or not with this dtype or attribute; the text says which."""


@dataclass
class Writer:
    """ONNX nodes in the making.

    Attributes:
        taken: names that no value of ours may have.
        types: types of the inputs of the canonical node that is being written.
        opset: the operator set that the nodes need.
        source: place in the user's model, kept with each node.
    """

    taken: Collection[str] = ()
    nodes: list[Any] = field(default_factory=list)
    types: Sequence[TensorType] = ()
    opset: int = OPSET
    source: str = ""
    _constants: dict[Any, str] = field(default_factory=dict)
    _count: int = 0

    def node(self, op: str, *inputs: str, since: int = OPSET, output: int = 0, name: str = "", **attributes: Any) -> str:
        """One node; returns the name of its output number ``output`` (``name`` or a new one); those before are not used."""
        self.opset = max(self.opset, since)
        names = [*(self._fresh() for _ in range(output)), name or self._fresh()]
        made = helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes)
        made.doc_string = self.source
        self.nodes.append(made)
        return names[-1]

    def _fresh(self) -> str:
        self._count += 1
        name = f"v{self._count}"
        return self._fresh() if name in self.taken else name

    def integers(self, values: Sequence[int]) -> str:
        """A constant list of int64."""
        key = tuple(values)
        if key not in self._constants:
            self._constants[key] = self.node("Constant", value=numpy_helper.from_array(np.array(key, np.int64)))
        return self._constants[key]


Entry = Callable[[Writer, Node, list[str]], str]


def element_type(dtype: str) -> int:
    """ONNX's number of a dtype.

    Raises:
        NoOperatorError: it has none.
    """
    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (ValueError, KeyError, TypeError):
        raise NoOperatorError(f"dtype {dtype}") from None


def _plain(name: str, since: int = OPSET) -> Entry:
    return lambda w, n, x: w.node(name, *x, since=since)


def _not_equal(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Not", w.node("Equal", *x))


def _cast(w: Writer, n: Node, x: list[str]) -> str:
    dtype = n.attrs["dtype"]
    # Without saturation only where ONNX knows the difference.
    extra: dict[str, Any] = {"saturate": 0, "since": 19} if dtype.startswith("float8") else {}
    return w.node("Cast", *x, to=element_type(dtype), **extra)


def _cast_saturating(w: Writer, n: Node, x: list[str]) -> str:
    dtype = n.attrs["dtype"]
    if dtype not in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"):
        raise NoOperatorError(f"cast_saturating to {dtype}")
    return w.node("Cast", *x, to=element_type(dtype), saturate=1, since=19)


def _bitcast(w: Writer, n: Node, x: list[str]) -> str:
    if "BitCast" not in _KNOWN:
        raise NoOperatorError("bitcast (onnx 1.21 has it)")
    return w.node("BitCast", *x, to=element_type(n.attrs["dtype"]), since=26)


def _remainder(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Mod", *x, fmod=1)


def _shift(direction: str) -> Entry:
    def write(w: Writer, n: Node, x: list[str]) -> str:
        if not w.types[0].dtype.startswith("uint"):
            raise NoOperatorError(f"shift of {w.types[0].dtype}")
        return w.node("BitShift", *x, direction=direction)

    return write


def _reduce(name: str) -> Entry:
    def write(w: Writer, n: Node, x: list[str]) -> str:
        # Without axes ONNX would reduce all of them.
        if not n.attrs["axes"]:
            return w.node("Identity", *x)
        return w.node(name, *x, w.integers(n.attrs["axes"]), keepdims=int(n.attrs["keepdims"]))

    return write


def _search(name: str) -> Entry:
    return lambda w, n, x: w.node(name, *x, axis=n.attrs["axes"][0], keepdims=int(n.attrs["keepdims"]))


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in padding] + [high for _, high in padding]


def _conv(w: Writer, n: Node, x: list[str]) -> str:
    if not n.types[0].is_float:
        raise NoOperatorError(f"conv of {n.types[0].dtype}")
    a = n.attrs
    settings = {"strides": a["strides"], "dilations": a["dilations"], "pads": _pads(a["padding"]), "group": a["groups"]}
    return w.node("Conv", *x, **settings)


def _conv_transposed(w: Writer, n: Node, x: list[str]) -> str:
    a, spatial = n.attrs, w.types[0].shape[2:]
    kernel = w.types[1].shape[2:]
    # What the stride leaves open: how much of the result lies behind the last window.
    rest = [
        extent - (s * (q - 1) + (k - 1) * d + 1 - low - high)
        for extent, q, k, s, d, (low, high) in zip(
            a["input_spatial"], spatial, kernel, a["strides"], a["dilations"], a["padding"], strict=True
        )
    ]
    settings = {"strides": a["strides"], "dilations": a["dilations"], "pads": _pads(a["padding"]), "group": a["groups"]}
    return w.node("ConvTranspose", *x, output_padding=rest, **settings)


def _pool(name: str) -> Entry:
    def write(w: Writer, n: Node, x: list[str]) -> str:
        a = n.attrs
        extra: dict[str, Any] = {}
        if name == "AveragePool":
            extra["count_include_pad"] = int(a["count_include_pad"])
            extra["since"] = 19 if any(d > 1 for d in a["dilations"]) else OPSET
        if name == "MaxPool" or extra["since"] == 19:
            extra["dilations"] = a["dilations"]
        return w.node(name, *x, kernel_shape=a["kernel"], strides=a["strides"], pads=_pads(a["padding"]), **extra)

    return write


def _reshape(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Reshape", *x, w.integers(n.attrs["shape"]), allowzero=1)


def _expand(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Expand", *x, w.integers(n.attrs["shape"]))


def _slice(w: Writer, n: Node, x: list[str]) -> str:
    a = n.attrs
    axes = [k for k, t in enumerate(w.types[0].shape) if (a["starts"][k], a["limits"][k], a["strides"][k]) != (0, t, 1)]
    if not axes:
        return w.node("Identity", *x)
    parts = [[a[name][k] for k in axes] for name in ("starts", "limits")]
    return w.node("Slice", *x, *(w.integers(p) for p in (*parts, axes, [a["strides"][k] for k in axes])))


def _reverse(w: Writer, n: Node, x: list[str]) -> str:
    axes = n.attrs["axes"]
    if not axes:
        return w.node("Identity", *x)
    ends, steps = [-(2**63) + 1] * len(axes), [-1] * len(axes)
    return w.node("Slice", *x, *(w.integers(p) for p in ([-1] * len(axes), ends, axes, steps)))


def _pad(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Pad", x[0], w.integers(_pads(n.attrs["padding"])), x[1])


def _scatter(name: str) -> Entry:
    def write(w: Writer, n: Node, x: list[str]) -> str:
        attributes = {key: value for key, value in n.attrs.items() if key == "axis"}
        return w.node(name, *x, reduction=n.attrs["reduction"], **attributes)

    return write


def _argsort(w: Writer, n: Node, x: list[str]) -> str:
    if w.types[0].dtype == "bool":
        raise NoOperatorError("argsort of bool")
    axis = n.attrs["axis"]
    count = w.integers([w.types[0].shape[axis]])
    return w.node("TopK", *x, count, output=1, axis=axis, largest=int(n.attrs["descending"]), sorted=1)


def _running(name: str, since: int = OPSET) -> Entry:
    def write(w: Writer, n: Node, x: list[str]) -> str:
        if name not in _KNOWN:
            raise NoOperatorError(f"{n.op} (a newer onnx has it)")
        axis = w.node("Constant", value=numpy_helper.from_array(np.array(n.attrs["axis"], np.int64)))
        return w.node(name, *x, axis, since=since, exclusive=int(n.attrs["exclusive"]), reverse=int(n.attrs["reverse"]))

    return write


def _constant(w: Writer, n: Node, x: list[str]) -> str:
    type_ = n.types[0]
    array = np.frombuffer(base64.b64decode(n.attrs["data"]), type_.numpy_dtype()).reshape(type_.shape)
    element_type(type_.dtype)
    return w.node("Constant", value=numpy_helper.from_array(array))


def _iota(w: Writer, n: Node, x: list[str]) -> str:
    type_, axis = n.types[0], n.attrs["axis"]
    ends = [np.array(v, type_.dtype) for v in (0, type_.shape[axis], 1)]
    line = w.node("Range", *(w.node("Constant", value=numpy_helper.from_array(end)) for end in ends))
    if type_.rank == 1:
        return line
    column = w.node(
        "Reshape", line, w.integers([type_.shape[axis] if k == axis else 1 for k in range(type_.rank)]), allowzero=1
    )
    return w.node("Expand", column, w.integers(type_.shape))


_KNOWN = {schema.name for schema in onnx.defs.get_all_schemas()}
_SAME = {
    **{"neg": "Neg", "abs": "Abs", "sqrt": "Sqrt", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign"},
    **{"exp": "Exp", "log": "Log", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf", "sinh": "Sinh", "cosh": "Cosh"},
    **{"sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "asinh": "Asinh"},
    **{"acosh": "Acosh", "atanh": "Atanh", "pow": "Pow", "is_nan": "IsNaN", "logical_not": "Not", "add": "Add", "sub": "Sub"},
    **{"mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "equal": "Equal", "less": "Less"},
    **{"less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "logical_and": "And"},
    **{"logical_or": "Or", "where": "Where", "bit_and": "BitwiseAnd", "bit_or": "BitwiseOr", "bit_xor": "BitwiseXor"},
    **{"bit_not": "BitwiseNot", "matmul": "MatMul"},
}

ENTRIES: dict[str, Entry] = {
    **{op: _plain(name) for op, name in _SAME.items()},
    "not_equal": _not_equal,
    "cast": _cast,
    "cast_saturating": _cast_saturating,
    "bitcast": _bitcast,
    "rem": _remainder,
    "shift_left": _shift("LEFT"),
    "shift_right": _shift("RIGHT"),
    "sum": _reduce("ReduceSum"),
    "prod": _reduce("ReduceProd"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "argmax": _search("ArgMax"),
    "argmin": _search("ArgMin"),
    "conv": _conv,
    "conv_backward_data": _conv_transposed,
    "max_pool": _pool("MaxPool"),
    "avg_pool": _pool("AveragePool"),
    "reshape": _reshape,
    "transpose": lambda w, n, x: w.node("Transpose", *x, perm=n.attrs["perm"]),
    "broadcast_to": _expand,
    "concat": lambda w, n, x: w.node("Concat", *x, axis=n.attrs["axis"]),
    "slice": _slice,
    "pad": _pad,
    "take": lambda w, n, x: w.node("Gather", *x, axis=n.attrs["axis"]),
    "gather_elements": lambda w, n, x: w.node("GatherElements", *x, axis=n.attrs["axis"]),
    "gather_nd": lambda w, n, x: w.node("GatherND", *x, batch_dims=n.attrs["batch_dims"]),
    "reverse": _reverse,
    "scatter_elements": _scatter("ScatterElements"),
    "scatter_nd": _scatter("ScatterND"),
    "argsort": _argsort,
    "cumsum": _running("CumSum"),
    "cumprod": _running("CumProd", 26),
    "constant": _constant,
    "iota": _iota,
}


def _number(w: Writer, value: float) -> str:
    return w.node("Constant", value=numpy_helper.from_array(np.array(value, np.float32)))


def _cube_root(w: Writer, n: Node, x: list[str]) -> str:
    return w.node("Mul", w.node("Sign", *x), w.node("Pow", w.node("Abs", *x), _number(w, 1 / 3)))


#: Functions of float32 that ONNX does not have, by those that it has.
APPROXIMATE: dict[str, Entry] = {
    "expm1": lambda w, n, x: w.node("Sub", w.node("Exp", *x), _number(w, 1)),
    "log1p": lambda w, n, x: w.node("Log", w.node("Add", *x, _number(w, 1))),
    "exp2": lambda w, n, x: w.node("Pow", _number(w, 2), *x),
    "log2": lambda w, n, x: w.node("Div", w.node("Log", *x), _number(w, np.log(2))),
    "log10": lambda w, n, x: w.node("Div", w.node("Log", *x), _number(w, np.log(10))),
    "erfc": lambda w, n, x: w.node("Sub", _number(w, 1), w.node("Erf", *x)),
    "rsqrt": lambda w, n, x: w.node("Reciprocal", w.node("Sqrt", *x)),
    "cbrt": _cube_root,
}
