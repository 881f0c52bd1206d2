"""Images with zeros around them, and images spread out for vectors over positions. Bits move, nothing is computed.

A convolution that reads positions in vectors reads them from a *wide grid*: for each axis the padded input is split into phases
by the stride, so that the inputs of neighbouring positions are neighbours, and rows are as long as the longest reach of the
window. Position (y, x) of the result has the flat index y * row + x; the few indices between rows are computed and never read.
These kernels are loops as they run; no schedule touches them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import terms
from gensyn_tvm.operators.nest import GRID, as_written, i64, kernel, load, ravel, unravel
from gensyn_tvm.operators.products.packing import vector

Expr = Any

#: Elements from which threads are worth their start.
_PARALLEL = 120_000


@dataclass(frozen=True)
class Grid:
    """Where a spread image keeps what.

    Attributes:
        size: extents of the image.
        padding: zeros before and after each axis; negative: what is cut off.
        phases: for each axis the phases that are kept.
        strides: steps from one element of a phase to the next.
        extents: elements of a phase along each axis.
        length: elements of a channel, with some zeros at the end so that whole vectors can be read.
    """

    size: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    phases: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    extents: tuple[int, ...]
    length: int

    @property
    def plane(self) -> int:
        """Elements of one phase."""
        return math.prod(self.extents)

    def is_plain(self) -> bool:
        """Whether all elements lie beside one another as in the image, with zeros around them."""
        inside = all(lo >= 0 and lo + e <= n for e, (lo, _), n in zip(self.size, self.padding, self.extents, strict=True))
        return inside and all(p == (0,) for p in self.phases) and all(s == 1 for s in self.strides)

    def phase_start(self, phases: Sequence[Expr]) -> Expr:
        """Flat index at which a combination of phases, given by their numbers, begins."""
        number: Expr = i64(0)
        for p, kept in zip(phases, self.phases, strict=True):
            number = number * i64(len(kept)) + p
        return number * i64(self.plane)


def padded_grid(size: Sequence[int], padding: Sequence[tuple[int, int]]) -> Grid:
    """The image with zeros around it, nothing else."""
    extents = tuple(lo + e + hi for e, (lo, hi) in zip(size, padding, strict=True))
    ones = (1,) * len(extents)
    return Grid(tuple(size), tuple(padding), ((0,),) * len(extents), ones, extents, math.prod(extents))


def wide_grid(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: Sequence[tuple[int, int]],
    output: Sequence[int],
) -> Grid:
    """The grid of a convolution's positions."""
    phases = tuple(tuple(sorted({j * d % s for j in range(e)})) for e, s, d in zip(window, strides, dilations, strict=True))
    reach = [(e - 1) * d // s for e, s, d in zip(window, strides, dilations, strict=True)]
    extents = tuple(o + r for o, r in zip(output, reach, strict=True))
    length = math.prod(map(len, phases)) * math.prod(extents)
    return Grid(tuple(size), tuple(padding), phases, tuple(strides), extents, length)


def flat(index: Sequence[int], extents: Sequence[int]) -> int:
    """Row-major flat index."""
    result = 0
    for i, e in zip(index, extents, strict=True):
        result = result * e + i
    return result


def positions(output: Sequence[int], extents: Sequence[int]) -> int:
    """Flat indices of a wide grid from the first to the last position of the result."""
    return flat([o - 1 for o in output], extents) + 1


def reach(offset: Sequence[Expr], taps: Sequence[Sequence[int]]) -> list[Expr]:
    """Where the terms of a convolution over ``taps`` lie in its image, beside the position."""
    return [o * i64(step) + i64(start) for o, (start, step, *_) in zip(offset, taps, strict=True)]


def window_start(attrs: Mapping[str, Any], offset: Sequence[Expr]) -> Expr:
    """Flat index in a convolution's grid of what its first position reads for a kernel position."""
    grid = grid_of(attrs)
    if "taps" in attrs:
        return ravel(reach(offset, attrs["taps"]), grid.extents)
    far = [o * i64(d) for o, d in zip(offset, attrs["dilations"], strict=True)]
    # Not all phases may be kept; those of the window are evenly spaced among the ones that are.
    phases = [_number(r % i64(s), kept) for r, s, kept in zip(far, attrs["strides"], grid.phases, strict=True)]
    return grid.phase_start(phases) + ravel([r // i64(s) for r, s in zip(far, attrs["strides"], strict=True)], grid.extents)


def _number(phase: Expr, kept: Sequence[int]) -> Expr:
    """The number of a phase among those that are kept, which are 0, step, 2 * step, …"""
    step = kept[1] - kept[0] if len(kept) > 1 else 1
    return phase if step == 1 else phase // i64(step)


class _Spread:
    """One kernel: x (N, C, spatial…) and y (N, C, length)."""

    def __init__(self, x: Any, y: Any, grid: Grid, dtype: str, lanes: int) -> None:
        self.x, self.y, self.grid, self.dtype, self.lanes = x, y, grid, dtype, lanes

    def emit(self, number: int, channels: int) -> None:
        grid = self.grid
        loop = T.parallel if number * channels * grid.length >= _PARALLEL else T.serial
        with loop(i64(0), i64(number * channels)) as task:
            place = unravel(task, [number, channels])
            for combination, start in self._combinations():
                self._lines(place, combination, start)
            written = math.prod(len(p) for p in grid.phases) * grid.plane
            self._zeros(place, i64(written), grid.length - written)

    def _combinations(self) -> list[tuple[list[int], int]]:
        """Phases of each axis, and where their plane begins."""
        result: list[tuple[list[int], int]] = [([], 0)]
        for kept in self.grid.phases:
            result = [([*phases, p], number * len(kept) + k) for phases, number in result for k, p in enumerate(kept)]
        return [(phases, number * self.grid.plane) for phases, number in result]

    def _valid(self, axis: int, phase: int) -> tuple[int, int]:
        """The elements of a phase that lie inside of the image: from, to."""
        grid = self.grid
        low, stride, extent = grid.padding[axis][0], grid.strides[axis], grid.extents[axis]
        first = max(0, -(-(low - phase) // stride))
        end = min(extent, -(-(grid.size[axis] + low - phase) // stride))
        return min(first, extent), max(min(first, extent), end)

    def _lines(self, place: list[Expr], phases: list[int], start: int) -> None:
        """All lines of one plane: inside, a line of the image between zeros; outside, zeros."""
        grid = self.grid
        outer, row = list(grid.extents[:-1]), grid.extents[-1]
        with T.serial(i64(0), i64(math.prod(outer))) as line:
            index = unravel(line, outer)
            ranges = [self._valid(a, phases[a]) for a in range(len(outer))]
            inside = [
                tirx.And(tirx.GE(i, i64(first)), tirx.LT(i, i64(end)))
                for i, (first, end), extent in zip(index, ranges, outer, strict=True)
                if (first, end) != (0, extent)
            ]
            source = [i * i64(grid.strides[a]) + i64(phases[a] - grid.padding[a][0]) for a, i in enumerate(index)]
            at = i64(start) + line * i64(row)
            if not inside:
                self._line(place, source, at, phases[-1])
                return
            condition = inside[0]
            for other in inside[1:]:
                condition = tirx.And(condition, other)
            with T.If(condition):
                with T.Then():
                    self._line(place, source, at, phases[-1])
                with T.Else():
                    self._zeros(place, at, row)

    def _line(self, place: list[Expr], source: list[Expr], at: Expr, phase: int) -> None:
        grid, row = self.grid, self.grid.extents[-1]
        first, end = self._valid(len(grid.extents) - 1, phase)
        stride = grid.strides[-1]
        begin = first * stride + phase - grid.padding[-1][0]
        self._zeros(place, at, first)
        done = 0
        for lanes in self._parts():
            count = (end - first - done) // lanes
            if lanes > 1 and stride > 1:  # the last vector must not reach beyond the image
                while count and begin + (done + count * lanes) * stride > grid.size[-1]:
                    count -= 1
            if count and (lanes == 1 or stride <= 2):
                self._run(place, source, at + i64(first + done), i64(begin + done * stride), count, lanes)
                done += count * lanes
        self._zeros(place, at + i64(end), row - end)

    def _parts(self) -> list[int]:
        """Lanes of a whole vector, of half of one, and so on."""
        return [self.lanes >> k for k in range(self.lanes.bit_length())]

    def _run(self, place: list[Expr], source: list[Expr], at: Expr, begin: Expr, count: int, lanes: int) -> None:
        """``count`` vectors (or scalars) of a line."""
        stride = self.grid.strides[-1]
        with T.serial(i64(0), i64(count)) as k:
            x = begin + k * i64(lanes * stride)
            if lanes == 1 or stride == 1:
                value = load(self.x, [*place, *source, vector(x, lanes)])
            else:
                pair = [T.bind(load(self.x, [*place, *source, vector(x + i64(h * lanes), lanes)])) for h in range(2)]
                value = tirx.Shuffle(pair, [i64(2 * lane) for lane in range(lanes)])
            T.buffer_store(self.y, value, [*place, vector(at + k * i64(lanes), lanes)])

    def _zeros(self, place: list[Expr], at: Expr, count: int) -> None:
        done = 0
        for lanes in self._parts():
            vectors = (count - done) // lanes
            if vectors:
                with T.serial(i64(0), i64(vectors)) as k:
                    zero = terms.zero(self.dtype)
                    value = tirx.Broadcast(zero, lanes) if lanes > 1 else zero
                    T.buffer_store(self.y, value, [*place, vector(at + i64(done) + k * i64(lanes), lanes)])
                done += vectors * lanes


def grid_of(attrs: Mapping[str, Any]) -> Grid:
    """The grid that the attribute ``grid`` describes."""
    return Grid(*attrs["grid"])


def image(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Mapping[str, Any]) -> Any:
    """x (N, C, spatial…) -> (N, C, length). Attributes: ``grid`` and ``lanes`` of a vector."""
    number, channels = inputs[0].shape[:2]
    grid = grid_of(attrs)
    with kernel(name, inputs, output) as k:
        _Spread(k.inputs[0], k.output, grid, inputs[0].carrier, attrs["lanes"]).emit(number, channels)
    written = as_written(k.result())
    return written.with_attr(GRID, [lo for lo, _ in grid.padding] + list(grid.extents)) if grid.is_plain() else written
