"""Whether named arrays fit named places: everything that does not is named in one error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.errors import InputError, describe

#: Shape and dtype name of an array or of a place for one.
Type = tuple[tuple[int, ...], str]


def type_of(array: Any) -> Type:
    """Shape and dtype name of anything that has both as NumPy does."""
    return tuple(int(n) for n in array.shape), np.dtype(array.dtype).name


def text_of(type_: Type) -> str:
    """``float32[2, 3]``."""
    return f"{type_[1]}[{', '.join(map(str, type_[0]))}]"


def check_fit(
    arrays: Mapping[str, Any],
    places: Mapping[str, Type],
    *,
    what: str,
    where: str = "",
    may_lack: Collection[str] = (),
    may_exceed: bool = False,
    remedy: str = "",
) -> None:
    """Check arrays against the places that they go to.

    Args:
        arrays: by name; anything with shape and dtype.
        places: shape and dtype name of each place, by name.
        what: first line of the error.
        where: the file or model, for the error.
        may_lack: places that no array has to go to.
        may_exceed: whether arrays without a place are left out.
        remedy: for the error.

    Raises:
        InputError: names of places without array, of arrays without place, and all that differ in shape or dtype.
    """
    missing = [name for name in places if name not in arrays and name not in may_lack]
    unknown = [] if may_exceed else [name for name in arrays if name not in places]
    wrong = [
        f"{name}: {text_of(type_of(arrays[name]))}, expected {text_of(places[name])}"
        for name in places
        if name in arrays and type_of(arrays[name]) != places[name]
    ]
    lines = [f"{label}: {', '.join(names)}" for label, names in (("missing", missing), ("unknown", unknown)) if names]
    if lines or wrong:
        raise InputError(describe(what, where=where, found="\n    ".join([*lines, *wrong]), remedy=remedy))


def by_name(named: Iterable[tuple[str, Any]], *, what: str) -> dict[str, Any]:
    """Named places as a mapping.

    Raises:
        InputError: names that several places have, all of them.
    """
    pairs = list(named)
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            describe(what, found=f"several called {', '.join(repeated)}", expected="one of each name", remedy="name them apart")
        )
    return dict(pairs)
