"""The order in which microbatches are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PairwiseSum(Generic[T]):
    """Sums parts that come one after another by a binary tree over their index.

    Neighbours are added first (0 + 1, 2 + 3, …), then neighbouring sums, and an odd one out is carried up. At most one partial
    sum per power of two waits, like the ones of a binary counter.

    Attributes:
        add: adds two partial sums, the earlier one first.
    """

    def __init__(self, add: Callable[[T, T], T]) -> None:
        self.add = add
        self._pending: list[tuple[int, T]] = []

    def push(self, part: T) -> None:
        """Take the next part."""
        count = 1
        while self._pending and self._pending[-1][0] == count:
            part = self.add(self._pending.pop()[1], part)
            count *= 2
        self._pending.append((count, part))

    def total(self) -> T:
        """The sum of all parts, of which there must be one at least; afterwards the sum is empty."""
        total = self._pending.pop()[1]
        while self._pending:
            total = self.add(self._pending.pop()[1], total)
        return total
