"""How long correctly rounded functions take at least: instructions in our loops against what the processor's units can do.

    python -m benchmarks.elementary_roofline [--seconds 0.5]

Measures on one thread how long a vector instruction of each kind takes when nothing waits (a small program in C), counts the
kinds in the loop that the compiler generates for each function, and times that kernel and its peers in turns; each figure is
the best of its runs. The bound is the time of the busiest unit: the loop could not be faster if no instruction waited for
another. Writes benchmarks/results/elementary_roofline.json; scripts/make_elementary_doc.py shows it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu.cases import Workload
from benchmarks.cpu.contestants import Ours, peers_of
from benchmarks.cpu.kernels import _elementwise, _softmax
from benchmarks.result_files import write_result
from gensyn_tvm.compiler import phases
from gensyn_tvm.targets.cpu import resolve_target

RESULT = Path(__file__).resolve().parent / "results" / "elementary_roofline.json"
#: Input and output stay in the second-level cache.
COUNT = 1 << 17
FUNCTIONS = ("exp", "log", "tanh", "sigmoid", "erf", "gelu", "silu", "sin", "cos")
SOFTMAXES = ((12, 128, 128), (1024, 1024), (32, 50257))
PEERS = ("torch", "torch.compile", "onnxruntime", "numpy")
#: An instruction of each kind; ``{r}`` is the register file, ``{h}`` the one of half the width.
KINDS = {
    "multiply": "vfmadd231pd %%{r}0, %%{r}0, %%{r}{k}",
    "divide": "vdivpd %%{r}0, %%{r}0, %%{r}{k}",
    "convert": "vcvtps2pd %%{h}0, %%{r}{k}",
    "any": "vpaddq %%{r}0, %%{r}0, %%{r}{k}",
}
_HALF = {"zmm": "ymm", "ymm": "xmm"}
_CHAINS, _ROUNDS = 12, 100_000
#: What instructions may read: one line of the cache. Where the stack lies, a read of it may touch two.
_LINE = 'const char line[64] __attribute__((aligned(64), visibility("hidden"))) = {0};'
_KIND_OF = (
    (re.compile(r"vfn?m|vmul"), "multiply"),
    (re.compile(r"vdiv|vsqrt"), "divide"),
    (re.compile(r"vcvt"), "convert"),
)
#: Copies between registers, which are done by renaming.
_RENAMED = re.compile(r"vmov\w+\s+%[xyz]mm\d+,\s*%[xyz]mm\d+$")
_STORE = re.compile(r"vmov(?:[ua]p[sd]|dq[ua]\d*)\s+%([yz]mm)\d+,\s*-?\w*\((?!%rsp|%rbp)")


def instruction_times(registers: str, kinds: Mapping[str, str] = KINDS) -> dict[str, float]:
    """Nanoseconds that an instruction of each kind takes if many are independent.

    Raises:
        CalledProcessError: the C compiler fails.
    """
    functions = [_LINE]
    for kind, text in kinds.items():
        lines = "".join(f'"{text.format(r=registers, h=_HALF[registers], k=k + 1)}\\n"' for k in range(_CHAINS))
        # Division takes longer for some operands: let them be ordinary numbers.
        start = f'static const double x = 1.5; __asm__ volatile("vbroadcastsd %0, %%{registers}0" :: "m"(x) : "xmm0");'
        functions.append(f"void {kind}(long n) {{ {start} for (long i = 0; i < n; i++) __asm__ volatile({lines} :::); }}")
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-roof-") as folder:
        source, library = Path(folder) / "kinds.c", Path(folder) / "kinds.so"
        source.write_text("\n".join(functions), encoding="ascii")
        command = [os.environ.get("CC", "gcc"), "-O2", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
        runs = {kind: partial(getattr(loaded, kind), ctypes.c_long(_ROUNDS)) for kind in kinds}
        return {kind: t / _ROUNDS / _CHAINS for kind, t in best(runs, 0.5).items()}


def best(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Nanoseconds of the fastest call of each, in turns."""
    found = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end:
        for who, run in runs.items():
            start = time.perf_counter()
            run()
            found[who] = min(found[who], (time.perf_counter() - start) * 1e9)
    return found


