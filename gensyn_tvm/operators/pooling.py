"""Pooling and its gradients. Windows are visited in row-major order; padding never wins and never counts unless asked to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import elementwise as ew
from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.extrema import lowest, wins
from gensyn_tvm.operators.nest import Buffer, Kernel, all_of, any_of, guarded, i64, kernel, load, ravel, unravel
from gensyn_tvm.operators.reductions import LANES, halving_tree, lane_reduce

Expr = Any
Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """The geometry of a pooling: which input elements a window covers, and which windows cover an input element."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    @staticmethod
    def of(input_shape: Sequence[int], output_shape: Sequence[int], attrs: Attrs) -> Window:
        """From shapes (N, C, spatial…) and the operator's attributes."""
        return Window(
            tuple(input_shape[2:]),
            tuple(output_shape[2:]),
            attrs["kernel"],
            attrs["strides"],
            attrs["padding"],
            attrs["dilations"],
        )

    def element(self, window: Sequence[Expr], offset: Sequence[Expr]) -> tuple[list[Expr], Expr]:
        """Input position of element ``offset`` of a window, and whether it lies in the input."""
        position = [
            o * i64(s) + j * i64(d) - i64(lo)
            for o, j, s, d, (lo, _) in zip(window, offset, self.strides, self.dilations, self.padding, strict=True)
        ]
        return position, self._within(position, self.input)

    def unpadded(self) -> Window:
        """The same windows over an input with everything around it that they cover."""
        axes = zip(self.output, self.kernel, self.strides, self.dilations, self.padding, self.input, strict=True)
        extents = tuple(max(lo + size, (o - 1) * s + (e - 1) * d + 1) for o, e, s, d, (lo, _), size in axes)
        return replace(self, input=extents, padding=((0, 0),) * len(extents))

    @property
    def candidates(self) -> tuple[int, ...]:
        """For each axis how many windows may cover one input element: without dilation, neighbours only."""
        axes = zip(self.kernel, self.strides, self.dilations, strict=True)
        return tuple(math.ceil(e / s) if d == 1 else e for e, s, d in axes)

    def covering(self, element: Sequence[Expr], terms: Sequence[Expr]) -> tuple[list[Expr], list[Expr], Expr]:
        """Candidate number ``terms``, in ascending order of windows, among those that may cover an input element.

        Returns the window's position, which of its elements the input element is, and whether the window exists and covers it.
        """
        windows, offsets, exists = [], [], []
        axes = zip(element, terms, self.kernel, self.strides, self.dilations, self.padding, self.candidates, strict=True)
        for i, r, e, s, d, (lo, _), count in axes:
            if d == 1:
                window = tirx.floordiv(i + i64(lo), i64(s)) + r - i64(count - 1)
                offset = i + i64(lo) - window * i64(s)
                exists.append(tirx.LT(offset, i64(e)))
            else:
                offset = i64(e - 1) - r
                top = i + i64(lo) - offset * i64(d)
                window = tirx.floordiv(top, i64(s))
                exists.append(tirx.EQ(tirx.floormod(top, i64(s)), i64(0)))
            windows.append(window)
            offsets.append(offset)
        return windows, offsets, all_of([*exists, self._within(windows, self.output)])

    def count(self, window: Sequence[Expr], *, include_pad: bool, dtype: str) -> Expr:
        """The divisor of an average, as a float."""
        if include_pad:
            return exact.const(float(math.prod(self.kernel)), dtype)
        total: Expr = i64(1)
        axes = zip(window, self.kernel, self.strides, self.dilations, self.padding, self.input, strict=True)
        for o, e, s, d, (lo, _), size in axes:
            inside: Expr = i64(0)
            for j in range(e):
                p = o * i64(s) + i64(j * d - lo)
                inside = inside + tirx.Cast("int64", tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(size))))
            total = total * inside
        return exact.convert(total, dtype)

    @staticmethod
    def _within(position: Sequence[Expr], shape: Sequence[int]) -> Expr:
        return all_of([tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(e))) for p, e in zip(position, shape, strict=True)])


#: Attribute of a pooling whose input is stored with its padding first: windows are then read without conditions, in vectors.
PADDED = "padded"


def _inside(position: Expr, low: int, size: int, extent: int) -> list[Expr]:
    """The conditions under which a position, of ``extent`` ones from ``-low`` on, is one of ``size``."""
    below = [tirx.GE(position, i64(0))] if low else []
    return below + ([tirx.LT(position, i64(size))] if low + size < extent else [])


