"""The layout of matrix products: orientation, register tile, and which operands are packed into panels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.matmul import CHUNK, logical_shape, rows_exchanged
from gensyn_tvm.passes.layout_costs import COPY, FMA, PACKED_INSIDE, SCATTER, TRANSPOSE, TURN
from gensyn_tvm.schedules.cpu.tiles import Tile, best_tile, given_tile, row_block
from gensyn_tvm.schedules.parameters import HINTED, LEFT_PANELS, MatmulParameters

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts

#: A vectorised operand of at most so many bytes is read where it is, and one that few rows read, or some in few terms whose
#: rows do not share lines of the cache: panels cost as much as so many rows gain from them (8 to 64 rows of 300 to 4096 terms
#: were measured).
_IN_PLACE_BYTES, _FEW_ROWS, _SOME_ROWS, _FEW_TERMS = 32 * 1024, 16, 64, 1024
#: Rows up to which a product packs panels itself.
_ROWS_BY_PANEL = 192
#: Terms up to which the memory of the result decides, so that its rows are stored from end to end and no panel pays.
_LEAST_TERMS = 16
#: Full chunks from which it is read chunk by chunk if its rows lie in pages of their own: their addresses stay known. A single
#: row, which waits for nothing but the operand, gains from that as soon as there are two chunks.
_FAR_CHUNKS = 4
#: With fewer bytes of the other operand in each matrix, panels are used by several matrices in turn.
_FEW_BYTES = 64 * 1024
#: Rows that are a multiple of so many bytes apart share the same few lines of a first-level cache, which is no matter if it
#: has so many ways.
_CACHE_PERIOD, _MANY_WAYS = 4096, 12
#: Bytes that surely fit no second-level cache.
_SECOND_LEVEL = 1024 * 1024
#: How much slower a tile is whose rows share lines of the cache, or whose next term lies in another page.
_CROWDED, _FAR = 1.08, 1.7
#: How much slower it is to read parameters from memory as scalars, once, than as vectors, which costs as little to prepare.
_SCALARS_FROM_MEMORY = 2.0
#: Rows of the panels of the operand that is read as scalars, and the fewest rows for which it is worth considering.
_LEFT_PANEL, _MANY_ROWS = 8, 24


#: How much slower a tile is that does not divide the rows: the rows of a matrix are as far apart as any others.
_RAGGED = 1.05
#: Bytes of panels that stay in the second-level cache beside other things.
_NEAR = 128 * 1024
#: Rows of the only tile of a product that packs inside, and lanes with which it does.
_MOST_INSIDE, _FEWEST_LANES = 8, 4
#: Its time for each fma compared with the best tile: they run beside the exchanges, which are counted for themselves.
_BESIDE_EXCHANGES = 0.5


@dataclass(frozen=True)
class Plan:
    """How a matrix product is computed.

    Attributes:
        cost: nanoseconds, roughly.
        transposed: whether the columns of the register tile are rows of the result.
        tile: the register tile.
        left_panel: whether the operand in scalars is packed too.
        inside: terms of the operand in vectors that the product's kernel packs at a time; 0: another kernel packs all.
    """

    cost: float
    transposed: bool
    tile: Tile
    left_panel: bool
    inside: int = 0


def _plans(
    scalar: Operand, vector: Operand, transposed: bool, output: TensorType, layouts: Layouts, given: MatmulParameters
) -> list[Plan]:
    """Both ways to read the operand in scalars, for one orientation; operands are (rows, terms) and (terms, columns)."""
    if given.transposed not in (None, transposed):
        return []
    lanes = layouts.target.lanes(8 * output.itemsize)
    (rows, row_stride), (terms, term_stride) = scalar.matrix(transposed)
    _, (columns, column_stride) = vector.matrix(transposed)
    repeats = math.prod(output.shape[:-2])
    fixed = 0.0 if vector.value in layouts.fixed else vector.type.size * (COPY if column_stride == 1 else TRANSPOSE)
    fixed += repeats * rows * columns * SCATTER if transposed else 0.0

    def time(tile: Tile) -> float:
        once = large and columns <= tile.columns and scalar.value in layouts.fixed
        slower = tile.slowness * (_SCALARS_FROM_MEMORY if once else 1.0)
        return repeats * terms * tile.padded(rows, columns) * FMA * slower

    crowded = row_stride * output.itemsize % _CACHE_PERIOD == 0
    far = term_stride * output.itemsize >= _CACHE_PERIOD // 2
    large = rows * terms * output.itemsize > _SECOND_LEVEL

    def tile_of(**limits: int) -> Tile:
        if given.rows is None or given.vectors is None:
            return best_tile(rows, columns, lanes, layouts.target, streamed=large, ragged=_RAGGED, **limits)
        return given_tile(given.rows, given.vectors, columns, lanes)

    ways = layouts.target.ways
    tile = tile_of(most_rows=min(ways, 14) if crowded else 14)
    ragged = bool(rows % tile.rows or row_block(rows, tile.rows, terms, CHUNK, output.itemsize))
    slower = (_CROWDED if crowded and ways < _MANY_WAYS else 1.0) * (_FAR if far else 1.0)
    readers = rows * repeats // math.prod(vector.shape[:-2])
    whole = columns % tile.columns == tile.columns % lanes == 0
    inside = 0
    if whole and column_stride == 1 and vector.value not in layouts.fixed and _pays_by_panel(given, readers):
        inside = CHUNK
        fixed += vector.type.size * (PACKED_INSIDE - COPY)
    plans = [] if given.left_panel else [Plan(time(tile) * slower + fixed, transposed, tile, False, inside)]
    worthwhile = rows >= _MANY_ROWS and lanes >= _LEFT_PANEL and (crowded or far or ragged)
    if given.left_panel or (given.left_panel is None and worthwhile and given.rows in (None, *LEFT_PANELS)):
        tile = tile_of(exactly=_LEFT_PANEL)
        packing = 0.0 if scalar.value in layouts.fixed else scalar.type.size * (COPY if row_stride == 1 else TRANSPOSE)
        plans.append(Plan(time(tile) + packing + fixed, transposed, tile, True, inside if columns % tile.columns == 0 else 0))
    turned = rows <= _MOST_INSIDE and column_stride > 1 == vector.matrix(transposed)[0][1] and _is_whole(terms, lanes)
    if turned and vector.value not in layouts.fixed and not set(given.given()) - {"threads_from"}:
        if column_stride * output.itemsize % _CACHE_PERIOD == 0:  # the lines of a square share a set of the cache
            lanes = min(lanes, 1 << (ways.bit_length() - 1))
        tile = given_tile(rows, 1, columns, lanes)  # with two vectors LLVM interleaves squares, and spills
        turning = repeats * terms * math.ceil(columns / lanes) * lanes * TURN + fixed - vector.type.size * TRANSPOSE
        plans.append(Plan(time(replace(tile, slowness=_BESIDE_EXCHANGES)) + turning, transposed, tile, False, lanes))
    return plans


def _pays_by_panel(given: MatmulParameters, rows: int) -> bool:
    """Whether the product's kernel packs panels itself: if few rows read them, or a record says so."""
    if given.by_panel is not None:
        return given.by_panel
    return not set(given.given()) - {"threads_from"} and rows <= _ROWS_BY_PANEL


