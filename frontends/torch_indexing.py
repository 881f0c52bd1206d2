"""ATen operators that index with data. Indices that are computed have to be inside, as PyTorch demands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import Arguments, Converter, in_float32
from gensyn_tvm.training import ops as gensyn


def _index(e: FoldingEmitter, indices: Expr) -> Expr:
    """Indices as int32 or int64, constant if they are known."""
    indices = indices if dtype_of(indices) in ("int32", "int64") else e.cast(indices, "int64")
    small = math.prod(shape_of(indices)) <= 2**16
    array = e.fold(indices) if small else None
    return indices if array is None else constant(array)


def _axis(a: Arguments) -> int:
    return a.dim % max(rank_of(a.self), 1)


def convert_embedding(e: FoldingEmitter, a: Arguments) -> Expr:
    """Rows of the weight; no gradient reaches the row ``padding_idx``."""
    if a.scale_grad_by_freq:
        raise e.refuse("scale_grad_by_freq=True", expected="False")
    weight, rows = a.weight, shape_of(a.weight)[0]
    if a.padding_idx >= 0:
        padding = constant((np.arange(rows) == a.padding_idx).reshape(rows, 1))
        weight = e.where(padding, e(gensyn.stop_gradient(weight)), weight)
    return blocks.take(e, weight, _index(e, a.indices), 0)


def convert_index_select(e: FoldingEmitter, a: Arguments) -> Expr:
    indices = e.reshape(_index(e, a.index), [math.prod(shape_of(a.index))])
    return e.reshape(blocks.take(e, e.reshape(a.self, shape_of(a.self) or [1]), indices, _axis(a)), a.out_shape)


def convert_gather(e: FoldingEmitter, a: Arguments) -> Expr:
    if 0 in a.out_shape or not rank_of(a.self):
        return e.reshape(a.self, a.out_shape)
    return e.canonical("gather_elements", a.self, _index(e, a.index), axis=_axis(a))


def convert_take(e: FoldingEmitter, a: Arguments) -> Expr:
    return blocks.take(e, e.reshape(a.self, [math.prod(shape_of(a.self))]), _index(e, a.index), 0)


# ---- indexing with tensors ------------------------------------------------------------------------------------------


def _positions(e: FoldingEmitter, indices: Sequence[Any]) -> dict[int, Expr]:
    """Axis → integer indices. A bool index stands for the places where it is true, which have to be known."""
    found: dict[int, Expr] = {}
    axis = 0
    for index in indices:
        if index is None or dtype_of(index) not in ("bool", "uint8"):
            if index is not None:
                found[axis] = _index(e, index)
            axis += 1
            continue
        mask = e.fold(index)
        if mask is None:
            raise e.refuse(
                "a bool index that is computed: the result's shape depends on data",
                expected="integers, or a constant mask",
                remedy="use torch.where, or multiply by the mask",
            )
        for places in np.nonzero(mask):
            found[axis] = constant(places.astype(np.int64))
            axis += 1
    return found


def _flat(e: FoldingEmitter, x: Expr, positions: dict[int, Expr]) -> tuple[Expr, Expr, list[int], list[int]]:
    """x with its indexed axes joined in front, the flat index, x's other axes, and the indices' common shape."""
    axes, shape = list(positions), shape_of(x)
    rest = [k for k in range(len(shape)) if k not in positions]
    count = math.prod(shape[k] for k in axes)
    joined = e.reshape(e.transpose(x, [*axes, *rest]), [count, *(shape[k] for k in rest)])
    common = list(np.broadcast_shapes(*(tuple(shape_of(i)) for i in positions.values())))
    flat: Expr | None = None
    for axis, index in positions.items():
        index = _wrapped(e, e.cast(index, "int64"), shape[axis])
        flat = index if flat is None else e.add(e.mul(flat, shape[axis]), index)
    return joined, e.broadcast(flat, common), rest, common


def _wrapped(e: FoldingEmitter, index: Expr, extent: int) -> Expr:
    """Negative indices count from the end."""
    array = e.fold(index)
    if array is not None:
        if array.size and (array.min() < -extent or array.max() >= extent):
            raise e.refuse(f"index {array.min()} … {array.max()}", expected=f"indices into an axis of {extent} elements")
        return constant(np.where(array < 0, array + extent, array))
    return e.where(e(op.less(index, number(0, "int64"))), e.add(index, extent), index)


def _front(positions: dict[int, Expr]) -> int:
    """Where the axes of the indices stand in the result: in place of the indexed ones if these are neighbours."""
    axes = list(positions)
    return axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0


def convert_index(e: FoldingEmitter, a: Arguments) -> Expr:
    """``x[i, j, …]`` with tensors."""
    positions = _positions(e, a.indices)
    if 0 in a.out_shape:
        return e.full(a.out_shape, 0, a.out_dtype)
    if len(positions) == 1:
        ((axis, index),) = positions.items()
        return blocks.take(e, a.self, index, axis)
    joined, flat, _, common = _flat(e, a.self, positions)
    y = blocks.take(e, joined, _index(e, flat), 0)
    return _moved(e, y, len(common), _front(positions))


def _moved(e: Emitter, y: Expr, count: int, to: int) -> Expr:
    """The first ``count`` axes moved behind the ``to`` axes that follow them."""
    others = list(range(count, rank_of(y)))
    return e.transpose(y, [*others[:to], *range(count), *others[to:]])


def convert_index_put(e: FoldingEmitter, a: Arguments) -> Expr:
    """``x[i, j, …] = values``, or += (``accumulate``); of equal places the last one counts."""
    given = [i for i in a.indices if i is not None]
    values = e.cast(a.values, dtype_of(a.self))
    if len(given) == 1 and dtype_of(given[0]) == "bool" and math.prod(shape_of(values)) == 1 and a.indices[0] is not None:
        mask = e.reshape(given[0], shape_of(given[0]) + [1] * (rank_of(a.self) - rank_of(given[0])))
        value = e.reshape(values, [])
        return e.where(mask, e.add(a.self, value) if a.accumulate else value, a.self)
    positions = _positions(e, a.indices)
    joined, flat, rest, common = _flat(e, a.self, positions)
    shape, front = [shape_of(a.self)[k] for k in rest], _front(positions)
    values = e.broadcast(values, [*shape[:front], *common, *shape[front:]])
    order = [*range(front, front + len(common)), *range(front), *range(front + len(common), rank_of(values))]
    updates = e.reshape(e.transpose(values, order), [math.prod(common), *shape])
    reduction = "add" if a.accumulate else "none"
    y = _scatter_rows(e, joined, e.reshape(flat, [math.prod(common)]), updates, reduction)
    axes = list(positions)
    y = e.reshape(y, [*(shape_of(a.self)[k] for k in axes), *shape])
    return e.transpose(y, [[*axes, *rest].index(k) for k in range(rank_of(a.self))])


def _scatter_rows(e: FoldingEmitter, x: Expr, index: Expr, updates: Expr, reduction: str) -> Expr:
    """x with its rows at ``index`` (n,) replaced by, or combined with, ``updates``."""
    if 0 in shape_of(updates):
        return x
    return e.canonical("scatter_nd", x, e.reshape(_index(e, index), [shape_of(index)[0], 1]), updates, reduction=reduction)


def convert_masked_scatter(e: FoldingEmitter, a: Arguments) -> Expr:
    """Where the mask is true, the elements of ``source`` one after another; it has to have enough of them."""
    x, count, have = a.self, math.prod(a.out_shape), math.prod(shape_of(a.source))
    if not count or not have:
        return x
    mask = e.broadcast(a.mask, a.out_shape)
    number_of = e.canonical("cumsum", e.cast(e.reshape(mask, [count]), "int64"), axis=0, exclusive=True, reverse=False)
    values = blocks.take(e, e.reshape(e.cast(a.source, a.out_dtype), [have]), number_of, 0)
    return e.where(mask, e.reshape(values, a.out_shape), e.broadcast(x, a.out_shape))


def convert_embedding_bag(e: FoldingEmitter, a: Arguments) -> Any:
    """Sum, mean or maximum of the rows of each bag, in the order of the indices; only the first result can be used."""
    if a.scale_grad_by_freq:
        raise e.refuse("scale_grad_by_freq=True", expected="False")
    (n,), width, dtype = shape_of(a.indices), shape_of(a.weight)[1], a.out_dtype
    bags = a.out_shape[0]
    if not n or not bags:
        return [e.full(a.out_shape, 0, dtype), None, None, None]
    starts = e.cast(e.slice(a.offsets, 0, 0, bags), "int64")
    begun = e(op.less_equal(e.reshape(starts, [1, bags]), e.positions(n, 0, 2)))
    bag = e.sub(e(op.sum(e.cast(begun, "int64"), [1], False)), 1)
    indices = _index(e, a.indices)
    if a.padding_idx >= 0:
        # One bag more, which nobody reads.
        padding = e(op.equal(e.cast(indices, "int64"), number(a.padding_idx % shape_of(a.weight)[0], "int64")))
        bag = e.where(padding, number(bags, "int64"), bag)
    rows = blocks.take(e, a.weight, indices, 0)
    if a.per_sample_weights is not None:
        rows = e.mul(rows, e.reshape(a.per_sample_weights, [n, 1]))
    empty = -math.inf if a.mode == 2 else 0
    total = _scatter_rows(e, e.full([bags + 1, width], empty, dtype), bag, rows, "max" if a.mode == 2 else "add")
    ones, counts = e.full([n, 1], 1, dtype), e.full([bags + 1, 1], 0, dtype)
    if a.mode == 1:
        total = e.div(total, e.maximum(_scatter_rows(e, counts, bag, ones, "add"), 1.0))
    elif a.mode == 2:
        filled = e(op.greater(_scatter_rows(e, counts, bag, ones, "add"), number(0.0, dtype)))
        total = e.where(filled, total, 0.0)
    return [e.slice(total, 0, 0, bags), None, None, None]


# ---- scattering along an axis ---------------------------------------------------------------------------------------

_REDUCTIONS = {"add": "add", "sum": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}


def _scattered(e: FoldingEmitter, a: Arguments, x: Expr, updates: Expr, reduction: str) -> Expr:
    index = _index(e, a.index)
    if 0 in shape_of(index):
        return x
    if not rank_of(x):
        scattered = _scatter_rows(e, e.reshape(x, [1]), e.reshape(index, [1]), e.reshape(updates, [1]), reduction)
        return e.reshape(scattered, [])
    return e.canonical("scatter_elements", x, index, updates, axis=_axis(a), reduction=reduction)


def _updates(e: FoldingEmitter, a: Arguments) -> Expr:
    """Values for each index: the leading part of ``src``, or a number."""
    dtype, shape = dtype_of(a.self), shape_of(a.index)
    source = getattr(a, "src", getattr(a, "value", None))
    if isinstance(source, bool | int | float):
        return e.full(shape, source, dtype)
    source = e.cast(source, dtype)
    for axis, extent in enumerate(shape):
        source = e.slice(source, axis, 0, extent)
    return source


def convert_scatter(default: str) -> Converter:
    """``scatter`` (with ``reduce``) and ``scatter_add``, in row-major order of the indices."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        reduction = _REDUCTIONS[a.reduce] if hasattr(a, "reduce") else default
        return _scattered(e, a, a.self, _updates(e, a), reduction)

    return convert


