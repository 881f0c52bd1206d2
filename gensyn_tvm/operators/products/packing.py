"""Panels: an operand of a product in the order in which its innermost loop reads it. Bits move, nothing is computed.

    packed[batch…, panel, term, column in panel] = x[batch · its strides + term · its strides + column · its stride]

x is any strided view of a contiguous array, so that a transposed operand is packed without being transposed first. Columns
beyond the last are 0. These kernels are loops as they run, with threads and vectors in place; no schedule touches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import terms
from gensyn_tvm.operators.nest import Kernel, as_written, i64, kernel, unravel

Expr = Any
#: (extent, stride in elements) of an axis of a view.
Axis = tuple[int, int]

#: Terms that a thread packs at a time, and those whose lines it takes through all panels.
_TERMS, _LINES = 256, 64
#: Vectors of a line that are written out one by one.
_UNROLLED = 8
#: Elements from which threads are worth their start.
_PARALLEL = 30_000


def panels(columns: int, width: int) -> int:
    """Number of panels."""
    return math.ceil(columns / width)


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The axes with neighbours joined where one stride continues the other; axes of extent 1 are left out."""
    result: list[Axis] = []
    for extent, stride in axes:
        if extent == 1:
            continue
        if result and result[-1][1] == extent * stride:
            result[-1] = (result[-1][0] * extent, stride)
        else:
            result.append((extent, stride))
    return result