def _stores_lines(plan: Plan, columns: int, line: int) -> bool:
    """Whether tiles that do not divide the columns take their rows through all of them, so that whole rows are stored at once.

    All panels have to stay in the second-level cache meanwhile; ``line``: bytes of a column.
    """
    return not plan.transposed and columns % plan.tile.columns > 0 and plan.tile.columns < columns and columns * line <= _NEAR


def _is_whole(terms: int, lanes: int) -> bool:
    """Whether the terms of each chunk are whole vectors, and all chunks full or there is one only."""
    return lanes >= _FEWEST_LANES and terms % lanes == 0 and (terms < CHUNK or terms % CHUNK == 0)


@dataclass(frozen=True)
class Operand:
    """A matrix operand: the value that is stored, its type, and the permutation through which it is read (none: ())."""

    value: int
    type: TensorType
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents as the product sees them."""
        return logical_shape(self.type, self.axes)

    def views(self) -> list[tuple[int, int]]:
        """(extent, stride in elements) of each axis as the product sees them."""
        strides = [math.prod(self.type.shape[k + 1 :]) for k in range(self.type.rank)]
        order = self.axes or range(self.type.rank)
        return [(self.type.shape[a], strides[a]) for a in order]

    def matrix(self, exchanged: bool) -> tuple[tuple[int, int], tuple[int, int]]:
        """The last two axes, or those exchanged."""
        first, second = self.views()[-2:]
        return (second, first) if exchanged else (first, second)


def _axis_for_rows(a: Operand, b: Operand) -> int:
    """The axis that becomes the rows of a left operand with single ones: the longest along which the right one is repeated.

    A register tile then reads the right operand once for several of them. -2: the rows are as they are.
    """
    if a.shape[-2] > 1:
        return -2
    repeated = [k for k in range(-a.type.rank, -2) if a.shape[k] > 1 and (b.type.rank < -k or b.shape[k] == 1)]
    return max(repeated, key=lambda k: a.shape[k], default=-2)


def _in_place(layouts: Layouts, given: MatmulParameters, b: Operand, output: TensorType) -> bool:
    """Whether the product reads its right operand in vectors where it is.

    Raises:
        InputError: a record asks for it, and the operand's columns do not lie side by side.
    """
    (terms, row_stride), (columns, stride) = b.views()[-2:]
    possible = stride == 1 and columns % layouts.target.lanes(8 * b.type.itemsize) == 0
    if given.in_place and not possible:
        raise layouts.refused("in_place", "columns of the right operand side by side, whole vectors of them")
    if given.in_place is not None:
        return given.in_place
    if not possible or set(given.given()) - set(HINTED) or b.value in layouts.fixed:
        return False
    rows = math.prod(output.shape[:-1]) // math.prod(b.shape[:-2])  # those of all products that read a matrix
    spread = bool(row_stride * b.type.itemsize % _CACHE_PERIOD)
    few = rows <= (_SOME_ROWS if terms <= _FEW_TERMS and spread else _FEW_ROWS)
    return few or terms <= _LEAST_TERMS or b.type.size * b.type.itemsize <= _IN_PLACE_BYTES


def _read_in_place(given: MatmulParameters, b: Operand, rows: int) -> MatmulParameters:
    """Parameters of a product whose right operand is not packed."""
    (terms, stride), _ = b.views()[-2:]
    far = terms >= _FAR_CHUNKS * CHUNK and stride * b.type.itemsize >= _CACHE_PERIOD
    if (far or (rows == 1 and terms > CHUNK)) and given.by_chunks is None:
        given = replace(given, by_chunks=True)
    return replace(given, rows_outside=True) if terms <= _LEAST_TERMS and given.rows_outside is None else given


def matmul(layouts: Layouts, node: Node) -> int:
    """(…, M, K) x (…, K, N) in the cheapest way, its operands read through their transpositions."""
    a, b = (layouts.operand(v) for v in node.inputs)
    rows_axis = _axis_for_rows(a, b)
    (result,) = node.types
    output = TensorType(tuple(rows_exchanged(result.shape, rows_axis)), result.dtype)
    if rows_axis != -2:
        a = replace(a, axes=tuple(rows_exchanged(a.axes or range(a.type.rank), rows_axis)))
    given = layouts.parameters(node, (a, b), MatmulParameters)
    attrs = {**node.attrs, "left_axes": a.axes, "right_axes": b.axes}
    attrs |= {"rows_axis": rows_axis} if rows_axis != -2 else {}
    if _in_place(layouts, given, b, output):
        attrs |= {"transposed": False, "in_place": True, **layouts.hints(_read_in_place(given, b, output.shape[-2]))}
        return layouts.emit(Node("matmul", (a.value, b.value), attrs, node.types, node.source))
    plans = [*_plans(a, b, False, output, layouts, given), *_plans(b, a, True, output, layouts, given)]
    plans = [p for p in plans if not given.by_panel or p.inside == CHUNK]
    if not plans:
        raise layouts.refused("by_panel", "columns side by side, whole panels of them, of an operand that is no parameter")
    plan = min(plans, key=lambda p: p.cost)
    scalar, vector = (b, a) if plan.transposed else (a, b)
    (rows, _), terms = scalar.matrix(plan.transposed)
    columns = vector.matrix(plan.transposed)[1]
    attrs |= {"transposed": plan.transposed, "in_place": False, **layouts.hints(given)}
    inputs, batch = [a.value, b.value], vector.views()[:-2]
    if plan.left_panel:
        left = layouts.pack(
            scalar.value, scalar.views()[:-2], (terms,), scalar.matrix(plan.transposed)[0], plan.tile.rows, node.source
        )
        inputs[1 if plan.transposed else 0] = left
        attrs |= {"left_panel": plan.tile.rows, "terms": terms[0]}
    attrs |= {"panel": plan.tile.columns, "tile": plan.tile.rows}
    if plan.inside:
        attrs |= {"inside": plan.inside}
        return layouts.emit(Node("matmul", tuple(inputs), attrs, node.types, node.source))
    inputs[0 if plan.transposed else 1] = layouts.pack(
        vector.value, batch, (vector.matrix(plan.transposed)[0],), columns, plan.tile.columns, node.source
    )
    # Panels without leading axes serve them all, and stay near while the loops over those run if there are few rows.
    serves_all = all(e == 1 for e, _ in batch)
    few_bytes = plan.tile.padded(rows, 1) * terms[0] * output.itemsize < _FEW_BYTES and not given.block
    shared = serves_all and (few_bytes if given.batch_inside is None else given.batch_inside)
    block = 0 if shared else row_block(rows, plan.tile.rows, terms[0], CHUNK, output.itemsize)
    block = block if given.block is None or shared else given.block
    around = 0 if shared else output.rank - 2
    attrs |= {"block": block, "around": around}
    if not given.given() and _stores_lines(plan, columns[0], terms[0] * output.itemsize):
        attrs["streamed"] = True
    return layouts.emit(Node("matmul", tuple(inputs), attrs, node.types, node.source))
