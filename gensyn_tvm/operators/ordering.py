"""Sorting, running sums and products: work that goes in order along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import elementwise, exact
from gensyn_tvm.operators.movement import immediate
from gensyn_tvm.operators.nest import Buffer, Kernel, guarded, i64, kernel, load, ravel, repeat, store, unravel, when

Expr = Any
Attrs = Mapping[str, Any]

# ---- running sums and products --------------------------------------------------------------------------------------


def cumulative(
    combine: Callable[[Expr, Expr], Expr], start: int
) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of ``cumsum`` or ``cumprod``; ``start`` is the result of nothing."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        (t,), axis = inputs, attrs["axis"]
        extent = t.shape[axis]
        behind = 1 if attrs["exclusive"] else 0  # so far the element that a step adds lies behind the one it stores

        with kernel(name, inputs, output) as k:

            def step(outer: list[Expr], steps: list[Expr], inner: list[Expr]) -> None:
                def place(r: Expr) -> list[Expr]:
                    return [*outer, i64(extent - 1) - r if attrs["reverse"] else r, *inner]

                (r,) = steps
                with when(tirx.LE(r, i64(behind))):  # the first element is taken as it is
                    first = load(k.inputs[0], place(i64(0)))
                    value = guarded(tirx.LT(r, i64(behind)), immediate(start, t.dtype), first)
                    store(k.output, place(r), value if behind else first)
                with when(tirx.GT(r, i64(behind))):
                    before = load(k.output, place(r - i64(1)))
                    store(k.output, place(r), combine(before, load(k.inputs[0], place(r - i64(behind)))))

            k.sequence(t.shape[:axis], [extent], t.shape[axis + 1 :], step, reads=k.inputs, writes=[k.output])
        return k.result()

    return build


# ---- sorting --------------------------------------------------------------------------------------------------------

_INFINITY = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}
_BITS = {"float32": ("int32", 31), "float64": ("int64", 63)}


def _key(x: Expr, dtype: str) -> tuple[Expr, str]:
    """An int32 or int64 with the order of x: zeros are equal, NaNs are equal and above everything."""
    if dtype in _BITS:
        integer, width = _BITS[dtype]
        bits = tirx.reinterpret(integer, x)
        largest = tirx.IntImm(integer, 2**width - 1)
        magnitude = tirx.bitwise_and(bits, largest)
        zero = tirx.IntImm(integer, 0)
        signed = exact.select(tirx.LT(bits, zero), zero - magnitude, magnitude)
        return exact.select(tirx.GT(magnitude, tirx.IntImm(integer, _INFINITY[dtype])), largest, signed), integer
    if dtype == "uint64":
        flipped = tirx.bitwise_xor(x, tirx.shift_left(tirx.IntImm("uint64", 1), tirx.IntImm("uint64", 63)))
        return tirx.reinterpret("int64", flipped), "int64"
    key = "int64" if dtype in ("int64", "uint32") else "int32"
    return (x if dtype == key else tirx.Cast(key, x)), key


def argsort(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Merge sort of the positions of each row by the keys of their elements; runs of 1, 2, 4, … are merged pairwise."""
    (t,), axis = inputs, attrs["axis"]
    extent = t.shape[axis]
    others = [n for a, n in enumerate(t.shape) if a != axis]
    rows = math.prod(others)
    passes = max(extent - 1, 0).bit_length()
    with kernel(name, inputs, output) as k:
        key_type = _key(immediate(0, t.dtype), t.dtype)[1]
        keys = k.scratch([rows, extent], key_type)

        def key(index: Sequence[Expr]) -> Expr:
            place = unravel(index[0], others)
            place.insert(axis, index[1])
            value, _ = _key(load(k.inputs[0], place), t.dtype)
            return tirx.bitwise_not(value) if attrs["descending"] else value

        k.stage("pack", keys, [rows, extent], key)
        order = k.scratch([rows, 2, extent], "int64")
        k.stage("pack", order, [rows, extent], lambda index: index[1], at=lambda row, p: [row, i64(0), p])
        if passes:
            _merge(k, keys, order, rows, extent, passes)

        def result(index: Sequence[Expr]) -> Expr:
            row = ravel([p for a, p in enumerate(index) if a != axis], others)
            return load(order, [row, i64(passes % 2), index[axis]])

        k.stage("map", k.output, output.shape, result)
    return k.result()


def _merge(k: Kernel, keys: Buffer, order: Buffer, rows: int, extent: int, passes: int) -> None:
    """Passes over ``order``, from one half to the other and back."""
    state = k.scratch([rows, 3], "int64")  # taken from the left run, taken from the right run, whether the right one is next

    def one_pass(outer: list[Expr], steps: list[Expr], inner: list[Expr]) -> None:
        (row,), (number,) = outer, steps
        width = tirx.shift_left(i64(1), number)
        source = tirx.bitwise_and(number, i64(1))

        def taken(which: int) -> Expr:
            return load(state, [row, i64(which)])

        def position(start: Expr) -> Expr:
            return load(order, [row, source, tirx.Min(start, i64(extent - 1))])

        with repeat(extent) as p:
            base = p - tirx.bitwise_and(p, width * i64(2) - i64(1))
            with when(tirx.EQ(p, base)):
                store(state, [row, i64(0)], i64(0))
                store(state, [row, i64(1)], i64(0))
            left, right = base + taken(0), base + width + taken(1)
            has_right = tirx.And(tirx.LT(taken(1), width), tirx.LT(right, i64(extent)))
            smaller = tirx.LT(load(keys, [row, position(right)]), load(keys, [row, position(left)]))
            next_right = tirx.And(has_right, tirx.Or(tirx.GE(taken(0), width), smaller))
            store(state, [row, i64(2)], tirx.Cast("int64", next_right))
            with when(tirx.EQ(taken(2), i64(1))):
                store(order, [row, i64(1) - source, p], position(right))
            with when(tirx.EQ(taken(2), i64(0))):
                store(order, [row, i64(1) - source, p], position(left))
            store(state, [row, i64(0)], taken(0) + i64(1) - taken(2))
            store(state, [row, i64(1)], taken(1) + taken(2))

    k.sequence([rows], [passes], [], one_pass, reads=[keys], writes=[order, state])


VARIANTS = {
    "argsort": argsort,
    "cumsum": cumulative(elementwise.add, 0),
    "cumprod": cumulative(elementwise.mul, 1),
}
