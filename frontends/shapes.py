"""Static shapes for inputs whose extents a model leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import ImportModelError, import_error
from gensyn_tvm.frontends.assemble import identifier

#: Static shapes by input name, or in the order of the inputs.
Shapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]


def static_shapes(
    declared: Mapping[str, Sequence[int | None] | None], given: Shapes | None, origin: str
) -> dict[str, tuple[int, ...]]:
    """The shape of every input: the given one where there is one, else what the model declares.

    Args:
        declared: by input name; None for an open extent, and for a shape of unknown rank.

    Raises:
        ImportModelError: shapes for unknown inputs, shapes that do not fit, or extents that stay open.
    """
    if given is not None and not isinstance(given, Mapping):
        if len(given) != len(declared):
            raise import_error(
                f"{origin}: input_shapes does not fit the inputs",
                found=f"{len(given)} shapes",
                expected=f"a shape for each of {', '.join(declared)}",
                remedy="give them by name: input_shapes={'x': (32, 8)}",
            )
        given = dict(zip(declared, given, strict=True))
    wanted = dict(given or {})
    fixed = {}
    for name, extents in declared.items():
        shape = wanted.pop(name, extents)
        if not _fits(shape, extents):
            expected = "a shape" if extents is None else f"extents that fit ({', '.join(map(str, extents))})"
            found = "unknown" if shape is None else f"({', '.join(map(str, shape))})"
            remedy = f"input_shapes={{{name!r}: (…)}}"
            raise import_error(f"{origin}: input {name!r} needs a static shape", found=found, expected=expected, remedy=remedy)
        fixed[name] = tuple(int(extent) for extent in shape or () if extent is not None)
    if wanted:
        raise import_error(
            f"{origin}: no input is called {', '.join(map(repr, wanted))}",
            found=", ".join(wanted),
            expected=f"some of {', '.join(declared)}",
            remedy="correct the names in input_shapes=",
        )
    return fixed


def no_such_dtype(origin: str, name: str, dtype: str) -> ImportModelError:
    """The error for an input of a dtype that no program has, such as strings and complex numbers."""
    return import_error(
        f"{origin}: an input of dtype {dtype}",
        where=f"input {name!r}",
        found=dtype,
        expected=", ".join(DTYPES),
        remedy="do what needs this dtype before the model",
    )


def _fits(shape: Sequence[int | None] | None, declared: Sequence[int | None] | None) -> bool:
    """Whether a shape is static and one that the declared shape allows."""
    if shape is None or any(extent is None for extent in shape):
        return False
    if declared is None:
        return True
    return len(shape) == len(declared) and all(d in (None, extent) for extent, d in zip(shape, declared, strict=True))


def with_batch(declared: Mapping[str, Sequence[int | None]], batch: int, where: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs whose first dimension alone is open, with the batch size there.

    Raises:
        ImportModelError: there is no such input.
    """
    opened = {name: shape for name, shape in declared.items() if shape and shape[0] is None and None not in shape[1:]}
    if not opened:
        found = "no input whose first dimension alone is open"
        expected = "an input of which only the batch is open"
        raise import_error("--batch does not apply", where=where, found=found, expected=expected, remedy="give --shape")
    return {name: (batch, *(d for d in shape[1:] if d is not None)) for name, shape in opened.items()}


def input_name(text: str) -> str:
    """``text`` as the name of an input."""
    return identifier(text).replace("/", "_").replace(":", "_")