def convert_scatter_reduce(e: FoldingEmitter, a: Arguments) -> Expr:
    """A mean is the sum divided by the number of elements in it; an excluded self is replaced by what changes nothing."""
    dtype, updates, shape = dtype_of(a.self), _updates(e, a), shape_of(a.self)
    if a.reduce == "mean" and dtype not in FLOATS:
        raise e.refuse(f"a mean of {dtype}", expected="floats")
    base = a.self
    if not a.include_self:
        extreme = {True: math.inf, False: -math.inf}
        if dtype not in FLOATS:
            extreme = {True: np.iinfo(dtype).max, False: np.iinfo(dtype).min}
        neutral = {"sum": 0, "mean": 0, "prod": 1, "amax": extreme[False], "amin": extreme[True]}[a.reduce]
        base = _scattered(e, a, base, e.full(shape_of(a.index), neutral, dtype), "none")
    y = _scattered(e, a, base, updates, _REDUCTIONS[a.reduce])
    if a.reduce != "mean":
        return y
    count = _scattered(e, a, e.full(shape, int(a.include_self), dtype), e.full(shape_of(a.index), 1, dtype), "add")
    return e.div(y, e.maximum(count, 1))


def convert_index_rows(reduction: str) -> Converter:
    """``index_add``, ``index_copy``, ``index_fill``: whole slices along an axis."""

    def convert(e: FoldingEmitter, a: Arguments) -> Expr:
        axis, shape = _axis(a), shape_of(a.self) or [1]
        x = e.reshape(a.self, shape)
        order = [axis, *(k for k in range(len(shape)) if k != axis)]
        rows = [math.prod(shape_of(a.index)), *(shape[k] for k in order[1:])]
        source = getattr(a, "source", getattr(a, "value", None))
        if isinstance(source, bool | int | float):
            source = e.full([], source, a.out_dtype)
        source = e.cast(source, a.out_dtype)
        updates = e.transpose(source, order) if rank_of(source) else e.broadcast(source, rows)
        if getattr(a, "alpha", 1) != 1:
            updates = e.mul(updates, a.alpha)
        y = _scatter_rows(e, e.transpose(x, order), e.reshape(a.index, rows[:1]), updates, reduction)
        return e.reshape(e.transpose(y, [order.index(k) for k in range(len(shape))]), a.out_shape)

    return convert


