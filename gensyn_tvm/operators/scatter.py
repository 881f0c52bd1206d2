"""Operators that write at computed positions, one update after the other. A position outside its axis drops the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import elementwise
from gensyn_tvm.operators.gather import wrapped
from gensyn_tvm.operators.nest import Kernel, all_of, i64, kernel, load, store, when

Expr = Any
Attrs = Mapping[str, Any]

#: What is there, the update -> what is there afterwards.
COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": elementwise.add,
    "mul": elementwise.mul,
    "max": elementwise.maximum,
    "min": elementwise.minimum,
}


def _inside(positions: Sequence[Expr], extents: Sequence[int]) -> Expr:
    return all_of([tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(n))) for p, n in zip(positions, extents, strict=True)])


def _update(k: Kernel, inside: Expr, place: Sequence[Expr], update: Expr, reduction: str) -> None:
    with when(inside):
        store(k.output, place, COMBINE[reduction](load(k.output, place), update))


def scatter_elements(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x with updates at each index's own place, but for the axis, where the index counts.

    Only updates that differ in nothing but the axis can meet, so the other axes are independent.
    """
    (x, indices, _), axis = inputs, attrs["axis"]
    with kernel(name, inputs, output) as k:
        k.stage("map", k.output, output.shape, lambda index: load(k.inputs[0], index))

        def step(outer: list[Expr], steps: list[Expr], inner: list[Expr]) -> None:
            source = [*outer, *steps, *inner]
            position = wrapped(load(k.inputs[1], source), x.shape[axis])
            place = [*outer, position, *inner]
            _update(k, _inside([position], [x.shape[axis]]), place, load(k.inputs[2], source), attrs["reduction"])

        k.sequence(
            indices.shape[:axis], [indices.shape[axis]], indices.shape[axis + 1 :], step, reads=k.inputs[1:], writes=[k.output]
        )
    return k.result()


def scatter_nd(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x with updates of the parts that index tuples name."""
    x, indices, _ = inputs
    length = indices.shape[-1]
    with kernel(name, inputs, output) as k:
        k.stage("map", k.output, output.shape, lambda index: load(k.inputs[0], index))

        def step(outer: list[Expr], steps: list[Expr], inner: list[Expr]) -> None:
            positions = [wrapped(load(k.inputs[1], [*steps, i64(c)]), x.shape[c]) for c in range(length)]
            update = load(k.inputs[2], [*steps, *inner])
            _update(k, _inside(positions, x.shape[:length]), [*positions, *inner], update, attrs["reduction"])

        k.sequence([], indices.shape[:-1], x.shape[length:], step, reads=k.inputs[1:], writes=[k.output])
    return k.result()


VARIANTS = {"scatter_elements": scatter_elements, "scatter_nd": scatter_nd}
