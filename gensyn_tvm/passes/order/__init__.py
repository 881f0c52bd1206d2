"""The order verifier: a scheduled kernel computes what its variant says, every reduction in its canonical order.

Three questions are answered, each without running anything; a kernel that is not provably right is refused.

values   Is every output the same expression of the inputs as in the unscheduled variant: the same operations, reductions with
         the same terms, initial values and extents? (``values``)
order    For fixed spatial indices the row-major rank of a reduction's index strictly grows from one iteration to the next, each
         term is met once, after its initial value, in loops that are neither parallel nor vectorised nor bound. (``flow``)
flow     Everything that is read has been computed, in each iteration of the loops that producer and consumer share, and
         iterations that run side by side store to different elements. (``flow``)

Blocks of statements that run in order (``Kernel.sequence``) are moved as they are: ``sequences`` says how.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm_ffi

from gensyn_tvm.passes.order.affine import Unproved
from gensyn_tvm.passes.order.blocks import Kernel, read_kernel, refuse
from gensyn_tvm.passes.order.flow import Flow
from gensyn_tvm.passes.order.numbers import Numbers
from gensyn_tvm.passes.order.sequences import check_same_blocks, check_statements
from gensyn_tvm.passes.order.threads import join_threads
from gensyn_tvm.passes.order.values import AS_VARIANT, CHANGED, Meaning

#: Values of fused kernels are deep expressions.
_DEPTH = 20_000


@contextmanager
def _deep() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def check_order(name: str, function: Any, variant: Any = None) -> None:
    """Refuse a scheduled PrimFunc whose order is not proved, or which computes something else than ``variant``.

    Args:
        name: of the kernel, for messages.
        function: scheduled.
        variant: the same kernel before it was scheduled; None: its values are not compared.

    Raises:
        ScheduleError: with the kernel, block and loop.
    """
    function = join_threads(function)
    kernel = read_kernel(name, function)
    unscheduled = None if variant is None or variant.same_as(function) else read_kernel(name, variant)
    with _deep():
        numbers = Numbers()
        if kernel.in_order:
            check_statements(numbers, kernel)
            if unscheduled is not None:
                check_same_blocks(kernel, unscheduled)
            return
        if kernel.empty:
            if unscheduled is not None and not tvm_ffi.structural_equal(function.body, variant.body):
                refuse(name, "root", found="a schedule of a stage without elements", expected="the variant", what=CHANGED)
            return
        flow = Flow(Meaning(numbers, kernel))
        flow.check()
        if unscheduled is not None:
            _check_values(flow, Meaning(numbers, unscheduled, given=True))


def _check_values(flow: Flow, variant: Meaning) -> None:
    """Every output of the variant is stored, with the same values, and nothing else is."""
    scheduled = flow.meaning
    kernel = scheduled.kernel
    _check_parameters(kernel, variant.kernel)
    known = {d.key for d in variant.definitions.values() if d.key is not None}
    for definition in scheduled.definitions.values():
        if definition.key is not None and definition.key not in known:
            found = "a reduction with other terms, axes or another initial value"
            expected = "a reduction of the variant"
            refuse(kernel.name, definition.name, found=found, expected=expected, what=CHANGED, remedy=AS_VARIANT)
    for p, q in zip(kernel.params, variant.kernel.params, strict=True):
        mine, theirs = scheduled.definitions.get(hash(p)), variant.definitions.get(hash(q))
        if mine is None and theirs is None:
            continue
        if mine is None or theirs is None:
            found = f"parameter {p.name} " + ("is not stored" if mine is None else "is stored")
            refuse(kernel.name, "root", found=found, expected="the outputs of the variant", what=CHANGED, remedy=AS_VARIANT)
        try:
            points = scheduled.point(mine, theirs.place)
            same = scheduled.load(p, theirs.place) == variant.load(q, theirs.place)
        except Unproved as problem:
            refuse(kernel.name, mine.name, found=str(problem), expected="values that can be compared", what=CHANGED)
        if not same:
            found = f"other values of {p.name} than the variant's block {theirs.name!r} stores"
            expected = "the same operations on the same elements"
            refuse(kernel.name, mine.name, found=found, expected=expected, what=CHANGED, remedy=AS_VARIANT)
        flow.check_stores_all(mine, points)


def _check_parameters(scheduled: Kernel, variant: Kernel) -> None:
    """Both have the same parameters."""
    mine, theirs = ([(str(p.dtype), [str(e) for e in p.shape], p.scope()) for p in k.params] for k in (scheduled, variant))
    if mine != theirs:
        refuse(scheduled.name, "root", found=f"parameters {mine}", expected=f"{theirs}", what=CHANGED, remedy=AS_VARIANT)


__all__ = ["check_order"]
