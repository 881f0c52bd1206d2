"""Groups of parameters by patterns over their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.settings import check, is_size

#: Pattern of names → factor of the learning rate.
Scales = tuple[tuple[str, float], ...]

#: In the place of a pattern: every parameter of rank < 2, which is what biases and the scales of normalisations are.
BIAS_AND_NORM = "bias_and_norm"


def check_patterns(kind: str, no_decay: Any, lr_scale: Any) -> None:
    """Whether these are patterns, and pairs of a pattern and a factor.

    Raises:
        InvalidProgramError: they are not.
    """
    names = isinstance(no_decay, tuple) and all(isinstance(p, str) for p in no_decay)
    check(kind, names, f"no_decay must be patterns of parameter names or {BIAS_AND_NORM!r}")
    pairs = isinstance(lr_scale, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in lr_scale)
    check(
        kind, pairs and all(isinstance(p, str) for p, _ in lr_scale), "lr_scale must map patterns of parameter names to factors"
    )
    check(kind, is_size(*(scale for _, scale in lr_scale)), "factors of lr_scale must be finite and >= 0")


def decayed(kind: str, no_decay: Any, ranks: Mapping[str, int]) -> dict[str, bool]:
    """Whether each parameter has weight decay.

    Raises:
        InvalidProgramError: a pattern that matches no parameter.
    """
    patterns = [p for p in no_decay if p != BIAS_AND_NORM]
    _check_matches(kind, "no_decay", patterns, ranks)
    vectors = BIAS_AND_NORM in no_decay
    return {n: not (vectors and rank < 2) and not any(fnmatchcase(n, p) for p in patterns) for n, rank in ranks.items()}


def scale_of(kind: str, lr_scale: Any, names: Iterable[str]) -> dict[str, float]:
    """The factor of the learning rate of each parameter: that of the first pattern that matches, otherwise 1.

    Raises:
        InvalidProgramError: a pattern that matches no parameter.
    """
    names = list(names)
    _check_matches(kind, "lr_scale", [p for p, _ in lr_scale], names)
    return {n: next((scale for p, scale in lr_scale if fnmatchcase(n, p)), 1.0) for n in names}


def _check_matches(kind: str, setting: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    names = list(names)
    unused = [p for p in patterns if not any(fnmatchcase(n, p) for n in names)]
    if unused:
        shown = ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")
        raise InvalidProgramError(
            describe(
                f"{setting} of {kind} names no parameter: {', '.join(map(repr, unused))}",
                found=f"the parameters {shown}",
                remedy="correct the pattern or leave it out",
            )
        )
