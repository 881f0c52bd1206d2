"""ONNX operators that select by position: triangles, one-hot vectors, reversed parts, written caches."""

from __future__ import annotations

import numpy as np

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known, optional
from gensyn_tvm.frontends.onnx_movement import filled


def _beside(e: Emitter, vector: Expr, axis: int, rank: int) -> Expr:
    """A vector as int64 along an axis, the others of extent 1."""
    return e.reshape(e.cast(vector, "int64"), [shape_of(vector)[0] if k == axis else 1 for k in range(rank)])


def convert_trilu(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The elements with column - row >= k (upper) or <= k, zero elsewhere."""
    rank = rank_of(x[0])
    if rank < 2:
        raise e.refuse(f"an input of shape {tuple(shape_of(x[0]))}", expected="a matrix, or a batch of matrices")
    row, column = (e.positions(n, k, 2) for k, n in enumerate(shape_of(x[0])[-2:]))
    k = number(0, "int64") if optional(x, 1) is None else e.reshape(x[1], [])
    compare = op.greater_equal if a.get("upper", 1) else op.less_equal
    kept = e(compare(e.sub(column, row), k))
    return e.canonical("where", kept, x[0], filled(e, [], 0, dtype_of(x[0])))


def convert_one_hot(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """index == position ? on : off; negative indices count from the end, those outside are nowhere."""
    depth = int(known(e, x[1], "the depth").item())
    shape = shape_of(x[0])
    axis = convert_axis(a.get("axis", -1), len(shape) + 1)
    index = e.reshape(e.cast(x[0], "int64"), [*shape[:axis], 1, *shape[axis:]])
    index = e.where(e(op.less(index, number(0, "int64"))), e.add(index, depth), index)
    hit = e(op.equal(index, e.positions(depth, axis, len(shape) + 1)))
    off, on = (e.reshape(e.slice(x[2], 0, k, k + 1), []) for k in (0, 1))
    return e.canonical("where", hit, on, off)


def convert_reverse_sequence(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Along the time axis the first ``sequence_lens`` elements back to front, the rest as they are."""
    rank, shape = rank_of(x[0]), shape_of(x[0])
    batch, time = convert_axis(a.get("batch_axis", 1), rank), convert_axis(a.get("time_axis", 0), rank)
    lengths, place = _beside(e, x[1], batch, rank), e.positions(shape[time], time, rank)
    mirrored = e.sub(e.sub(lengths, 1), place)
    source = e.where(e(op.less(place, lengths)), mirrored, place)
    return e.canonical("gather_elements", x[0], e.broadcast(source, shape), axis=time)


def convert_tensor_scatter(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The cache with the update written from each batch's index on; ``circular`` wraps, else what is outside is dropped."""
    cache, update = x[0], x[1]
    rank, shape = rank_of(cache), shape_of(cache)
    axis, mode = convert_axis(a.get("axis", -2), rank), a.get("mode", "linear")
    extent, count = shape[axis], shape_of(update)[axis]
    if mode not in ("linear", "circular") or count > extent:
        raise e.refuse(
            f"mode {mode} with {count} of {extent} elements", expected="linear or circular, at most the cache's length"
        )
    first = constant(np.zeros(1, np.int64)) if optional(x, 2) is None else x[2]
    offset = e.sub(e.positions(extent, axis, rank), _beside(e, first, 0, rank))
    if mode == "circular":
        offset = e.canonical("rem", offset, number(max(extent, 1), "int64"))
        offset = e.where(e(op.less(offset, number(0, "int64"))), e.add(offset, extent), offset)
    inside = e(op.logical_and(e(op.greater_equal(offset, number(0, "int64"))), e(op.less(offset, number(count, "int64")))))
    source = e.broadcast(e.where(inside, offset, 0), shape)
    return e.canonical("where", inside, e.canonical("gather_elements", update, source, axis=axis), cache)


MASKS: dict[str, Converter] = {
    "Trilu": convert_trilu,
    "OneHot": convert_one_hot,
    "ReverseSequence": convert_reverse_sequence,
    "TensorScatter": convert_tensor_scatter,
}
