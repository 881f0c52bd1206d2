"""Products in tiles: threads share operands in shared memory and keep results in registers.

The stages of a product (``chunk``, ``total``, ``join``) run in the same threads. For each chunk, in order, a thread goes
through the terms with a rectangle of fma chains; the chunk's sums are added to the totals, in registers or, of large tiles, in
memory. Operands are brought into shared memory for a few terms at a time, by all threads together, in vectors where elements
lie side by side, while the products of the terms before are added up. Rows, columns and terms beyond the last are zeros there,
which belong to results that are computed and never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.nest import guarded, i64, ravel, substituted, unravel
from gensyn_tvm.schedules.cpu.stages import Stage, element_bits
from gensyn_tvm.schedules.gpu import sizes
from gensyn_tvm.schedules.gpu.blocks import all_of, block_of, copy_block
from gensyn_tvm.schedules.gpu.loops import Loop, bound, inside, sequence, serial, unrolled, vector, whole
from gensyn_tvm.schedules.gpu.products import Finish, Operand, Product
from gensyn_tvm.schedules.gpu.vectors import vector_width

Expr = Any
Statement = Any

_FMA = exact.PREFIX + "fma"
_THREADS = 16  # along the rows and along the columns of a tile
_VECTOR = 4
#: Totals of a thread for which there is room beside as many sums of a chunk.
_REGISTERS = 32
#: The five statements of a step (TVM's software pipeline): both operands are read for the next step, this one's products are
#: added up meanwhile, and when all threads are done with the shared memory the operands go there.
_PIPELINE = {"software_pipeline_stage": [0, 0, 0, 0, 1], "software_pipeline_order": [0, 1, 3, 4, 2]}
#: Banks of shared memory. Terms that neighbouring threads bring are so far apart that none of them meet in one.
_BANKS = 32


@dataclass(frozen=True)
class Brought:
    """An operand's part of a tile.

    Attributes:
        shared: where it is.
        fetch: the statement that reads it into registers.
        bring: the statement that stores those.
    """

    shared: Any
    fetch: Statement
    bring: Statement


class _Emitter:
    """Writes the loops of one product."""

    def __init__(self, product: Product) -> None:
        self.p = product
        first = product.stages[0]
        self.batch = [first.extents[k] for k in product.shared_axes]
        wide = element_bits(first.write) > 32
        self.tile = sizes.tile_for(
            product.rows, product.columns, math.prod(self.batch), sizes.WIDE_TILES if wide else sizes.TILES
        )
        extents = zip((product.rows, product.columns), self.tile.sides, strict=True)
        self.tiles = tuple(math.ceil(extent / side) for extent, side in extents)
        self.grid = [
            bound("blockIdx.z", math.prod(self.batch)),
            bound("blockIdx.y", self.tiles[0]),
            bound("blockIdx.x", self.tiles[1]),
        ]
        self.threads = [bound("threadIdx.y", _THREADS), bound("threadIdx.x", _THREADS)]
        self.buffers: list[Any] = []
        self.registers: dict[Any, Any] = {}
        # What would leave no registers for the sums of the next chunk stays in memory, where each thread has its own.
        many = self.tile.rows * self.tile.columns > _REGISTERS * _THREADS**2
        chunks = [s for s in product.stages if s.role == "chunk"]
        early = [s for s, axis in zip(chunks[:-1], product.chunk_axis, strict=False) if axis is None]
        self.kept = [s for s in product.stages if many and (s.role == "total" or s in early)]

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
                if stage in self.kept:
                    statements.append(self._store(stage))
                chunk += 1
            elif stage.role == "join":
                statements.append(self._each(stage, self._moved(stage, stage.block.body)))
        last = self.p.stages[-1]
        if self.p.finish is not None:
            statements.append(self._finished(last, self.p.finish))
        elif last not in self.kept:
            statements.append(self._store(last))
        return inside([*self.grid, *self.threads], sequence(statements))

    # ---- results in registers ----------------------------------------------------------------------------------------

    def _register(self, stage: Stage) -> Any:
        """The results of a stage: (shared axes, [chunk,] padded rows, padded columns), each thread's own in its registers."""
        buffer = stage.write.buffer
        if buffer not in self.registers:
            padded = [count * side for count, side in zip(self.tiles, self.tile.sides, strict=True)]
            shape = [math.prod(self.batch), self._count(stage), *padded]
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
        by_buffer = {s.write.buffer: s for s in self.p.stages if s not in self.kept}

        def load(expr: Any, mutator: Any) -> Any:
            producer = by_buffer.get(expr.source)
            if producer is None:
                return mutator.default_mutate(expr)
            return tirx.BufferLoad(self._register(producer), self._position(producer, list(expr.indices)))

        def store(stmt: Any, mutator: Any) -> Any:
            stmt = mutator.default_mutate(stmt)
            if stage.role == "total" and stage in self.kept:
                return stmt
            return tirx.BufferStore(self._register(stage), stmt.value, self._position(stage, list(stmt.indices)))

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
        block = block_of(stage, body, terms=has_terms)
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
        for axis in (0, 1):
            outer, inner, flat = self._along(axis, unrolled("rc"[axis], self._width(axis)))
            loops.append((outer, inner))
            flats.append(flat)
        (r0, r1), (c0, c1) = loops
        return [r0, r1, c0, c1], flats[0], flats[1]

    def _width(self, axis: int) -> int:
        """Neighbouring rows or columns of a thread."""
        return min(_VECTOR, self.tile.sides[axis] // _THREADS)

    def _along(self, axis: int, inner: Loop) -> tuple[Loop, Loop, Expr]:
        """Loops over the rows or columns of a thread, the inner one given, and their number."""
        side, width = self.tile.sides[axis], self._width(axis)
        outer = unrolled(f"{'rc'[axis]}0", side // _THREADS // width)
        place = self.grid[1 + axis].value * i64(side) + outer.value * i64(_THREADS * width)
        return outer, inner, place + self.threads[axis].value * i64(width) + inner.value

    def _limits(self, row: Expr, column: Expr) -> Expr:
        """The condition that a row and a column exist."""
        extents = zip((row, column), (self.p.rows, self.p.columns), self.tiles, self.tile.sides, strict=True)
        found = [tirx.LT(flat, i64(extent)) for flat, extent, count, side in extents if extent != count * side]
        return all_of(found)

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
            if last in self.kept:
                return tirx.BufferLoad(buffer, list(finish.indices))
            return tirx.BufferLoad(self._register(last), self._position(last, finish.indices))

        body = tvm_ffi.structural_mutate(stage.block.body, (tvm.ir.TensorLoad, load))
        body = substituted(body, dict(zip(stage.variables, finish.values, strict=True)))
        sizes = [math.prod(stage.extents[k] for k in part) for part in finish.parts]
        new = copy_block(stage.block.name_hint, body.buffer, finish.indices, sizes, body.value, body.indices)
        loops, row, column = self._rectangle()
        places = self._values(last, row, column, None)
        numbers = [last.position(i) for i in last.write.indices]
        where = [i64(0) if k is None else places[k] for k in numbers]
        conditions = [self._limits(row, column)]
        for index, size, extent in zip(where, sizes, buffer.shape, strict=True):
            if size < int(extent):
                conditions.append(tirx.LT(index, i64(size)))
        return inside(loops, s_tir.SBlockRealize(where, all_of(conditions), new))

    # ---- one chunk ----------------------------------------------------------------------------------------------------

    def _chunk(self, n: int, stage: Stage, number: Expr) -> list[Statement]:
        """The fma chains of one chunk."""
        loops, row, column = self._rectangle()
        values = self._values(stage, row, column, number)
        start = block_of(stage, self._moved(stage, stage.block.init), terms=False, name="init")
        first = inside(loops, s_tir.SBlockRealize(values, self._limits(row, column), start))
        count = math.prod(stage.extents[stage.spatial :])
        depth = self.tile.depth
        steps = math.ceil(count / depth)
        step = serial("step", steps, annotations=_PIPELINE)
        operands = (self.p.left[n], self.p.right[n])
        brought = [self._shared(stage, o, axis, step.value, number, steps) for axis, o in enumerate(operands)]
        term = serial("term", depth)
        k = step.value * i64(depth) + term.value
        fragments = [self._fragment(b.shared, axis, number, k) for axis, b in enumerate(brought)]
        body = [f[1] for f in fragments]
        body.append(self._fma(stage, fragments[0][0], fragments[1][0], number, k, count, steps * depth))
        parts = [*(b.fetch for b in brought), *(b.bring for b in brought), term.around(sequence(body))]
        return [first, step.around(tirx.SeqStmt(parts))]

    def _shared(self, stage: Stage, operand: Operand, axis: int, step: Expr, number: Expr, steps: int) -> Brought:
        """A factor's part of a tile: from memory to registers, and from there to shared memory."""
        side, depth = self.tile.sides[axis], self.tile.depth
        size = (self.p.rows, self.p.columns)[axis]
        count = math.prod(stage.extents[stage.spatial :])
        shape = [math.prod(self.batch), self._count(stage), steps * depth, self.tiles[axis] * side]
        dtype = str(stage.write.buffer.dtype)
        name = ("left", "right")[axis]
        shared = tirx.decl_buffer([i64(e) for e in shape], dtype, name, scope="shared")
        fetched = tirx.decl_buffer([i64(e) for e in shape], dtype, f"{name}_next", scope="local")
        self.buffers += [shared, fetched]
        variables = [tirx.Var(x, "int64") for x in ("b", "q", "k", "m")]
        along = 2 if operand.terms_first else 3
        value = self._factor(stage, operand, variables)
        width = vector_width(value, variables[along], (size, count)[operand.terms_first], side * depth // _THREADS**2)
        conditions = []
        for v, extent, padded in ((variables[3], size, shape[3]), (variables[2], count, shape[2])):
            if extent != padded:  # of a vector all elements are there or none
                whole_ones = width if v is variables[along] else 1
                conditions.append(
                    tirx.LT(tirx.FloorDiv(v, i64(whole_ones)) if whole_ones > 1 else v, i64(extent // whole_ones))
                )
        if conditions:
            value = guarded(all_of(conditions), value, terms.zero(dtype))
        fetch = copy_block(f"fetch_{axis}", fetched, variables, shape, value)
        aligned = {"buffer_dim_align": [[0, 2, _BANKS, _VECTOR]]} if operand.terms_first else {}
        own = [tirx.Var(x, "int64") for x in ("b", "q", "k", "m")]
        bring = copy_block(f"bring_{axis}", shared, own, shape, tirx.BufferLoad(fetched, own), annotations=aligned)

        def each(block: Any, *, vectors: bool) -> Statement:
            part = unrolled("part", side * depth // (_THREADS**2 * width))
            lane = (vector if vectors else unrolled)("lane", width)
            position = part.value * i64(_THREADS**2) + self.threads[0].value * i64(_THREADS) + self.threads[1].value
            inner = (depth if operand.terms_first else side) // width
            near, far = (position % i64(inner)) * i64(width) + lane.value, position // i64(inner)
            k, m = (near, far) if operand.terms_first else (far, near)
            place = [self.grid[0].value, number, step * i64(depth) + k, self.grid[1 + axis].value * i64(side) + m]
            return inside([part, lane], s_tir.SBlockRealize(place, True, block))

        return Brought(shared, each(fetch, vectors=True), each(bring, vectors=not operand.terms_first))

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
        block = copy_block(f"read_{axis}", buffer, variables, shape, tirx.BufferLoad(shared, variables))
        outer, inner, line = self._along(axis, vector("lane", self._width(axis)))
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
        new = block_of(stage, body, terms=True)
        loops, row, column = self._rectangle()
        values: list[Expr] = [*self._values(stage, row, column, number), *([i64(0)] * len(reduce))]
        if count == 1:
            values[stage.spatial] = k  # the condition ends the loop after the only term
        else:
            values[stage.spatial :] = unravel(k, stage.extents[stage.spatial :])
        conditions = [self._limits(row, column), *([tirx.LT(k, i64(count))] if count != padded else [])]
        return inside(loops, s_tir.SBlockRealize(values, all_of(conditions), new))


def schedule_product(product: Product) -> tuple[Statement, list[Any], list[Any]]:
    """The statement of a product, the buffers that it adds to those of its stages, and those of stages that it does without."""
    emitter = _Emitter(product)
    statement = emitter.emit()
    inner = product.stages if product.finish is not None else product.stages[:-1]
    gone = [s.write.buffer for s in (*inner, *product.brought) if s not in emitter.kept]
    return statement, emitter.buffers, gone
