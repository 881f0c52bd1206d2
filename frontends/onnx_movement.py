"""ONNX operators that move elements, and those that make tensors of nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, NARROW
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, constant_of, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, integers, known, optional
from gensyn_tvm.frontends.onnx_reader import element_type

# ---- shapes ---------------------------------------------------------------------------------------------------------


def convert_reshape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape, target = shape_of(x[0]), integers(e, x, a, 1, "shape") or []
    if not a.get("allowzero"):
        target = [shape[k] if d == 0 else d for k, d in enumerate(target)]
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(target) != math.prod(shape):
        raise e.refuse(f"a reshape of {tuple(shape)} to {tuple(target)}", expected="the same number of elements")
    return e.reshape(x[0], target)


def convert_flatten(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    shape = shape_of(x[0])
    axis = a.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return e.reshape(x[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def convert_transpose(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.transpose(x[0], a.get("perm", list(range(rank_of(x[0])))[::-1]))


def convert_squeeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = integers(e, x, a, 1, "axes"), shape_of(x[0])
    gone = {k for k, d in enumerate(shape) if d == 1} if axes is None else {convert_axis(v, len(shape)) for v in axes}
    return e.reshape(x[0], [d for k, d in enumerate(shape) if k not in gone])


def convert_unsqueeze(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axes, shape = integers(e, x, a, 1, "axes") or [], shape_of(x[0])
    for axis in sorted(v % (len(shape) + len(axes)) for v in axes):
        shape.insert(axis, 1)
    return e.reshape(x[0], shape)


def convert_split(e: Emitter, x: Inputs, a: Attributes) -> Any:
    axis = convert_axis(a.get("axis", 0), rank_of(x[0]))
    extent, sizes = shape_of(x[0])[axis], integers(e, x, a, 1, "split")
    if sizes is not None and (sum(sizes) != extent or min(sizes, default=0) < 0):
        raise e.refuse(f"a split of {extent} elements into {sizes}", expected="sizes that add up")
    if sizes is None:
        size = -(-extent // a.outputs)
        sizes = [min(size, extent - size * k) for k in range(a.outputs)]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x[0], axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def convert_slice(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    starts, ends = integers(e, x, a, 1, "starts") or [], integers(e, x, a, 2, "ends") or []
    axes = integers(e, x, a, 3, "axes") or list(range(len(starts)))
    steps = integers(e, x, a, 4, "steps") or [1] * len(starts)
    y = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = convert_axis(axis, rank_of(y))
        if step == 0:
            raise e.refuse("step 0", expected="another step")
        taken = range(*slice(start, end, step).indices(shape_of(y)[axis]))
        if not taken:
            y = e.slice(y, axis, 0, 0)
        elif step > 0:
            y = e.slice(y, axis, taken[0], taken[-1] + 1, step)
        else:
            y = e.canonical("reverse", e.slice(y, axis, taken[-1], taken[0] + 1, -step), axes=(axis,))
    return y


# ---- padding --------------------------------------------------------------------------------------------------------


def convert_pad(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """A negative number of elements crops; other modes than ``constant`` repeat elements of the whole axis."""
    pads, rank = integers(e, x, a, 1, "pads") or [], rank_of(x[0])
    axes = [convert_axis(int(v), rank) for v in known(e, x[3], "axes")] if optional(x, 3) is not None else list(range(rank))
    lows, highs = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        lows[axis], highs[axis] = pads[k], pads[k + len(axes)]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return _pad_constant(e, x[0], lows, highs, optional(x, 2), a)
    if mode not in ("reflect", "edge", "wrap"):
        raise e.refuse(f"mode {mode}", expected="constant, reflect, edge or wrap")
    y = x[0]
    for axis, (low, high) in enumerate(zip(lows, highs, strict=True)):
        y = blocks.pad_by_elements(e, y, axis, low, high, mode)
    return y


def _pad_constant(e: Emitter, x: Expr, lows: Sequence[int], highs: Sequence[int], value: Expr | None, a: Attributes) -> Expr:
    array = None if value is None else constant_of(value)
    if dtype_of(x) in FLOATS and (value is None or array is not None):
        return blocks.pad(e, x, lows, highs, a.get("value", 0.0) if array is None else array.item())
    for axis, (low, high) in enumerate(zip(lows, highs, strict=True)):
        extent = shape_of(x)[axis]
        x = e.slice(x, axis, max(0, -low), extent - max(0, -high))
    widths = tuple((max(0, low), max(0, high)) for low, high in zip(lows, highs, strict=True))
    filler = filled(e, [], 0, dtype_of(x)) if value is None else e.reshape(value, [])
    return e.canonical("pad", x, filler, padding=widths) if any(map(any, widths)) else x


# ---- repetition -----------------------------------------------------------------------------------------------------


def convert_expand(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.broadcast(x[0], list(np.broadcast_shapes(tuple(shape_of(x[0])), tuple(int(v) for v in known(e, x[1], "shape")))))


def convert_tile(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    y = x[0]
    repeats = [int(v) for v in known(e, x[1], "repeats")]
    if min(repeats, default=0) < 0:
        raise e.refuse(f"repeats {repeats}", expected="numbers that are not negative")
    for axis in (k for k, count in enumerate(repeats) if not count):
        y = e.slice(y, axis, 0, 0)
    counts = [max(count, 1) for count in repeats]
    return e(op.tile(y, counts)) if max(counts, default=1) > 1 else y


def convert_space_to_depth(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    n, c, h, w = shape_of(x[0])
    b = int(a["blocksize"])
    if h % b or w % b:
        raise e.refuse(f"blocks of {b} in {h} x {w}", expected="extents that are multiples of the block")
    order = [0, 1, 3, 5, 2, 4] if a.get("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    y = e.transpose(e.reshape(x[0], [n, c, h // b, b, w // b, b]), order)
    return e.reshape(y, [n, c * b * b, h // b, w // b])


def convert_depth_to_space(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    n, c, h, w = shape_of(x[0])
    b = int(a["blocksize"])
    if a.get("mode", "DCR") == "DCR":
        y = e.transpose(e.reshape(x[0], [n, b, b, c // b**2, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        y = e.transpose(e.reshape(x[0], [n, c // b**2, b, b, h, w]), [0, 1, 4, 2, 5, 3])
    return e.reshape(y, [n, c // b**2, h * b, w * b])


def convert_constant(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        dtype = "int64" if "int" in name else "float32"
        if name in a:
            return constant(np.array(a[name], dtype=dtype))
    if "value" not in a:
        raise e.refuse(f"attribute {', '.join(a)}", expected="a dense tensor of numbers")
    return constant(a["value"])


def convert_constant_of_shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    value = a.get("value", np.zeros(1, dtype="float32"))
    return filled(e, [int(v) for v in known(e, x[0], "the shape")], value.item(), value.dtype.name)


def filled(e: Emitter, shape: Sequence[int], value: Any, dtype: str) -> Expr:
    """A tensor of one value, of any dtype."""
    if dtype not in NARROW:
        return e.full(shape, value, dtype)
    scalar = e(constant(np.array(value, dtype=np.dtype(dtype))))
    return e.canonical("broadcast_to", scalar, shape=tuple(shape)) if shape else scalar


def convert_eye_like(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    dtype = element_type(a["dtype"], e.place) if "dtype" in a else dtype_of(x[0])
    if rank_of(x[0]) != 2:
        raise e.refuse(f"an input of shape {tuple(shape_of(x[0]))}", expected="two axes")
    rows, columns = shape_of(x[0])
    return e.cast(constant(np.eye(rows, columns, int(a.get("k", 0)), dtype=bool)), dtype)


def convert_range(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """start + k * delta: of floats the product and the sum rounded, each once."""
    values = [known(e, v, name) for v, name in zip(x, ("start", "limit", "delta"), strict=True)]
    dtype = values[0].dtype.name
    start, limit, delta = (Fraction(v.item()) for v in values)
    if delta == 0:
        raise e.refuse("delta 0", expected="another step")
    count = max(0, math.ceil((limit - start) / delta))
    if dtype not in FLOATS:
        return constant(np.array([int(start + k * delta) for k in range(count)], dtype=dtype))
    places = e.cast(constant(np.arange(count, dtype=np.int64)), dtype)
    return e.add(e.mul(places, number(values[2].item(), dtype)), number(values[0].item(), dtype))


def convert_shape(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return constant(np.array(shape_of(x[0])[a.get("start", 0) : a.get("end")], dtype="int64"))


MOVEMENT: dict[str, Converter] = {
    "Reshape": convert_reshape,
    "Flatten": convert_flatten,
    "Transpose": convert_transpose,
    "Squeeze": convert_squeeze,
    "Unsqueeze": convert_unsqueeze,
    "Concat": lambda e, x, a: e.concat(x, convert_axis(a.get("axis", 1), rank_of(x[0]))),
    "Split": convert_split,
    "Slice": convert_slice,
    "Pad": convert_pad,
    "Expand": convert_expand,
    "Tile": convert_tile,
    "DepthToSpace": convert_depth_to_space,
    "SpaceToDepth": convert_space_to_depth,
    "Constant": convert_constant,
    "ConstantOfShape": convert_constant_of_shape,
    "EyeLike": convert_eye_like,
    "Range": convert_range,
    "Shape": convert_shape,
    "Size": lambda e, x, a: number(math.prod(shape_of(x[0])), "int64"),
}
