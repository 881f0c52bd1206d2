"""Matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.elementwise import broadcast_index
from gensyn_tvm.operators.nest import Buffer, i64, kernel, load
from gensyn_tvm.operators.products.chunked import COLUMNS, Product, emit_product

Expr = Any
Index = Sequence[Expr]
Attrs = Mapping[str, Any]
#: (batch index of the result, row, column) -> element of a matrix.
Reader = Callable[[Index, Expr, Expr], Expr]

#: Terms in a chunk.
CHUNK = 512
#: With this many rows or fewer a matrix product reads its right operand too seldom to pack it.
_FEW_ROWS = 4


def logical_shape(t: TensorType, axes: Sequence[int]) -> tuple[int, ...]:
    """Shape of an operand that is stored as ``t`` and read through a permutation of its axes; none: as it is."""
    return tuple(t.shape[a] for a in axes) if axes else t.shape


def rows_exchanged(axes: Sequence[Any], axis: int) -> list[Any]:
    """What belongs to the axes of a matrix product, with that of its rows and that of another axis in each other's place."""
    found = list(axes)
    found[-2], found[axis] = found[axis], found[-2]
    return found


def _reader(buffer: Buffer, t: TensorType, axes: Sequence[int]) -> Reader:
    order = list(axes) or list(range(t.rank))
    leading = [t.shape[a] for a in order[:-2]]

    def read(index: Index, row: Expr, column: Expr) -> Expr:
        place: list[Expr] = [None] * t.rank
        for axis, position in zip(order, [*broadcast_index(index, leading), row, column], strict=True):
            place[axis] = position
        return load(buffer, place)

    return read


def _exchanged(read: Reader) -> Reader:
    return lambda index, row, column: read(index, column, row)


def _panel_reader(buffer: Buffer, t: TensorType, width: int) -> Reader:
    """(batch index, term, column) of an operand in panels (batch…, panel, term, column in panel)."""

    def read(index: Index, term: Expr, column: Expr) -> Expr:
        batch = broadcast_index(index, t.shape[:-3])
        return load(buffer, [*batch, column // i64(width), term, column % i64(width)])

    return read


def _left_panel_reader(buffer: Buffer, t: TensorType) -> Reader:
    """(batch index, row, term) of an operand in panels (batch…, panel, term, row in panel).

    Rows beyond the last panel are rows of it.
    """
    *leading, count, _, width = t.shape

    def read(index: Index, row: Expr, term: Expr) -> Expr:
        panel = tirx.Min(row // i64(width), i64(count - 1))
        return load(buffer, [*broadcast_index(index, leading), panel, term, row % i64(width)])

    return read


def matmul(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """(…, M, K) x (…, K, N) -> (…, M, N); leading axes broadcast.

    Attributes of the layout pass: ``left_axes`` and ``right_axes``, permutations through which the operands are read;
    ``rows_axis``, a leading axis that changes places with the rows, as ``left_axes`` already has it, or -2: none;
    ``transposed``: rows and columns are exchanged inside of the kernel; ``panel``: width of the panels that the operand with
    the columns has been packed into, 0: it is read in place, ``inside``: so many terms at a time are packed by this kernel;
    ``left_panel``: width of those of the other operand; ``terms``; ``tile``, ``block``, ``around`` and ``streamed`` (all
    columns): see ``Product``.
    Without them a narrow result is computed transposed.
    """
    rows_axis = attrs.get("rows_axis", -2)
    *batch, m, n = rows_exchanged(output.shape, rows_axis)
    transposed = attrs.get("transposed", n < COLUMNS // 2 and m > n)
    panel = attrs.get("panel", 0)
    rows, columns = (n, m) if transposed else (m, n)
    by_row, by_column = (1, 0) if transposed else (0, 1)
    axes = (attrs.get("left_axes", ()), attrs.get("right_axes", ()))
    with kernel(name, inputs, output) as k:
        if attrs.get("left_panel", 0):
            left = _left_panel_reader(k.inputs[by_row], inputs[by_row])
        else:
            scalars = _reader(k.inputs[by_row], inputs[by_row], axes[by_row])
            left = _exchanged(scalars) if transposed else scalars
        if panel and not attrs.get("inside", 0):
            vectors = _panel_reader(k.inputs[by_column], inputs[by_column], panel)
        else:
            stored = _reader(k.inputs[by_column], inputs[by_column], axes[by_column])
            vectors = _exchanged(stored) if transposed else stored
        product = Product(
            batch,
            rows,
            columns,
            attrs["terms"] if "terms" in attrs else logical_shape(inputs[by_row], axes[by_row])[-2 if transposed else -1],
            (),
            CHUNK,
            output.dtype,
            lambda index, row, term, _: left(index, row, term),
            lambda index, term, _, column: vectors(index, term, column),
            in_place=not transposed and attrs.get("in_place", m <= _FEW_ROWS),
            panel=panel,
            inside=attrs.get("inside", 0),
            tile=attrs.get("tile", 0),
            block=attrs.get("block", 0),
            rows_exist=attrs.get("left_panel", 0) > 0,
            around=attrs.get("around"),
            streamed=(columns,) if attrs.get("streamed", False) else (),
        )
        emit_product(k, product, lambda i: rows_exchanged(rows_exchanged(i, rows_axis), -1 if transposed else -2))
    return k.result()
