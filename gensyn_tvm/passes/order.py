"""The order verifier: a scheduled kernel runs every reduction in its canonical order.

For each reduction block the loops around it are examined. With r the row-major rank of the block's reduction index, the
kernel is accepted if, for fixed spatial indices, r strictly grows from one iteration to the next: no loop that r depends on
is parallel, vectorised or bound to a thread, and each such loop's step in r is larger than everything the loops inside it
can add. Spatial indices must not depend on those loops, and every loop must move some index. What is refused names the block,
the loop and the primitive. That the reduction axes themselves are still the variant's is up to ``schedules.driver``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.errors import ScheduleError, describe

_KINDS = {0: "serial", 1: "parallel", 2: "vectorize", 3: "unroll", 4: "bind"}
_SEQUENTIAL = ("serial", "unroll")
_REDUCTION = 2  # tirx.IterVar.CommReduce
#: Statements without statements inside.
_LEAVES = (tirx.BufferStore, tirx.Evaluate)


@dataclass(frozen=True)
class _Loop:
    var: Any
    start: int
    extent: int
    kind: str


@dataclass
class _Walker:
    """Collects block realisations with the loops around them."""

    kernel: str
    loops: list[_Loop] = field(default_factory=list)

    def visit(self, stmt: Any) -> None:
        if isinstance(stmt, tirx.For):
            loop = _Loop(stmt.loop_var, _constant(stmt.min), _constant(stmt.extent), _KINDS[int(stmt.kind)])
            self.loops.append(loop)
            self.visit(stmt.body)
            self.loops.pop()
        elif isinstance(stmt, s_tir.SBlockRealize):
            _check_block(self.kernel, stmt, list(self.loops))
            self.visit(stmt.block.body)
        elif isinstance(stmt, tirx.SeqStmt):
            for child in stmt.seq:
                self.visit(child)
        elif isinstance(stmt, tirx.IfThenElse):
            self.visit(stmt.then_case)
            if stmt.else_case is not None:
                self.visit(stmt.else_case)
        elif not isinstance(stmt, _LEAVES):
            found = type(stmt).__name__
            raise ScheduleError(f"kernel {self.kernel!r} contains a {found} statement; the order inside cannot be proved")


def check_order(name: str, function: Any) -> None:
    """Refuse a scheduled PrimFunc whose reductions may run in another than the canonical order.

    Raises:
        ScheduleError: with the kernel, block and loop.
    """
    _Walker(name).visit(function.body)


def _constant(expr: Any) -> int:
    value = getattr(expr, "value", None)
    if not isinstance(value, int):
        raise ScheduleError(f"a loop bound is not a constant: {expr}; the order of the kernel cannot be proved")
    return value


def _refuse(kernel: str, block: Any, loop: _Loop | None, found: str, expected: str) -> None:
    where = f"kernel {kernel!r}, block {block.name_hint!r}"
    if loop is not None:
        where += f", loop {loop.var} of extent {loop.extent} ({loop.kind})"
    raise ScheduleError(
        describe(
            "the schedule would change the order of a reduction",
            where=where,
            found=found,
            expected=expected,
            remedy="schedule only spatial loops with this primitive, or keep the reduction loops in ascending order",
        )
    )


def _check_block(kernel: str, realize: Any, loops: list[_Loop]) -> None:
    block = realize.block
    bindings = list(zip(block.iter_vars, realize.iter_values, strict=True))
    reductions = [(v, e) for v, e in bindings if int(v.iter_type) == _REDUCTION]
    if not reductions:
        return
    analyzer = _analyzer(loops)
    rank: Any = tirx.IntImm("int64", 0)
    for v, e in reductions:
        rank = rank * tirx.IntImm("int64", _constant(v.dom.extent)) + tirx.Cast("int64", e)
    rank = analyzer.simplify(rank)
    used = _variables(rank)
    for v in used:
        if not any(loop.var.same_as(v) for loop in loops):
            _refuse(kernel, block, None, f"reduction index {rank}, where {v} is no loop", "a function of the loops alone")
    _check_repeated(kernel, block, [e for _, e in bindings], loops)
    involved = [loop for loop in loops if loop.extent > 1 and any(loop.var.same_as(v) for v in used)]
    for loop in involved:
        if loop.kind not in _SEQUENTIAL:
            _refuse(kernel, block, loop, f"a reduction loop under {loop.kind}", "serial or unrolled")
        for v, e in bindings:
            if int(v.iter_type) != _REDUCTION and any(loop.var.same_as(u) for u in _variables(analyzer.simplify(e))):
                _refuse(kernel, block, loop, f"spatial index {e} mixed with the reduction", "separate loops")
    _check_ascending(kernel, block, rank, involved, analyzer)


def _check_repeated(kernel: str, block: Any, indices: list[Any], loops: list[_Loop]) -> None:
    """A loop that no index of the block depends on would add every term again."""
    used = [v for e in indices for v in _variables(e)]
    for loop in loops:
        if loop.extent > 1 and not any(loop.var.same_as(v) for v in used):
            _refuse(kernel, block, loop, "a loop that no index of the block depends on", "every term exactly once")


def _analyzer(loops: list[_Loop]) -> Any:
    analyzer = tvm.sym.Analyzer()
    for loop in loops:
        dtype = str(getattr(loop.var.ty, "dtype", loop.var.ty))
        extent = tvm.ir.Range.from_min_extent(tirx.IntImm(dtype, loop.start), tirx.IntImm(dtype, loop.extent))
        analyzer.bind(loop.var, extent)
    return analyzer


def _variables(expr: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return found


def _check_ascending(kernel: str, block: Any, rank: Any, involved: list[_Loop], analyzer: Any) -> None:
    """Each loop's step in the rank must exceed all that the loops inside it can add."""
    coefficients = list(tvm.sym.detect_linear_equation(rank, [loop.var for loop in involved]))
    if not coefficients:
        _refuse(kernel, block, None, f"reduction index {rank}", "an affine function of the loops")
    inner = 0
    for loop, coefficient in reversed(list(zip(involved, coefficients, strict=False))):
        step = _constant(analyzer.simplify(coefficient))
        if step <= inner:
            _refuse(kernel, block, loop, f"step {step} in the reduction index, inner loops span {inner}", "a larger step")
        inner += step * (loop.extent - 1)
