"""ATen operators that cannot be imported, and why; the other unknown ones are just unknown."""

from __future__ import annotations

from collections.abc import Iterable

_COMPLEX = "complex numbers have no deterministic arithmetic here"
_RANDOM = "its random numbers come from PyTorch's generator, which a program does not have; make them an input of forward()"
DEPENDS_ON_DATA = "the result's shape depends on data; use torch.where, or multiply by a mask"
_NUMBER = "a Python number that is computed from data; keep it a tensor"

#: By the name of an operator without its overload.
_REASONS = {
    **dict.fromkeys(("_fft_c2r", "_fft_r2c", "_fft_c2c", "view_as_complex", "complex", "polar"), _COMPLEX),
    **dict.fromkeys(("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"), _RANDOM),
    **dict.fromkeys(("bernoulli", "multinomial", "normal", "normal_functional", "uniform", "exponential"), _RANDOM),
    **dict.fromkeys(("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"), DEPENDS_ON_DATA),
    **dict.fromkeys(("_local_scalar_dense", "item"), _NUMBER),
}


def reason_of(name: str) -> str | None:
    """Why ``name.overload`` cannot be imported, None if there is no better reason than that nobody wrote it."""
    return _REASONS.get(name.removeprefix("aten.").split(".")[0])


def reasons_of(names: Iterable[str]) -> str:
    """The reasons for several operators, one a line."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reason = reason_of(name)
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    return "\n    ".join(f"{', '.join(named)}: {reason}" for reason, named in reasons.items())