# ---- order ----------------------------------------------------------------------------------------------------------


def _order(e: Emitter, x: Expr, axis: int, descending: bool) -> Expr:
    return e.canonical("argsort", x, axis=axis, descending=descending)


def convert_sort(e: Emitter, a: Arguments) -> Any:
    """Sorted elements and their positions; equal elements keep their order, NaN is the largest."""
    if not rank_of(a.self):
        return [a.self, number(0, "int64")]
    axis = getattr(a, "dim", -1) % rank_of(a.self)
    order = _order(e, a.self, axis, bool(a.descending))
    return [e.canonical("gather_elements", a.self, order, axis=axis), order]


def convert_argsort(e: Emitter, a: Arguments) -> Expr:
    return convert_sort(e, a)[1]


def convert_topk(e: Emitter, a: Arguments) -> Any:
    """Sorted also with sorted=False, where PyTorch leaves the order open; of equal elements the first ones."""
    if not rank_of(a.self):
        return [a.self, number(0, "int64")]
    axis = _axis(a)
    order = e.slice(_order(e, a.self, axis, bool(a.largest)), axis, 0, a.k)
    return [e.canonical("gather_elements", a.self, order, axis=axis), order]


def convert_cumulative(name: str) -> Converter:
    def convert(e: Emitter, a: Arguments) -> Expr:
        x = e.cast(a.self, a.out_dtype)
        return e.canonical(name, x, axis=_axis(a), exclusive=False, reverse=False) if rank_of(x) else x

    return convert


