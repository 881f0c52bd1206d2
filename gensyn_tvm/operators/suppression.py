"""Greedy suppression of overlapping boxes, one after the other in a given order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import Buffer, i64, kernel, load, repeat, store, when

Expr = Any
Attrs = Mapping[str, Any]


def _extent(boxes: Buffer, batch: Expr, box: Expr, side: int) -> Expr:
    """Length of a box along a side: its high end minus its low end."""
    low, high = (load(boxes, [batch, box, i64(end)]) for end in (side, side + 2))
    return exact.sub(high, low)


def _common(boxes: Buffer, batch: Expr, first: Expr, second: Expr, side: int) -> Expr:
    """Length of the common part of two boxes along a side, +0.0 if there is none."""
    high = exact.minimum(load(boxes, [batch, first, i64(side + 2)]), load(boxes, [batch, second, i64(side + 2)]))
    low = exact.maximum(load(boxes, [batch, first, i64(side)]), load(boxes, [batch, second, i64(side)]))
    return exact.select(exact.lt(low, high), exact.sub(high, low), exact.const(0.0))


def _overlap(boxes: Buffer, batch: Expr, first: Expr, second: Expr) -> Expr:
    """Common area by the area of both together."""
    areas = [exact.mul(_extent(boxes, batch, box, 0), _extent(boxes, batch, box, 1)) for box in (first, second)]
    common = exact.mul(_common(boxes, batch, first, second, 0), _common(boxes, batch, first, second, 1))
    return exact.div(common, exact.sub(exact.add(*areas), common))


def suppress(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """For each batch and class, the places of the order one after the other, each against all that were kept before."""
    batches, classes, count = output.shape
    with kernel(name, inputs, output) as k:
        boxes, order, eligible, threshold, limit = k.inputs
        state = k.scratch([batches, classes, 2], "int64")  # how many were kept; whether the present one is

        def box_at(row: Sequence[Expr], place: Expr) -> Expr:
            return tirx.Max(tirx.Min(load(order, [*row, place]), i64(count - 1)), i64(0))

        def step(row: list[Expr], steps: list[Expr], inner: list[Expr]) -> None:
            (p,) = steps
            kept, alive = [*row, i64(0)], [*row, i64(1)]
            with when(tirx.EQ(p, i64(0))):
                store(state, kept, i64(0))
            store(state, alive, i64(0))
            with when(tirx.And(load(eligible, [*row, p]), tirx.LT(load(state, kept), load(limit, [])))):
                store(state, alive, i64(1))
            with repeat(count) as q, when(tirx.LT(q, p)), when(load(k.output, [*row, q])):
                overlap = _overlap(boxes, row[0], box_at(row, p), box_at(row, q))
                with when(exact.gt(overlap, load(threshold, []))):
                    store(state, alive, i64(0))
            store(k.output, [*row, p], tirx.EQ(load(state, alive), i64(1)))
            store(state, kept, load(state, kept) + load(state, alive))

        k.sequence([batches, classes], [count], [], step, reads=k.inputs, writes=[k.output, state])
    return k.result()


VARIANTS = {"suppress": suppress}
