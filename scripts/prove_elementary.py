"""Run an elementary function on all 2^32 float32 inputs and compare every result with the truth.

    python scripts/prove_elementary.py --function exp --target x86-64-v4 --target x86-64

The truth comes from binary64 (NumPy, for erf SciPy), and from MPFR (gmpy2) where the binary64 value is within 2^-44 of a
boundary between two float32 results. The outcome goes to proofs/<function>.json, merged with what is there of other targets:
the digest of the correctly rounded results, and for each target how many of its results are wrong and their digest. With
--digest results are only compared with the digest of the correctly rounded ones. A correctly rounded function is the same in
every version of the specification, so a record does not name one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import tvm
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy import special
from tvm import te

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary import HARD
from gensyn_tvm.targets.cpu import CpuTarget, resolve_target
from gensyn_tvm.targets.lowering import lowering_for

ROOT = Path(__file__).resolve().parents[1]
PROOFS = ROOT / "proofs"
#: Small enough for a core's cache.
CHUNK = 2**16
INPUTS = 2**32
QUIET_NAN = 0x7FC00000
#: Relative distance from a rounding boundary below which binary64 is not trusted; far above its libraries' errors.
MARGIN = 2.0**-44
#: Largest relative error of the binary64 functions that the self-check accepts.
LIBRARY_ERROR = 2.0**-48
#: Inputs whose exact value is nearer than this to a boundary are listed in the proof.
HARD_DISTANCE = 2.0**-50
HARD_LISTED = 256
PRECISION = 300

Array = Any


def _sigmoid64(d: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-d))


def _rsqrt64(d: Array) -> Array:
    return 1.0 / np.sqrt(d)


def _sigmoid_mpfr(x: Any) -> Any:
    return 1 / (1 + gmpy2.exp(-x))


BINARY64: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid64,
    "erf": special.erf,
    "exp2": np.exp2,
    "log2": np.log2,
    "log10": np.log10,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "erfc": special.erfc,
    "rsqrt": _rsqrt64,
    "cbrt": np.cbrt,
    "atanh": np.arctanh,
}
MPFR: dict[str, Callable[[Any], Any]] = {
    "exp": gmpy2.exp,
    "expm1": gmpy2.expm1,
    "log": gmpy2.log,
    "log1p": gmpy2.log1p,
    "tanh": gmpy2.tanh,
    "sigmoid": _sigmoid_mpfr,
    "erf": gmpy2.erf,
    "exp2": gmpy2.exp2,
    "log2": gmpy2.log2,
    "log10": gmpy2.log10,
    "atan": gmpy2.atan,
    "sinh": gmpy2.sinh,
    "cosh": gmpy2.cosh,
    "sin": gmpy2.sin,
    "cos": gmpy2.cos,
    "tan": gmpy2.tan,
    "asin": gmpy2.asin,
    "acos": gmpy2.acos,
    "asinh": gmpy2.asinh,
    "acosh": gmpy2.acosh,
    "erfc": gmpy2.erfc,
    "rsqrt": gmpy2.rec_sqrt,
    "cbrt": gmpy2.cbrt,
    "atanh": gmpy2.atanh,
}


def kernel(name: str, target: CpuTarget, count: int) -> Callable[[Array], Array]:
    """The function compiled for ``target``, from and to float32 arrays of ``count`` elements."""
    x = te.placeholder((count,), name="x")
    y = te.compute((count,), lambda i: exact.call(name, "float32", x[i]), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    loops = schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, target.lanes()])
    schedule.vectorize(loops[1])
    with lowering_for(has_fma=target.has_fma):
        function = tvm.compile(schedule.mod, target.to_tvm())
    output = tvm.runtime.empty((count,), "float32")

    def run(values: Array) -> Array:
        function(tvm.runtime.tensor(values), output)
        return output.numpy()

    return run


def canonical_bits(values: Array) -> Array:
    """uint32 bit patterns of float32 values, every NaN as the quiet NaN."""
    bits, nan = values.view(np.uint32), np.isnan(values)
    return np.where(nan, np.uint32(QUIET_NAN), bits) if nan.any() else bits


@dataclass
class Truth:
    """Correctly rounded results, and the inputs that were hardest to round."""

    name: str
    asked: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    hardest: list[tuple[float, int]] = field(default_factory=list)

    def check_library(self) -> None:
        """Refuse a binary64 library that is less exact than the margin assumes."""
        rng = np.random.default_rng(0)
        anything = rng.integers(0, INPUTS, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            x = np.concatenate([anything, rng.uniform(-20, 20, 20000).astype(np.float32)]).astype(np.float64)
            y = BINARY64[self.name](x)
        for xi, yi in zip(x[np.isfinite(x)], y[np.isfinite(x)], strict=True):
            exact_value = MPFR[self.name](gmpy2.mpfr(xi))
            # Below 2^-200 the float32 result is 0 whatever the error.
            if np.isfinite(yi) and abs(exact_value - yi) > LIBRARY_ERROR * abs(exact_value) + 2.0**-200:
                raise SystemExit(f"the binary64 {self.name} of this machine is too inexact at {xi.hex()}: {yi.hex()}")

    def __call__(self, x: Array) -> Array:
        """Bit patterns of the results for float32 ``x``."""
        with np.errstate(all="ignore"):
            y = BINARY64[self.name](x.astype(np.float64))
            low = (y * (1.0 - MARGIN)).astype(np.float32)
            high = (y * (1.0 + MARGIN)).astype(np.float32)
        bits = canonical_bits(low)
        for index in np.flatnonzero(bits != canonical_bits(high)):
            bits[index] = self._decide(x[index], low[index], high[index])
        self.digest.update(bits)
        return bits

    def _decide(self, x: Any, first: Any, second: Any) -> Any:
        """Which of two neighbouring floats is nearer to the exact result."""
        self.asked += 1
        below, above = (first, second) if first < second else (second, first)
        if np.nextafter(below, np.float32(np.inf)) != above:
            raise SystemExit(f"{self.name}: {below!r} and {above!r} are not neighbours")
        ends = [float(v) if np.isfinite(v) else float(np.copysign(2.0**128, v)) for v in (below, above)]
        boundary = (ends[0] + ends[1]) / 2  # exact in binary64
        gmpy2.get_context().clear_flags()
        value = MPFR[self.name](gmpy2.mpfr(float(x)))
        if value == boundary:
            if gmpy2.get_context().inexact:
                raise SystemExit(f"{self.name}: the result for {float(x).hex()} cannot be decided with {PRECISION} bits")
            return min(below.view(np.uint32), above.view(np.uint32), key=lambda bits: int(bits) & 1)
        distance = float(abs((value - boundary) / value))
        if distance < HARD_DISTANCE:
            self.hardest.append((distance, int(x.view(np.uint32))))
        return (above if value > boundary else below).view(np.uint32)


@dataclass
class Run:
    """One target on its way through all inputs."""

    target: CpuTarget
    run: Callable[[Array], Array]
    digest: Any = field(default_factory=hashlib.sha256)
    count: int = 0
    wrong: int = 0
    seconds: float = 0.0
    wrong_inputs: list[int] = field(default_factory=list)

    def feed(self, x: Array, expected: Array | None) -> None:
        """Compute, compare (unless there is nothing to compare with) and digest one chunk."""
        start = time.perf_counter()
        values = self.run(x)
        self.seconds += time.perf_counter() - start
        bits = canonical_bits(values)
        self.digest.update(bits)
        self.count += bits.size
        if expected is not None:
            wrong = np.flatnonzero(bits != expected)
            self.wrong += wrong.size
            self.wrong_inputs += x.view(np.uint32)[wrong[: 1000 - len(self.wrong_inputs)]].tolist()


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace ``path`` by ``record`` in one step."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def sweep(runs: list[Run], truth: Truth | None, name: str, stride: int) -> None:
    """Feed every ``stride``-th chunk of the inputs, in the order of their bit patterns."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        "{task.percentage:>5.1f} %",
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        for start in progress.track(range(0, INPUTS, CHUNK * stride), description=name):
            x = np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32)
            expected = None if truth is None else truth(x)
            for run in runs:
                run.feed(x, expected)


