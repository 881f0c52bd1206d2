"""Comparison of a converted model with its framework on random inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.canonical.types import NARROW_FLOATS
from gensyn_tvm.conversion.importers import Imported
from gensyn_tvm.errors import GensynError, VerificationError, describe
from gensyn_tvm.evidence.samples import sample
from gensyn_tvm.runtime.executable import Executable


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
    try:
        wanted, reference = imported.reference(arrays)
    except GensynError:
        raise
    except Exception as error:  # frameworks raise anything
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise VerificationError(
            describe(
                "the framework cannot run the model on random inputs", found=found, remedy="--no-verify, or another --seed"
            )
        ) from error
    result = exe(**{i.name: array for i, array in zip(declared, arrays, strict=True)})
    names = [o.name for o in exe.graph.outputs]
    outputs = [np.asarray(y) for y in (result if isinstance(result, list) else [result])]
    if len(outputs) != len(wanted):
        raise VerificationError(
            describe("the framework has other outputs", found=f"{len(wanted)}", expected=f"{len(outputs)}: {', '.join(names)}")
        )
    differences = {name: difference(y, w) for name, y, w in zip(names, outputs, wanted, strict=True)}
    done = Verification(reference, seed, tolerance, differences)
    _check(done, outputs, wanted)
    return done


def _check(done: Verification, outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    lines = []
    for (name, value), y, w in zip(done.differences.items(), outputs, wanted, strict=True):
        # Not ">": a difference that is no number fails, too.
        if not value <= done.tolerance:
            types = f"; {y.dtype}{list(y.shape)} here, {w.dtype}{list(w.shape)} there" if not np.isfinite(value) else ""
            lines.append(f"output {name!r} differs by {value:.3g}{types}")
    if lines:
        raise VerificationError(
            describe(
                f"the converted model differs from {done.reference}; nothing was written",
                found="\n    ".join(lines),
                expected=f"at most {done.tolerance:g} of the largest magnitude of each output",
                remedy="if the model amplifies rounding errors, state a larger --tolerance; else report it with the model",
            )
        )


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of two arrays relative to the largest finite magnitude in ``wanted``."""
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
    return float(np.abs(ours[finite] - theirs[finite]).max() / max(np.abs(theirs[finite]).max(), 1e-30))
