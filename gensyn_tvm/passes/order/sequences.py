"""Kernels with blocks of statements that run in order (``Kernel.sequence``) and may store anywhere.

Their blocks follow one another, no loop is around two of them, and each block is the variant's own. The indices of a block
enumerate all of its domain, each point once, steps ascending. A loop that is not sequential must run over an outer or inner
index which, in every access to a buffer that the block writes, stands alone at one fixed position, so that its iterations
touch different elements; loops inside of the block are serial.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.passes.order.affine import Digit, Digits, Unproved, extent, text
from gensyn_tvm.passes.order.blocks import KINDS, SEQUENTIAL, Axis, Block, Kernel, Loop, refuse
from gensyn_tvm.passes.order.numbers import Numbers
from gensyn_tvm.passes.order.places import Placed, Places, decodable, is_box
from gensyn_tvm.passes.order.values import AS_VARIANT, CHANGED, axes_of


def check_statements(numbers: Numbers, kernel: Kernel) -> None:
    """Refuse a kernel whose blocks may lose, repeat or reorder statements, or run dependent ones side by side."""
    places = Places(numbers, kernel)
    for block in kernel.blocks:
        placed = places.of(block)
        _check_alone(kernel.name, block)
        if block.empty:
            continue
        if not _always(block.predicate):
            refuse(kernel.name, block.name, found=f"a predicate {block.predicate}", expected="every iteration of the sequence")
        try:
            digits = Digits(placed.axes)
            used = _check_enumerates(kernel.name, placed, digits)
            _check_steps(places, placed)
            _check_used(places, placed, digits, used)
            _check_side_by_side(numbers, places, placed, digits)
        except Unproved as problem:
            refuse(kernel.name, block.name, found=str(problem), expected="an affine function of loops from 0")


def check_same_blocks(kernel: Kernel, variant: Kernel) -> None:
    """Refuse other blocks than the variant's, or the same in another order."""
    same = [tvm_ffi.structural_equal(a.node, b.node) for a, b in zip(kernel.blocks, variant.blocks, strict=False)]
    if len(kernel.blocks) != len(variant.blocks) or not all(same):
        name = next((b.name for b, s in zip(kernel.blocks, same, strict=False) if not s), "root")
        refuse(kernel.name, name, found="other statements", expected="those of the variant", what=CHANGED, remedy=AS_VARIANT)


def _check_alone(kernel: str, block: Block) -> None:
    around: Loop | None = None
    for p in block.path:
        if isinstance(p, Loop):
            around = p
        elif around is not None:
            found = "a loop around several statements"
            refuse(kernel, block.name, around, found=found, expected="a sequence alone in its loops")


def _always(condition: Any) -> bool:
    return isinstance(condition, tirx.IntImm) and bool(condition.value)


def _check_enumerates(kernel: str, placed: Placed, digits: Digits) -> set[Digit]:
    """Each index is a mixed-radix number whose digits are the loops."""
    used: set[Digit] = set()
    for axis, form in zip(placed.block.axes, placed.axes, strict=True):
        terms = digits.expand(form)
        found = f"index {text(form)} of extent {axis.extent}"
        if used & terms.keys():
            refuse(kernel, placed.block.name, found=found, expected="loops of its own for each index")
        if form[0] != 0 or not all(is_box(d) for d in terms):
            refuse(kernel, placed.block.name, found=found, expected="an affine function of loops from 0")
        used |= terms.keys()
        span = 1
        for digit, step in sorted(terms.items(), key=lambda t: t[1]):
            if step != span:
                refuse(kernel, placed.block.name, found=found, expected="every value of the index once")
            span *= extent(digit)
        if span != axis.extent:
            found = f"{span} values of an index of extent {axis.extent}"
            refuse(kernel, placed.block.name, found=found, expected="every value of the index once")
    return used


def _check_used(places: Places, placed: Placed, digits: Digits, used: set[Digit]) -> None:
    for loop in placed.loops:
        mine = set(digits.of(places.form(loop)))
        if loop.extent != 1 and not (mine and mine <= used):
            found = "a loop that no index of the block depends on"
            refuse(places.name, placed.block.name, loop, found=found, expected="every statement exactly once")


def _check_steps(places: Places, placed: Placed) -> None:
    """Steps run in ascending order, one after the other."""
    for loop in placed.loops:
        if loop.kind not in SEQUENTIAL and places.moves(loop, placed.reductions):
            found = f"a reduction loop under {loop.kind}"
            refuse(places.name, placed.block.name, loop, found=found, expected="serial or unrolled")
    places.check_ascending(placed)


def _check_side_by_side(numbers: Numbers, places: Places, placed: Placed, digits: Digits) -> None:
    block = placed.block
    accesses, inside = _accesses(block.node.body)
    for statement in inside:
        kind = KINDS[int(statement.kind)]
        if kind != "serial":
            found = f"the loop {statement.loop_var} inside of the sequence under {kind}"
            refuse(places.name, block.name, found=found, expected="serial")
    for loop in placed.loops:
        if loop.extent == 1 or loop.kind in SEQUENTIAL:
            continue
        if block.store is not None:
            env, _ = axes_of(numbers.space, block)
            place = [numbers.index(i, env, _no_load) for i in block.store.indices]
            stored = Digits(place)
            if not decodable({d for a in env.values() for d in stored.of(a)}, [stored.expand(f) for f in place]):
                _refuse_touching(places, block, loop, block.axes[0])
            continue
        for axis, form in zip(block.axes, placed.axes, strict=True):
            if places.moves(loop, [form]) and not _apart(accesses, axis.var):
                _refuse_touching(places, block, loop, axis)


def _no_load(buffer: Any, place: Any) -> int:
    raise Unproved(f"a place that is read from {buffer.name}")


def _refuse_touching(places: Places, block: Block, loop: Loop, axis: Axis) -> None:
    expected = f"{axis.var} alone at one position of everything that is written"
    refuse(places.name, block.name, loop, found="iterations that may touch the same elements", expected=expected)


def _accesses(body: Any) -> tuple[list[Any], list[Any]]:
    """Loads and stores of a block's statements, and the loops among them."""
    accesses: list[Any] = []
    inside: list[Any] = []
    nodes = (tirx.BufferStore, tvm.ir.TensorLoad)
    tvm_ffi.structural_walk(body, [(nodes, accesses.append), (tirx.For, inside.append)])
    return accesses, inside


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
