"""Products in tiles: threads share operands in shared memory and keep results in registers.

The stages of a product (``chunk``, ``total``, ``join``) run in the same threads. For each chunk, in order, a thread goes
through the terms with a rectangle of fma chains; the chunk's sums are added to the totals in registers. Operands are brought
into shared memory for a few terms at a time, by all threads together; rows, columns and terms beyond the last are zeros there,
which belong to results that are computed and never stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.nest import guarded, i64, ravel, unravel
from gensyn_tvm.schedules.cpu.stages import Stage, element_bits
from gensyn_tvm.schedules.gpu.loops import Loop, bound, inside, sequence, serial, unrolled, vector, whole
from gensyn_tvm.schedules.gpu.products import Finish, Operand, Product, substituted

Expr = Any
Statement = Any

_FMA = exact.PREFIX + "fma"
_THREADS = 16  # along the rows and along the columns of a tile
_VECTOR = 4
#: Banks of shared memory. Terms that neighbouring threads bring are so far apart that none of them meet in one.
_BANKS = 32
#: Sides of tiles, and the terms for which operands are in shared memory at a time.
_TILES = ((128, 8), (64, 16), (32, 16))
#: Blocks that keep every processor of a large GPU busy, and how much of the work may be for results that nobody stores.
_BLOCKS, _WASTE = 128, 1.3


@dataclass(frozen=True)
class Tile:
    """A tile of the results: ``side`` rows and columns, ``depth`` terms at a time."""

    side: int
    depth: int


def _tile(rows: int, columns: int, batch: int, tiles: Sequence[tuple[int, int]]) -> Tile:
    """The largest tile that leaves no processor idle; small ones waste less at the borders."""
    for side, depth in tiles:
        blocks = batch * math.ceil(rows / side) * math.ceil(columns / side)
        waste = math.ceil(rows / side) * math.ceil(columns / side) * side * side / (rows * columns)
        if blocks >= _BLOCKS and waste < _WASTE:
            return Tile(side, depth)
    return Tile(*tiles[-1])


class _Emitter:
    """Writes the loops of one product."""

    def __init__(self, product: Product) -> None:
        self.p = product
        first = product.stages[0]
        self.batch = [first.extents[k] for k in product.shared_axes]
        wide = element_bits(first.write) > 32
        self.tile = _tile(product.rows, product.columns, math.prod(self.batch), _TILES[wide:] or _TILES)
        side = self.tile.side
        self.tiles = (math.ceil(product.rows / side), math.ceil(product.columns / side))
        self.grid = [
            bound("blockIdx.z", math.prod(self.batch)),
            bound("blockIdx.y", self.tiles[0]),
            bound("blockIdx.x", self.tiles[1]),
        ]
        self.threads = [bound("threadIdx.y", _THREADS), bound("threadIdx.x", _THREADS)]
        self.buffers: list[Any] = []
        self.registers: dict[Any, Any] = {}

    def emit(self) -> Statement:
        """The product's statement."""
        statements: list[Statement] = []
        chunk = 0
        for n, stage in enumerate(self.p.stages):
            if stage.role == "chunk":
                loop = serial("chunk", self._count(stage))
                total = self.p.stages[n + 1] if self.p.chunk_axis[chunk] is not None else None
                if total is not None:
                    statements.append(self._each(total, self._started(total)))
                body = [*self._chunk(chunk, stage, loop.value)]
                if total is not None:
                    body.append(self._each(total, self._moved(total, total.block.body), number=loop.value))
                statements.append(loop.around(sequence(body)))
                chunk += 1
            elif stage.role == "join":
                statements.append(self._each(stage, self._moved(stage, stage.block.body)))
        last = self.p.stages[-1]
        statements.append(self._store(last) if self.p.finish is None else self._finished(last, self.p.finish))
        return inside([*self.grid, *self.threads], sequence(statements))

    # ---- results in registers ----------------------------------------------------------------------------------------

    def _register(self, stage: Stage) -> Any:
        """The results of a stage: (shared axes, [chunk,] padded rows, padded columns), each thread's own in its registers."""
        buffer = stage.write.buffer
        if buffer not in self.registers:
            side = self.tile.side
            shape = [math.prod(self.batch), self._count(stage), self.tiles[0] * side, self.tiles[1] * side]
            self.registers[buffer] = tirx.decl_buffer([i64(e) for e in shape], str(buffer.dtype), "sums", scope="local")
            self.buffers.append(self.registers[buffer])
        return self.registers[buffer]

    def _count(self, stage: Stage) -> int:
        axis = self._axis(stage)
        return 1 if axis is None else stage.extents[axis]

    def _axis(self, stage: Stage) -> int | None:
        chunks = [s for s in self.p.stages if s.role == "chunk"]
        return next((a for s, a in zip(chunks, self.p.chunk_axis, strict=True) if s is stage), None)

    def _axes(self, stage: Stage) -> tuple[list[int], list[int], list[int]]:
        """Numbers of a stage's spatial variables: shared, of rows, of columns."""
        chunk = self.p.stages[0]
        axis = self._axis(chunk)
        skipped = [k for k in range(chunk.spatial) if k != axis]
        number = {k: n for n, k in enumerate(skipped)}
        own = [k for k in range(stage.spatial) if k != self._axis(stage)]
        parts = (self.p.shared_axes, self.p.left[0].own, self.p.right[0].own)
        shared, rows, columns = ([own[number[k]] for k in part] for part in parts)
        return shared, rows, columns

    def _place(self, stage: Stage, variables: Sequence[Expr], number: Expr | None) -> list[Expr]:
        """Where a stage's result for its variables is in its register buffer."""
        shared, rows, columns = self._axes(stage)
        flat = [ravel([variables[k] for k in part], [stage.extents[k] for k in part]) for part in (shared, rows, columns)]
        axis = self._axis(stage)
        own = variables[axis] if axis is not None else i64(0)
        return [flat[0], own if number is None else number, *flat[1:]]

    def _moved(self, stage: Stage, statement: Statement) -> Statement:
        """A stage's statement on registers."""
        by_buffer = {s.write.buffer: s for s in self.p.stages}

        def load(expr: Any, mutator: Any) -> Any:
            producer = by_buffer.get(expr.source)
            if producer is None:
                return mutator.default_mutate(expr)
            return tirx.BufferLoad(self._register(producer), self._position(producer, list(expr.indices)))

        def store(stmt: Any, mutator: Any) -> Any:
            place = self._position(stage, list(stmt.indices))
            return tirx.BufferStore(self._register(stage), mutator.default_mutate(stmt).value, place)

        return tvm_ffi.structural_mutate(statement, [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)])

    def _position(self, stage: Stage, indices: Sequence[Expr]) -> list[Expr]:
        """The place in a stage's register buffer of the element that has these indices in its own buffer."""
        variables: list[Expr] = [i64(0)] * stage.spatial
        for index, stored in zip(indices, stage.write.indices, strict=True):
            k = stage.position(stored)
            if k is None:
                raise AssertionError(f"stage {stage.block.name_hint} stores at {stored}")
            variables[k] = index
        return self._place(stage, variables, None)

    def _started(self, stage: Stage) -> Statement:
        return self._moved(stage, stage.block.init)

    def _each(self, stage: Stage, body: Statement, number: Expr | None = None) -> Statement:
        """A stage's statement for each result of a thread; ``number`` is the value of its reduction axis, if it has one."""
        has_terms = number is not None
        block = _block(stage, body, terms=has_terms)
        loops, rows, columns = self._rectangle()
        values = self._values(stage, rows, columns, None)
        terms_ = [number] if has_terms else []
        realize = s_tir.SBlockRealize([*values, *terms_], self._limits(rows, columns), block)
        return inside(loops, realize)

    def _values(self, stage: Stage, row: Expr, column: Expr, number: Expr | None) -> list[Expr]:
        values: list[Expr] = [i64(0)] * stage.spatial
        flats = (self.grid[0].value, row, column)
        for part, flat in zip(self._axes(stage), flats, strict=True):
            for k, value in zip(part, unravel(flat, [stage.extents[k] for k in part]), strict=True):
                values[k] = value
        axis = self._axis(stage)
        if axis is not None and number is not None:
            values[axis] = number
        return values

    def _rectangle(self) -> tuple[list[Loop], Expr, Expr]:
        """Loops over the results of a thread, and their row and column: vectors of 4, one in each part of the tile."""
        loops, flats = [], []
        for axis, (tile, thread) in enumerate(zip(self.grid[1:], self.threads, strict=True)):
            outer, inner, flat = self._along("rc"[axis], tile, thread)
            loops.append((outer, inner))
            flats.append(flat)
        (r0, r1), (c0, c1) = loops
        return [r0, r1, c0, c1], flats[0], flats[1]

    def _along(self, name: str, tile: Loop, thread: Loop) -> tuple[Loop, Loop, Expr]:
        side = self.tile.side
        width = min(_VECTOR, side // _THREADS)
        parts = side // _THREADS // width
        outer, inner = unrolled(f"{name}0", parts), unrolled(f"{name}1", width)
        place = tile.value * i64(side) + outer.value * i64(_THREADS * width) + thread.value * i64(width) + inner.value
        return outer, inner, place

    def _limits(self, row: Expr, column: Expr) -> Expr:
        """The condition that a row and a column exist."""
        side = self.tile.side
        found = [
            tirx.LT(flat, i64(size))
            for flat, size, count in zip((row, column), (self.p.rows, self.p.columns), self.tiles, strict=True)
            if size != count * side
        ]
        return _all(found)

    def _store(self, stage: Stage) -> Statement:
        """The last stage's results to memory."""
        register, stored = self._register(stage), stage.write.buffer
        variables = list(stage.variables[: stage.spatial])
        value = tirx.BufferLoad(register, self._place(stage, variables, None))
        block = stage.block
        spatial = [v for v in block.iter_vars[: stage.spatial]]
        reads = [whole(register)]
        body = tirx.BufferStore(stored, value, list(stage.write.indices))
        new = s_tir.SBlock(spatial, reads, list(block.writes), f"{block.name_hint}_store", body)
        loops, row, column = self._rectangle()
        return inside(loops, s_tir.SBlockRealize(self._values(stage, row, column, None), self._limits(row, column), new))

    def _finished(self, last: Stage, finish: Finish) -> Statement:
        """What the next stage makes of the results, from registers to memory; its axes are those of the results."""
        stage, buffer = finish.stage, last.write.buffer

        def load(expr: Any, mutator: Any) -> Any:
            if not expr.source.same_as(buffer):
                return mutator.default_mutate(expr)
            return tirx.BufferLoad(self._register(last), self._position(last, finish.indices))

        body = tvm_ffi.structural_mutate(stage.block.body, (tvm.ir.TensorLoad, load))
        body = substituted(body, dict(zip(stage.variables, finish.values, strict=True)))
        sizes = [math.prod(stage.extents[k] for k in part) for part in finish.parts]
        new = _copy_block(stage.block.name_hint, body.buffer, finish.indices, sizes, body.value, body.indices)
        loops, row, column = self._rectangle()
        places = self._values(last, row, column, None)
        numbers = [last.position(i) for i in last.write.indices]
        where = [i64(0) if k is None else places[k] for k in numbers]
        conditions = [self._limits(row, column)]
        for index, size, extent in zip(where, sizes, buffer.shape, strict=True):
            if size < int(extent):
                conditions.append(tirx.LT(index, i64(size)))
        return inside(loops, s_tir.SBlockRealize(where, _all(conditions), new))

    # ---- one chunk ----------------------------------------------------------------------------------------------------

    def _chunk(self, n: int, stage: Stage, number: Expr) -> list[Statement]:
        """The fma chains of one chunk."""
        loops, row, column = self._rectangle()
        values = self._values(stage, row, column, number)
        start = _block(stage, self._moved(stage, stage.block.init), terms=False, name="init")
        first = inside(loops, s_tir.SBlockRealize(values, self._limits(row, column), start))
        count = math.prod(stage.extents[stage.spatial :])
        depth = self.tile.depth
        steps = math.ceil(count / depth)
        step = serial("step", steps)
        left = self._shared(n, stage, self.p.left[n], 0, step.value, number, steps)
        right = self._shared(n, stage, self.p.right[n], 1, step.value, number, steps)
        term = serial("term", depth)
        k = step.value * i64(depth) + term.value
        fragments = [self._fragment(buffer, axis, number, k) for axis, buffer in ((0, left[0]), (1, right[0]))]
        body = [f[1] for f in fragments]
        body.append(self._fma(stage, fragments[0][0], fragments[1][0], number, k, count, steps * depth))
        return [first, step.around(sequence([left[1], right[1], term.around(sequence(body))]))]

    def _shared(
        self, n: int, stage: Stage, operand: Operand, axis: int, step: Expr, number: Expr, steps: int
    ) -> tuple[Any, Statement]:
        """A factor's part of a tile in shared memory, and the statement that brings it there."""
        side, depth = self.tile.side, self.tile.depth
        size = (self.p.rows, self.p.columns)[axis]
        count = math.prod(stage.extents[stage.spatial :])
        shape = [math.prod(self.batch), self._count(stage), steps * depth, self.tiles[axis] * side]
        dtype = str(stage.write.buffer.dtype)
        buffer = tirx.decl_buffer([i64(e) for e in shape], dtype, f"{'left' if axis == 0 else 'right'}", scope="shared")
        self.buffers.append(buffer)
        variables = [tirx.Var(x, "int64") for x in ("b", "q", "k", "m")]
        _, _, k, m = variables
        value = self._factor(stage, operand, variables)
        conditions = []
        if size != shape[3]:
            conditions.append(tirx.LT(m, i64(size)))
        if count != shape[2]:
            conditions.append(tirx.LT(k, i64(count)))
        if conditions:
            value = guarded(_all(conditions), value, terms.zero(dtype))
        aligned = {"buffer_dim_align": [[0, 2, _BANKS, _VECTOR]]} if operand.terms_first else {}
        block = _copy_block(f"bring_{axis}", buffer, variables, shape, value, annotations=aligned)
        each = unrolled("part", side * depth // (_THREADS * _THREADS))
        position = each.value * i64(_THREADS * _THREADS) + self.threads[0].value * i64(_THREADS) + self.threads[1].value
        inner = depth if operand.terms_first else side
        near, far = position % i64(inner), position // i64(inner)
        term, line = (near, far) if operand.terms_first else (far, near)
        place = [self.grid[0].value, number, step * i64(depth) + term, self.grid[1 + axis].value * i64(side) + line]
        return buffer, each.around(s_tir.SBlockRealize(place, True, block))

    def _factor(self, stage: Stage, operand: Operand, variables: Sequence[Expr]) -> Expr:
        """The factor at a place of its shared buffer."""
        b, q, k, m = variables
        values: dict[Any, Expr] = {}

        def spread(numbers: Sequence[int], flat: Expr) -> None:
            for n, value in zip(numbers, unravel(flat, [stage.extents[n] for n in numbers]), strict=True):
                values[stage.variables[n]] = value

        spread(range(stage.spatial), i64(0))
        spread(self.p.shared_axes if stage is self.p.stages[0] else self._axes(stage)[0], b)
        spread(operand.own, m)
        spread(range(stage.spatial, len(stage.variables)), k)
        axis = self._axis(stage)
        if axis is not None:
            values[stage.variables[axis]] = q
        return substituted(operand.value, values)

    def _fragment(self, shared: Any, axis: int, number: Expr, k: Expr) -> tuple[Any, Statement]:
        """A thread's rows or columns of one term in registers, and the statement that reads them."""
        shape = [int(e) for e in shared.shape]
        buffer = tirx.decl_buffer(shared.shape, str(shared.dtype), f"{shared.name}_part", scope="local")
        self.buffers.append(buffer)
        variables = [tirx.Var(x, "int64") for x in ("b", "q", "k", "m")]
        block = _copy_block(f"read_{axis}", buffer, variables, shape, tirx.BufferLoad(shared, variables))
        side = self.tile.side
        width = min(_VECTOR, side // _THREADS)
        outer, inner = unrolled("part", side // _THREADS // width), vector("lane", width)
        thread, tile = self.threads[axis], self.grid[1 + axis]
        line = tile.value * i64(side) + outer.value * i64(_THREADS * width) + thread.value * i64(width) + inner.value
        realize = s_tir.SBlockRealize([self.grid[0].value, number, k, line], True, block)
        return buffer, inside([outer, inner], realize)

    def _fma(self, stage: Stage, left: Any, right: Any, number: Expr, k: Expr, count: int, padded: int) -> Statement:
        reduce = stage.variables[stage.spatial :]
        term = ravel(list(reduce), stage.extents[stage.spatial :])
        place = self._place(stage, stage.variables[: stage.spatial], None)
        factors = [
            tirx.BufferLoad(buffer, [place[0], place[1], term, place[2 + axis]]) for axis, buffer in ((0, left), (1, right))
        ]
        accumulator = tirx.BufferLoad(self._register(stage), place)
        value = tirx.call_intrin(str(stage.write.buffer.dtype), _FMA, *factors, accumulator)
        body = tirx.BufferStore(self._register(stage), value, place)
        new = _block(stage, body, terms=True)
        loops, row, column = self._rectangle()
        values: list[Expr] = [*self._values(stage, row, column, number), *([i64(0)] * len(reduce))]
        if count == 1:
            values[stage.spatial] = k  # the condition ends the loop after the only term
        else:
            values[stage.spatial :] = unravel(k, stage.extents[stage.spatial :])
        conditions = [self._limits(row, column), *([tirx.LT(k, i64(count))] if count != padded else [])]
        return inside(loops, s_tir.SBlockRealize(values, _all(conditions), new))


def _all(conditions: Sequence[Expr]) -> Expr:
    found = [c for c in conditions if not isinstance(c, tirx.IntImm)]
    result: Expr = tirx.IntImm("bool", 1)
    for n, c in enumerate(found):
        result = c if n == 0 else tirx.And(result, c)
    return result


def _block(stage: Stage, body: Statement, *, terms: bool, name: str = "") -> Any:
    """A block with a stage's axes around another statement."""
    block = stage.block
    variables = list(block.iter_vars) if terms else list(block.iter_vars[: stage.spatial])
    loads: list[Any] = []
    tvm_ffi.structural_walk(body, (tvm.ir.TensorLoad, lambda e: loads.append(e.source)))
    reads = [whole(b) for b in dict.fromkeys(loads)]
    title = f"{block.name_hint}_{name}" if name else block.name_hint
    return s_tir.SBlock(variables, reads, [whole(body.buffer)], title, body)


def _copy_block(
    name: str,
    buffer: Any,
    variables: Sequence[Any],
    shape: Sequence[int],
    value: Expr,
    place: Sequence[Expr] | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> Any:
    """A block of axes of its own that stores a value, at the axes' place unless another is given."""
    axes = [
        tirx.IterVar(tvm.ir.Range.from_min_extent(i64(0), i64(e)), v, tirx.IterVar.DataPar, "")
        for v, e in zip(variables, shape, strict=True)
    ]
    loads: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, lambda e: loads.append(e.source)))
    body = tirx.BufferStore(buffer, value, list(variables if place is None else place))
    reads = [whole(b) for b in dict.fromkeys(loads)]
    return s_tir.SBlock(axes, reads, [whole(buffer)], name, body, annotations=annotations or {})


def schedule_product(product: Product) -> tuple[Statement, list[Any]]:
    """The statement of a product, and the buffers that it uses besides those of its stages."""
    emitter = _Emitter(product)
    statement = emitter.emit()
    return statement, emitter.buffers
