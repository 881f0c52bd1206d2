"""How long a product of one row with a transposed matrix takes at least: its instructions against the processor's units.

    python -m benchmarks.turning_roofline [--seconds 1.0]

Each result is a chain of multiply-adds in the order of the terms, so that vectors hold a term of several results, and the
matrix, whose rows are the results, is read in squares that are turned in registers (``targets/transposition.py``). Measures how
long the instructions of that take when nothing waits, counts them in the generated loop, and times the product of a matrix
whose rows lie a multiple of 4 KiB apart and of one whose rows do not, beside PyTorch and NumPy, in turns; each figure is the
best of its runs, on one thread. Writes benchmarks/results/turning_roofline.json; scripts/make_cpu_limits_page.py shows it.
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
from gensyn_tvm.compiler import phases
from gensyn_tvm.runtime.cpu import processor_name
from gensyn_tvm.targets.cpu import resolve_target

RESULT = Path(__file__).resolve().parent / "results" / "turning_roofline.json"
#: (terms, results) of matrices; rows of 6 KiB take two sets of a first-level cache of 64 in turn, rows of 4 KiB one.
MATRICES = ((1024, 1024), (1536, 1024))
#: An instruction of each kind; *narrow* are those of less than whole registers, *load* reads 16 bytes.
KINDS = {
    "multiply": "vfmadd231ps %%{r}0, %%{r}0, %%{r}{k}",
    "exchange": "vunpcklps %%{r}0, %%{r}0, %%{r}{k}",
    "insert": "{insert} $1, -64(%%rsp), %%{r}0, %%{r}{k}",
    "narrow": "vpaddd %%{h}0, %%{h}0, %%{h}{k}",
    "load": "vmovups -64(%%rsp), %%xmm{k}",
    "any": "vpaddd %%{r}0, %%{r}0, %%{r}{k}",
}
_INSERT = {"zmm": "vinsertf32x4", "ymm": "vinsertf128"}
_KIND_OF = (
    (re.compile(r"vfn?m|vmul"), "multiply"),
    (re.compile(r"vunpck|vshuf|vperm"), "exchange"),
    (re.compile(r"vinsert"), "insert"),
)
#: Instructions that do nothing else than read memory.
_LOAD = re.compile(r"v(?:mov|broadcast)\w*\s+[^%]*\(")


def counts(code: str, lanes: int) -> dict[str, float]:
    """Vector instructions of each kind for one element of the matrix, in the loop with the most exchanges.

    Loads are those of all instructions that read memory, whatever else these do.

    Raises:
        SystemExit: no loop exchanges and multiplies vectors.
    """
    register = "%zmm" if lanes == 16 else "%ymm"
    found = [kinds for body in vector_loops(code) if (kinds := _kinds(body, register))["multiply"] and kinds["exchange"]]
    if not found:
        raise SystemExit("no loop of exchanges and multiply-adds in the generated code")
    kinds = max(found, key=lambda k: k["exchange"])
    return {
        kind: kinds[kind] / kinds["multiply"] / lanes for kind in ("multiply", "exchange", "insert", "narrow", "load", "other")
    }


def _kinds(body: list[str], register: str) -> Counter[str]:
    kinds: Counter[str] = Counter(load=sum("(" in line for line in body))
    for line in body:
        if _LOAD.match(line):
            continue
        kind = next((kind for pattern, kind in _KIND_OF if pattern.match(line)), "other")
        kinds[kind if register in line else "narrow"] += 1
    return kinds


def bound(each: Mapping[str, float], times: Mapping[str, float]) -> tuple[float, str]:
    """Nanoseconds an element that the busiest unit needs, and which that is.

    Whatever calculates or moves registers shares the units of *any*; loads have their own.
    """
    units = {kind: each[kind] * times[kind] for kind in ("multiply", "exchange", "insert", "load")}
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
    registers = "zmm" if target.lanes() == 16 else "ymm"
    kinds = {kind: text.replace("{insert}", _INSERT[registers]) for kind, text in KINDS.items()}
    times = instruction_times(registers, kinds)
    rows: list[dict[str, Any]] = []
    for terms, results in MATRICES:
        workload = _linear(1, terms, results)
        ours = Ours(workload)
        contestants: list[Contestant] = [ours, Torch(workload), NumPy(workload)]
        found = best({c.name: c.ready(1) for c in contestants}, seconds)
        nanoseconds = {who: t / terms / results for who, t in found.items()}
        each = counts(phases(ours.built.graph)["code"], target.lanes())
        least, busiest = bound(each, times)
        rows.append(
            {"terms": terms, "results": results, "nanoseconds": nanoseconds, "instructions": each}
            | {"bound": least, "busiest": busiest}
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = {"processor": processor_name(), "level": target.name, "seconds": seconds}
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine, "instruction_nanoseconds": times, "rows": rows}, indent=1) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
