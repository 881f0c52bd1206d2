"""Panels of weights are asked for while the one before them is in use.

A product goes through its panels in turn, and each is read once for every tile of rows: the first time from memory, for the
weights of a whole network fit no cache, and then from the second-level cache. That first pass waits for memory. So while one
panel is in use, each pass over it asks for a part of the next. This changes no value: a prefetch reads nothing that a program
can see.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.nest import i64, substituted
from gensyn_tvm.schedules.cpu.stages import uses

Expr = Any
Stmt = Any

#: Bytes of the smallest array whose panels are worth asking for, and of the largest panel that stays in the second-level cache
#: beside the next one.
_LARGE, _PANEL = 256 * 1024, 640 * 1024
#: Passes over a panel: with fewer ``prefetch`` asks for lines further down the same panel. Rows of all of its tiles: with more
#: the first pass is no matter (49 and 128 gain up to a tenth, 196 lose as much as they gain).
_FEWEST, _MOST_ROWS = 3, 160
_LINE = 64
_FMA = exact.PREFIX + "fma"
_TILE = (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)


class Panels:
    """Rewrites the innermost loops over terms of one kernel."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.around: list[Any] = []
        self.own: set[Any] = set()
        self.analyzer = tvm.sym.Analyzer()
        tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, lambda a: self.own.add(a.buffer)))

    def rewritten(self) -> Any:
        """The kernel with requests."""
        return self.function.with_body(tvm_ffi.structural_mutate(self.function.body, (tirx.For, self._loop)))

    def _loop(self, stmt: Any, mutator: Any) -> Stmt:
        found = _right_operand(stmt.body, self.own) if stmt.kind == tirx.ForKind.SERIAL else None
        if found is not None and uses(found[0].indices[-2], stmt.loop_var):
            requests = [tirx.Evaluate(request) for request in self._requests(*found)]
            body = tirx.SeqStmt([*requests, stmt.body]) if requests else stmt.body
            return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations)
        self.around.append(stmt)
        result = mutator.default_mutate(stmt)
        self.around.pop()
        return result

    def _requests(self, load: Any, rows: int) -> list[Expr]:
        """What a pass asks for at each term; ``rows`` of a tile."""
        *before, panel, term, _ = load.indices
        panels, terms, width = [int(e) for e in load.source.shape][-3:]
        itemsize = int(tvm.DataType(str(load.source.dtype)).bits) // 8
        large = math.prod(int(e) for e in load.source.shape) * itemsize >= _LARGE
        tasks = [f for f in self.around if uses(panel, f.loop_var)]
        if not large or panels < 2 or terms * width * itemsize > _PANEL or len(tasks) != 1:
            return []
        passes = self._passes(panel, tasks[0], _MOST_ROWS // rows)
        if not passes:
            return []
        lines = math.ceil(width * itemsize / _LINE)
        each, shared = math.ceil(lines / passes), 1 << max(0, (passes // lines).bit_length() - 1)
        number = tirx.FloorMod(tasks[0].loop_var, i64(passes))
        # With more passes than lines, several share a line: each asks for that of every so many terms.
        term = tirx.Min(tirx.bitwise_and(term, i64(-shared)) + number % i64(shared), i64(terms - 1))
        number = number // i64(shared) * i64(each)
        following = tirx.Min(panel + i64(1), i64(panels - 1))
        # Later passes ask for what they read now, which costs nothing.
        place = tirx.Select(tirx.LT(number, i64(lines)), following, panel)
        requests = []
        for k in range(each):
            column = tirx.Min(number + i64(k), i64(lines - 1)) * i64(_LINE // itemsize)
            address = tirx.address_of(tirx.BufferLoad(load.source, [*before, place, term, column]))
            # For reading, to be kept in the second-level cache, data and not instructions.
            requests.append(tirx.call_intrin("void", "tirx.prefetch", address, *(tirx.const(n, "int32") for n in (0, 2, 1))))
        return requests

    def _passes(self, panel: Expr, tasks: Any, most: int) -> int:
        """How often in turn tasks read a panel; 0 if not often enough, or too often."""

        def of(task: int) -> Expr:
            return self.analyzer.simplify(substituted(panel, {tasks.loop_var: i64(task)}))

        count = int(tasks.extent) if isinstance(tasks.extent, tirx.IntImm) else 0
        found = next((n for n in range(1, min(count, most + 1)) if not self.analyzer.can_prove_equal(of(n), of(0))), 0)
        return found if found >= _FEWEST else 0


def _right_operand(body: Stmt, own: set[Any]) -> tuple[Any, int] | None:
    """The load of a term's vectors, and the rows of the tile, if a statement is the fma of one with panels from outside."""
    inner = []
    while isinstance(body, tirx.For) and body.kind in _TILE:
        inner.append(body)
        body = body.body
    if not inner or inner[-1].kind != tirx.ForKind.VECTORIZED or not isinstance(body, tirx.BufferStore):
        return None
    if not isinstance(body.value, tvm.ir.Call) or str(getattr(body.value.op, "name", "")) != _FMA:
        return None
    for load in body.value.args[:2]:
        if not isinstance(load, tvm.ir.TensorLoad) or load.source in own or len(load.indices) < 3:
            continue
        moving = [f for f in inner if any(uses(i, f.loop_var) for i in load.indices)]
        whole = math.prod(int(f.extent) for f in moving) == int(load.source.shape[-1])
        if moving[-1:] == inner[-1:] and whole and not any(uses(i, f.loop_var) for i in load.indices[:-1] for f in moving):
            return load, math.prod(int(f.extent) for f in inner) // int(load.source.shape[-1])
    return None
