"""Matrix products and convolutions: chunks of the reduction index, one fma chain in each, chunk results added in order.

All four are one shape of computation, a *chunked product*: for each batch index, row and column

    chunk[q] = fma chain over the terms of chunk q, from -0.0        total = chunk[0] + chunk[1] + …

Rows are read as scalars and columns as vectors, so the right operand is packed with its columns innermost and their number
rounded up; the extra columns are computed and never read. ``pack`` stages move bits and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.nest import (
    AROUND,
    BLOCK,
    INSIDE,
    LINES,
    PANEL,
    STREAMED,
    TILE,
    Buffer,
    Kernel,
    guarded,
    i64,
    load,
    unravel,
)

Expr = Any
Index = Sequence[Expr]

#: Upper bound of the terms in a convolution's chunk, which is a whole number of channels (or rows).
CONV_CHUNK = 768
#: Columns are padded to a multiple of this, the widest vector of float32.
COLUMNS = 16
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
        left_by_column: value of (batch index, row, unit, inner index, column), in place of ``left``.
        right: value of (batch index, unit, inner index, column); column < ``columns``.
        takes_part: whether a term exists for (row, inner index); every one does by default.
        in_place: whether packing is not worth it; ``right`` is then read where it is, without added columns.
        panel: width of the panels that ``right`` has been packed into by a kernel of its own; 0: it has not.
        inside: so many terms of ``right`` at a time are packed into such panels inside of this kernel, right before they are
            used: squares of vectors, or whole chunks; 0: none are.
        tile: rows of the register tile, of which a multiple is computed; 0: up to the schedule.
        rows_exist: whether ``left`` has a value for the rows that are computed beyond the last.
        block: so many register tiles of rows stay in a cache while all columns pass by; 0: all do.
        around: so many batch axes enclose the loop over panels; the others run inside of it, because they share the panels.
        streamed: if there are any, a thread takes a tile's rows through all columns and stores the result when the rows are
            complete; columns are then flat indices of a grid with these extents, by which the result is indexed.
        lines: with panels as the first of the leading axes and lines as the last: so many lines stay in a cache while all
            panels pass by; 0: all do.
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
    left_by_column: Callable[[Index, Expr, Expr, Index, Expr], Expr] | None = None
    takes_part: Callable[[Expr, Index], Expr] | None = None
    in_place: bool = False
    panel: int = 0
    inside: int = 0
    tile: int = 0
    rows_exist: bool = False
    block: int = 0
    around: int | None = None
    streamed: Sequence[int] = ()
    lines: int = 0


def emit_product(
    k: Kernel, product: Product, place: Callable[[Index], Index], finish: Callable[[Expr, Index], Expr] | None = None
) -> None:
    """Store the product to the kernel's output; ``place(output index)`` is (batch…, row, column).

    ``finish(value, output index)`` replaces values; it may not compute with them.
    """
    p = product
    width = _width(p)
    if p.units * math.prod(p.inner) == 0:
        k.stage("map", k.output, [int(e) for e in k.output.shape], lambda index: terms.zero(p.dtype))
        return
    full, rest = divmod(p.units, p.per_chunk)
    many = full * p.per_chunk
    packed = p.right if p.panel and not p.inside else _pack_right(k, p, width, many if p.inside and full else p.units)
    parts = []
    if full:
        parts.append(_emit_chunks(k, p, packed, width, full))
    if rest:
        if p.inside and full:  # a stage of its own, so that each runs beside its reader
            packed = _pack_right(k, p, width, rest, many)
        parts.append(_emit_chunk(k, p, packed, [*p.batch, _height(p), width], rest, lambda s: i64(many)))

    product_of = _join(k, p, parts)

    def result(index: Index) -> Expr:
        value = load(product_of, place(index))
        return value if finish is None else finish(value, index)

    k.stage("map", k.output, [int(e) for e in k.output.shape], result)


def _join(k: Kernel, p: Product, parts: Sequence[Buffer]) -> Buffer:
    """The full chunks and the last one added; with panels a single chunk is copied, out of the registers of its chain."""
    if len(parts) == 1 and not p.streamed and (not p.panel or p.units > p.per_chunk):
        return parts[0]
    shape = [int(e) for e in parts[0].shape]
    grid = [math.ceil(shape[-1] / math.prod(p.streamed[1:])), *p.streamed[1:]] if p.streamed else [shape[-1]]
    joined = k.scratch([*shape[:-1], *grid], p.dtype)

    def value(index: Index) -> Expr:
        first, *rest = (load(part, index) for part in parts)
        return terms.add(first, rest[0]) if rest else first

    k.stage("join", joined, shape, value, at=lambda *index: [*index[:-1], *unravel(index[-1], grid)])
    return joined


def _width(p: Product) -> int:
    """Columns that are computed."""
    if p.panel:
        return math.ceil(p.columns / p.panel) * p.panel
    return p.columns if p.in_place else padded_columns(p.columns)


def _height(p: Product) -> int:
    """Rows that are computed."""
    if not p.tile:
        return padded_rows(p.rows)
    unit = p.tile * max(1, p.block)
    return math.ceil(p.rows / unit) * unit


def _pack_right(k: Kernel, p: Product, width: int, units: int, first: int = 0) -> Callable[[Index, Expr, Index, Expr], Expr]:
    """``units`` units from ``first`` on."""
    shape = [*p.batch, units, *p.inner, width]
    buffer = k.scratch(shape, p.dtype)
    rank = len(p.batch)

    def value(index: Index) -> Expr:
        column = index[-1]
        if p.inside and width > p.columns:  # a condition would be in the way of vectors
            column = tirx.Min(column, i64(p.columns - 1))
        x = p.right(index[:rank], index[rank] + i64(first) if first else index[rank], index[rank + 1 : -1], column)
        return x if p.inside or width == p.columns else guarded(tirx.LT(column, i64(p.columns)), x, terms.zero(p.dtype))

    k.stage("move" if p.in_place else "panel", buffer, shape, value, annotations={INSIDE: p.inside} if p.inside else {})
    return lambda batch, unit, inner, column: load(buffer, [*batch, unit - i64(first) if first else unit, *inner, column])


def _existing(p: Product, row: Expr) -> Expr:
    """A row of the operand for a computed row: the added ones repeat the last."""
    return row if p.rows_exist or _height(p) == p.rows else tirx.Min(row, i64(p.rows - 1))


def _emit_chunks(k: Kernel, p: Product, packed: Any, width: int, chunks: int) -> Buffer:
    """All full chunks and their ascending sum."""
    rows = _height(p)
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
        if p.left_by_column is None:
            left = p.left(batch, row, unit, inner)
        else:
            left = p.left_by_column(batch, row, unit, inner, column)
        result = terms.multiply_add(left, packed(batch, unit, inner, column), accumulator)
        return result if p.takes_part is None else exact.select(p.takes_part(row, inner), result, accumulator)

    around = rank if p.around is None else p.around
    annotations: dict[str, int] = {}
    if p.panel:
        annotations = {PANEL: p.panel, TILE: p.tile, BLOCK: p.block, AROUND: around, STREAMED: int(bool(p.streamed))}
    if p.lines:
        annotations[LINES] = p.lines
    if p.inside:
        annotations[INSIDE] = p.inside
    k.stage("chunk", buffer, spatial, step, reduce=[units, *p.inner], init=terms.start(p.dtype), annotations=annotations)
    return buffer
