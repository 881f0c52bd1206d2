"""The errors that gensyn_tvm raises on purpose.

Every message names the operator or file, the place in the user's model where that is known, what was found,
what was expected, and what to do about it.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence


class GensynError(Exception):
    """Base class of every error that gensyn_tvm raises on purpose."""


def describe(what: str, *, where: str = "", found: str = "", expected: str = "", remedy: str = "") -> str:
    """Compose an error message: ``what``, then one labelled line for every part that is known."""
    lines = [what]
    for label, text in (("in", where), ("found", found), ("expected", expected), ("what to do", remedy)):
        if text:
            lines.append(f"  {label}: {text}")
    return "\n".join(lines)


class UnsupportedOperatorError(GensynError):
    """An operator, or one of its attributes or dtypes, has no deterministic variant.

    Attributes:
        operator: its name; several are separated by commas.
        places: (operator, place in the user's model) of everything that the message is about.
    """

    def __init__(self, operator: str, *, where: str = "", found: str = "", expected: str = "", remedy: str = "") -> None:
        self.operator = operator
        self.places: tuple[tuple[str, str], ...] = ((operator, where),)
        found = found or "an operator without a deterministic variant"
        expected = expected or "the operators in docs/operators.md"
        remedy = remedy or "write this part of the model as expected, or compute it outside of the model"
        super().__init__(
            describe(f"unsupported operator {operator!r}", where=where, found=found, expected=expected, remedy=remedy)
        )


def unsupported(
    unknown: Mapping[str, Sequence[str]],
    *,
    remedy: str,
    found: str = "",
    expected: str = "the operators in docs/operators.md",
) -> UnsupportedOperatorError:
    """One error for all operators of a model that have no converter: names with the places that use them."""
    error = UnsupportedOperatorError(
        ", ".join(unknown),
        where="; ".join(f"{', '.join(places)} ({name})" for name, places in unknown.items()),
        found=found or f"{len(unknown)} operator{'s' * (len(unknown) > 1)} that cannot be converted",
        expected=expected,
        remedy=remedy,
    )
    error.places = tuple((name, place) for name, places in unknown.items() for place in places)
    return error


class ImportModelError(GensynError):
    """A frontend cannot read the model it was given."""


def import_error(what: str, *, found: str, expected: str, remedy: str, where: str = "") -> ImportModelError:
    """The error of a frontend; the place is ``where``, or the model's name in front of ``what``."""
    return ImportModelError(describe(what, where=where, found=found, expected=expected, remedy=remedy))


class InvalidProgramError(GensynError):
    """A canonical graph breaks a rule of the operator set (shape, dtype, attribute, order of definition)."""


class InvalidFileError(GensynError):
    """A ``.gtvm`` file is damaged, truncated, of another version, or not a ``.gtvm`` file."""


class InputError(GensynError):
    """The arrays handed to a program do not have the names, shapes or dtypes that it declares."""


class TargetError(GensynError):
    """A target does not exist, cannot be built here, or cannot run on this machine."""


class ScheduleError(GensynError):
    """A schedule would change the order of a reduction, and with it the bits."""


class ExactnessError(GensynError):
    """Arithmetic that is not one of the exact operators reached code generation."""


class EnvironmentChangedError(GensynError):
    """The floating-point environment of a thread is not the IEEE-754 default and could not be restored."""


class CheckpointError(GensynError):
    """A checkpoint is damaged, of another program or run, missing, or cannot be continued with what was given."""


class TrainingError(GensynError):
    """A training run cannot go on: its loss is no finite number."""


class ConfigError(GensynError):
    """A configuration file has an unknown key, a value that does not fit, or lacks something."""


class VerificationError(GensynError):
    """A converted model does not compute what its framework computes, or could not be compared with it."""


#: What zipfile and its decompressors raise on a damaged file, beside their own BadZipFile; readers report it as damage.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError)
