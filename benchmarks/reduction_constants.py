"""Vary the constants of the reductions and measure speed and error: ``python benchmarks/reduction_constants.py [--rounds 30]``.

Each constant is a module constant of gensyn_tvm/operators; here it is replaced while a kernel is built, so every variant is a
program with other bits, compiled for ``native`` with the fast schedule, one thread. All variants of a case run in turn, several
times over, and a time is CPU time of the calling thread, because other processes share the machine. The error of a result
is |result - exact| / sum of |terms| in units of 2^-24, root mean square over the outputs, on normal and on uniform data.
Writes benchmarks/results/reduction_constants.json; scripts/make_constants_doc.py makes the table of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gensyn_tvm
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import products, reductions
from gensyn_tvm.runtime.cpu import supported_levels

RESULT = Path(__file__).resolve().parent / "results" / "reduction_constants.json"

#: Stands for "no limit".
NONE = 2**40
#: A block of calls of one variant lasts about this long before the next variant has its turn.
BLOCK_SECONDS = 0.01

#: constant -> (module, attribute, values); the chosen value is what the module has.
CONSTANTS: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "product chunk": (products, "MATMUL_CHUNK", (128, 256, 512, 1024, NONE)),
    "convolution bound": (products, "CONV_CHUNK", (192, 384, 768, 1536, NONE)),
    "lanes": (reductions, "LANES", (8, 16, 32, 64)),
    "sum block": (reductions, "BLOCK", (256, 1024, 4096, NONE)),
}
CHOSEN = {name: getattr(module, attribute) for name, (module, attribute, _) in CONSTANTS.items()}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operator on given shapes.

    Attributes:
        name: how the table calls it.
        op: canonical operator.
        shapes: of its float32 inputs.
        attrs: its attributes.
        exact: the result in float64, of float64 inputs.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    attrs: dict[str, Any]
    exact: Callable[..., np.ndarray]


def _gemm(m: int, k: int, n: int) -> Case:
    return Case(f"matmul {m}x{k} by {k}x{n}", "matmul", ((m, k), (k, n)), {}, lambda a, b: a @ b)


def _conv(channels: int, size: int, window: int) -> Case:
    pad = window // 2
    attrs = {"strides": (1, 1), "padding": ((pad, pad),) * 2, "dilations": (1, 1), "groups": 1}

    def exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, w, optimize=True)

    name = f"conv {window}x{window}, {channels} to {channels} channels, {size}x{size}"
    return Case(name, "conv", ((1, channels, size, size), (channels, channels, window, window)), attrs, exact)


def _sum(length: int, rows: int, *, inner: bool) -> Case:
    axis = 1 if inner else 0
    shape = (rows, length) if inner else (length, rows)
    name = f"sum of {length:,}, {'inner' if inner else 'outer'} axis, {rows:,} results"
    return Case(name, "sum", (shape,), {"axes": (axis,), "keepdims": False}, lambda x: x.sum(axis=axis))


# 131,072 is a multiple of every lane number and block, 1,000 and 100,000 leave remainders, which are read under a guard.
GEMMS = [_gemm(256, 256, 256), _gemm(512, 512, 512), _gemm(1024, 1024, 1024), _gemm(64, 4096, 64), _gemm(1, 4096, 1024)]
CONVS = [_conv(64, 28, 3), _conv(256, 14, 3), _conv(64, 28, 5), _conv(1024, 14, 1)]
SUMS = [
    _sum(length, rows, inner=inner)
    for inner in (True, False)
    for length, rows in ((64, 4096), (1000, 256), (4096, 64), (100_000, 16), (131_072, 16))
]
CASES = {"product chunk": GEMMS, "convolution bound": CONVS, "lanes": SUMS, "sum block": SUMS}


@contextmanager
def replaced(name: str, value: int) -> Iterator[None]:
    """The constant ``name`` has another value while kernels are built."""
    module, attribute, _ = CONSTANTS[name]
    setattr(module, attribute, value)
    try:
        yield
    finally:
        setattr(module, attribute, CHOSEN[name])


def graph_of(case: Case) -> Graph:
    """The case as a program."""
    builder = GraphBuilder(case.op)
    values = [builder.add_input(f"x{k}", "input", TensorType(s, "float32")) for k, s in enumerate(case.shapes)]
    builder.add_output("y", builder.emit(case.op, *values, **case.attrs))
    return builder.finish()


def error(case: Case, exe: Any, draw: Callable[[Shape], np.ndarray]) -> float:
    """Root mean square error relative to the sum of the terms' magnitudes, in units of 2^-24."""
    inputs = [draw(s).astype(np.float32) for s in case.shapes]
    wide = [x.astype(np.float64) for x in inputs]
    scaled = (exe(*inputs) - case.exact(*wide)) / case.exact(*(np.abs(x) for x in wide))
    return float(np.sqrt(np.mean(scaled**2)) * 2**24)


def measure(case: Case, constant: str, rounds: int) -> dict[str, Any]:
    """Microseconds (median and least) and errors of a case for every value of a constant."""
    from tvm import runtime

    rng = np.random.default_rng(1)
    values = CONSTANTS[constant][2]
    graph, executables = graph_of(case), {}
    for value in values:
        with replaced(constant, value):
            executables[value] = gensyn_tvm.compile(graph, threads=1)
    given = {f"x{k}": runtime.tensor(rng.standard_normal(s).astype(np.float32)) for k, s in enumerate(case.shapes)}
    start = time.thread_time()
    for exe in executables.values():
        exe.run(given, {})
        exe.run(given, {})
    calls = max(1, round(BLOCK_SECONDS / ((time.thread_time() - start) / (2 * len(values)))))
    times: dict[int, list[float]] = {value: [] for value in values}
    for _ in range(rounds):
        for value, exe in executables.items():
            exe.run(given, {})  # the caches belong to this variant again
            start = time.thread_time()
            for _ in range(calls):
                exe.run(given, {})
            times[value].append(1e6 * (time.thread_time() - start) / calls)
    rows = [
        {
            "value": None if value == NONE else value,
            "microseconds": {"median": statistics.median(times[value]), "least": min(times[value])},
            "error": {
                "normal": error(case, executables[value], np.random.default_rng(2).standard_normal),
                "uniform": error(case, executables[value], np.random.default_rng(3).random),
            },
        }
        for value in values
    ]
    return {"constant": constant, "case": case.name, "variants": rows}


def main() -> None:
    """Measure every case for every value of every constant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    rows = []
    for constant, cases in CASES.items():
        for case in cases:
            rows.append(measure(case, constant, rounds))
            medians = {r["value"] or "none": round(r["microseconds"]["median"], 1) for r in rows[-1]["variants"]}
            print(f"{constant:18} {case.name:52} {medians}", file=sys.stderr)
    machine = {"machine": platform.machine(), "level": supported_levels()[-1], "threads": 1, "rounds": rounds}
    RESULT.write_text(json.dumps({"machine": machine, "chosen": CHOSEN, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
