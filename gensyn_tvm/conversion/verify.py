"""Comparison of a converted model with its framework on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.conversion.importers import Imported
from gensyn_tvm.errors import GensynError, VerificationError, describe
from gensyn_tvm.evidence.samples import sample
from gensyn_tvm.runtime.executable import Executable


class Compared(Protocol):
    """The outcome of a comparison; see ``Verification``."""

    @property
    def reference(self) -> str: ...

    @property
    def tolerance(self) -> float: ...

    @property
    def differences(self) -> Mapping[str, float]: ...


T = TypeVar("T")
C = TypeVar("C", bound=Compared)


@dataclass(frozen=True)
class Verification:
    """The outcome of a comparison.

    Attributes:
        reference: what computed the framework's outputs.
        seed: of the inputs.
        tolerance: the limit.
        differences: of each output by name, relative to its largest magnitude; infinite where shapes, dtypes, infinities or
            NaNs differ, or values of integers.
    """

    reference: str
    seed: int
    tolerance: float
    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """Of all outputs."""
        return max(self.differences.values(), default=0.0)


def verify(exe: Executable, imported: Imported, *, tolerance: float, seed: int = 0) -> Verification:
    """Run a model and its reference on inputs drawn from a seed.

    Raises:
        VerificationError: an output differs by more than the tolerance, or the framework cannot run the model.
    """
    declared = [i for i in exe.graph.inputs if i.role == "input"]
    arrays = [sample(i.type, seed, stream) for stream, i in enumerate(declared)]
    wanted, reference = in_framework(lambda: imported.reference(arrays))
    result = exe(**{i.name: array for i, array in zip(declared, arrays, strict=True)})
    names = [o.name for o in exe.graph.outputs]
    outputs = [np.asarray(y) for y in (result if isinstance(result, list) else [result])]
    if len(outputs) != len(wanted):
        raise VerificationError(
            describe("the framework has other outputs", found=f"{len(wanted)}", expected=f"{len(outputs)}: {', '.join(names)}")
        )
    differences = {name: difference(y, w) for name, y, w in zip(names, outputs, wanted, strict=True)}
    types = [f"; {y.dtype}{list(y.shape)} here, {w.dtype}{list(w.shape)} there" for y, w in zip(outputs, wanted, strict=True)]
    return check(Verification(reference, seed, tolerance, differences), types)


def in_framework(compute: Callable[[], T]) -> T:
    """What a framework computes; its errors, which may be of any kind, as ``VerificationError``."""
    try:
        return compute()
    except GensynError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise VerificationError(
            describe(
                "the framework cannot run the model on random inputs", found=found, remedy="--no-verify, or another --seed"
            )
        ) from error


def check(done: C, details: Sequence[str] | None = None) -> C:
    """The outcome as it is.

    Args:
        details: for each difference what to say about it if it is infinite.

    Raises:
        VerificationError: something differs by more than the tolerance.
    """
    lines = []
    for k, (name, value) in enumerate(done.differences.items()):
        # Not ">": a difference that is no number fails, too.
        if not value <= done.tolerance:
            infinite = details[k] if details is not None and not np.isfinite(value) else ""
            lines.append(f"{'output ' + repr(name) if details is not None else name} differs by {value:.3g}{infinite}")
    if lines:
        raise VerificationError(
            describe(
                f"the converted model differs from {done.reference}; nothing was written",
                found="\n    ".join(lines),
                expected=f"at most {done.tolerance:g} of the largest magnitude of each",
                remedy="if the model amplifies rounding errors, state a larger --tolerance; else report it with the model",
            )
        )
    return done


def difference(found: np.ndarray, wanted: np.ndarray, *, least: float = 1e-30) -> float:
    """The largest difference of two arrays relative to the largest finite magnitude in ``wanted``, at least ``least``."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if found.dtype.kind != "f" and found.dtype.name not in NARROW_FLOATS:
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    ours, theirs = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(np.isfinite(ours), finite) or not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(ours[finite] - theirs[finite]).max() / max(np.abs(theirs[finite]).max(), least, 1e-30))
