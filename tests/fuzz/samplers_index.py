"""Samplers of operators that index with data."""

from __future__ import annotations

import math

from .draft import MAX_WORK, Draft, Sample, Sampler, Shape, Unsuitable

_INDEX = ("int32", "int64", "int64")


def indices(d: Draft, shape: Shape, extent: int) -> int:
    """Indices: mostly inside of an axis, also negative, far outside, and repeated ones."""
    dtype = d.choice(_INDEX)
    if d.chance(0.35):
        return d.shaped(shape, dtype)
    position = d.emit("iota", dtype=dtype, shape=(*shape, 1), axis=d.number(0, len(shape)))
    position = d.emit("reshape", position, shape=shape)
    if d.chance(0.5):
        position = d.emit("mul", position, d.scalar(dtype, d.choice((-3, 2, 5))))
    return d.emit("sub", d.scalar(dtype, d.number(-1, extent)), position)


def take(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    axis = d.number(0, d.types[x].rank - 1)
    return (x, indices(d, d.shape(0, 2), d.types[x].shape[axis])), {"axis": axis}


def _beside(d: Draft, shape: Shape, axis: int) -> Shape:
    """A shape not larger than another, except along an axis."""
    return tuple(d.number(0 if d.chance(0.03) else 1, 9) if k == axis else e - d.number(0, e // 3) for k, e in enumerate(shape))


def gather_elements(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    shape = d.types[x].shape
    axis = d.number(0, len(shape) - 1)
    return (x, indices(d, _beside(d, shape, axis), shape[axis])), {"axis": axis}


def gather_nd(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    shape = d.types[x].shape
    batch = d.number(0, min(2, len(shape) - 1)) if d.chance(0.4) else 0
    length = d.number(0, len(shape) - batch)
    index = indices(d, (*shape[:batch], *d.shape(0, 1), length), max(shape))
    return (x, index), {"batch_dims": batch}


def reverse(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    return (x,), {"axes": d.axes(d.types[x].rank)}


_REDUCTIONS = ("none", "add", "mul", "max", "min")


def scatter_elements(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    t = d.types[x]
    axis = d.number(0, t.rank - 1)
    shape = _beside(d, t.shape, axis)
    if math.prod(shape) * t.size > 10 * MAX_WORK:
        raise Unsuitable
    attrs = {"axis": axis, "reduction": d.choice(_REDUCTIONS)}
    return (x, indices(d, shape, t.shape[axis]), d.shaped(shape, t.dtype)), attrs


def scatter_nd(d: Draft, op: str) -> Sample:
    x = d.value(low=1)
    t = d.types[x]
    length = d.number(0, t.rank)
    count = d.shape(0, 1)
    index = indices(d, (*count, length), max(t.shape))
    return (x, index, d.shaped((*count, *t.shape[length:]), t.dtype)), {"reduction": d.choice(_REDUCTIONS)}


def argsort(d: Draft, op: str) -> Sample:
    x = d.value(d.accepted(op, 1, axis=0, descending=True), low=1)
    return (x,), {"axis": d.number(0, d.types[x].rank - 1), "descending": d.chance(0.5)}


def cumulative(d: Draft, op: str) -> Sample:
    x = d.value(d.accepted(op, 1, axis=0, exclusive=False, reverse=False), low=1)
    return (x,), {"axis": d.number(0, d.types[x].rank - 1), "exclusive": d.chance(0.5), "reverse": d.chance(0.5)}


def suppress(d: Draft, op: str) -> Sample:
    batch, classes, boxes = d.number(1, 2), d.number(1, 3), d.number(1, 20)
    order = (batch, classes, boxes)
    inputs = [d.shaped((batch, boxes, 4), "float32"), d.shaped(order, "int64"), d.shaped(order, "bool")]
    if d.chance(0.7):
        inputs[1] = d.emit("argsort", d.shaped(order, "float32"), axis=2, descending=True)
    return (*inputs, d.shaped((), "float32"), d.scalar("int64", d.number(-1, boxes))), {}


SAMPLERS: dict[str, Sampler] = {
    "take": take,
    "gather_elements": gather_elements,
    "gather_nd": gather_nd,
    "reverse": reverse,
    "scatter_elements": scatter_elements,
    "scatter_nd": scatter_nd,
    "argsort": argsort,
    "cumsum": cumulative,
    "cumprod": cumulative,
    "suppress": suppress,
}