def transposed_block(
    read: Callable[[int, int, int], Expr], size: int, itemsize: int, bind: Callable[[Expr], Expr] = T.bind
) -> list[Expr]:
    """The columns of a square block; ``read`` (row, first element, elements) a piece of a row, ``bind`` gives a value a name.

    Rows are read in groups of 16 bytes and put together to vectors, which processors do while they load, so that only
    the squares in groups are left to exchange; whole rows take twice the exchanges, which go one at a time.
    """
    group = min(size, 16 // itemsize)
    groups = size // group

    def exchanged(values: Sequence[Expr], lanes: Sequence[int]) -> Expr:
        return bind(tirx.Shuffle(list(values), [i64(lane) for lane in lanes]))

    def interleaved(first: Expr, second: Expr, upper: int) -> Expr:
        """The lower (0) or upper (1) halves of all groups, in turn an element of each."""
        starts = [g + upper * group // 2 + k for g in range(0, size, group) for k in range(group // 2)]
        return exchanged([first, second], [lane for start in starts for lane in (start, size + start)])

    blocks: list[list[Expr]] = [[] for _ in range(groups)]
    for row in range(group):
        pieces = [[bind(read(first + row, part * group, group)) for part in range(groups)] for first in range(0, size, group)]
        for part, block in enumerate(blocks):
            found = [line[part] for line in pieces]
            block.append(exchanged(found, range(size)) if groups > 1 else found[0])
    columns: list[Expr] = []
    for block in blocks:
        for _ in range(group.bit_length() - 1):
            pairs = zip(block[: group // 2], block[group // 2 :], strict=True)
            block = [interleaved(a, b, upper) for a, b in pairs for upper in (0, 1)]
        columns += block
    return columns


def vector(start: Expr, lanes: int) -> Expr:
    """Index of ``lanes`` neighbours."""
    return tirx.Ramp(start, i64(1), lanes) if lanes > 1 else start


class _Packing:
    """One kernel: the flat array x and the panels y."""

    def __init__(self, k: Kernel, attrs: Mapping[str, Any], t: TensorType) -> None:
        (self.x,), self.y, self.dtype, self.itemsize = k.inputs, k.output, t.carrier, t.itemsize
        self.batch: list[Axis] = list(attrs["batch"])
        self.columns, self.column_stride = attrs["columns"]
        self.width, self.lanes, self.first = attrs["width"], attrs["lanes"], attrs["first"]
        self.panels = panels(self.columns, self.width)
        runs = merged(attrs["terms"]) or [(1, 1)]
        self.run, self.run_stride = runs[-1]
        self.outer = runs[:-1]

    def emit(self) -> None:
        """Threads over batch, panels, outer terms and blocks of inner terms, the panels innermost where each takes a part of
        the same lines: a matrix of many pages is then gone through once, not once for each panel.
        """
        block = min(_LINES if self.column_stride == 1 else _TERMS, self.run)
        parts = math.ceil(self.run / block)
        inside = [*(e for e, _ in self.outer), parts]
        counts = [*(e for e, _ in self.batch), *([*inside, self.panels] if self.column_stride == 1 else [self.panels, *inside])]
        total = math.prod(e for e, _ in self.batch) * self.panels * math.prod(inside[:-1]) * self.run * self.width
        loop = T.parallel if total >= _PARALLEL and math.prod(counts) > 1 else T.serial
        with loop(i64(0), i64(math.prod(counts))) as task:
            index = unravel(task, counts)
            batch, index = index[: len(self.batch)], index[len(self.batch) :]
            panel = index.pop(-1 if self.column_stride == 1 else 0)
            *outer, part = index
            base = self._offset(batch, self.batch) + self._offset(outer, self.outer) + i64(self.first)
            row: Expr = i64(0)
            for i, (extent, _) in zip(outer, self.outer, strict=True):
                row = row * i64(extent) + i
            place = [*batch, panel, row * i64(self.run)]
            last = self.run - (parts - 1) * block
            if last == block:
                self._part(place, base, panel, part * i64(block), block)
                return
            with T.If(tirx.LT(part, i64(parts - 1))):
                with T.Then():
                    self._part(place, base, panel, part * i64(block), block)
                with T.Else():
                    self._part(place, base, panel, i64(self.run - last), last)

    @staticmethod
    def _offset(index: Sequence[Expr], axes: Sequence[Axis]) -> Expr:
        return sum((i * i64(stride) for i, (_, stride) in zip(index, axes, strict=True)), i64(0))

    def _part(self, place: list[Expr], base: Expr, panel: Expr, first: Expr, count: int) -> None:
        """``count`` terms from ``first`` on of one panel."""
        if self.column_stride == 1 and self.width % self.lanes == 0:
            self._panel_lines(place, base, panel, first, count)
        else:
            self._by_columns(place, base, panel, first, count)

    def _panel_lines(self, place: list[Expr], base: Expr, panel: Expr, first: Expr, count: int) -> None:
        """Term by term all columns of a panel, which lie side by side: its vectors at once."""
        if self.columns % self.width:
            with T.If(tirx.LT(panel, i64(self.columns // self.width))):
                with T.Then():
                    self._whole_lines(place, base, panel, first, count)
                with T.Else():
                    self._last_lines(place, base, first, count)
            return
        self._whole_lines(place, base, panel, first, count)

    def _whole_lines(self, place: list[Expr], base: Expr, panel: Expr, first: Expr, count: int) -> None:
        *outer, row = place
        vectors = self.width // self.lanes
        across = T.unroll if vectors <= _UNROLLED else T.serial
        with T.serial(i64(0), i64(count)) as t, across(i64(0), i64(vectors)) as number:
            inner = number * i64(self.lanes)
            source = base + (first + t) * i64(self.run_stride) + panel * i64(self.width) + inner
            T.buffer_store(self.y, self.x[vector(source, self.lanes)], [*outer, row + first + t, vector(inner, self.lanes)])

    def _last_lines(self, place: list[Expr], base: Expr, first: Expr, count: int) -> None:
        """The last panel, some of whose columns do not exist: what there is of a line, then zeros."""
        *outer, row = place
        start = self.columns // self.width * self.width
        sizes = [self.lanes >> k for k in range(self.lanes.bit_length())]
        with T.serial(i64(0), i64(count)) as t:
            source = base + (first + t) * i64(self.run_stride) + i64(start)
            done = 0
            for end in (self.columns - start, self.width):
                for lanes in sizes:
                    while done + lanes <= end:
                        zero = terms.zero(self.dtype)
                        zeros = tirx.Broadcast(zero, lanes) if lanes > 1 else zero
                        value = self.x[vector(source + i64(done), lanes)] if start + done < self.columns else zeros
                        T.buffer_store(self.y, value, [*outer, row + first + t, vector(i64(done), lanes)])
                        done += lanes

    def _by_columns(self, place: list[Expr], base: Expr, panel: Expr, first: Expr, count: int) -> None:
        """A vector of columns through all terms, then the next."""
        lanes, done = min(self.lanes, self.width), 0
        if self.column_stride != 1:  # squares are exchanged by halves
            lanes = 1 << (lanes.bit_length() - 1)
        while done < self.width:
            blocks = (self.width - done) // lanes
            if blocks:
                with T.serial(i64(0), i64(blocks)) as number:
                    self._columns(place, base, panel, i64(done) + number * i64(lanes), first, count, lanes)
                done += blocks * lanes
            lanes = max(1, lanes // 2)

    def _columns(self, place: list[Expr], base: Expr, panel: Expr, inner: Expr, first: Expr, count: int, lanes: int) -> None:
        """``lanes`` columns from ``inner`` on."""
        column = panel * i64(self.width) + inner
        if not self.columns % self.width:
            self._block(place, base, column, inner, first, count, lanes)
            return
        with T.If(tirx.LE(column + i64(lanes), i64(self.columns))):
            with T.Then():
                self._block(place, base, column, inner, first, count, lanes)
            with T.Else():
                self._border(place, base, column, inner, first, count, lanes)

    def _block(self, place: list[Expr], base: Expr, column: Expr, inner: Expr, first: Expr, count: int, lanes: int) -> None:
        """``lanes`` columns that all exist."""
        *outer, row = place
        if self.column_stride == 1:
            with T.serial(i64(0), i64(count)) as t:
                source = base + (first + t) * i64(self.run_stride) + column
                T.buffer_store(self.y, self.x[vector(source, lanes)], [*outer, row + first + t, vector(inner, lanes)])
            return
        whole = count // lanes if self.run_stride == 1 and lanes > 1 else 0
        if whole:
            with T.serial(i64(0), i64(whole)) as step:
                start = first + step * i64(lanes)

                def read(c: int, term: int, count: int, start: Expr = start) -> Expr:
                    return self.x[vector(base + (column + i64(c)) * i64(self.column_stride) + start + i64(term), count)]

                for t, values in enumerate(transposed_block(read, lanes, self.itemsize)):
                    T.buffer_store(self.y, values, [*outer, row + start + i64(t), vector(inner, lanes)])
        if whole * lanes < count:
            with T.serial(i64(0), i64(count - whole * lanes)) as t, T.serial(i64(0), i64(lanes)) as c:
                term = first + i64(whole * lanes) + t
                source = base + term * i64(self.run_stride) + (column + c) * i64(self.column_stride)
                T.buffer_store(self.y, self.x[source], [*outer, row + term, inner + c])

    def _border(self, place: list[Expr], base: Expr, column: Expr, inner: Expr, first: Expr, count: int, lanes: int) -> None:
        """Columns of which some do not exist."""
        *outer, row = place
        with T.serial(i64(0), i64(count)) as t, T.serial(i64(0), i64(lanes)) as c:
            source = base + (first + t) * i64(self.run_stride) + (column + c) * i64(self.column_stride)
            exists = tirx.LT(column + c, i64(self.columns))
            value = T.if_then_else(exists, self.x[source], terms.zero(self.dtype))
            T.buffer_store(self.y, value, [*outer, row + first + t, inner + c])


def pack(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Mapping[str, Any]) -> Any:
    """x (size,) -> (batch…, panels, terms, width).

    Attributes: ``batch`` and ``terms``, a tuple of (extent, stride) each; ``columns``, one (extent, stride); ``width`` of a
    panel; ``lanes`` of a vector; ``first``, the element at which the view begins.
    """
    with kernel(name, inputs, output) as k:
        _Packing(k, attrs, inputs[0]).emit()
    return as_written(k.result())
