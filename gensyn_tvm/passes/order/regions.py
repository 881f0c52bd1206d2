"""Which points of its axes a block runs at: that a point is among them, and that two blocks have none in common.

A block's points are looked at as products of intervals, of single axes or, where neither of its loops follows an axis (vectors
along several short axes taken as one), of the row-major rank of neighbouring axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gensyn_tvm.passes.order.affine import ZERO, Atom, Digit, Digits, Form, Unproved, bounds, constant, extent, text, variables
from gensyn_tvm.passes.order.blocks import Axis, Loop
from gensyn_tvm.passes.order.places import Placed, Places, is_box

#: Ranges of neighbouring axes.
Runs = list[range]


def _runs(count: int) -> Iterator[Runs]:
    """Ways to take neighbouring axes together: none first, then more and more."""
    if not count:  # a scalar
        yield []
        return
    splits = sorted(range(1 << count - 1), key=lambda s: s.bit_count())
    for joined in splits:
        starts = [k for k in range(count) if k == 0 or not joined >> (k - 1) & 1]
        yield [range(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def _combs(terms: dict[Digit, int]) -> list[tuple[int, int]]:
    """What digits make, as sums of step * number with numbers from 0 to a top: (step, top), the smallest step first.

    One with step 1 if they make every number; two for the places of a thread that are spread over a tile.
    """
    found: list[tuple[int, int]] = []
    for digit, factor in sorted(terms.items(), key=lambda t: t[1]):
        if factor < 1:
            raise Unproved("an index that falls")
        step, top = found[-1] if found else (factor, 0)
        if found and (factor % step or factor // step > top + 1):
            step, top = factor, 0
            found.append((step, top))
        elif not found:
            found.append((step, top))
        found[-1] = (step, top + factor // step * (extent(digit) - 1))
    return found or [(1, 0)]


class Regions:
    """Points of blocks."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.space = places.space

    def rank(self, axes: list[Axis], forms: list[Form], run: range) -> Form:
        """Row-major rank of an index of some neighbouring axes."""
        result = ZERO
        for k in run:
            result = self.space.add(forms[k], result, axes[k].extent) if result != ZERO else forms[k]
        return result

    def digits(self, placed: Placed) -> tuple[Digits, list[dict[Digit, int]]]:
        """Independent digits of all that a block's loops move, and the spatial index in them: axes or ranks of some."""
        reason: Unproved | None = None
        facts = [f for f in placed.facts if f not in placed.limits]
        for runs in _runs(len(placed.spatial)):
            forms = [self.rank(placed.block.spatial, placed.spatial, run) for run in runs]
            try:
                digits = Digits([*forms, *placed.reductions, *self._besides(facts, forms)])
                return digits, [digits.expand(f) for f in forms]
            except Unproved as problem:
                reason = reason or problem
        raise reason or Unproved("no axes")

    def _besides(self, facts: list[Form], forms: list[Form]) -> list[Form]:
        """The facts that are something else than the limit of one of the forms."""
        return [f for f in facts if all(self.space.add(f, form, -1)[1] for form in forms)]

    def _open(self, producer: Placed, shared: list[Loop], point: list[Form], facts: list[Form]) -> list[Form]:
        """What remains to be proved of a producer that is to reach a point, if it is looked at in the best way.

        Raises:
            Unproved: its points are no product of intervals.
        """
        reason: Unproved | None = None
        best: list[Form] | None = None
        for runs in _runs(len(point)):
            try:
                needed = self._requirements(producer, shared, point, runs)
            except Unproved as problem:
                reason = reason or problem
                continue
            found = [f for f in needed if not self.places.is_negative(f, facts)]
            if best is None or len(found) < len(best):
                best = found
            if not best:
                break
        if best is None:
            raise reason or Unproved("no axes")
        return best

    def _requirements(self, producer: Placed, shared: list[Loop], point: list[Form], runs: Runs) -> list[Form]:
        """Forms that are negative exactly where, the shared loops fixed, the producer's own loops reach a point."""
        axes = producer.block.spatial
        limits = [f for f in producer.facts if f not in producer.limits]
        forms = [self.rank(axes, producer.spatial, run) for run in runs]
        targets = [self.rank(axes, point, run) for run in runs]
        digits = Digits([*forms, *self._besides(limits, forms)])
        common = {d for loop in shared if loop.extent > 1 for d in digits.of(self.places.form(loop))}
        needed: list[Form] = []
        seen: set[Digit] = set()
        for form, target in zip(forms, targets, strict=True):
            own = {d: f for d, f in digits.expand(form).items() if d not in common}
            combs = _combs(own)
            if seen & own.keys() or not all(is_box(d) for d in own):
                raise Unproved(f"index {text(form)} may leave out values")
            seen |= own.keys()
            offset = self.space.add(target, self.common_part(form, shared), -1)
            for part, (_, top) in zip(self._split(offset, combs), combs, strict=True):
                needed.append(self.space.add(constant(-1), part, -1))
                needed.append(self.space.add(part, constant(-1 - top)))
            for fact in list(limits):
                difference = self.space.add(fact, form, -1)
                if not difference[1]:  # the predicate limits this index: form + constant < 0
                    limits.remove(fact)
                    needed.append(self.space.add(target, difference))
        for run in runs:  # a rank tells the axes apart if each is inside of its extent
            for k in run[1:]:
                needed.append(self.space.add(constant(-1), point[k], -1))
                needed.append(self.space.add(point[k], constant(-axes[k].extent)))
        if limits:
            raise Unproved(f"predicate {text(limits[0])} < 0")
        return needed

    def _split(self, offset: Form, combs: list[tuple[int, int]]) -> list[Form]:
        """An offset as a sum of steps * numbers, one number for each comb: of each term what is a multiple of the step."""
        parts: list[list[tuple[Atom, int]]] = [[] for _ in combs]
        for atom, factor in offset[1]:
            fitting = [n for n, (step, _) in enumerate(combs) if factor % step == 0]
            if not fitting:
                raise Unproved(f"offset {text(offset)}, which no loop reaches")
            parts[fitting[-1]].append((atom, factor // combs[fitting[-1]][0]))
        first = combs[0][0]
        if offset[0] % first:
            raise Unproved(f"offset {text(offset)}, which no loop reaches")
        return [(offset[0] // first if n == 0 else 0, tuple(terms)) for n, terms in enumerate(parts)]

    def common_part(self, form: Form, shared: list[Loop]) -> Form:
        """The constant and the terms of shared loops."""
        mine = {self.places.form(loop)[1][0][0] for loop in shared if loop.extent > 1}
        inside = []
        for atom, factor in form[1]:
            used = variables((0, ((atom, 1),)))
            if used & mine:
                inside.append((atom, factor))
                if used - mine:
                    raise Unproved(f"index {text(form)} mixes loops")
        return (form[0], tuple(inside))

    def check_covered(
        self, producers: list[tuple[Placed, list[Loop]]], point: list[Form], facts: list[Form], depth: int = 0
    ) -> None:
        """Raise Unproved unless, wherever the facts hold, some producer runs at the point in the same shared iteration."""
        reason: Unproved | None = None
        for k, (producer, shared) in enumerate(producers):
            try:
                open_ones = self._open(producer, shared, point, facts)
            except Unproved as problem:
                reason = reason or problem
                continue
            if not open_ones:
                return
            reason = reason or Unproved(f"{text(open_ones[0])} < 0 is not certain")
            others = [*producers[:k], *producers[k + 1 :]]
            if others and depth < _DEPTH and len(open_ones) <= _OPEN:
                try:  # wherever this one does not run, because one of these is not negative, another must
                    for form in open_ones:
                        self.check_covered(others, point, [*facts, self.space.add(constant(-1), form, -1)], depth + 1)
                    return
                except Unproved:
                    continue
        raise reason or Unproved("nothing computes it")

    def check_apart(self, first: Placed, second: Placed, shared: list[Loop]) -> None:
        """Raise Unproved unless two blocks, in no iterations whatever, run at the same point."""
        axes = first.block.spatial
        runs = sorted({(a, b) for a in range(len(axes)) for b in range(a + 1, len(axes) + 1)}, key=lambda r: r[1] - r[0])
        for start, stop in runs:
            forms = [self.rank(axes, p.spatial, range(start, stop)) for p in (first, second)]
            if self._apart(forms[0], forms[1], shared):
                return
        raise Unproved(f"blocks {first.block.name!r} and {second.block.name!r} may store to the same elements")

    def _apart(self, a: Form, b: Form, shared: list[Loop]) -> bool:
        try:
            common = self.common_part(a, shared)
            if common[1] != self.common_part(b, shared)[1]:
                common = ZERO
        except Unproved:
            common = ZERO
        common = (0, common[1])
        (low_a, high_a), (low_b, high_b) = (bounds(self.space.add(f, common, -1)) for f in (a, b))
        if low_a is None or high_a is None or low_b is None or high_b is None:
            return False
        if low_a <= high_b and low_b <= high_a:
            return False
        span = max(high_a, high_b) - min(low_a, low_b)
        return not common[1] or math.gcd(*(f for _, f in common[1])) > span


#: Blocks between which a buffer's elements may be shared out, and along how many axes at once.
_DEPTH, _OPEN = 6, 2
