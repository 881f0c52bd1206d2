"""Extrema and their positions, whose order is free: as many lanes as a processor likes (docs/numerics.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import elementwise as ew
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import Buffer, Kernel, i64, kernel, load, unravel
from gensyn_tvm.operators.reductions import Axes

Expr = Any
Attrs = Mapping[str, Any]


def lowest(dtype: str) -> Expr:
    """The identity of ``maximum``."""
    if dtype.startswith("float"):
        return exact.const(-math.inf, dtype)
    return exact.int_const(_range(dtype)[0], dtype)


def highest(dtype: str) -> Expr:
    """The identity of ``minimum``."""
    if dtype.startswith("float"):
        return exact.const(math.inf, dtype)
    return exact.int_const(_range(dtype)[1], dtype)


def _range(dtype: str) -> tuple[int, int]:
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# ---- extrema --------------------------------------------------------------------------------------------------------

#: Lanes of an extremum, whose order is free: enough to hide the latency of a comparison.
_WIDE = 64
#: Elements of a block where there are too few results to keep all threads busy.
_WIDE_BLOCK = 8192


@dataclass(frozen=True)
class _Extreme:
    """An operator for which order and repetition do not matter, with its identity.

    Attributes:
        combine: of two TIR expressions.
        identity: of the scratch dtype.
        dtype: of the values.
    """

    combine: Callable[[Expr, Expr], Expr]
    identity: Expr
    dtype: str


#: (outer index, index of the pieces, number of the element in its piece) -> element.
PieceElement = Callable[[Sequence[Expr], Sequence[Expr], Expr], Expr]


def _extreme(
    k: Kernel, outer: Sequence[int], pieces: Sequence[int], length: int, e: _Extreme, element: PieceElement
) -> Callable[[Sequence[Expr]], Expr]:
    """The extremum of pieces of ``length`` elements that lie side by side, as an expression of the outer index."""
    if not pieces and length >= 2 * _WIDE_BLOCK and math.prod(outer) < 16:
        return _extreme_of_blocks(k, outer, length, e, element)
    width = min(_WIDE, length)
    rounds, rest = divmod(length, width)
    lanes = k.scratch([*outer, width], e.dtype)

    def term(index: Sequence[Expr], reduce: Sequence[Expr], acc: Expr) -> Expr:
        return e.combine(acc, element(index[:-1], reduce[:-1], reduce[-1] * i64(width) + index[-1]))

    k.stage("lanes", lanes, [*outer, width], term, reduce=[*pieces, rounds], init=e.identity)
    if rest:  # the last elements once more, as many as there are lanes
        more = k.scratch([*outer, width], e.dtype)

        def last(index: Sequence[Expr], reduce: Sequence[Expr], acc: Expr) -> Expr:
            return e.combine(acc, element(index[:-1], reduce[: len(pieces)], i64(length - width) + index[-1]))

        k.stage("lanes", more, [*outer, width], last, reduce=list(pieces) or [1], init=e.identity)
        both = k.scratch([*outer, width], e.dtype)
        k.stage("rest", both, [*outer, width], lambda index: e.combine(load(lanes, index), load(more, index)))
        lanes = both
    return _halved(k, outer, lanes, width, e)


def _halved(k: Kernel, outer: Sequence[int], lanes: Buffer, width: int, e: _Extreme) -> Callable[[Sequence[Expr]], Expr]:
    """The extremum of the lanes: the first half and the second, which may overlap, until one is left."""
    while width > 2:
        half = (width + 1) // 2
        shorter = k.scratch([*outer, half], e.dtype)

        def pair(index: Sequence[Expr], lanes: Buffer = lanes, step: int = width - half) -> Expr:
            return e.combine(load(lanes, index), load(lanes, [*index[:-1], index[-1] + i64(step)]))

        k.stage("tree", shorter, [*outer, half], pair)
        lanes, width = shorter, half
    if width == 1:
        return lambda o: load(lanes, [*o, i64(0)])
    return lambda o: e.combine(load(lanes, [*o, i64(0)]), load(lanes, [*o, i64(1)]))


def _extreme_of_blocks(
    k: Kernel, outer: Sequence[int], length: int, e: _Extreme, element: PieceElement
) -> Callable[[Sequence[Expr]], Expr]:
    blocks, rest = divmod(length, _WIDE_BLOCK)
    inside = _extreme(
        k, [*outer, blocks], [], _WIDE_BLOCK, e, lambda o, _, r: element(o[:-1], [], o[-1] * i64(_WIDE_BLOCK) + r)
    )
    partial = k.scratch([*outer, blocks], e.dtype)
    k.stage("tree", partial, [*outer, blocks], inside)
    whole = _extreme(k, outer, [], blocks, e, lambda o, _, r: load(partial, [*o, r]))
    if not rest:
        return whole
    last = _extreme(k, outer, [], rest, e, lambda o, _, r: element(o, [], i64(blocks * _WIDE_BLOCK) + r))
    return lambda o: e.combine(whole(o), last(o))


def _reduce_extreme(
    k: Kernel,
    axes: Axes,
    e: _Extreme,
    element: Callable[[Sequence[Expr], Sequence[Expr]], Expr],
    store: Buffer,
    finish: Callable[[Expr], Expr],
    at: Callable[..., Sequence[Expr]],
) -> None:
    """Store the extremum of ``element(outer index, reduced index)``."""
    if not axes.along_memory or not axes.reduced:
        folded = k.scratch(axes.outer, e.dtype)
        k.stage(
            "fold",
            folded,
            axes.outer,
            lambda o, r, acc: e.combine(acc, element(o, r[: len(axes.inner)])),
            reduce=axes.inner or [1],
            init=e.identity,
        )
        k.stage("map", store, axes.outer, lambda o: finish(load(folded, o)), at=at)
        return
    pieces, piece = axes.pieces
    value = _extreme(k, axes.outer, pieces, math.prod(piece), e, lambda o, p, r: element(o, [*p, *unravel(r, piece)]))
    k.stage("tree", store, axes.outer, lambda o: finish(value(o)), at=at)


def _extreme_of(dtype: str, *, largest: bool) -> _Extreme:
    return _Extreme(ew.maximum, lowest(dtype), dtype) if largest else _Extreme(ew.minimum, highest(dtype), dtype)


def extremum(*, largest: bool) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of ``reduce_max`` or ``reduce_min``."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        (t,) = inputs
        axes = Axes(t.shape, attrs["axes"], attrs["keepdims"])
        with kernel(name, inputs, output) as k:
            _reduce_extreme(
                k,
                axes,
                _extreme_of(t.dtype, largest=largest),
                lambda o, r: load(k.inputs[0], axes.join(o, r)),
                k.output,
                lambda value: value,
                lambda *o: axes.place(o),
            )
        return k.result()

    return build


def wins(x: Expr, best: Expr) -> Expr:
    """Whether ``x`` is one of the positions of the extremum ``best``: equal to it, or a NaN if it is one."""
    if not ew.is_float(x):
        return tirx.EQ(x, best)
    return tirx.Or(exact.eq(x, best), tirx.And(exact.is_nan(x), exact.is_nan(best)))


def arg_extremum(*, largest: bool) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of ``argmax`` or ``argmin``: the extremum first, then the lowest index that attains it."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        (t,) = inputs
        axes = Axes(t.shape, attrs["axes"], attrs["keepdims"])
        index = "int32" if axes.count < 2**31 else "int64"
        never = tirx.IntImm(index, axes.count)
        with kernel(name, inputs, output) as k:
            (x,) = k.inputs
            best = k.scratch(axes.outer, t.dtype)

            def element(o: Sequence[Expr], r: Sequence[Expr]) -> Expr:
                return load(x, axes.join(o, r))

            _reduce_extreme(k, axes, _extreme_of(t.dtype, largest=largest), element, best, lambda v: v, lambda *o: list(o))

            def place(o: Sequence[Expr], r: Sequence[Expr]) -> Expr:
                # As it is, TVM would compare the index in 64 bits.
                number = tirx.Cast(index, exact.call("index", "int64", r[0]))
                return exact.select(wins(element(o, r), load(best, o)), number, never)

            first = _Extreme(tirx.Min, never, index)
            _reduce_extreme(k, axes, first, place, k.output, lambda v: tirx.Cast("int64", v), lambda *o: axes.place(o))
        return k.result()

    return build
