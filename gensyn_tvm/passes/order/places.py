"""Where the blocks of a kernel run: their axes as forms over the loops, and what can be said of one block alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from gensyn_tvm.passes.order.affine import ZERO, Digit, Digits, Form, Unproved, bounds, constant, extent, parts, text, variables
from gensyn_tvm.passes.order.blocks import Block, Kernel, Loop, refuse
from gensyn_tvm.passes.order.numbers import Load, Numbers, negative
from gensyn_tvm.passes.order.values import AS_VARIANT, CHANGED


@dataclass(eq=False)
class Placed:
    """A block's axes and predicate as forms over its loops.

    Attributes:
        axes: (spatial or reduction axis, form) in order.
        facts: forms that are negative in every iteration that is executed.
        limits: those of the facts that keep a reduction axis inside of its extent.
    """

    block: Block
    loops: list[Loop]
    env: dict[int, Form]
    axes: list[Form]
    facts: list[Form]
    limits: list[Form]

    @property
    def spatial(self) -> list[Form]:
        """Forms of the spatial axes."""
        return [f for f, a in zip(self.axes, self.block.axes, strict=True) if not a.reduces]

    @property
    def reductions(self) -> list[Form]:
        """Forms of the reduction axes."""
        return [f for f, a in zip(self.axes, self.block.axes, strict=True) if a.reduces]


class Places:
    """The loops of a kernel as forms, and its blocks in them."""

    def __init__(self, numbers: Numbers, kernel: Kernel) -> None:
        self.numbers = numbers
        self.space = numbers.space
        self.name = kernel.name
        self._loops: dict[Loop, Form] = {}
        self._placed = {block: self._place(block) for block in kernel.blocks}

    def of(self, block: Block) -> Placed:
        """A block of the kernel."""
        return self._placed[block]

    def form(self, loop: Loop) -> Form:
        """A loop's variable."""
        if loop not in self._loops:
            variable = self.space.variable(("loop", hash(loop.var)), loop.extent, str(loop.var))
            self._loops[loop] = self.space.add(variable, constant(loop.start))
        return self._loops[loop]

    def _place(self, block: Block) -> Placed:
        if not _comparisons_only(block.predicate):
            found = f"a predicate {block.predicate}"
            refuse(self.name, block.name, found=found, expected="limits of indices", what=CHANGED, remedy=AS_VARIANT)
        env = {hash(loop.var): self.form(loop) for loop in block.loops}
        try:
            single = self._single(block, env)
            loops = [loop for loop in block.loops if loop not in single]
            env |= {hash(loop.var): ZERO for loop in single}
            axes = [self.numbers.index(a.value, env, _no_load) for a in block.axes]
            facts = self.facts_of([block.predicate], env, _no_load)
        except Unproved as problem:
            refuse(self.name, block.name, found=str(problem), expected="indices that are functions of the loops alone")
        inner = {hash(a.var): f for a, f in zip(block.axes, axes, strict=True)}
        limits = [self.space.add(f, constant(-a.extent)) for a, f in zip(block.axes, axes, strict=True)]
        facts = [next((limit for limit in limits if self._same_limit(fact, limit)), fact) for fact in facts]
        ends = [self.space.add(f, constant(-a.extent)) for a, f in zip(block.axes, axes, strict=True) if a.reduces]
        ending = [f for f in facts if f in ends or any(self._implies(f, end) for end in ends)]
        return Placed(block, loops, inner, axes, facts, ending)

    def _single(self, block: Block, env: dict[int, Form]) -> list[Loop]:
        """The loops over threads of which the predicate lets the first run and no other: what one does for all."""
        facts = self.facts_of([block.predicate], env, _no_load)
        threads = [loop for loop in block.loops if loop.is_thread and loop.extent > 1]
        return [loop for loop in threads if self.space.add(self.form(loop), constant(-1)) in facts]

    def _implies(self, fact: Form, limit: Form) -> bool:
        """Whether a limit holds exactly where a fact does: x // 9 < 6 where x < 54."""
        return any(-fact[0] % low == 0 and self._quotient(fact, low) == limit for low in _divisors(limit))

    def _same_limit(self, fact: Form, limit: Form) -> bool:
        """Whether a fact is negative exactly where an index is inside of its extent.

        limit = factor * fact + rest with 0 <= rest < factor: TVM writes 8 * i + j < 200 as i < 25.
        """
        mine = dict(limit[1])
        for factor in {mine[atom] // f for atom, f in fact[1] if atom in mine and mine[atom] // f > 1}:
            low, high = bounds(self.space.add(limit, fact, -factor))
            if low is not None and high is not None and 0 <= low <= high < factor:
                return True
        return False

    def facts_of(self, conditions: Sequence[Any], env: dict[int, Form], load: Load) -> list[Form]:
        """Conditions as forms that are negative; parts that are not comparisons of indices say nothing."""
        facts: list[Form] = []
        for condition in conditions:
            if isinstance(condition, tirx.And):
                facts += self.facts_of([condition.a, condition.b], env, load)
            elif isinstance(condition, tvm.ir.Call) and str(condition.op.name).endswith("likely"):
                facts += self.facts_of([condition.args[0]], env, load)
            elif isinstance(condition, (tirx.LT, tirx.LE, tirx.GT, tirx.GE)):
                a, b = (self.numbers.index(e, env, load) for e in (condition.a, condition.b))
                facts.append(negative(self.space, type(condition), a, b))
        return [f for f in facts if (bounds(f)[1] or 0) >= 0]

    def moves(self, loop: Loop, forms: Sequence[Form]) -> bool:
        """Whether any of the forms depends on a loop."""
        if loop.extent == 1:
            return False
        mine = self.form(loop)[1][0][0]
        return any(mine in variables(f) for f in forms)

    def check_complete(self, placed: Placed, digits: Digits) -> None:
        """Every reduction axis takes every value of its extent, and no predicate leaves a term out."""
        block = placed.block
        found_terms: set[Digit] = set()
        counted = self._counts_all(placed)
        for axis, form in zip(block.reductions, placed.reductions, strict=True):
            terms = digits.expand(form)
            top = reach(terms)
            boxes = all(is_box(d) for d in terms) and not found_terms & terms.keys()
            if not counted and (form[0] != 0 or top is None or top < axis.extent - 1 or not boxes):
                found = f"reduction index {text(form)} of an axis of extent {axis.extent}"
                refuse(self.name, block.name, found=found, expected="every term exactly once, an affine function of the loops")
            found_terms |= terms.keys()
        for fact in placed.facts:
            if fact not in placed.limits and any(d in found_terms for d in digits.expand(fact)):
                found = f"a predicate {text(fact)} < 0"
                refuse(self.name, block.name, found=found, expected="no term left out")

    def _counts_all(self, placed: Placed) -> bool:
        """Whether the rank of the terms counts from 0 to the last one: loops over all terms as one, ended by a predicate."""
        rank = self._rank(placed)
        count = math.prod(axis.extent for axis in placed.block.reductions)
        terms = Digits([rank]).expand(rank)
        top = reach(terms)
        if rank[0] != 0 or top is None or top < count - 1 or not all(is_box(d) for d in terms):
            return False
        return self.is_negative(self.space.add(rank, constant(-count)), placed.facts)

    def _rank(self, placed: Placed) -> Form:
        """The row-major rank of the term."""
        rank = ZERO
        for axis, form in zip(placed.block.reductions, placed.reductions, strict=True):
            rank = self.space.add(form, rank, 1) if not rank[1] else self.space.add(form, rank, axis.extent)
        return rank

    def check_domain(self, placed: Placed) -> None:
        """No axis leaves its extent."""
        for axis, form in zip(placed.block.axes, placed.axes, strict=True):
            if not self.is_inside(form, axis.extent, placed.facts):
                found = f"index {text(form)} beyond its extent {axis.extent}"
                refuse(self.name, placed.block.name, found=found, expected="a predicate that ends it there")

    def check_ascending(self, placed: Placed) -> None:
        """Each digit's step in the rank of the term must exceed all that the digits inside of it can add."""
        rank = self._rank(placed)
        digits = Digits([rank])
        steps = digits.expand(rank)
        order = [(loop, d) for loop in placed.loops if loop.extent > 1 for d in digits.of(self.form(loop))]
        inner = 0
        seen: set[Digit] = set()
        for loop, digit in reversed(order):
            if digit not in steps or digit in seen:
                continue
            seen.add(digit)
            if len(digit[0][1]) > 1:  # a digit of a sum of loops, of which nothing says in which order it grows
                raise Unproved(f"reduction index {text(rank)}")
            step = steps[digit]
            if step <= inner:
                found = f"step {step} in the reduction index, inner loops span {inner}"
                refuse(self.name, placed.block.name, loop, found=found, expected="a larger step")
            inner += step * (extent(digit) - 1)

    def is_inside(self, form: Form, extent: int, facts: list[Form]) -> bool:
        """Whether a form is certainly in [0, extent) wherever the facts hold."""
        below, above = self.space.add(constant(-1), form, -1), self.space.add(form, constant(-extent))
        return self.is_negative(below, facts) and self.is_negative(above, facts)

    def is_negative(self, form: Form, facts: list[Form]) -> bool:
        """Whether a form is certainly negative wherever the facts are."""
        high = bounds(form)[1]
        if high is not None and high < 0:
            return True
        return self._follows(form, facts) or self._follows(form, self._quotients(facts, form))

    def _follows(self, form: Form, facts: list[Form]) -> bool:
        for fact in facts:
            high = bounds(self.space.add(form, fact, -1))[1]
            if high is not None and high <= 0:
                return True
        return False

    def _quotients(self, facts: list[Form], form: Form) -> list[Form]:
        """What follows from facts for the quotients that a form has digits of: x // 48 < 33 wherever x < 33 * 48."""
        lows = _divisors(form)
        found: list[Form] = []
        fresh = facts
        while fresh and len(found) < _QUOTIENTS:
            steps = [(fact, low) for fact in fresh for low in {*lows, *(f for _, f in fact[1] if f > 1)}]
            fresh = [self._quotient(fact, low) for fact, low in steps if -fact[0] > low]
            found += fresh
        return found

    def under(self, form: Form, facts: list[Form]) -> Form:
        """The form where the facts hold: x mod 100 is x where x < 100."""
        result = constant(form[0])
        for atom, factor in form[1]:
            part: Form = (0, ((atom, 1),))
            if atom.digit is not None:
                base, low, high = atom.digit
                limit = bounds(base)[1]
                cut = limit is None or high <= limit
                if cut and self.is_negative(self.space.add(base, constant(-high)), facts):
                    part = self.space.floordiv(base, low)
            result = self.space.add(result, part, factor)
        return result

    def _quotient(self, fact: Form, low: int) -> Form:
        """From x < limit, x // low < limit / low rounded up."""
        x, limit = self.space.add(fact, constant(-fact[0])), -fact[0]
        return self.space.add(self.space.floordiv(x, low), constant(-((limit - 1) // low + 1)))


def _divisors(form: Form) -> list[int]:
    """By what the digits of a form are divided, and the digits of which these are."""
    found: set[int] = set()
    for atom, _ in form[1]:
        if atom.digit is not None:
            found |= {atom.digit[1], *_divisors(atom.digit[0])} - {1}
    return sorted(found)


#: Conclusions from facts that are tried at most.
_QUOTIENTS = 64


def _no_load(buffer: Any, place: tuple[Form, ...]) -> int:
    raise Unproved(f"an index that is read from {buffer.name}")


def _comparisons_only(condition: Any) -> bool:
    if isinstance(condition, tirx.And):
        return _comparisons_only(condition.a) and _comparisons_only(condition.b)
    if isinstance(condition, tvm.ir.Call) and str(condition.op.name).endswith("likely"):
        return _comparisons_only(condition.args[0])
    if isinstance(condition, tirx.IntImm):
        return bool(condition.value)
    return isinstance(condition, (tirx.LT, tirx.LE, tirx.GT, tirx.GE))


def reach(terms: dict[Digit, int]) -> int | None:
    """The greatest value if the digits make every number from 0 up to it, else None."""
    top = 0
    for digit, factor in sorted(terms.items(), key=lambda t: t[1]):
        if factor < 1 or factor > top + 1:
            return None
        top += factor * (extent(digit) - 1)
    return top


def is_box(digit: Digit) -> bool:
    """Whether a digit takes all of its values whatever the digits beside it."""
    base, low, high = digit
    if high % low:
        return False
    terms = {parts(atom): factor for atom, factor in base[1]}
    if terms == {(base, 1, (bounds(base)[1] or 0) + 1): 1}:
        return True  # a variable
    return base[0] == 0 and all(is_box(d) for d in terms) and reach(terms) == bounds(base)[1]


def decodable(wanted: set[Digit], forms: list[dict[Digit, int]]) -> bool:
    """Whether the digits can be told from the forms' values: each step exceeds what the smaller ones add up to."""
    left = set(wanted)
    for terms in forms:
        inner = 0
        known: list[Digit] = []
        for digit, factor in sorted(terms.items(), key=lambda t: abs(t[1])):
            if abs(factor) <= inner:
                known = []  # neither this one nor anything below it is certain
            else:
                known.append(digit)
            inner += abs(factor) * (extent(digit) - 1)
        left -= set(known)
    return not left
