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

from gensyn_tvm.operators.nest import WAYS, i64, substituted
from gensyn_tvm.schedules.cpu.stages import uses
from gensyn_tvm.targets.requests import LINE, before, itemsize, nbytes, own_arrays, register_tile, request

Expr = Any
Stmt = Any

#: Bytes of the smallest array whose panels are worth asking for, and of the largest panel that stays in the second-level cache
#: beside the next one.
_LARGE, _PANEL = 256 * 1024, 640 * 1024
#: Bytes of a first-level cache, and of a panel's term from which processors with one of so many ways are behind with fetching
#: the next ones by themselves; terms ahead (4, 8, 16 and 32 were measured).
_FIRST, _WIDE, _MANY_WAYS, _TERMS_AHEAD = 48 * 1024, 192, 12, 16
#: Passes over a panel: with fewer ``prefetch`` asks for lines further down the same panel. Rows of all of its tiles: with more
#: the first pass is no matter (49 and 128 gain up to a tenth, 196 lose as much as they gain).
_FEWEST, _MOST_ROWS = 3, 160


class Panels:
    """Rewrites the innermost loops over terms of one kernel."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.around: list[Any] = []
        self.own = own_arrays(function)
        self.asks_near = int(dict(function.attrs).get(WAYS, 0)) >= _MANY_WAYS
        self.analyzer = tvm.sym.Analyzer()

    def rewritten(self) -> Any:
        """The kernel with requests."""
        return self.function.with_body(tvm_ffi.structural_mutate(self.function.body, (tirx.For, self._loop)))

    def _loop(self, stmt: Any, mutator: Any) -> Stmt:
        found = self._panels(stmt.body) if stmt.kind == tirx.ForKind.SERIAL else None
        if found is not None and uses(found[0].indices[-2], stmt.loop_var):
            return before(stmt, [*self._near(stmt, found[0]), *self._requests(*found)])
        self.around.append(stmt)
        result = mutator.default_mutate(stmt)
        self.around.pop()
        return result

    def _panels(self, body: Stmt) -> tuple[Any, int] | None:
        """The load of a term's vectors from panels that the kernel is given, and the rows of the tile; None for other loops."""
        tile = register_tile(body)
        if tile is None:
            return None
        loops, store = tile
        for load in store.value.args[:2]:
            if not isinstance(load, tvm.ir.TensorLoad) or load.source in self.own or len(load.indices) < 3:
                continue
            moving = [f for f in loops if any(uses(i, f.loop_var) for i in load.indices)]
            whole = math.prod(int(f.extent) for f in moving) == int(load.source.shape[-1])
            if moving[-1:] == loops[-1:] and whole and not any(uses(i, f.loop_var) for i in load.indices[:-1] for f in moving):
                return load, math.prod(int(f.extent) for f in loops) // int(load.source.shape[-1])
        return None

    def _near(self, loop: Any, load: Any) -> list[Stmt]:
        """Requests for a later term of the same panel, which comes from the second-level cache in each pass."""
        *place, term, _ = load.indices
        width, size = int(load.source.shape[-1]), itemsize(load.source)
        streams = width * size >= _WIDE and isinstance(loop.extent, tirx.IntImm) and int(loop.extent) * width * size > _FIRST
        if not self.asks_near or not streams:
            return []
        later = tirx.Min(term + i64(_TERMS_AHEAD), i64(int(load.source.shape[-2]) - 1))
        return [request(load.source, [*place, later, i64(column)]) for column in range(0, width, LINE // size)]

    def _requests(self, load: Any, rows: int) -> list[Stmt]:
        """What a pass asks for at each term; ``rows`` of a tile."""
        *leading, panel, term, _ = load.indices
        panels, terms, width = [int(e) for e in load.source.shape][-3:]
        size = itemsize(load.source)
        tasks = [f for f in self.around if uses(panel, f.loop_var)]
        if nbytes(load.source) < _LARGE or panels < 2 or terms * width * size > _PANEL or len(tasks) != 1:
            return []
        passes = self._passes(panel, tasks[0], _MOST_ROWS // rows)
        if not passes:
            return []
        lines = math.ceil(width * size / LINE)
        each, shared = math.ceil(lines / passes), 1 << max(0, (passes // lines).bit_length() - 1)
        number = tirx.FloorMod(tasks[0].loop_var, i64(passes))
        # With more passes than lines, several share a line: each asks for that of every so many terms.
        term = tirx.Min(tirx.bitwise_and(term, i64(-shared)) + number % i64(shared), i64(terms - 1))
        number = number // i64(shared) * i64(each)
        # Later passes ask for what they read now, which costs nothing.
        following = tirx.Min(panel + i64(1), i64(panels - 1))
        place = tirx.Select(tirx.LT(number, i64(lines)), following, panel)
        columns = [tirx.Min(number + i64(k), i64(lines - 1)) * i64(LINE // size) for k in range(each)]
        return [request(load.source, [*leading, place, term, column], far=True) for column in columns]

    def _passes(self, panel: Expr, tasks: Any, most: int) -> int:
        """How often in turn tasks read a panel; 0 if not often enough, or too often."""

        def of(task: int) -> Expr:
            return self.analyzer.simplify(substituted(panel, {tasks.loop_var: i64(task)}))

        count = int(tasks.extent) if isinstance(tasks.extent, tirx.IntImm) else 0
        found = next((n for n in range(1, min(count, most + 1)) if not self.analyzer.can_prove_equal(of(n), of(0))), 0)
        return found if found >= _FEWEST else 0
