"""Time the elementary functions beside PyTorch, NumPy and glibc, in alternating blocks of one run.

    python benchmarks/elementary.py [--rounds 60]

One thread, 16,384 float32 that stay in the cache. Ours is the kernel that ``fast`` makes for this machine; glibc's scalar
function is called in a C loop (gcc -O2). Writes benchmarks/results/elementary.json: medians in nanoseconds an element and
the ratio to PyTorch's time (the goal is at most 1.5); scripts/make_elementary_doc.py puts them into docs/elementary.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from scipy import special
from tvm import te

from gensyn_tvm.operators import exact
from gensyn_tvm.schedules.cpu.nests import ELEMENTARY_VECTORS
from gensyn_tvm.targets.cpu import resolve_target
from gensyn_tvm.targets.lowering import lowering_for

RESULT = Path(__file__).resolve().parent / "results" / "elementary.json"
COUNT, CALLS = 16384, 8
#: Where arguments are drawn from, evenly; [-4, 4] for the others.
RANGES = {
    **dict.fromkeys(("log", "log2", "log10", "rsqrt"), (1e-3, 100.0)),
    "log1p": (-0.9, 100.0),
    **dict.fromkeys(("asin", "acos", "atanh"), (-0.999, 0.999)),
    "acosh": (1.0, 100.0),
}
_GLIBC = {name: name + "f" for name in exact.ELEMENTARY if name not in ("sigmoid", "rsqrt")}
_NUMPY: dict[str, Any] = {
    **{n: getattr(np, n) for n in ("exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "tanh", "sin", "cos", "tan")},
    **{n: getattr(np, n) for n in ("sinh", "cosh", "cbrt")},
    **{f"a{n}": getattr(np, f"arc{n}") for n in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{n: getattr(special, n) for n in ("erf", "erfc")},
}

Run = Callable[[], object]


def ours(name: str, values: np.ndarray) -> Run:
    """Our kernel over the array."""
    target = resolve_target("native")
    x = te.placeholder((COUNT,), name="x")
    y = te.compute((COUNT,), lambda i: exact.call(name, "float32", x[i]), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    lanes = target.lanes() * (ELEMENTARY_VECTORS if target.lanes() > 1 else 1)
    schedule.vectorize(schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, lanes])[1])
    with lowering_for(has_fma=target.has_fma):
        function = tvm.compile(schedule.mod, target.to_tvm())
    source, result = tvm.runtime.tensor(values), tvm.runtime.empty((COUNT,), "float32")
    return lambda: function(source, result)


def pytorch(name: str, values: np.ndarray) -> Run | None:
    """PyTorch's function with its result in an array that is there already; None if it has none."""
    function = getattr(torch, name, None) or getattr(torch.special, name, None)
    if function is None:
        return None
    x, y = torch.from_numpy(values), torch.empty(COUNT)
    return lambda: function(x, out=y)


def numpy(name: str, values: np.ndarray) -> Run | None:
    """NumPy's function (SciPy's for erf and erfc)."""
    function, y = _NUMPY.get(name), np.empty_like(values)
    return None if function is None else lambda: function(values, y)


def glibc(folder: Path) -> Callable[[str, np.ndarray], Run | None]:
    """C loops over glibc's scalar functions."""
    loops = "\n".join(
        f"void loop_{n}(const float *x, float *y, long n) {{ for (long i = 0; i < n; ++i) y[i] = {f}(x[i]); }}"
        for n, f in _GLIBC.items()
    )
    (folder / "loops.c").write_text("#define _GNU_SOURCE\n#include <math.h>\n" + loops, encoding="ascii")
    library = folder / "loops.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(folder / "loops.c"), "-o", str(library), "-lm"], check=True)
    functions = ctypes.CDLL(str(library))

    def make(name: str, values: np.ndarray) -> Run | None:
        if name not in _GLIBC:
            return None
        y = np.empty_like(values)
        loop = getattr(functions, f"loop_{name}")
        arguments = [ctypes.c_void_p(a.ctypes.data) for a in (values, y)]
        return lambda: (loop(*arguments, ctypes.c_long(COUNT)), y)

    return make


def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median nanoseconds an element of each, in turns."""
    times: dict[str, list[float]] = {who: [] for who in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for who, run in runs.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            times[who].append((time.perf_counter() - start) / CALLS / COUNT * 1e9)
    return {who: statistics.median(t) for who, t in times.items()}


def main() -> None:
    """Measure all functions and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        c_loops = glibc(Path(folder))
        for name in exact.ELEMENTARY:
            low, high = RANGES.get(name, (-4.0, 4.0))
            values = np.random.default_rng(0).uniform(low, high, COUNT).astype(np.float32)
            runs = {"ours": ours(name, values), "pytorch": pytorch(name, values)}
            runs |= {"numpy": numpy(name, values), "glibc": c_loops(name, values)}
            found = measure({who: run for who, run in runs.items() if run is not None}, rounds)
            row: dict[str, Any] = {
                "function": name,
                "range": [low, high],
                "nanoseconds": {w: round(t, 3) for w, t in found.items()},
            }
            if "pytorch" in found:
                row["ratio"] = round(found["ours"] / found["pytorch"], 3)
            print(row)
            rows.append(row)
    machine = {"processor": platform.machine(), "level": resolve_target("native").name, "torch": torch.__version__}
    RESULT.write_text(json.dumps({"machine": machine, "rounds": rounds, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
