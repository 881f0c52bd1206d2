"""TensorFlow operators that move data, make it from nothing, index with data, or keep lists of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_converters import Inputs, known, scalar
from gensyn_tvm.frontends.tensorflow_nodes import Converter, Node, Value


def _ints(e: FoldingEmitter, x: Value, what: str) -> list[int]:
    return [int(v) for v in np.atleast_1d(known(e, x, what))]


# ---- shapes ---------------------------------------------------------------------------------------------------------


def convert_shape(e: FoldingEmitter, x: Inputs, n: Node) -> Value:
    made = [e(constant(np.array(shape_of(v), n.dtype()))) for v in x]
    return made if n.kind == "ShapeN" else made[0]


def convert_size(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e(constant(np.array(math.prod(shape_of(x[0])), n.dtype())))


def convert_rank(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e(constant(np.array(rank_of(x[0]), "int32")))


def convert_reshape(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    shape, size = _ints(e, x[1], "the shape"), math.prod(shape_of(x[0]))
    rest = math.prod(d for d in shape if d != -1)
    return e.reshape(x[0], [size // max(rest, 1) if d == -1 else d for d in shape])


def convert_expand(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    axis = int(scalar(e, x[1], "the axis")) % (rank_of(x[0]) + 1)
    shape = shape_of(x[0])
    return e.reshape(x[0], [*shape[:axis], 1, *shape[axis:]])


def convert_squeeze(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    shape = shape_of(x[0])
    axes = {int(a) % len(shape) for a in n.attr("squeeze_dims") or []}
    return e.reshape(x[0], [d for k, d in enumerate(shape) if (k not in axes if axes else d != 1)])


def convert_transpose(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.transpose(x[0], _ints(e, x[1], "the permutation"))


def convert_tile(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    y = x[0]
    for axis, count in enumerate(_ints(e, x[1], "the multiples")):
        y = e.concat([y] * e.check_steps(count), axis) if count else e.slice(y, axis, 0, 0)
    return y


def convert_broadcast_args(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    shapes = [_ints(e, v, "a shape") for v in x]
    return e(constant(np.array(np.broadcast_shapes(*map(tuple, shapes)), n.dtype())))


# ---- from nothing ---------------------------------------------------------------------------------------------------


def convert_fill(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.broadcast(x[1], _ints(e, x[0], "the shape"))


def convert_like(value: int) -> Converter:
    return lambda e, x, n: e.full(shape_of(x[0]), value, dtype_of(x[0]))


def convert_range(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    start, limit, delta = (scalar(e, v, "a bound") for v in x)
    if not all(float(v).is_integer() for v in (start, delta)) or delta == 0:
        raise e.refuse(f"start {start}, delta {delta}", expected="whole numbers")
    count = max(0, math.ceil((limit - start) / delta))
    return e(e.arange(int(start), count, int(delta), n.dtype()))


# ---- parts ----------------------------------------------------------------------------------------------------------


def convert_pack(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    shape = shape_of(x[0])
    axis = int(n.attr("axis")) % (len(shape) + 1)
    return e.concat([e.reshape(v, [*shape[:axis], 1, *shape[axis:]]) for v in x], axis)


def pieces(e: Emitter, x: Expr, axis: int, sizes: Sequence[int]) -> list[Expr]:
    """Consecutive parts of an axis."""
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [e.slice(x, axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def convert_unpack(e: FoldingEmitter, x: Inputs, n: Node) -> list[Expr]:
    shape = shape_of(x[0])
    axis = int(n.attr("axis")) % len(shape)
    rest = [*shape[:axis], *shape[axis + 1 :]]
    return [e.reshape(p, rest) for p in pieces(e, x[0], axis, [1] * shape[axis])]


def convert_split(e: FoldingEmitter, x: Inputs, n: Node) -> list[Expr]:
    axis, count = int(scalar(e, x[0], "the axis")) % rank_of(x[1]), int(n.attr("num_split"))
    return pieces(e, x[1], axis, [shape_of(x[1])[axis] // count] * count)


def convert_split_v(e: FoldingEmitter, x: Inputs, n: Node) -> list[Expr]:
    axis, sizes = int(scalar(e, x[2], "the axis")) % rank_of(x[0]), _ints(e, x[1], "the sizes")
    rest = shape_of(x[0])[axis] - sum(s for s in sizes if s != -1)
    return pieces(e, x[0], axis, [rest if s == -1 else s for s in sizes])


def convert_concat(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.concat(x[:-1], int(scalar(e, x[-1], "the axis")) % rank_of(x[0]))


def convert_slice(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    y = x[0]
    for axis, (start, size) in enumerate(zip(_ints(e, x[1], "begin"), _ints(e, x[2], "the size"), strict=True)):
        y = e.slice(y, axis, start, shape_of(x[0])[axis] if size == -1 else start + size)
    return y


def convert_strided_slice(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """The masks say for each entry of the specification what it is: an ellipsis, a new axis, one element, or a range."""
    begin, end, steps = (_ints(e, v, "a bound") for v in x[1:4])
    masks = {key: int(n.attr(f"{key}_mask")) for key in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}

    def has(key: str, k: int) -> bool:
        return bool(masks[key] >> k & 1)

    y, axis, shape = x[0], 0, shape_of(x[0])
    consumed = sum(not has("new_axis", k) and not has("ellipsis", k) for k in range(len(begin)))
    result: list[int] = []
    for k in range(len(begin)):
        if has("ellipsis", k):
            skipped = len(shape) - consumed
            result += shape[axis : axis + skipped]
            axis += skipped
        elif has("new_axis", k):
            result.append(1)
        elif has("shrink_axis", k):
            index = begin[k] % shape[axis]
            y, axis = e.slice(y, axis, index, index + 1), axis + 1
        else:
            part = slice(None if has("begin", k) else begin[k], None if has("end", k) else end[k], steps[k])
            places = range(*part.indices(shape[axis]))
            y, axis = _places(e, y, axis, places), axis + 1
            result.append(len(places))
    return e.reshape(y, [*result, *shape[axis:]])


def _places(e: Emitter, x: Expr, axis: int, places: range) -> Expr:
    if places.step > 0 or not places:
        return (
            e.slice(x, axis, places.start, max(places.start, places.stop), abs(places.step))
            if places
            else e.slice(x, axis, 0, 0)
        )
    return e.slice(e.canonical("reverse", x, axes=(axis,)), axis, *_mirrored(shape_of(x)[axis], places))


def _mirrored(extent: int, places: range) -> tuple[int, int, int]:
    """Where descending places are in the reversed axis."""
    first, last = extent - 1 - places[0], extent - 1 - places[-1]
    return first, last + 1, -places.step


def convert_reverse(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    axes = tuple(sorted({a % max(rank_of(x[0]), 1) for a in _ints(e, x[1], "the axes")}))
    return e.canonical("reverse", x[0], axes=axes) if axes and rank_of(x[0]) else x[0]


def convert_roll(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    y = x[0]
    for shift, axis in zip(_ints(e, x[1], "the shift"), _ints(e, x[2], "the axis"), strict=True):
        axis %= rank_of(y)
        extent = shape_of(y)[axis]
        cut = -shift % max(extent, 1)
        y = e.concat([e.slice(y, axis, cut, extent), e.slice(y, axis, 0, cut)], axis) if cut else y
    return y


def convert_pad(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    widths = _ints(e, x[1], "the padding")
    lows, highs = widths[::2], widths[1::2]
    if n.kind == "MirrorPad":
        if n.attr("mode") != "REFLECT":
            raise e.refuse(f"mode {n.attr('mode')}", expected="REFLECT")
        y = x[0]
        for axis, (low, high) in enumerate(zip(lows, highs, strict=True)):
            y = blocks.pad_by_elements(e, y, axis, low, high, "reflect")
        return y
    return blocks.pad(e, x[0], lows, highs, scalar(e, x[2], "the value") if len(x) > 2 else 0.0)


def convert_band(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """The elements of the last two axes around the diagonal."""
    lower, upper = (int(scalar(e, v, "a bound")) for v in x[1:3])
    rows, columns = np.indices(shape_of(x[0])[-2:])
    keep = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return e.where(constant(keep), x[0], number(0, dtype_of(x[0])))


# ---- indexing with data ---------------------------------------------------------------------------------------------


def _index(e: FoldingEmitter, indices: Expr) -> Expr:
    """Indices as int32 or int64, constant if they are known."""
    indices = indices if dtype_of(indices) in ("int32", "int64") else e.cast(indices, "int64")
    array = e.fold(indices) if math.prod(shape_of(indices)) <= 2**16 else None
    return indices if array is None else constant(array)


def convert_gather(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """Elements of an axis, after ``batch_dims`` axes that both operands have."""
    axis = int(scalar(e, x[2], "the axis")) % max(rank_of(x[0]), 1) if len(x) > 2 else 0
    batch = int(n.attr("batch_dims", 0))
    if not batch:
        return blocks.take(e, x[0], _index(e, x[1]), axis)
    shape, indices = shape_of(x[0]), shape_of(x[1])
    batch %= len(indices)
    count = math.prod(shape[:batch])
    order = [*range(batch), axis, *(k for k in range(batch, len(shape)) if k != axis)]
    rest = [shape[k] for k in order[batch + 1 :]]
    rows = e.reshape(e.transpose(x[0], order), [count * shape[axis], *rest])
    flat = e.reshape(e.cast(x[1], "int64"), [count, math.prod(indices[batch:])])
    flat = e.add(flat, constant((np.arange(count, dtype=np.int64) * shape[axis])[:, None]))
    y = e.reshape(blocks.take(e, rows, _index(e, flat), 0), [*indices, *rest])
    before, width = axis - batch, len(indices) - batch
    back = [*range(batch), *range(batch + width, batch + width + before), *range(batch, batch + width)]
    return e.transpose(y, [*back, *range(batch + width + before, rank_of(y))])


def convert_gather_nd(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    return e.canonical("gather_nd", x[0], _index(e, x[1]), batch_dims=0)


def convert_scatter_nd(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """Updates at places of zeros; of equal places the sum."""
    zeros = e.full(_ints(e, x[2], "the shape"), 0, dtype_of(x[1]))
    return e.canonical("scatter_nd", zeros, _index(e, x[0]), x[1], reduction="add")


def convert_tensor_scatter(reduction: str) -> Converter:
    return lambda e, x, n: e.canonical("scatter_nd", x[0], _index(e, x[1]), x[2], reduction=reduction)


def convert_one_hot(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    depth, shape = int(scalar(e, x[1], "the depth")), shape_of(x[0])
    axis = len(shape) if n.attr("axis") == -1 else int(n.attr("axis"))
    classes = constant(np.arange(depth).reshape([-1, *[1] * (len(shape) - axis)]).astype(dtype_of(x[0])))
    hit = e(op.equal(e.reshape(x[0], [*shape[:axis], 1, *shape[axis:]]), classes))
    return e.where(hit, x[2], x[3])


def convert_top_k(e: FoldingEmitter, x: Inputs, n: Node) -> list[Expr]:
    """Sorted; of equal elements the first ones."""
    axis, count = rank_of(x[0]) - 1, int(scalar(e, x[1], "k"))
    order = e.slice(e.canonical("argsort", x[0], axis=axis, descending=True), axis, 0, count)
    indices = e.cast(order, n.dtype(1))
    return [e.canonical("gather_elements", x[0], order, axis=axis), indices]


# ---- lists of tensors -----------------------------------------------------------------------------------------------


def convert_list_reserve(e: FoldingEmitter, x: Inputs, n: Node) -> Value:
    return [None] * e.check_steps(int(scalar(e, x[1], "the length of a TensorArray")))


def convert_list_from_tensor(e: FoldingEmitter, x: Inputs, n: Node) -> Value:
    shape = shape_of(x[0])
    return [e.reshape(p, shape[1:]) for p in pieces(e, x[0], 0, [1] * e.check_steps(shape[0]))]


def _place(e: FoldingEmitter, x: Inputs) -> int:
    index = int(scalar(e, x[1], "an index into a TensorArray"))
    if not 0 <= index < len(x[0]):
        raise e.refuse(f"index {index}", expected=f"an index into a TensorArray of {len(x[0])} elements")
    return index


def convert_list_get(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    value = x[0][_place(e, x)]
    if value is None:
        return e.full(_ints(e, x[2], "the element's shape"), 0, n.dtype())
    return value


def convert_list_set(e: FoldingEmitter, x: Inputs, n: Node) -> Value:
    index = _place(e, x)
    return [*x[0][:index], x[2], *x[0][index + 1 :]]


def convert_list_stack(e: FoldingEmitter, x: Inputs, n: Node) -> Expr:
    """Elements that were never set are zeros."""
    given = next((v for v in x[0] if v is not None), None)
    shape = _ints(e, x[1], "the element's shape") if given is None else shape_of(given)
    parts = [e.full(shape, 0, n.dtype()) if v is None else v for v in x[0]]
    return e.concat([e.reshape(v, [1, *shape]) for v in parts], 0) if parts else e.full([0, *shape], 0, n.dtype())


MOVEMENT: dict[str, Converter] = {
    "IdentityN": lambda e, x, n: x,
    **{name: convert_shape for name in ("Shape", "ShapeN")},
    "Size": convert_size,
    "Rank": convert_rank,
    "Reshape": convert_reshape,
    "ExpandDims": convert_expand,
    "Squeeze": convert_squeeze,
    "Transpose": convert_transpose,
    "Tile": convert_tile,
    "BroadcastTo": lambda e, x, n: e.broadcast(x[0], _ints(e, x[1], "the shape")),
    "BroadcastArgs": convert_broadcast_args,
    "Fill": convert_fill,
    "ZerosLike": convert_like(0),
    "OnesLike": convert_like(1),
    "Range": convert_range,
    "Pack": convert_pack,
    "Unpack": convert_unpack,
    "Split": convert_split,
    "SplitV": convert_split_v,
    "ConcatV2": convert_concat,
    "Slice": convert_slice,
    "StridedSlice": convert_strided_slice,
    "ReverseV2": convert_reverse,
    "Roll": convert_roll,
    **{name: convert_pad for name in ("Pad", "PadV2", "MirrorPad")},
    "MatrixBandPart": convert_band,
    **{name: convert_gather for name in ("Gather", "GatherV2")},
    "GatherNd": convert_gather_nd,
    "ScatterNd": convert_scatter_nd,
    "TensorScatterUpdate": convert_tensor_scatter("none"),
    "TensorScatterAdd": convert_tensor_scatter("add"),
    "OneHot": convert_one_hot,
    "TopKV2": convert_top_k,
    "TensorListReserve": convert_list_reserve,
    "TensorListFromTensor": convert_list_from_tensor,
    "TensorListGetItem": convert_list_get,
    "TensorListSetItem": convert_list_set,
    "TensorListStack": convert_list_stack,
    "TensorListLength": lambda e, x, n: e(constant(np.array(len(x[0]), "int32"))),
}