def _with_padding(k: Kernel, x: Buffer, shape: Sequence[int], w: Window, fill: Expr, dtype: str) -> tuple[Buffer, Window]:
    """The input with ``fill`` around it, and the windows over that."""
    wide = w.unpadded()
    if wide.input == w.input:
        return x, wide
    extents = [*shape[:2], *wide.input]
    stored = k.scratch(extents, dtype)

    def element(index: Sequence[Expr]) -> Expr:
        position = [p - i64(lo) if lo else p for p, (lo, _) in zip(index[2:], w.padding, strict=True)]
        axes = zip(position, w.padding, w.input, wide.input, strict=True)
        conditions = [c for p, (lo, _), size, extent in axes for c in _inside(p, lo, size, extent)]
        return guarded(all_of(conditions), load(x, [*index[:2], *position]), fill)

    k.stage("pack", stored, extents, element)
    return stored, wide


def _maximum_by_axes(k: Kernel, x: Buffer, shape: Sequence[int], w: Window, t: TensorType) -> None:
    """The maximum along one axis of the windows after the other, which changes nothing: its order is free.

    The padding of the last axis is stored together with the results along the one before.
    """
    if len(w.kernel) == 1:
        x, w = _with_padding(k, x, t.shape, w, lowest(t.dtype), t.dtype)
    last = len(w.kernel) - 1
    wide = w.unpadded()
    for axis in range(last + 1):
        padded = axis == last - 1  # else the last axis is as it is, or has its padding already
        extents = [*shape[:2], *w.output[: axis + 1], *w.input[axis + 1 :]]
        if padded:
            extents[-1] = wide.input[-1]
        low = 0 if axis == last else w.padding[axis][0]

        def step(
            index: Sequence[Expr], terms: Sequence[Expr], acc: Expr, x: Buffer = x, axis: int = axis, low: int = low
        ) -> Expr:
            place = list(index)
            place[axis + 2] = index[axis + 2] * i64(w.strides[axis]) + terms[0] * i64(w.dilations[axis]) - i64(low)
            conditions = _inside(place[axis + 2], low, w.input[axis], wide.input[axis]) if axis < last else []
            if axis == last - 1:
                place[-1] = index[-1] - i64(w.padding[last][0])
                conditions += _inside(place[-1], w.padding[last][0], w.input[last], wide.input[last])
            value = load(x, place)
            return ew.maximum(acc, guarded(all_of(conditions), value, lowest(t.dtype)) if conditions else value)

        store = k.output if axis == last else k.scratch(extents, t.dtype)
        k.stage("fold", store, extents, step, reduce=[w.kernel[axis]], init=lowest(t.dtype))
        x = store


def _window_maximum(k: Kernel, x: Buffer, store: Buffer, shape: Sequence[int], w: Window, dtype: str) -> None:
    def step(index: Sequence[Expr], terms: Sequence[Expr], acc: Expr) -> Expr:
        position, inside = w.element(index[2:], terms)
        value = load(x, [*index[:2], *position])
        return ew.maximum(acc, guarded(inside, value, lowest(dtype)) if any(map(any, w.padding)) else value)

    k.stage("fold", store, shape, step, reduce=w.kernel, init=lowest(dtype))


