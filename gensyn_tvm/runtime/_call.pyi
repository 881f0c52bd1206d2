"""The extension in ``_call.c`` and its neighbours."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

ACCEPTED: int
ALIGNMENT: int
PAGE: int

#: Slot of the table, dtype, shape, the fixed place of small arrays, and what makes the arrays of large outputs.
Slot: TypeAlias = tuple[int, Any, tuple[int, ...], np.ndarray | None, Results | None]

class Pool:
    """The lock on TVM's thread pool, and the number of threads that it is sized for; 0 before its first use."""

    threads: int
    def __enter__(self) -> Pool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

class Entry:
    """A library's entry, and the table of addresses that its code reads.

    Args:
        library: what keeps the code in memory.
        fail: raises what a status means.
        address: of the function.
        bare: that of the function that does not care for the floating-point environment.
        is_parallel: whether threads other than the caller's compute, too.
        status: the slot of the status.
        first, last: steps of a run.
    """

    def __new__(
        cls,
        pool: Pool,
        table: np.ndarray,
        library: Any,
        fail: Callable[[int], Any],
        address: int,
        bare: int,
        is_parallel: bool,
        status: int,
        first: int,
        last: int,
    ) -> Entry: ...
    def own(self, call: Call | None, /) -> None:
        """Let a call rely on what the table says, or with None nobody."""

class Results:
    """Makes the arrays of one large output, run after run.

    Their memory comes back when nobody holds the array or a view of it any more, and the next one gets it. No more than one
    piece waits. They begin at a page (``storage.PAGE``).
    """

    def __new__(cls, shape: tuple[int, ...], dtype: Any) -> Results: ...
    def new(self) -> np.ndarray:
        """An uninitialised array."""

class Call:
    """The base of ``BoundCall``, whose ``_long`` and ``_into`` it calls for what is not addresses only."""

    def __init__(self, executable: Any, entry: Entry, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...]) -> None: ...
    def __call__(self, *inputs: Any, out: Sequence[np.ndarray] | np.ndarray | None = None) -> Any: ...
    @property
    def is_short(self) -> bool:
        """Whether the next call needs the addresses of its arrays only."""
