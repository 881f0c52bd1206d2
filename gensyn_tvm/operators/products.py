"""Matrix products and convolutions: chunks of the reduction index, one fma chain in each, chunk results added in order.

All four are one shape of computation, a *chunked product*: for each batch index, row and column

    chunk[q] = fma chain over the terms of chunk q, from -0.0        total = chunk[0] + chunk[1] + …

Rows are read as scalars and columns as vectors, so the right operand is packed with its columns innermost and their number
rounded up; the extra columns are computed and never read. ``pack`` stages move bits and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.elementwise import broadcast_index
from gensyn_tvm.operators.nest import Buffer, Kernel, all_of, any_of, guarded, i64, kernel, load, ravel, unravel

Expr = Any
Index = Sequence[Expr]
Attrs = Mapping[str, Any]

#: Terms in a chunk of a matrix product.
MATMUL_CHUNK = 512
#: Upper bound of the terms in a convolution's chunk, which is a whole number of channels (or rows).
CONV_CHUNK = 768
#: Columns are padded to a multiple of this, the widest vector of float32.
COLUMNS = 16
#: With this many rows or fewer a matrix product reads its right operand too seldom to pack it.
_FEW_ROWS = 4
#: Heights of register tiles that keep enough fma chains in flight.
_TILES = range(6, 15)


def units_per_chunk(unit: int) -> int:
    """The largest power of two p with p * unit <= 768, at least 1."""
    p = 1
    while 2 * p * unit <= CONV_CHUNK:
        p *= 2
    return p


def padded_columns(columns: int) -> int:
    """Columns that are computed: a multiple of 16, or a power of two below that."""
    if columns > COLUMNS // 2:
        return math.ceil(columns / COLUMNS) * COLUMNS
    return 1 << max(0, columns - 1).bit_length()


def padded_rows(rows: int) -> int:
    """Rows that are computed: as they are if they can be cut into tiles of 6 to 14, else a multiple of 6 or 8.

    The additional rows repeat the last one and are never read.
    """
    if rows <= _TILES[-1] or any(rows % tile == 0 for tile in _TILES):
        return rows
    return min(math.ceil(rows / tile) * tile for tile in (6, 8))


@dataclass(frozen=True)
class Product:
    """A chunked product.

    A term is (unit, *inner): chunks are made of whole units, and the inner axes of a unit are loops of their own, so that no
    index has to be divided in the innermost loop.

    Attributes:
        batch: extents of leading axes.
        rows, columns: extents of a matrix.
        units: number of units along the reduction.
        inner: extents of a unit's inner axes.
        per_chunk: units in a chunk.
        dtype: of operands and result.
        left: value of (batch index, row, unit, inner index).
        right: value of (batch index, unit, inner index, column); column < ``columns``.
        takes_part: whether a term exists for (row, inner index); every one does by default.
        in_place: whether packing is not worth it; ``right`` is then read where it is, without added columns.
    """

    batch: Sequence[int]
    rows: int
    columns: int
    units: int
    inner: Sequence[int]
    per_chunk: int
    dtype: str
    left: Callable[[Index, Expr, Expr, Index], Expr]
    right: Callable[[Index, Expr, Index, Expr], Expr]
    takes_part: Callable[[Expr, Index], Expr] | None = None
    in_place: bool = False


def emit_product(
    k: Kernel, product: Product, place: Callable[[Index], Index], finish: Callable[[Expr, Index], Expr] | None = None
) -> None:
    """Store the product to the kernel's output; ``place(output index)`` is (batch…, row, column).

    ``finish(value, output index)`` replaces values; it may not compute with them.
    """
    p = product
    width = p.columns if p.in_place else padded_columns(p.columns)
    if p.units * math.prod(p.inner) == 0:
        k.stage("map", k.output, [int(e) for e in k.output.shape], lambda index: terms.zero(p.dtype))
        return
    packed = _pack_right(k, p, width)
    full, rest = divmod(p.units, p.per_chunk)
    parts = []
    if full:
        parts.append(_emit_chunks(k, p, packed, width, full))
    if rest:
        parts.append(_emit_chunk(k, p, packed, [*p.batch, padded_rows(p.rows), width], rest, lambda s: i64(full * p.per_chunk)))

    def result(index: Index) -> Expr:
        source = place(index)
        values = [load(part, source) for part in parts]
        value = values[0] if len(values) == 1 else terms.add(values[0], values[1])
        return value if finish is None else finish(value, index)

    k.stage("map", k.output, [int(e) for e in k.output.shape], result)


def _pack_right(k: Kernel, p: Product, width: int) -> Callable[[Index, Expr, Index, Expr], Expr]:
    shape = [*p.batch, p.units, *p.inner, width]
    buffer = k.scratch(shape, p.dtype)
    rank = len(p.batch)

    def value(index: Index) -> Expr:
        column = index[-1]
        x = p.right(index[:rank], index[rank], index[rank + 1 : -1], column)
        return x if width == p.columns else guarded(tirx.LT(column, i64(p.columns)), x, terms.zero(p.dtype))

    k.stage("move" if p.in_place else "panel", buffer, shape, value)
    return lambda batch, unit, inner, column: load(buffer, [*batch, unit, *inner, column])


def _existing(p: Product, row: Expr) -> Expr:
    """A row of the operand for a computed row: the added ones repeat the last."""
    return row if padded_rows(p.rows) == p.rows else tirx.Min(row, i64(p.rows - 1))


def _emit_chunks(k: Kernel, p: Product, packed: Any, width: int, chunks: int) -> Buffer:
    """All full chunks and their ascending sum."""
    rows = padded_rows(p.rows)
    if chunks == 1:
        return _emit_chunk(k, p, packed, [*p.batch, rows, width], p.per_chunk, lambda s: i64(0))
    spatial = [*p.batch, chunks, rows, width]
    partial = _emit_chunk(k, p, packed, spatial, p.per_chunk, lambda s: s[-3] * i64(p.per_chunk))
    total = k.scratch([*p.batch, rows, width], p.dtype)
    k.stage(
        "total",
        total,
        [*p.batch, rows, width],
        lambda s, r, acc: terms.add(acc, load(partial, [*s[:-2], r[0], s[-2], s[-1]])),
        reduce=[chunks],
        init=terms.start(p.dtype),
    )
    return total


def _emit_chunk(
    k: Kernel, p: Product, packed: Any, spatial: Sequence[int], units: int, first: Callable[[Index], Expr]
) -> Buffer:
    """One fma chain for each spatial index (batch…, [chunk,] row, column) over ``units`` units from ``first(index)``."""
    buffer = k.scratch(spatial, p.dtype)
    rank = len(p.batch)

    def step(s: Index, r: Index, accumulator: Expr) -> Expr:
        batch, row, column = s[:rank], s[-2], s[-1]
        row = _existing(p, row)
        unit, inner = first(s) + r[0], r[1:]
        result = terms.multiply_add(p.left(batch, row, unit, inner), packed(batch, unit, inner, column), accumulator)
        return result if p.takes_part is None else exact.select(p.takes_part(row, inner), result, accumulator)

    k.stage("chunk", buffer, spatial, step, reduce=[units, *p.inner], init=terms.start(p.dtype))
    return buffer


def matmul(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """(…, M, K) x (…, K, N) -> (…, M, N); leading axes broadcast. A narrow result is computed transposed."""
    a, b = inputs
    batch, (m, n) = output.shape[:-2], output.shape[-2:]
    transposed = n < COLUMNS // 2 and m > n
    with kernel(name, inputs, output) as k:

        def read_a(index: Index, row: Expr, term: Expr) -> Expr:
            return load(k.inputs[0], [*broadcast_index(index, a.shape[:-2]), row, term])

        def read_b(index: Index, term: Expr, column: Expr) -> Expr:
            return load(k.inputs[1], [*broadcast_index(index, b.shape[:-2]), term, column])

        if transposed:
            product = Product(
                batch,
                n,
                m,
                a.shape[-1],
                (),
                MATMUL_CHUNK,
                output.dtype,
                lambda index, row, term, _: read_b(index, term, row),
                lambda index, term, _, column: read_a(index, column, term),
            )
        else:
            product = Product(
                batch,
                m,
                n,
                a.shape[-1],
                (),
                MATMUL_CHUNK,
                output.dtype,
                lambda index, row, term, _: read_a(index, row, term),
                lambda index, term, _, column: read_b(index, term, column),
                in_place=m <= _FEW_ROWS,
            )
        emit_product(k, product, lambda i: [*i[:-2], i[-1], i[-2]] if transposed else list(i))
    return k.result()


def _padded(k: Kernel, x: Buffer, shape: Sequence[int], padding: Sequence[tuple[int, int]], dtype: str) -> Buffer:
    """A copy of x (N, C, spatial…) with +0.0 around the spatial axes, cut where a padding is negative; x itself for none."""
    if not any(lo or hi for lo, hi in padding):
        return x
    padded_shape = [*shape[:2], *(lo + e + hi for e, (lo, hi) in zip(shape[2:], padding, strict=True))]
    buffer = k.scratch(padded_shape, dtype)

    def value(index: Index) -> Expr:
        position = [*index[:2], *(i - i64(lo) for i, (lo, _) in zip(index[2:], padding, strict=True))]
        inside = [
            tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(e)))
            for p, e, pads in zip(position[2:], shape[2:], padding, strict=True)
            if any(pads)
        ]
        return guarded(all_of(inside), load(x, position), terms.zero(dtype))

    k.stage("pack", buffer, padded_shape, value)
    return buffer


def conv(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), w (O, C / groups, kernel…) -> (N, O, spatial…): rows are positions, columns output channels."""
    x, w = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    channels, window, spatial, columns = w.shape[1], w.shape[2:], output.shape[2:], w.shape[0] // groups
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)

        def image(batch: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
            position = unravel(row, spatial)
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return load(source, [batch[0], batch[1] * i64(channels) + channel, *place])

        def weight(batch: Index, channel: Expr, offset: Index, column: Expr) -> Expr:
            return load(k.inputs[1], [batch[1] * i64(columns) + column, channel, *offset])

        product = Product(
            (x.shape[0], groups),
            math.prod(spatial),
            columns,
            channels,
            window,
            units_per_chunk(math.prod(window)),
            x.dtype,
            image,
            weight,
        )
        emit_product(k, product, lambda i: [i[0], i[1] // i64(columns), ravel(i[2:], spatial), i[1] % i64(columns)])
    return k.result()


def conv_backward_weight(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), dy (N, O, spatial…) -> dw (O, C / groups, kernel…).

    Rows are weight positions (channel, kernel…), columns output channels, units output rows, whose last axis is inner.
    """
    x, dy = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    spatial, window, channels, columns = dy.shape[2:], output.shape[2:], output.shape[1], dy.shape[1] // groups
    lines = (x.shape[0], *spatial[:-1])
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)

        def image(batch: Index, row: Expr, unit: Expr, inner: Index) -> Expr:
            channel, *offset = unravel(row, [channels, *window])
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return load(source, [number, batch[0] * i64(channels) + channel, *place])

        def gradient(batch: Index, unit: Expr, inner: Index, column: Expr) -> Expr:
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            return load(k.inputs[1], [number, batch[0] * i64(columns) + column, *position])

        product = Product(
            (groups,),
            channels * math.prod(window),
            columns,
            math.prod(lines),
            spatial[-1:],
            units_per_chunk(spatial[-1]),
            x.dtype,
            image,
            gradient,
        )
        emit_product(k, product, lambda i: [i[0] // i64(columns), ravel(i[1:], [channels, *window]), i[0] % i64(columns)])
    return k.result()


@dataclass(frozen=True)
class _Transposed:
    """Geometry of a convolution's input gradient: which dy meets input position i and kernel position j."""

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def borders(self, output: Sequence[int]) -> list[tuple[int, int]]:
        """Padding of dy such that every quotient (i + pad_low - j * dilation) // stride is inside."""
        result = []
        axes = zip(self.spatial, self.window, self.strides, self.dilations, self.padding, output, strict=True)
        for size, e, s, d, (lo, _), extent in axes:
            low, high = (lo - (e - 1) * d) // s, (size - 1 + lo) // s
            result.append((-low, high - extent + 1))
        return result

    def places(self, position: Index, offset: Index, borders: Sequence[tuple[int, int]]) -> list[Expr]:
        """Index into dy with its padding: (i + pad_low - j * dilation) // stride + border."""
        axes = zip(self._tops(position, offset), self.spatial, self.strides, borders, offset, strict=True)
        result = []
        for axis, (top, size, s, (low, _), j) in enumerate(axes):
            if size > 1:
                result.append(tirx.floordiv(top, i64(s)) + i64(low))
                continue
            # With j alone, and that subtracted, TVM does not see that dy is covered: (c - x) // s = c // s - (x + t) // s.
            c = self.padding[axis][0] + low * s
            x = j * i64(self.dilations[axis]) + i64(c // s * s - c + s - 1)
            result.append(i64(c // s) - tirx.floordiv(x, i64(s)))
        return result

    def divisible(self, row: Expr, offset: Index) -> Expr:
        """Whether kernel position ``offset`` takes part for the input position with flat index ``row``."""
        tops = zip(self._tops(unravel(row, self.spatial), offset), self.strides, strict=True)
        return all_of([tirx.EQ(tirx.floormod(top, i64(s)), i64(0)) for top, s in tops if s > 1])

    def has_gaps(self) -> bool:
        """Whether some input positions meet no kernel position at all (a stride larger than the kernel)."""
        axes = zip(self.window, self.dilations, self.strides, strict=True)
        return any(len({j * d % s for j in range(e)}) < s for e, d, s in axes)

    def covered(self, position: Index) -> Expr:
        """Whether any kernel position takes part for an input position."""
        axes = zip(position, self.padding, self.window, self.dilations, self.strides, strict=True)
        return all_of(
            [
                any_of([tirx.EQ(tirx.floormod(i + i64(lo - j * d), i64(s)), i64(0)) for j in range(e)])
                for i, (lo, _), e, d, s in axes
            ]
        )

    def _tops(self, position: Index, offset: Index) -> list[Expr]:
        axes = zip(position, self.padding, offset, self.dilations, strict=True)
        return [i + i64(lo) - j * i64(d) for i, (lo, _), j, d in axes]


def conv_backward_data(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """dy (N, O, spatial…), w (O, C / groups, kernel…) -> dx (N, C, spatial…).

    Rows are input positions, columns input channels, units output channels.
    """
    dy, w = inputs
    groups, spatial, window = attrs["groups"], output.shape[2:], w.shape[2:]
    columns, units = w.shape[1], w.shape[0] // groups
    geometry = _Transposed(spatial, window, attrs["strides"], attrs["dilations"], attrs["padding"])
    borders = geometry.borders(dy.shape[2:])
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], dy.shape, borders, dy.dtype)

        def gradient(batch: Index, row: Expr, unit: Expr, offset: Index) -> Expr:
            place = geometry.places(unravel(row, spatial), offset, borders)
            return load(source, [batch[0], batch[1] * i64(units) + unit, *place])

        def weight(batch: Index, unit: Expr, offset: Index, column: Expr) -> Expr:
            return load(k.inputs[1], [batch[1] * i64(units) + unit, column, *offset])

        product = Product(
            (dy.shape[0], groups),
            math.prod(spatial),
            columns,
            units,
            window,
            units_per_chunk(math.prod(window)),
            dy.dtype,
            gradient,
            weight,
            geometry.divisible if any(s > 1 for s in attrs["strides"]) else None,
        )
        # With a stride larger than the kernel some positions receive nothing at all, and the sum of nothing is +0.0.
        zero = exact.const(0.0, dy.dtype)
        emit_product(
            k,
            product,
            lambda i: [i[0], i[1] // i64(columns), ravel(i[2:], spatial), i[1] % i64(columns)],
            (lambda value, i: exact.select(geometry.covered(i[2:]), value, zero)) if geometry.has_gaps() else None,
        )
    return k.result()