def max_pool(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """``maximum`` over the elements of each window that lie in the input."""
    (x,) = inputs
    w = Window.of(x.shape, output.shape, attrs)
    with kernel(name, inputs, output) as k:
        if PADDED in attrs:
            _maximum_by_axes(k, k.inputs[0], output.shape, w, x)
        else:
            _window_maximum(k, k.inputs[0], k.output, output.shape, w, x.dtype)
    return k.result()


def _first_winner(k: Kernel, x: Buffer, best: Buffer, shape: Sequence[int], w: Window, dtype: str) -> Buffer:
    """For each window which of its elements, in row-major order, is the first that attains the maximum ``best``."""
    chosen = k.scratch(shape, "int64")
    never = i64(math.prod(w.kernel))

    def first(index: Sequence[Expr], offset: Sequence[Expr], acc: Expr) -> Expr:
        position, inside = w.element(index[2:], offset)
        value = guarded(inside, load(x, [*index[:2], *position]), terms.zero(dtype))
        hit = tirx.And(inside, wins(value, load(best, index)))
        return tirx.Min(acc, exact.select(hit, ravel(offset, w.kernel), never))

    k.stage("fold", chosen, shape, first, reduce=w.kernel, init=never)
    return chosen


def max_pool_indices(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Where each window's maximum is first attained: the flat index among the input's spatial positions."""
    (x,) = inputs
    w = Window.of(x.shape, output.shape, attrs)
    with kernel(name, inputs, output) as k:
        best = k.scratch(output.shape, x.dtype)
        _window_maximum(k, k.inputs[0], best, output.shape, w, x.dtype)
        chosen = _first_winner(k, k.inputs[0], best, output.shape, w, x.dtype)

        def flat(index: Sequence[Expr]) -> Expr:
            position, _ = w.element(index[2:], unravel(load(chosen, index), w.kernel))
            return ravel(position[::-1], w.input[::-1]) if attrs["column_major"] else ravel(position, w.input)

        k.stage("map", k.output, output.shape, flat)
    return k.result()


def max_pool_backward(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """(dy, x) -> dx: every window's dy goes to the first position of its maximum."""
    dy, x = inputs
    w = Window.of(x.shape, dy.shape, attrs)
    with kernel(name, inputs, output) as k:
        best = k.scratch(dy.shape, x.dtype)
        _window_maximum(k, k.inputs[1], best, dy.shape, w, x.dtype)
        chosen = _first_winner(k, k.inputs[1], best, dy.shape, w, x.dtype)

        def receives(index: Sequence[Expr], terms: Sequence[Expr]) -> tuple[list[Expr], Expr]:
            window, offset, exists = w.covering(index[2:], terms)
            place = [*index[:2], *window]
            mine = guarded(exists, tirx.EQ(load(chosen, place), ravel(offset, w.kernel)), tirx.IntImm("bool", 0))
            return place, mine

        _accumulate(k, x, w, receives, lambda place: load(k.inputs[0], place))
    return k.result()


def avg_pool(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Sum over the window by lanes, padding as -0.0, then one division by the count."""
    (x,) = inputs
    w = Window.of(x.shape, output.shape, attrs)
    with kernel(name, inputs, output) as k:
        nothing = exact.const(-0.0, x.dtype)
        image, read = k.inputs[0], w
        if PADDED in attrs:
            image, read = _with_padding(k, image, x.shape, w, nothing, x.dtype)

        def element(index: Sequence[Expr], r: Expr) -> Expr:
            position, inside = read.element(index[2:], unravel(r, w.kernel))
            value = load(image, [*index[:2], *position])
            return value if PADDED in attrs else guarded(inside, value, nothing)

        def average(total: Expr, index: Sequence[Expr]) -> Expr:
            return exact.div(total, w.count(index[2:], include_pad=attrs["count_include_pad"], dtype=x.dtype))

        terms = math.prod(w.kernel)
        if PADDED in attrs and terms <= LANES:  # a lane for each, to which -0.0 adds nothing
            lanes = range(terms)
            k.stage(
                "map",
                k.output,
                output.shape,
                lambda index: average(halving_tree([element(index, i64(p)) for p in lanes], exact.add), index),
            )
        else:
            lane_reduce(k, output.shape, terms, x.dtype, element, average, lambda *index: list(index), across=True)
    return k.result()


def avg_pool_backward(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """dy -> dx: every element receives dy / count from each window that covers it."""
    (dy,) = inputs
    w = Window.of(output.shape, dy.shape, attrs)
    with kernel(name, inputs, output) as k:

        def receives(index: Sequence[Expr], terms: Sequence[Expr]) -> tuple[list[Expr], Expr]:
            window, _, exists = w.covering(index[2:], terms)
            return [*index[:2], *window], exists

        def share(place: Sequence[Expr]) -> Expr:
            count = w.count(place[2:], include_pad=attrs["count_include_pad"], dtype=dy.dtype)
            return exact.div(load(k.inputs[0], place), count)

        _accumulate(k, output, w, receives, share)
    return k.result()


def _accumulate(k: Kernel, x: TensorType, w: Window, receives: Any, share: Any) -> None:
    """dx = chain over the windows that ``receives`` names, from -0.0; +0.0 where there is none."""
    total = k.scratch(x.shape, x.dtype)
    found = k.scratch(x.shape, "bool")

    def add(index: Sequence[Expr], terms: Sequence[Expr], acc: Expr) -> Expr:
        place, mine = receives(index, terms)
        return guarded(mine, exact.add(acc, share(place)), acc)

    k.stage("fold", total, x.shape, add, reduce=w.candidates, init=exact.const(-0.0, x.dtype))
    k.stage(
        "fold",
        found,
        x.shape,
        lambda index, terms, acc: tirx.Or(acc, receives(index, terms)[1]),
        reduce=w.candidates,
        init=any_of([]),
    )
    k.stage(
        "map",
        k.output,
        x.shape,
        lambda index: exact.select(load(found, index), load(total, index), exact.const(0.0, x.dtype)),
    )


VARIANTS = {
    "max_pool": max_pool,
    "max_pool_indices": max_pool_indices,
    "max_pool_backward": max_pool_backward,
    "avg_pool": avg_pool,
    "avg_pool_backward": avg_pool_backward,
}
