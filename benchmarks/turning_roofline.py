"""How long a product of one row with a transposed matrix takes at least: its instructions against the processor's units.

    python -m benchmarks.turning_roofline [--seconds 1.0]

Each result is a chain of multiply-adds in the order of the terms, so that vectors hold a term of several results, and the
matrix, whose rows are the results, is read in squares that are turned in registers (``targets/transposition.py``). Measures how
long the instructions of that take when nothing waits, and a multiply-add that waits for the one before; counts them in the
generated loop; and times the product of a matrix whose rows lie a multiple of 4 KiB apart and of one whose rows do not, beside
PyTorch and NumPy, in turns. Each figure is the best of its runs, on one thread. Writes
benchmarks/results/turning_roofline.json; scripts/make_cpu_limits_page.py shows it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cpu.contestants import Contestant, NumPy, Ours, Torch
from benchmarks.cpu.kernels import _linear
from benchmarks.elementary_roofline import best, instruction_times, vector_loops
from benchmarks.result_files import write_result
from gensyn_tvm.compiler import phases
from gensyn_tvm.runtime.cpu import processor_name
from gensyn_tvm.targets.cpu import resolve_target

RESULT = Path(__file__).resolve().parent / "results" / "turning_roofline.json"
#: (terms, results) of matrices; rows of 6 KiB take two sets of a first-level cache of 64 in turn, rows of 4 KiB one.
MATRICES = ((1024, 1024), (1536, 1024))
#: An instruction of each kind; *narrow* are those of less than whole registers, *load* reads 16 bytes, *chain* is a
#: multiply-add that waits for the one before.
KINDS = {
    "chain": "vfmadd231ps %%{r}0, %%{r}0, %%{r}1",
    "multiply": "vfmadd231ps %%{r}0, %%{r}0, %%{r}{k}",
    "exchange": "vunpcklps %%{r}0, %%{r}0, %%{r}{k}",
    "insert": "{insert} $1, line(%%rip), %%{r}0, %%{r}{k}",
    "narrow": "vpaddd %%{h}0, %%{h}0, %%{h}{k}",
    "load": "vmovups line(%%rip), %%xmm{k}",
    "any": "vpaddd %%{r}0, %%{r}0, %%{r}{k}",
}
_INSERT = {"zmm": "vinsertf32x4", "ymm": "vinsertf128"}
_LANES = {"zmm": 16, "ymm": 8}
_KIND_OF = (
    (re.compile(r"vfn?m|vmul"), "multiply"),
    (re.compile(r"vunpck|vshuf|vperm"), "exchange"),
    (re.compile(r"vinsert"), "insert"),
)
_UNITS = ("multiply", "exchange", "insert", "load")
#: Instructions that do nothing else than read memory.
_LOAD = re.compile(r"v(?:mov|broadcast)\w*\s+[^%]*\(")


def counts(code: str) -> tuple[str, dict[str, float]]:
    """The registers of the loop with the most exchanges, and its vector instructions of each kind for an element of the matrix.

    Loads are those of all instructions that read memory, whatever else these do. *Chain*: multiply-adds that wait for one
    another; each chain has a square of its own, with as many of them as it has rows.

    Raises:
        SystemExit: no loop exchanges and multiplies vectors.
    """
    loops = [(register, _kinds(body, f"%{register}")) for body in vector_loops(code) for register in _LANES]
    found = [(register, kinds) for register, kinds in loops if kinds["multiply"] and kinds["exchange"]]
    if not found:
        raise SystemExit("no loop of exchanges and multiply-adds in the generated code")
    register, kinds = max(found, key=lambda f: f[1]["exchange"])
    lanes = _LANES[register]
    each = {kind: kinds[kind] / kinds["multiply"] / lanes for kind in (*_UNITS, "narrow", "other")}
    return register, {**each, "chain": min(1.0, lanes / kinds["multiply"]) / lanes}


def _kinds(body: list[str], register: str) -> Counter[str]:
    kinds: Counter[str] = Counter(load=sum("(" in line for line in body))
    for line in body:
        if _LOAD.match(line):
            continue
        kind = next((kind for pattern, kind in _KIND_OF if pattern.match(line)), "other")
        kinds[kind if register in line else "narrow"] += 1
    return kinds


def bound(each: Mapping[str, float], times: Mapping[str, float]) -> tuple[float, str]:
    """Nanoseconds an element that the busiest unit or the chains of multiply-adds need, and which that is.

    Whatever calculates or moves registers shares the units of *any*; loads have their own.
    """
    units = {kind: each[kind] * times[kind] for kind in (*_UNITS, "chain")}
    whole = sum(each[kind] for kind in ("multiply", "exchange", "insert", "other"))
    units["any"] = whole * times["any"] + each["narrow"] * times["narrow"]
    busiest = max(units, key=lambda unit: units[unit])
    return units[busiest], busiest


def main() -> None:
    """Measure, count and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contestant of each matrix")
    seconds = parser.parse_args().seconds
    target = resolve_target("native")
    if target.name not in ("x86-64-v3", "x86-64-v4"):
        raise SystemExit(f"this benchmark counts instructions of x86-64-v3 and x86-64-v4; this machine runs {target.name}")
    times = {
        registers: instruction_times(registers, {kind: text.replace("{insert}", insert) for kind, text in KINDS.items()})
        for registers, insert in _INSERT.items()
        if _LANES[registers] <= target.lanes()
    }
    rows: list[dict[str, Any]] = []
    for terms, results in MATRICES:
        workload = _linear(1, terms, results)
        ours = Ours(workload)
        contestants: list[Contestant] = [ours, Torch(workload), NumPy(workload)]
        found = best({c.name: c.ready(1) for c in contestants}, seconds)
        nanoseconds = {who: t / terms / results for who, t in found.items()}
        registers, each = counts(phases(ours.built.graph)["code"])
        least, busiest = bound(each, times[registers])
        rows.append(
            {"terms": terms, "results": results, "nanoseconds": nanoseconds, "registers": registers, "instructions": each}
            | {"bound": least, "busiest": busiest}
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = {"processor": processor_name(), "level": target.name, "seconds": seconds}
    write_result(RESULT, {"machine": machine, "instruction_nanoseconds": times, "rows": rows})


if __name__ == "__main__":
    main()
