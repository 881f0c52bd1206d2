"""Sums over 32 lanes and a halving tree, and products alike (docs/numerics.md)."""

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

Expr = Any
Attrs = Mapping[str, Any]

#: (outer index, number of the element) -> element.
Element = Callable[[Sequence[Expr], Expr], Expr]
#: Outer index -> the value of each lane that has an element.
LaneValues = Callable[[Sequence[Expr]], list[Expr]]

LANES = 32
BLOCK = 1024


def halving_tree(lanes: Sequence[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combine lane l with lane l + 16, then + 8, + 4, + 2, + 1; absent lanes are the identity and left out."""
    level = list(lanes)
    width = LANES // 2
    while width:
        level = [
            combine(level[p], level[p + width]) if p + width < len(level) else level[p] for p in range(min(width, len(level)))
        ]
        width //= 2
    return level[0]


@dataclass(frozen=True)
class Combiner:
    """How two terms are combined, and the term that changes nothing.

    Attributes:
        combine: of two TIR expressions.
        identity: bit-exact identity for a dtype.
        nothing: the result of reducing no elements, for a dtype.
    """

    combine: Callable[[Expr, Expr], Expr]
    identity: Callable[[str], Expr]
    nothing: Callable[[str], Expr]


def _constant(value: float) -> Callable[[str], Expr]:
    def make(dtype: str) -> Expr:
        return exact.const(value, dtype) if dtype.startswith("float") else tirx.IntImm(dtype, int(value))

    return make


# -0.0 is the identity of the float sum: x + -0.0 = x for every x, also for +0.0.
SUM = Combiner(ew.add, _constant(-0.0), _constant(0.0))
PROD = Combiner(ew.mul, _constant(1.0), _constant(1.0))


@dataclass(frozen=True)
class Axes:
    """Splits an index of the input into outer axes (kept) and reduced axes."""

    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    keepdims: bool

    @property
    def outer(self) -> list[int]:
        """Extents of the kept axes."""
        return [e for k, e in enumerate(self.shape) if k not in self.reduced]

    @property
    def inner(self) -> list[int]:
        """Extents of the reduced axes."""
        return [self.shape[k] for k in self.reduced]

    @property
    def count(self) -> int:
        """Number of elements reduced into one."""
        return math.prod(self.inner)

    @property
    def along_memory(self) -> bool:
        """Whether elements that are reduced into one lie side by side: the last axis that is not trivial is reduced."""
        wide = [k for k, e in enumerate(self.shape) if e > 1]
        return not wide or wide[-1] in self.reduced

    @property
    def pieces(self) -> tuple[list[int], list[int]]:
        """The extents of the reduced axes in two parts: numbers of pieces, and the axes of one piece of memory."""
        tail = len(self.shape)
        while tail and (tail - 1 in self.reduced or self.shape[tail - 1] == 1):
            tail -= 1
        return [self.shape[k] for k in self.reduced if k < tail], [self.shape[k] for k in self.reduced if k >= tail]

    def join(self, outer: Sequence[Expr], inner: Sequence[Expr]) -> list[Expr]:
        """Input index from the kept and the reduced positions."""
        kept, reduced = iter(outer), iter(inner)
        return [next(reduced) if k in self.reduced else next(kept) for k in range(len(self.shape))]

    def place(self, outer: Sequence[Expr]) -> list[Expr]:
        """Output index from the kept positions."""
        if not self.keepdims:
            return list(outer)
        kept = iter(outer)
        return [i64(0) if k in self.reduced else next(kept) for k in range(len(self.shape))]


def lane_reduce(
    k: Kernel,
    outer: Sequence[int],
    count: int,
    dtype: str,
    element: Element,
    finish: Callable[[Expr, Sequence[Expr]], Expr],
    at: Callable[..., Sequence[Expr]],
    combiner: Combiner = SUM,
    *,
    across: bool = False,
) -> None:
    """Reduce ``element(outer index, r)`` for r in [0, count) by lanes and tree; store ``finish(result, outer index)``.

    ``across`` says that the elements of neighbouring results, rather than those of one result, lie side by side in memory; the
    lanes are then stored the same way.
    """
    if count == 0:
        k.stage("map", k.output, outer, lambda o: finish(combiner.nothing(dtype), o), at=lambda *o: at(*o))
        return
    make = _lanes if count <= BLOCK else _lanes_of_blocks
    lanes = make(k, outer, count, dtype, element, combiner, across)
    k.stage("tree", k.output, outer, lambda o: finish(halving_tree(lanes(o), combiner.combine), o), at=lambda *o: at(*o))


def _lanes(
    k: Kernel, outer: Sequence[int], count: int, dtype: str, element: Element, combiner: Combiner, across: bool
) -> LaneValues:
    """The lanes' values over ``count`` elements without a block limit: lane p adds p, p + 32, p + 64, … in ascending order.

    Whole rounds of 32 are a stage; the lanes that have one element more get it in another, because a condition inside the
    stage would keep it from using vectors.
    """
    width = min(LANES, count)
    rounds, rest = divmod(count, width)

    def place(index: Sequence[Expr]) -> list[Expr]:
        return [index[-1], *index[:-1]] if across else list(index)

    def stored(lanes: int) -> Buffer:
        return k.scratch([lanes, *outer] if across else [*outer, lanes], dtype)

    def term(index: Sequence[Expr], reduce: Sequence[Expr], accumulator: Expr) -> Expr:
        return combiner.combine(accumulator, element(list(index[:-1]), reduce[0] * i64(LANES) + index[-1]))

    whole = stored(width)
    identity = combiner.identity(dtype)
    k.stage("lanes", whole, [*outer, width], term, reduce=[rounds], init=identity, at=lambda *index: place(index))
    if not rest:
        return lambda o: [load(whole, place([*o, i64(p)])) for p in range(width)]
    more = stored(rest)

    def one_more(index: Sequence[Expr]) -> Expr:
        return combiner.combine(load(whole, place(index)), element(list(index[:-1]), i64(rounds * width) + index[-1]))

    k.stage("rest", more, [*outer, rest], one_more, at=lambda *index: place(index))
    return lambda o: [load(more if p < rest else whole, place([*o, i64(p)])) for p in range(width)]


def _lanes_of_blocks(
    k: Kernel, outer: Sequence[int], count: int, dtype: str, element: Element, combiner: Combiner, across: bool
) -> LaneValues:
    """The lanes' values over the results of blocks of 1,024 elements, of which the last one may be shorter."""
    blocks, rest = divmod(count, BLOCK)
    # The block is the outermost axis, so that neighbouring results stay side by side.
    partial = k.scratch([blocks, *outer], dtype)
    inside = _lanes(
        k,
        [blocks, *outer],
        BLOCK,
        dtype,
        lambda index, r: element(list(index[1:]), index[0] * i64(BLOCK) + r),
        combiner,
        across,
    )
    k.stage("tree", partial, [blocks, *outer], lambda index: halving_tree(inside(index), combiner.combine))
    whole = _lanes(k, outer, blocks, dtype, lambda o, r: load(partial, [r, *o]), combiner, across)
    if not rest:
        return whole
    last = k.scratch(outer, dtype)
    inside_last = _lanes(k, outer, rest, dtype, lambda o, r: element(o, i64(blocks * BLOCK) + r), combiner, across)
    k.stage("tree", last, outer, lambda o: halving_tree(inside_last(o), combiner.combine))

    def values(o: Sequence[Expr]) -> list[Expr]:
        found, p = whole(o), blocks % LANES
        if p < len(found):
            found[p] = combiner.combine(found[p], load(last, o))
        else:
            found.append(load(last, o))
        return found

    return values


def lane_reduction(combiner: Combiner) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of ``sum`` or ``prod``; integers wrap, so their order is free and a plain loop does."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        (t,) = inputs
        axes = Axes(t.shape, attrs["axes"], attrs["keepdims"])
        with kernel(name, inputs, output) as k:
            (x,) = k.inputs
            if not t.is_float and axes.count:
                k.stage(
                    "fold",
                    k.output,
                    axes.outer,
                    lambda o, r, acc: combiner.combine(acc, load(x, axes.join(o, r))),
                    reduce=axes.inner or [1],
                    init=combiner.identity(t.dtype),
                    at=lambda *o: axes.place(o),
                )
            else:
                lane_reduce(
                    k,
                    axes.outer,
                    axes.count,
                    t.dtype,
                    _elements(k, x, t, axes),
                    lambda total, o: total,
                    lambda *o: axes.place(o),
                    combiner,
                    across=not axes.along_memory,
                )
        return k.result()

    return build


def _elements(k: Kernel, x: Buffer, t: TensorType, axes: Axes) -> Element:
    """Element r of a reduction.

    Where the reduced axes are several pieces of memory whose length is no multiple of the lanes, a vector over the lanes
    would fall into two pieces: the elements are put side by side first.
    """
    pieces, piece = axes.pieces
    if not axes.along_memory or not pieces or math.prod(piece) % LANES == 0:
        return lambda o, r: load(x, axes.join(o, unravel(r, axes.inner)))
    length = math.prod(piece)
    side_by_side = k.scratch([*axes.outer, *pieces, length], t.dtype)
    n = len(axes.outer)
    k.stage(
        "pack",
        side_by_side,
        [*axes.outer, *pieces, length],
        lambda index: load(x, axes.join(index[:n], [*index[n:-1], *unravel(index[-1], piece)])),
    )
    return lambda o, r: load(side_by_side, [*o, *unravel(r // i64(length), pieces), r % i64(length)])
