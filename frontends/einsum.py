"""Einstein summation as diagonals, sums, products and matrix products, in a stated order.

1. Of each operand, a label that occurs twice is replaced by its diagonal; labels that occur in no other operand and not in
   the result are summed over (``sum``).
2. From left to right the next operand is multiplied into the result so far. Labels of both that occur neither later nor in
   the result are contracted by a matrix product, over them in row-major order, in the order of their first appearance in the
   equation; with none it is an elementwise product.
3. The axes are put into the order of the result.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

from gensyn_tvm.frontends.emit import Emitter, Expr, op, rank_of, shape_of


@dataclass(frozen=True)
class Equation:
    """A parsed equation: labels of each operand and of the result; an ellipsis has numbers from the right as labels."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]

    @property
    def order(self) -> list[str]:
        """All labels in the order of their first appearance."""
        return list(dict.fromkeys(label for labels in self.operands for label in labels))


def parse(e: Emitter, text: str, ranks: Sequence[int]) -> Equation:
    """The equation for operands of these ranks."""
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    allowed = set(string.ascii_letters) | set(".")
    if len(terms) != len(ranks) or set(left) - allowed - {","} or set(right) - allowed:
        raise e.refuse(
            f"the equation {text!r} for {len(ranks)} operands", expected="letters for each operand, like 'ij,jk->ik'"
        )
    widths = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    operands = [_labels(term, width) for term, width in zip(terms, widths, strict=True)]
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    result = _labels(right, max(widths, default=0))
    ok = min(widths, default=0) >= 0 and len(set(result)) == len(result) and "." not in "".join([*result, *sum(operands, ())])
    ok = ok and all(len(labels) == rank for labels, rank in zip(operands, ranks, strict=True))
    if not ok or not set(result) <= {label for labels in operands for label in labels}:
        found = f"the equation {text!r} for operands of ranks {list(ranks)}"
        raise e.refuse(found, expected="a letter for each axis, and a result of different ones of them")
    return Equation(tuple(operands), result)


def _labels(term: str, width: int) -> tuple[str, ...]:
    """The letters of a term, its ellipsis as numbers that count down to 0."""
    before, dots, after = term.partition("...")
    return (*before, *(str(k) for k in reversed(range(width if dots else 0))), *after)


def _diagonal(e: Emitter, x: Expr, labels: tuple[str, ...]) -> tuple[Expr, tuple[str, ...]]:
    """Each label once, the diagonals at the end."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            rest = [k for k in range(len(labels)) if k not in (first, second)]
            extents = [shape_of(x)[k] for k in rest]
            n = shape_of(x)[first]
            if shape_of(x)[second] != n:
                raise e.refuse(f"the diagonal of extents {n} and {shape_of(x)[second]}", expected="equal extents")
            flat = e.reshape(e.transpose(x, [*rest, first, second]), [*extents, n * n])
            x = e.slice(flat, len(rest), 0, n * n, n + 1)
            labels = (*(labels[k] for k in rest), label)
    return x, labels


def einsum(e: Emitter, text: str, operands: Sequence[Expr]) -> Expr:
    """The sum that ``text`` describes."""
    equation = parse(e, text, [rank_of(x) for x in operands])
    extents: dict[str, int] = {}
    for x, labels in zip(operands, equation.operands, strict=True):
        for label, extent in zip(labels, shape_of(x), strict=True):
            if extents.setdefault(label, extent) == 1:
                extents[label] = extent
            if extent not in (1, extents[label]):
                raise e.refuse(f"extents {extents[label]} and {extent} of label {label}", expected="equal extents, or 1")
    total: Expr | None = None
    have: tuple[str, ...] = ()
    for k, x in enumerate(operands):
        y, labels = _diagonal(e, x, equation.operands[k])
        y = e.broadcast(y, [extents[label] for label in labels])
        elsewhere = {*equation.result, *(lb for j, others in enumerate(equation.operands) if j != k for lb in others)}
        y, labels = _summed(e, y, labels, elsewhere)
        later = {*equation.result, *(label for others in equation.operands[k + 1 :] for label in others)}
        total, have = (y, labels) if total is None else _multiplied(e, total, have, y, labels, later, equation.order)
    assert total is not None
    return e.transpose(total, [have.index(label) for label in equation.result])


def _summed(e: Emitter, x: Expr, labels: tuple[str, ...], kept: set[str]) -> tuple[Expr, tuple[str, ...]]:
    axes = [k for k, label in enumerate(labels) if label not in kept]
    return (e(op.sum(x, axes)) if axes else x), tuple(label for label in labels if label in kept)


def _multiplied(
    e: Emitter, a: Expr, a_labels: Sequence[str], b: Expr, b_labels: Sequence[str], later: set[str], order: Sequence[str]
) -> tuple[Expr, tuple[str, ...]]:
    """The product of two operands of distinct labels, without those that nothing needs any more."""
    both = [label for label in order if label in a_labels and label in b_labels]
    batch, contracted = [lb for lb in both if lb in later], [lb for lb in both if lb not in later]
    rows, columns = [lb for lb in a_labels if lb not in both], [lb for lb in b_labels if lb not in both]
    extents = dict(zip([*a_labels, *b_labels], [*shape_of(a), *shape_of(b)], strict=True))

    def size(labels: Sequence[str]) -> int:
        return math.prod(extents[label] for label in labels)

    left = e.transpose(a, [a_labels.index(label) for label in (*batch, *rows, *contracted)])
    right = e.transpose(b, [b_labels.index(label) for label in (*batch, *contracted, *columns)])
    outer = [extents[label] for label in batch]
    if contracted:
        left = e.reshape(left, [*outer, size(rows), size(contracted)])
        y = e(op.matmul(left, e.reshape(right, [*outer, size(contracted), size(columns)])))
    else:
        y = e.mul(e.reshape(left, [*outer, size(rows), 1]), e.reshape(right, [*outer, 1, size(columns)]))
    result = (*batch, *rows, *columns)
    return e.reshape(y, [extents[label] for label in result]), result
