"""Settings of optimizers and learning rates: their ranges, and plain dictionaries for configuration files and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from gensyn_tvm.errors import InvalidProgramError, describe

#: The key of a dictionary that says which class it describes.
KIND = "kind"


def check(kind: str, condition: bool, what: str) -> None:
    """Refuse a setting.

    Raises:
        InvalidProgramError: ``condition`` does not hold.
    """
    if not condition:
        raise InvalidProgramError(f"{kind}: {what}")


def is_number(value: Any) -> bool:
    """A finite number, of Python or NumPy; a truth value is none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def is_size(*values: Any) -> bool:
    """Only finite numbers that are not negative."""
    return all(is_number(v) and v >= 0 for v in values)


def is_count(value: Any, least: int = 0) -> bool:
    """An integer from ``least`` on."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def plain(value: Any) -> Any:
    """``value`` in Python's own numbers, with tuples for lists: what a setting is kept as."""
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def to_dict(settings: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """All settings by name and, first, ``kind``: numbers, strings, lists and dictionaries of these.

    Raises:
        InvalidProgramError: an object of a class that ``kinds`` has no name for.
    """
    kind = next((k for k, c in kinds.items() if type(settings) is c), None)
    if kind is None:
        expected = f"one of {', '.join(c.__name__ for c in kinds.values())}"
        raise InvalidProgramError(describe("settings without a name", found=type(settings).__name__, expected=expected))
    return {KIND: kind, **{f.name: _to_plain(getattr(settings, f.name), kinds) for f in fields(settings) if f.init}}


def _to_plain(value: Any, kinds: Mapping[str, type]) -> Any:
    if type(value) in kinds.values():
        return to_dict(value, kinds)
    return [_to_plain(v, kinds) for v in value] if isinstance(value, tuple) else value


def from_dict(description: Mapping[str, Any], kinds: Mapping[str, type], what: str) -> Any:
    """The object that ``to_dict`` describes; settings that are left out have their defaults.

    Args:
        what: of what ``description`` is, for messages.

    Raises:
        InvalidProgramError: an unknown kind, an unknown or missing setting, a setting out of its range.
    """
    if not isinstance(description, Mapping):
        raise InvalidProgramError(describe(f"{what} is no dictionary", found=type(description).__name__))
    kind = description.get(KIND)
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidProgramError(describe(f"unknown {what} {kind!r}", expected=f"kind = one of {', '.join(kinds)}"))
    known = {f.name: f for f in fields(kinds[kind]) if f.init}
    given = {k: _from_plain(v, kinds, what) for k, v in description.items() if k != KIND}
    unknown = [name for name in given if name not in known]
    missing = [n for n, f in known.items() if n not in given and f.default is MISSING and f.default_factory is MISSING]
    for names, problem in ((unknown, "does not have"), (missing, "needs")):
        if names:
            text = f"{what} {kind!r} {problem} the setting {', '.join(map(repr, names))}"
            raise InvalidProgramError(describe(text, expected=", ".join(known)))
    return kinds[kind](**given)


def _from_plain(value: Any, kinds: Mapping[str, type], what: str) -> Any:
    if isinstance(value, Mapping) and KIND in value:
        return from_dict(value, kinds, what)
    return tuple(_from_plain(v, kinds, what) for v in value) if isinstance(value, list | tuple) else value
