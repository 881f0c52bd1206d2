"""What type rules are made of: the complaint of a rule, and checks that make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.types import TensorType

Types = Sequence[TensorType]
Attrs = Mapping[str, Any]
Rule = Callable[[Types, Attrs], tuple[TensorType, ...]]


class Refused(Exception):
    """A rule's complaint: what was found, what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


def need(condition: bool, found: object, expected: str) -> None:
    """Raise ``Refused`` unless ``condition`` holds."""
    if not condition:
        raise Refused(str(found), expected)


def arity(inputs: Types, n: int) -> None:
    """The operator has exactly ``n`` inputs."""
    need(len(inputs) == n, f"{len(inputs)} inputs", f"{n} inputs")


def show(inputs: Types) -> str:
    """Input types for a message."""
    return ", ".join(map(str, inputs)) or "no inputs"


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy broadcasting of shapes; ``InvalidProgramError`` if they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for axis in range(rank):
        extents = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(extents) > 1:
            raise Refused(" and ".join(map(str, shapes)), "shapes that broadcast")
        result.append(extents.pop() if extents else 1)
    return tuple(result)


def ints(value: Any, n: int | None, what: str, low: int = 0) -> tuple[int, ...]:
    """An attribute that is a tuple of ``n`` (any number if None) integers from ``low`` up."""
    ok = isinstance(value, tuple) and all(type(v) is int and v >= low for v in value) and (n is None or len(value) == n)
    need(ok, f"{what}={value!r}", f"{what}: {'' if n is None else n} integers >= {low}")
    return value


def axes_of(value: Any, rank: int) -> tuple[int, ...]:
    """An attribute that is a tuple of ascending axes."""
    axes = ints(value, None, "axes")
    need(tuple(sorted(set(axes))) == axes and all(a < rank for a in axes), f"axes={axes}", f"ascending axes below {rank}")
    return axes


def pairs(value: Any, n: int, what: str) -> tuple[tuple[int, int], ...]:
    """An attribute that is ``n`` pairs of non-negative integers."""
    need(isinstance(value, tuple) and len(value) == n, f"{what}={value!r}", f"{what}: {n} pairs")
    for pair in value:
        ints(pair, 2, what)
    return value
