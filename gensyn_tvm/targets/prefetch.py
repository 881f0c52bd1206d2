"""Weights that a product reads once or twice are asked for before their turn.

A register tile of several rows keeps a processor so busy that loads of its panel's next terms start late, and what fetches
ahead by itself reads memory at half its rate. A kernel that streams panels from memory therefore asks for each line some time
before it is read. Of a matrix that is read where it is each term of a tile may lie in another page; nothing else fetches that
ahead. This changes no value: a prefetch reads nothing that a program can see.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators.nest import i64, substituted
from gensyn_tvm.schedules.cpu.stages import uses
from gensyn_tvm.targets.next_panel import Panels
from gensyn_tvm.targets.requests import LINE, before, itemsize, nbytes, own_arrays, register_tile, request
from gensyn_tvm.targets.results_ahead import Results

Expr = Any

#: Bytes ahead, and those of the smallest array that surely comes from memory.
_AHEAD, _LARGE = 16 * 1024, 2 * 1024 * 1024
#: Passes over the panels with which memory decides on the time; terms that are worth the while.
_FEW_PASSES, _MANY_TERMS = 2, 64
#: Bytes of a row of a matrix from which its next one lies in another page, and terms ahead then. The lines of a tile's columns
#: share few sets of the first-level cache, so more would displace each other (12 of 8 to 128 were fastest).
_PAGE, _ROWS_AHEAD = 4096, 12
#: Rows of a tile with which loads start late.
_BUSY = 4


class _Loops:
    """Rewrites loops over terms; knows how often what they enclose runs."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.repeats = 1
        self.own = own_arrays(function)

    def rewritten(self) -> Any:
        return self.function.with_body(tvm_ffi.structural_mutate(self.function.body, (tirx.For, self._loop)))

    def _loop(self, stmt: Any, mutator: Any) -> Any:
        if not isinstance(stmt.extent, tirx.IntImm):
            return mutator.default_mutate(stmt)
        extent = int(stmt.extent)
        found = self._streamed(stmt) if stmt.kind == tirx.ForKind.SERIAL and extent >= _MANY_TERMS else None
        if found is not None:
            return before(stmt, self._requests(stmt, *found))
        outside, self.repeats = self.repeats, self.repeats * extent
        result = mutator.default_mutate(stmt)
        self.repeats = outside
        return result

    def _streamed(self, terms: Any) -> tuple[Any, int, dict[Any, Expr]] | None:
        """The load of a term's vectors in a loop over terms, the elements of all of them, and where they begin."""
        tile = register_tile(terms.body)
        if tile is None:
            return None
        inner, body = tile
        for load in body.value.args[:2]:
            if not isinstance(load, tvm.ir.TensorLoad) or load.source in self.own or len(load.indices) < 2:
                continue
            if not uses(load.indices[-2], terms.loop_var) or uses(load.indices[-1], terms.loop_var):
                continue
            moving = [f for f in inner if any(uses(i, f.loop_var) for i in load.indices)]
            width = math.prod(int(f.extent) for f in moving)
            rows = math.prod(int(f.extent) for f in inner) // width
            fits = width == int(load.source.shape[-1]) or _in_pages(load.source, width)
            if fits and rows >= _BUSY and self._comes_from_memory(load.source, int(terms.extent) * width):
                return load, width, {f.loop_var: i64(0) for f in inner}
        return None

    def _comes_from_memory(self, buffer: Any, read: int) -> bool:
        return nbytes(buffer) >= _LARGE and self.repeats * read * itemsize(buffer) <= _FEW_PASSES * nbytes(buffer)

    def _requests(self, terms: Any, load: Any, width: int, first: dict[Any, Expr]) -> list[Any]:
        """A request for each line of the term that is so many bytes ahead."""
        count = int(load.source.shape[-2])
        ahead = _ROWS_AHEAD if _in_pages(load.source, width) else max(1, _AHEAD // (width * itemsize(load.source)))
        *leading, term, column = [substituted(i, first) for i in load.indices]
        later = tirx.Min(term + i64(ahead), i64(count - 1))  # nothing beyond the end, where nothing may lie
        places = range(0, width, LINE // itemsize(load.source))
        return [request(load.source, [*leading, later, column + i64(place)]) for place in places]


def _in_pages(buffer: Any, width: int) -> bool:
    """Whether each row lies in another page, and tiles of so many columns end where it ends."""
    columns = int(buffer.shape[-1])
    return width < columns and columns % width == 0 and columns * itemsize(buffer) >= _PAGE


@tvm.transform.module_pass(opt_level=0, name="PrefetchPanels")
def prefetch_all(module: Any, context: Any) -> Any:
    """The pass over all kernels, whose blocks are gone."""
    found: dict[Any, Any] = {}
    for gv, f in module.functions_items():
        found[gv] = Results(Panels(_Loops(f).rewritten()).rewritten()).rewritten() if isinstance(f, tirx.PrimFunc) else f
    return tvm.IRModule(found, attrs=module.attrs)