def convert_bucketize(e: Emitter, a: Arguments) -> Expr:
    """How many boundaries are below each value (with ``right``: not above it); all for a NaN."""
    x, line = a.self, a.boundaries
    dtype = "float64" if "float64" in (dtype_of(x), dtype_of(line)) else "float32"
    if dtype_of(x) == dtype_of(line):
        dtype = dtype_of(x)
    compare = op.greater if a.right else op.greater_equal
    reached = e(compare(e.cast(line, dtype), e.reshape(e.cast(x, dtype), [*shape_of(x), 1])))
    below = e(op.logical_not(reached))
    return e(op.sum(e.cast(below, a.out_dtype), [rank_of(x)], False))


def convert_one_hot(e: Emitter, a: Arguments) -> Expr:
    classes = constant(np.arange(a.out_shape[-1], dtype=np.int64))
    return e.cast(e(op.equal(e.reshape(a.self, [*shape_of(a.self), 1]), classes)), a.out_dtype)


INDEXING: dict[str, Converter] = {
    "embedding.default": convert_embedding,
    "index_select.default": convert_index_select,
    "gather.default": convert_gather,
    "take.default": convert_take,
    "index.Tensor": convert_index,
    **{f"{name}.default": convert_index_put for name in ("index_put", "_unsafe_index_put")},
    "_unsafe_index.Tensor": convert_index,
    **{f"scatter.{k}": convert_scatter("none") for k in ("src", "value", "reduce", "value_reduce")},
    "masked_scatter.default": convert_masked_scatter,
    **{f"{k}.default": in_float32(convert_embedding_bag) for k in ("_embedding_bag", "_embedding_bag_forward_only")},
    "scatter_add.default": convert_scatter("add"),
    "scatter_reduce.two": convert_scatter_reduce,
    "index_add.default": convert_index_rows("add"),
    "index_copy.default": convert_index_rows("none"),
    **{f"index_fill.{k}": convert_index_rows("none") for k in ("int_Scalar", "int_Tensor")},
    "sort.default": convert_sort,
    "sort.stable": convert_sort,
    "argsort.default": convert_argsort,
    "argsort.stable": convert_argsort,
    "topk.default": convert_topk,
    "cumsum.default": convert_cumulative("cumsum"),
    "cumprod.default": convert_cumulative("cumprod"),
    "bucketize.Tensor": convert_bucketize,
    "one_hot.default": convert_one_hot,
}
