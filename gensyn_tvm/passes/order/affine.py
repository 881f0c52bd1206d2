"""Indices as integer sums of digits, in a canonical form: two indices are the same function if their forms are equal.

A form is a constant and a sum of atoms with integer factors. Atoms are variables of known range (loops, block axes), values
that only data decides, and digits ``x mod high div low`` of a form x >= 0. Digits that continue each other are joined, so that
``(i div 5) * 5 + i mod 5`` is ``i``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gensyn_tvm.errors import ScheduleError


class Unproved(ScheduleError):
    """Something that the verifier cannot see through, without the place, which its callers know."""


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """A variable, an unknown or a digit, one object for each.

    Attributes:
        number: position in the order of terms.
        low, high: bounds, inclusive; None if unknown.
        digit: for a digit (form, low, high), else None.
        free: whether it is a variable, which takes every value of its range whatever the others are.
        label: for messages.
    """

    number: int
    low: int | None
    high: int | None
    digit: tuple[Form, int, int] | None
    free: bool
    label: str


#: Constant and terms (atom, factor) in the order of the atoms' numbers, no factor 0.
Form = tuple[int, tuple[tuple[Atom, int], ...]]
ZERO: Form = (0, ())


def constant(value: int) -> Form:
    """A form without atoms."""
    return (value, ())


def text(form: Form) -> str:
    """For messages."""
    parts = [f"{label(a)} * {f}" if f != 1 else label(a) for a, f in form[1]]
    return " + ".join([*parts, *([str(form[0])] if form[0] or not parts else [])])


def label(atom: Atom) -> str:
    """For messages."""
    if atom.digit is None:
        return atom.label
    base, low, high = atom.digit
    limit = bounds(base)[1]
    inner = f"({text(base)})"
    inner = inner if limit is not None and high > limit else f"{inner} % {high}"
    return inner if low == 1 else f"{inner} // {low}"


def bounds(form: Form) -> tuple[int | None, int | None]:
    """Least and greatest value, inclusive, if every atom took every value of its range on its own."""
    low: int | None = form[0]
    high: int | None = form[0]
    for atom, factor in form[1]:
        a, b = (atom.low, atom.high) if factor > 0 else (atom.high, atom.low)
        low = None if low is None or a is None else low + a * factor
        high = None if high is None or b is None else high + b * factor
    return low, high


class Space:
    """The atoms of one kernel."""

    def __init__(self) -> None:
        self._atoms: dict[Hashable, Atom] = {}

    def _intern(self, key: Hashable, low: int | None, high: int | None, digit: Any, name: str) -> Atom:
        atom = self._atoms.get(key)
        if atom is None:
            free = isinstance(key, tuple) and key[0] == "variable"
            atom = self._atoms[key] = Atom(len(self._atoms), low, high, digit, free, name)
        return atom

    def variable(self, key: Hashable, extent: int, name: str) -> Form:
        """A variable in [0, extent); that of one value is 0."""
        if extent == 1:
            return ZERO
        return (0, ((self._intern(("variable", key), 0, extent - 1, None, name), 1),))

    def unknown(self, key: Hashable, name: str, low: int | None = None, high: int | None = None) -> Form:
        """A number of which only its bounds are known; the same key is the same number."""
        return (0, ((self._intern(("unknown", key), low, high, None, name), 1),))

    # ---- arithmetic --------------------------------------------------------------------------------------------------

    def add(self, a: Form, b: Form, factor: int = 1) -> Form:
        """a + b * factor."""
        if not a[1] and factor == 1:
            return (a[0] + b[0], b[1])
        if not b[1]:
            return (a[0] + b[0] * factor, a[1])
        terms = dict(a[1])
        for atom, f in b[1]:
            terms[atom] = terms.get(atom, 0) + f * factor
        return self._joined(a[0] + b[0] * factor, terms)

    def scale(self, a: Form, factor: int) -> Form:
        """a * factor."""
        if factor == 0:
            return ZERO
        return (a[0] * factor, tuple((atom, f * factor) for atom, f in a[1]))

    def product(self, a: Form, b: Form) -> Form:
        """a * b; an unknown if neither is a constant."""
        if not b[1]:
            return self.scale(a, b[0])
        if not a[1]:
            return self.scale(b, a[0])
        return self.unknown(("*", a, b), f"({text(a)}) * ({text(b)})")

    def _joined(self, value: int, terms: dict[Atom, int]) -> Form:
        """The form of these terms, digits that continue each other joined."""
        digits = [atom for atom, f in terms.items() if f and atom.digit is not None]
        if len(digits) > 1:
            for atom in digits:
                found = self._continued(atom, terms)
                if found is not None:
                    other, whole, factor = found
                    del terms[atom], terms[other]
                    rest = self._joined(value, terms)
                    return self.add(rest, whole, factor)
        kept = [(atom, f) for atom, f in terms.items() if f]
        kept.sort(key=lambda term: term[0].number)
        return (value, tuple(kept))

    def _continued(self, atom: Atom, terms: dict[Atom, int]) -> tuple[Atom, Form, int] | None:
        """A digit that goes on where ``atom`` ends, with what both are together."""
        assert atom.digit is not None
        base, low, high = atom.digit
        factor = terms[atom]
        for other, f in terms.items():
            if other.digit is None or other.digit[1] != high or high % low or f != factor * (high // low):
                continue
            further = other.digit[0]  # multiples of ``high`` make no difference to ``atom``
            if further[1] == base[1] and further[0] >= base[0] and (further[0] - base[0]) % high == 0:
                return other, self.digit(further, low, other.digit[2]), factor
        return None

    def digit(self, base: Form, low: int, high: int) -> Form:
        """(base mod high) div low for base >= 0; a ``high`` beyond its bound means no mod."""
        limit = bounds(base)[1]
        if limit is not None:
            high = min(high, limit + 1)
            if low >= high:
                return ZERO
            if low == 1 and high == limit + 1:
                return base
            base, high = self._extended(base, limit + 1, high)
        key = ("digit", base, low, high)
        return (0, ((self._intern(key, 0, -(-high // low) - 1, (base, low, high), ""), 1),))

    def _extended(self, base: Form, size: int, high: int) -> tuple[Form, int]:
        """The same digit of a sum that is not cut off: ``x mod high`` for ``x mod size mod high``."""
        atom, factor = max(base[1], key=lambda term: term[1])
        if base[0] != 0 or len(base[1]) < 2 or atom.digit is None or size % high:
            return base, high
        inner, low, cut = atom.digit
        if cut % low or size != factor * (cut // low):
            return base, high
        whole = self.digit(inner, low, (bounds(inner)[1] or 0) + 1)
        if bounds(inner)[1] is None or not whole[1]:
            return base, high
        return self.add((0, tuple(t for t in base[1] if t[0] is not atom)), whole, factor), high

    def floordiv(self, a: Form, q: int) -> Form:
        """a // q for q > 0."""
        out, rest = self._divided(a, q)
        return self.add(out, self._quotient(rest, q))

    def floormod(self, a: Form, q: int) -> Form:
        """a mod q for q > 0."""
        _, rest = self._divided(a, q)
        return self._remainder(rest, q)

    def _divided(self, a: Form, q: int) -> tuple[Form, Form]:
        """a = q * first + second, the second without multiples of q."""
        value, rest = divmod(a[0], q)
        out = tuple((atom, f // q) for atom, f in a[1] if f % q == 0)
        return (value, out), (rest, tuple((atom, f) for atom, f in a[1] if f % q))

    def _coarse(self, rest: Form, q: int) -> tuple[int, Form, Form] | None:
        """rest = g * first + second with 0 <= second < g, g a divisor of q above 1."""
        for g in sorted({abs(f) for _, f in rest[1] if abs(f) > 1 and q % f == 0}, reverse=True):
            first, second = self._divided(rest, g)
            low, high = bounds(second)
            if low is not None and high is not None and low >= 0 and high < g:
                return g, first, second
        return None

    def _quotient(self, rest: Form, q: int) -> Form:
        low, high = bounds(rest)
        if low is not None and high is not None and low // q == high // q:
            return constant(low // q)
        coarse = self._coarse(rest, q)
        if coarse is not None:
            return self.floordiv(coarse[1], q // coarse[0])
        if low is None or high is None:
            limits = (None if b is None else b // q for b in (low, high))
            return self.unknown(("//", rest, q), f"({text(rest)}) // {q}", *limits)
        if low < 0:
            shift = -(low // q)
            return self.add(self._quotient(self.add(rest, constant(shift * q)), q), constant(-shift))
        inner = self._single_digit(rest)
        if inner is not None:
            return self.digit(inner[0], inner[1] * q, inner[2])
        return self.digit(rest, q, high + 1)

    def _remainder(self, rest: Form, q: int) -> Form:
        low, high = bounds(rest)
        if low is not None and high is not None and low // q == high // q:
            return self.add(rest, constant(-(low // q) * q))
        coarse = self._coarse(rest, q)
        if coarse is not None:
            g, first, second = coarse
            return self.add(second, self.floormod(first, q // g), g)
        if low is None or high is None:
            return self.unknown(("%", rest, q), f"({text(rest)}) % {q}", 0, q - 1)
        if low < 0:
            rest = self.add(rest, constant(-(low // q) * q))
        inner = self._single_digit(rest)
        if inner is not None:
            base, below, above = inner
            limit = bounds(base)[1]
            if above % (below * q) == 0 or (limit is not None and above > limit):
                return self.digit(base, below, below * q)
        return self.digit(rest, 1, q)

    def _single_digit(self, form: Form) -> tuple[Form, int, int] | None:
        """A form that is one digit, or the highest one of its base and a constant: then it is a digit of a base further on."""
        if len(form[1]) != 1 or form[1][0][1] != 1 or form[1][0][0].digit is None:
            return None
        base, low, high = form[1][0][0].digit
        limit = bounds(base)[1]
        if form[0] == 0:
            return base, low, high
        if limit is None or high <= limit or form[0] < 0:
            return None
        further = self.add(base, constant(form[0] * low))
        return further, low, limit + 1 + form[0] * low

    def extremum(self, a: Form, b: Form, sign: int) -> Form:
        """The smaller (sign 1) or larger (sign -1) of two numbers."""
        low, high = bounds(self.add(a, b, -1))
        low, high = (low, high) if sign > 0 else (None if high is None else -high, None if low is None else -low)
        if high is not None and high <= 0:
            return a
        if low is not None and low >= 0:
            return b
        pick = min if sign > 0 else max
        limits = []
        for mine, theirs, both in ((bounds(a)[0], bounds(b)[0], sign < 0), (bounds(a)[1], bounds(b)[1], sign > 0)):
            known = [x for x in (mine, theirs) if x is not None]
            limits.append(pick(known) if len(known) == 2 or (known and both) else None)
        first, second = sorted((a, b), key=_order)
        name = f"{pick.__name__}({text(a)}, {text(b)})"
        return self.unknown((pick.__name__, first, second), name, limits[0], limits[1])


def _order(form: Form) -> tuple[int, list[tuple[int, int]]]:
    return form[0], [(a.number, f) for a, f in form[1]]


# ---- independent digits ----------------------------------------------------------------------------------------------

#: (form, low, high): a digit that no other one of the same set overlaps.
Digit = tuple[Form, int, int]


def extent(digit: Digit) -> int:
    """Number of values."""
    return -(-digit[2] // digit[1])


def variables(form: Form) -> set[Atom]:
    """The atoms that a form depends on."""
    return {v for a, _ in form[1] for v in ({a} if a.digit is None else variables(a.digit[0]))}


def parts(atom: Atom) -> Digit:
    """An atom as a digit; a variable is one of itself."""
    return atom.digit or ((0, ((atom, 1),)), 1, (atom.high or 0) + 1)


def _simple(base: Form) -> bool:
    """Whether a form is one variable."""
    return base[0] == 0 and len(base[1]) == 1 and base[1][0][1] == 1 and base[1][0][0].free


class Digits:
    """Forms as sums of independent digits: of each variable the coarsest ones that express all of the forms.

    Where a sum of digits is divided that no common factor takes apart (two loops over an axis that neither divides), the
    digits of the sum take the place of those that it consists of.
    """

    def __init__(self, forms: Iterable[Form]) -> None:
        forms = list(forms)
        cuts: dict[Form, set[int]] = {}
        for form in forms:
            self._collect(form, cuts, nested=False)
        self._digits = {base: _chain(base, sorted(found)) for base, found in cuts.items() if _simple(base)}
        #: Digits of variables that sums consist of, with the sum and their factor in it.
        self._whole: dict[Digit, tuple[Form, int]] = {}
        sums = [base for base in cuts if not _simple(base)]
        for base in sums:
            for digit, factor in self._simple_digits(base).items():
                if digit in self._whole:
                    raise Unproved(f"part of {text(base)} and of {text(self._whole[digit][0])}")
                self._whole[digit] = (base, factor)
        for form in forms:
            for digit in self._simple_digits(form):
                if digit in self._whole:  # used beside the sum: it is one of the sum's digits, too
                    base, factor = self._whole[digit]
                    cuts[base].update((factor, factor * extent(digit)))
        self._digits.update((base, _chain(base, sorted(cuts[base]))) for base in sums)

    def _collect(self, form: Form, cuts: dict[Form, set[int]], *, nested: bool) -> None:
        for atom, _ in form[1]:
            base, low, high = parts(atom)
            if not _simple(base):
                if nested or not all(a.free for a in variables(base)):
                    raise Unproved(f"{label(atom)} is no affine function of the loops")
                self._collect(base, cuts, nested=True)
            limit = bounds(base)[1]
            cuts.setdefault(base, {1, high if limit is None else limit + 1}).update((low, high))

    def _simple_digits(self, form: Form) -> dict[Digit, int]:
        """The part of a form that is made of digits of variables."""
        return self._cut([(parts(atom), f) for atom, f in form[1] if _simple(parts(atom)[0])])

    def _cut(self, terms: Iterable[tuple[Digit, int]]) -> dict[Digit, int]:
        result: dict[Digit, int] = {}
        for (base, low, high), factor in terms:
            for digit in self._digits[base]:
                if low <= digit[1] and digit[2] <= high:
                    result[digit] = result.get(digit, 0) + factor * (digit[1] // low)
        return {d: f for d, f in result.items() if f}

    def expand(self, form: Form) -> dict[Digit, int]:
        """Factors of the digits; the constant is left out."""
        found = self._cut((parts(atom), f) for atom, f in form[1])
        if not self._whole:
            return found
        terms = []
        for digit, factor in found.items():
            if digit in self._whole:
                base, place = self._whole[digit]
                terms.append(((base, place, place * extent(digit)), factor))
            else:
                terms.append((digit, factor))
        return self._cut(terms)

    def of(self, variable: Form) -> list[Digit]:
        """The digits of a variable and of the sums that it is part of, the highest first; none if nothing depends on it."""
        base = (0, variable[1])
        result: list[Digit] = []
        for digit in self._digits.get(base, [])[::-1]:
            whole = self._whole.get(digit)
            result += [digit] if whole is None else self._digits[whole[0]][::-1]
        return result


def _chain(base: Form, cuts: list[int]) -> list[Digit]:
    for below, above in pairwise(cuts):
        if above % below and above != cuts[-1]:
            raise Unproved(f"{text(base)} is divided by {below} and by {above}")
    return [(base, below, above) for below, above in pairwise(cuts)]