def counts(code: str) -> dict[str, float]:
    """Vector instructions of each kind for one element, in the loop that has the most of them.

    Raises:
        SystemExit: there is no loop of vector instructions that stores floats.
    """
    loops = [body for body in vector_loops(code) if any(_STORE.match(line) for line in body)]
    if not loops:
        raise SystemExit("no loop of vectors in the generated code; this benchmark knows x86-64-v3 and x86-64-v4")
    body = max(loops, key=len)
    stores = [found.group(1) for found in map(_STORE.match, body) if found]
    elements = sum(16 if register == "zmm" else 8 for register in stores)
    kinds = Counter(next((kind for pattern, kind in _KIND_OF if pattern.match(line)), "other") for line in body)
    return {kind: kinds[kind] / elements for kind in ("multiply", "divide", "convert", "other")}


def vector_loops(code: str) -> list[list[str]]:
    """Vector instructions between each label and the jump back to it, without those that only rename."""
    lines = code.splitlines()
    labels: dict[str, int] = {}
    found = []
    for number, line in enumerate(text.strip() for text in lines):
        if line.endswith(":"):
            labels[line[:-1]] = number
        jump = re.match(r"j\w+\s+(\.\w+)$", line)
        if jump and jump.group(1) in labels:
            inside = [text.strip() for text in lines[labels[jump.group(1)] : number]]
            if not any(re.match(r"j\w+\s|\.LBB", text) for text in inside[1:]):
                found.append([t for t in inside if re.search(r"%[xyz]mm", t) and not _RENAMED.match(t)])
    return found


def bound(per_element: dict[str, float], times: dict[str, float]) -> tuple[float, str]:
    """Nanoseconds an element that the busiest unit needs, and which that is."""
    units = {kind: per_element[kind] * times[kind] for kind in ("multiply", "divide", "convert")}
    units["any"] = sum(per_element.values()) * times["any"]
    busiest = max(units, key=lambda unit: units[unit])
    return units[busiest], busiest


def row(name: str, workload: Workload, elements: int, seconds: float) -> tuple[dict[str, Any], str]:
    """Measured nanoseconds an element, and the generated code."""
    ours = Ours(workload)
    peers = {who: make() for who, make in peers_of(workload, compiled=True).items() if who in PEERS}
    times = best({who: c.ready(1) for who, c in {ours.name: ours, **peers}.items()}, seconds)
    measured = {who: round(t / elements, 3) for who, t in times.items()}
    print(name, measured, flush=True)
    return {"function": name, "nanoseconds": measured}, phases(ours.built.graph)["code"]


def main() -> None:
    """Measure, count and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contestant of each function")
    seconds = parser.parse_args().seconds
    level = resolve_target("native").name
    if level not in ("x86-64-v3", "x86-64-v4"):
        raise SystemExit(f"this benchmark counts instructions of x86-64-v3 and x86-64-v4; this machine runs {level}")
    times = instruction_times("zmm" if level == "x86-64-v4" else "ymm")
    rows = []
    for name in FUNCTIONS:
        entry, code = row(name, _elementwise(name, COUNT), COUNT, seconds)
        per_element = counts(code)
        least, busiest = bound(per_element, times)
        entry |= {"instructions": per_element, "bound": round(least, 3), "busiest": busiest}
        rows.append(entry)
    of_exp = rows[0]["bound"]
    for shape in SOFTMAXES:
        entry, _ = row(f"softmax {'x'.join(map(str, shape))}", _softmax(shape), torch.Size(shape).numel(), seconds)
        rows.append(entry | {"bound": of_exp, "busiest": "exp"})
    machine = {"level": level, "torch": torch.__version__, "seconds": seconds}
    instruction = {kind: round(t, 4) for kind, t in times.items()}
    write_result(RESULT, {"machine": machine, "instruction_nanoseconds": instruction, "rows": rows})


if __name__ == "__main__":
    main()
