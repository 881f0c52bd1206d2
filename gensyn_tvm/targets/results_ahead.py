"""What a register tile stores, and what is added to it before, is asked for while the tile is calculated.

A tile is finished by a few loads and stores, say of a residual connection and of the result. Where those arrays are larger than
a cache, all of that waits for memory, which has nothing to do meanwhile. So each of the first terms asks for one vector of
what the tile touches in the end. This changes no value: a prefetch reads nothing that a program can see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.operators.nest import i64, substituted, unravel
from gensyn_tvm.schedules.cpu.stages import uses
from gensyn_tvm.targets.requests import before, is_multiply_add, nbytes, own_arrays, register_tile, request

Expr = Any
Stmt = Any

#: Bytes of the smallest array that surely comes from memory.
_LARGE = 1024 * 1024
_LOOPS = (tirx.ForKind.SERIAL, tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)


@dataclass(frozen=True)
class _Last:
    """A stage that finishes a tile: its loops over vectors, their last one, and the arrays from memory that it touches.

    Attributes:
        places: an array, its indices, and whether it is written.
    """

    loops: list[Any]
    lane: Any
    places: list[tuple[Any, Any, bool]]

    @property
    def vectors(self) -> int:
        """Vectors of the tile."""
        return math.prod(int(f.extent) for f in self.loops)

    def requests(self, number: Expr) -> list[Stmt]:
        """Requests for what the vector ``number`` takes."""
        index = unravel(number, [int(f.extent) for f in self.loops])
        values = {self.lane: i64(0), **{f.loop_var: i for f, i in zip(self.loops, index, strict=True)}}
        return [request(array, [substituted(i, values) for i in place], writes=writes) for array, place, writes in self.places]


class Results:
    """Rewrites the chains of terms of one kernel."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.own = own_arrays(function)

    def rewritten(self) -> Any:
        """The kernel with requests."""
        return self.function.with_body(tvm_ffi.structural_mutate(self.function.body, (tirx.SeqStmt, self._sequence)))

    def _sequence(self, stmt: Any, mutator: Any) -> Stmt:
        parts = list(mutator.default_mutate(stmt))
        chains = [k for k, part in enumerate(parts) if _multiplies(part)]
        if len(chains) == 1:
            (chain,) = chains
            found = [last for part in parts[chain + 1 :] if (last := self._last(part)) is not None]
            parts[chain] = _asking(parts[chain], found) if found else parts[chain]
        return tirx.SeqStmt(parts)

    def _last(self, body: Stmt) -> _Last | None:
        """A stage as the last of a tile, if it touches arrays that come from memory."""
        loops = []
        while isinstance(body, tirx.For) and body.kind in _LOOPS and isinstance(body.extent, tirx.IntImm):
            loops.append(body)
            body = body.body
        if not loops or loops[-1].kind != tirx.ForKind.VECTORIZED or not isinstance(body, tirx.BufferStore):
            return None
        lane = loops.pop().loop_var
        loads: list[Any] = []
        tvm_ffi.structural_walk(body.value, (tvm.ir.TensorLoad, loads.append))
        touched = [(body.buffer, body.indices, True), *((x.source, x.indices, False) for x in loads)]
        places = [p for p in touched if self._comes_from_memory(p[0]) and any(uses(i, lane) for i in p[1])]
        return _Last(loops, lane, places) if places else None

    def _comes_from_memory(self, array: Any) -> bool:
        return array not in self.own and nbytes(array) >= _LARGE


def _asking(chain: Stmt, found: list[_Last]) -> Stmt:
    """A chain of terms whose loops over enough of them ask for the vectors of all stages, a vector at each term."""

    def loop(stmt: Any, mutator: Any) -> Stmt:
        innermost = stmt.kind == tirx.ForKind.SERIAL and register_tile(stmt.body) is not None
        if not innermost or not isinstance(stmt.extent, tirx.IntImm):
            return mutator.default_mutate(stmt)
        stages = [last for last in found if last.vectors <= int(stmt.extent)]
        return before(stmt, [r for s in stages for r in s.requests(tirx.Min(stmt.loop_var, i64(s.vectors - 1)))])

    return tvm_ffi.structural_mutate(chain, (tirx.For, loop))


def _multiplies(stmt: Stmt) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(stmt, (tvm.ir.Call, lambda e: found.append(is_multiply_add(e))))
    return any(found)