def prove(name: str, targets: list[CpuTarget], *, stride: int, by_digest: bool) -> bool:
    """Run ``name`` on ``targets``, write the proof if all inputs were run, and tell whether every result is right."""
    path = PROOFS / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record = {"function": name, "digest": "", "targets": {}, "hard_cases": []} | record
    if by_digest and (stride != 1 or not record["digest"]):
        raise SystemExit(f"{name}: --digest needs --stride 1 and a run without --digest before it")
    truth = None if by_digest else Truth(name)
    if truth is not None:
        truth.check_library()
    runs = [Run(target, kernel(name, target, CHUNK)) for target in targets]
    sweep(runs, truth, name, stride)
    if truth is not None:
        hardest = [pattern for _, pattern in sorted(truth.hardest)[:HARD_LISTED]]
        record["hard_cases"] = [f"0x{pattern:08x}" for pattern in sorted({*hardest, *HARD[name]})]
        record["digest"] = truth.digest.hexdigest()
        print(f"{name}: {truth.asked} results decided by MPFR")
    for run in runs:
        digest = run.digest.hexdigest()
        if by_digest and digest != record["digest"]:
            print(f"{name} on {run.target.name}: not the correctly rounded results; run without --digest")
            return False
        outcome = {"count": run.count, "wrong": run.wrong, "digest": digest}
        print(f"{name} on {run.target.name}: {outcome}, {run.seconds:.1f} s", [hex(b) for b in run.wrong_inputs[:64]])
        record["targets"][run.target.name] = outcome
    if stride == 1:
        write(path, record)
    return all(run.wrong == 0 for run in runs)


def main() -> None:
    """Parse the command line and prove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--function", action="append", choices=exact.ELEMENTARY, help="default: all; may be repeated")
    parser.add_argument("--target", action="append", help="default: native; may be repeated")
    parser.add_argument("--stride", type=int, default=1, help="run every n-th chunk only; writes no proof unless 1")
    parser.add_argument("--digest", action="store_true", help="compare with the digest of a proven target only")
    arguments = parser.parse_args()
    gmpy2.get_context().precision = PRECISION
    targets = [resolve_target(name) for name in arguments.target or ["native"]]
    names = arguments.function or exact.ELEMENTARY
    outcomes = [prove(name, targets, stride=arguments.stride, by_digest=arguments.digest) for name in names]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
