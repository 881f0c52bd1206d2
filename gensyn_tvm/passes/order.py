"""The order verifier: a scheduled kernel runs every reduction in its canonical order.

For each reduction block the loops around it are examined. With r the row-major rank of the block's reduction index, the
kernel is accepted if, for fixed spatial indices, r strictly grows from one iteration to the next: no loop that r depends on
is parallel, vectorised or bound to a thread, and each such loop's step in r is larger than everything the loops inside it
can add. Spatial indices must not depend on those loops, and every loop must move some index. What is refused names the block,
the loop and the primitive.

A *sequence* (``Kernel.sequence``) is a block of statements that may store anywhere. For it, besides: its indices enumerate
all of the block's domain, each point once; a loop that is not sequential must run over an outer or inner index which, in every
access to a buffer that the block writes, stands alone at one fixed position, so that its iterations touch different elements;
loops inside of the block are serial; and no loop around it holds another block.

That the reduction axes themselves are still the variant's is up to ``schedules.driver``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.operators.nest import ROLE, SEQUENCE

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
    shared: int = 0  # so many of the loops hold several statements

    def visit(self, stmt: Any) -> None:
        if isinstance(stmt, tirx.For):
            loop = _Loop(stmt.loop_var, _constant(stmt.min), _constant(stmt.extent), _KINDS[int(stmt.kind)])
            self.loops.append(loop)
            self.visit(stmt.body)
            self.loops.pop()
        elif isinstance(stmt, s_tir.SBlockRealize):
            if dict(stmt.block.annotations).get(ROLE) == SEQUENCE:
                _check_sequence(self.kernel, stmt, list(self.loops), self.shared)
            _check_block(self.kernel, stmt, list(self.loops))
            self.visit(stmt.block.body)
        elif isinstance(stmt, tirx.SeqStmt):
            shared, self.shared = self.shared, len(self.loops)
            for child in stmt.seq:
                self.visit(child)
            self.shared = shared
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


# ---- sequences ------------------------------------------------------------------------------------------------------


def _check_sequence(kernel: str, realize: Any, loops: list[_Loop], shared: int) -> None:
    block = realize.block
    if shared:
        _refuse(kernel, block, loops[shared - 1], "a loop around several statements", "a sequence alone in its loops")
    if not tvm.sym.Analyzer().can_prove(realize.predicate):
        _refuse(kernel, block, None, f"a predicate {realize.predicate}", "every iteration of the sequence")
    accesses, inside = _accesses(block.body)
    for statement in inside:
        if _KINDS[int(statement.kind)] != "serial":
            kind = _KINDS[int(statement.kind)]
            _refuse(kernel, block, None, f"the loop {statement.loop_var} inside of the sequence under {kind}", "serial")
    taken: list[Any] = []
    analyzer = _analyzer(loops)
    for v, e in zip(block.iter_vars, realize.iter_values, strict=True):
        mine = [loop for loop in loops if any(loop.var.same_as(u) for u in _variables(e))]
        if any(loop.var.same_as(u) for loop in mine for u in taken):
            _refuse(kernel, block, None, f"index {e}, whose loops move another index too", "loops of its own for each index")
        taken.extend(loop.var for loop in mine)
        _check_enumerates(kernel, block, v, analyzer.simplify(e), [loop for loop in mine if loop.extent != 1], analyzer)
        for loop in mine:
            if loop.extent > 1 and loop.kind not in _SEQUENTIAL and not _apart(accesses, v.var):
                expected = f"{v.var} alone at one position of everything that is written"
                _refuse(kernel, block, loop, "iterations that may touch the same elements", expected)


def _accesses(body: Any) -> tuple[list[Any], list[Any]]:
    """Loads and stores of a block's statements, and the loops among them."""
    accesses: list[Any] = []
    inside: list[Any] = []
    nodes = (tirx.BufferStore, tvm.ir.TensorLoad)
    tvm_ffi.structural_walk(body, [(nodes, accesses.append), (tirx.For, inside.append)])
    return accesses, inside


def _check_enumerates(kernel: str, block: Any, v: Any, expr: Any, loops: list[_Loop], analyzer: Any) -> None:
    """The index takes each value of its domain once: a mixed-radix number whose digits are the loops."""
    span = 1
    if loops:
        coefficients = list(tvm.sym.detect_linear_equation(expr, [loop.var for loop in loops]))
        found = f"index {expr} of extent {v.dom.extent}"
        if not coefficients or _constant(analyzer.simplify(coefficients[-1])) != 0 or any(loop.start for loop in loops):
            _refuse(kernel, block, None, found, "an affine function of loops from 0")
        digits = sorted((_constant(analyzer.simplify(c)), loop.extent) for c, loop in zip(coefficients, loops, strict=False))
        for step, extent in digits:
            if step != span:
                _refuse(kernel, block, None, found, "every value of the index once")
            span *= extent
    if span != _constant(v.dom.extent):
        _refuse(kernel, block, None, f"{span} values of an index of extent {v.dom.extent}", "every value of the index once")


def _apart(accesses: list[Any], variable: Any) -> bool:
    """Whether in all accesses to each buffer that is written, ``variable`` alone is the index at one and the same position."""
    for written in (a.buffer for a in accesses if isinstance(a, tirx.BufferStore)):
        common: set[int] | None = None
        for access in accesses:
            buffer = access.buffer if isinstance(access, tirx.BufferStore) else access.source
            if buffer.same_as(written):
                here = {p for p, index in enumerate(access.indices) if index.same_as(variable)}
                common = here if common is None else common & here
        if not common:
            return False
    return True
