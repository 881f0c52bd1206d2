"""Operators that read at computed positions. A position outside its axis is moved to the nearest inside, after one wrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, kernel, load

Expr = Any
Attrs = Mapping[str, Any]


def wrapped(index: Expr, extent: int) -> Expr:
    """An int32 or int64 index as int64, counted from the end if it is negative."""
    index = index if exact.dtype_of(index) == "int64" else tirx.Cast("int64", index)
    return exact.select(tirx.LT(index, i64(0)), index + i64(extent), index)


def nearest(index: Expr, extent: int) -> Expr:
    """A position inside an axis of ``extent`` > 0 elements for any index."""
    return tirx.Max(tirx.Min(wrapped(index, extent), i64(extent - 1)), i64(0))


def take(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x[…, indices[…], …]"""
    x, indices = inputs
    axis = attrs["axis"]
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            position = load(k.inputs[1], index[axis : axis + indices.rank])
            return load(k.inputs[0], [*index[:axis], nearest(position, x.shape[axis]), *index[axis + indices.rank :]])

        k.stage("move", k.output, output.shape, value)
    return k.result()


def gather_elements(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x at each index's own place, but for the axis, where the index counts."""
    axis = attrs["axis"]
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            position = nearest(load(k.inputs[1], index), inputs[0].shape[axis])
            return load(k.inputs[0], [*index[:axis], position, *index[axis + 1 :]])

        k.stage("move", k.output, output.shape, value)
    return k.result()


def gather_nd(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x[batch…, tuple…, …]"""
    x, indices = inputs
    batch, outer = attrs["batch_dims"], indices.rank - 1
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            place = list(index[:batch])
            for c in range(indices.shape[-1]):
                place.append(nearest(load(k.inputs[1], [*index[:outer], i64(c)]), x.shape[batch + c]))
            return load(k.inputs[0], [*place, *index[outer:]])

        k.stage("move", k.output, output.shape, value)
    return k.result()


def reverse(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Back to front along axes."""
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            place = [
                i64(n - 1) - i if a in attrs["axes"] else i for a, (i, n) in enumerate(zip(index, output.shape, strict=True))
            ]
            return load(k.inputs[0], place)

        k.stage("move", k.output, output.shape, value)
    return k.result()


VARIANTS = {"take": take, "gather_elements": gather_elements, "gather_nd": gather_nd, "reverse": reverse}
