"""Where the time goes of the cases in which a peer is faster: each kernel's time beside what the machine needs at least.

    python -m benchmarks.cpu.profiles [--below 0.95] [--case TEXT] [--again]

Takes the cases from benchmarks/results/cpu.json, runs each kernel by kernel on one thread and on all, and counts what the
kernels compute. Writes benchmarks/results/cpu_profiles.json row by row, and goes on where it was stopped;
scripts/make_profiles_page.py shows it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.cpu.contestants import Ours
from benchmarks.cpu.kernel_work import bytes_of, operations
from benchmarks.cpu.report import SLOWER
from benchmarks.cpu.results import RESULT as TIMES
from benchmarks.cpu.results import machine, measured_here
from benchmarks.cpu.suite import all_cases
from gensyn_tvm.passes.join import WITH
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.passes.spread import INTO
from gensyn_tvm.runtime.cpu import core_count
from gensyn_tvm.targets.cpu import resolve_target

RESULT = TIMES.with_name("cpu_profiles.json")
_RUNS = 7
_SHARE = 0.95  # of a run: kernels after that are summed


def profile(group: str, name: str, threads: tuple[int, ...]) -> dict[str, Any]:
    """A row: for each number of threads the kernels that take most of the time.

    ``work`` of a kernel is what all of its calls compute, ``bytes`` what they read and write.
    """
    (case,) = [c for c in all_cases(group) if c.name == name]
    ours = Ours(case.make())
    work: dict[str, Counter[str]] = {}

    def see(phase: str, module: Any) -> None:
        if phase == "fuse":
            work.update({gv.name_hint: operations(f) for gv, f in kernels(module)})

    run_phases(ours.built.graph, resolve_target("native"), "fast", see)
    return {"group": group, "case": name, "profiles": [{"threads": t, **_timed(ours, t, work)} for t in threads]}


def _timed(ours: Ours, threads: int, work: Mapping[str, Counter[str]]) -> dict[str, Any]:
    exe = ours.executable(threads)
    arguments = (exe.init(seed=0), ours.inputs) if ours.training else tuple(ours.inputs.values())
    runs = [[r for r in exe.profile(*arguments) if not r.prepared] for _ in range(_RUNS)]
    times: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for r in itertools.chain(*runs):
        times.setdefault((r.kernel, r.arrays), []).append(r.seconds)
    calls = {(r.kernel, r.arrays): r.calls for r in runs[0]}
    medians = sorted(((statistics.median(s), key) for key, s in times.items()), reverse=True)
    total = sum(s for s, _ in medians)
    rows: list[dict[str, Any]] = []
    for seconds, (kernel, arrays) in medians:
        if sum(r["seconds"] for r in rows) > _SHARE * total:
            break
        n = calls[kernel, arrays]
        together = sum((work[name] for name in re.split(f"{WITH}|{INTO}", kernel)), Counter())
        counted = {op: n * k for op, k in sorted(together.items())}
        rows.append({"kernel": kernel, "calls": n, "seconds": seconds, "bytes": n * bytes_of(arrays), "work": counted})
    return {"seconds": total, "kernels": len(medians), "rows": rows}


def _slower(below: float) -> list[tuple[str, str]]:
    rows = json.loads(TIMES.read_text(encoding="utf-8"))["rows"]
    return [(r["group"], r["case"]) for r in rows if any(t["ratio"] and t["ratio"] < below for t in r.get("times", []))]


def _write(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    part = RESULT.with_suffix(".part")
    part.write_text(json.dumps({"machine": machine(), "rows": list(rows.values())}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, RESULT)


def main() -> None:
    """Profile each case in a process of its own, so that one's memory is not another's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--below", type=float, default=SLOWER, help=f"cases with a ratio below this, by default {SLOWER}")
    parser.add_argument("--case", action="append", default=[], help="cases whose group/name contains this (repeatable)")
    parser.add_argument("--again", action="store_true", help="profile cases again that the file has")
    parser.add_argument("--one", nargs=2, metavar=("GROUP", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        group, name = options.one
        print(json.dumps(profile(group, name, tuple(sorted({1, core_count()})))))
        return
    known = measured_here(RESULT)["rows"]
    slower = _slower(options.below)
    rows = {(r["group"], r["case"]): r for r in known if (r["group"], r["case"]) in slower}
    for key in slower:
        chosen = not options.case or any(text in "/".join(key) for text in options.case)
        if not chosen or (key in rows and not options.again):
            continue
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cpu.profiles", "--one", *key]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[key] = json.loads(done.stdout.splitlines()[-1])
        (first, *_rest) = rows[key]["profiles"]
        print(f"{'/'.join(key)}: {first['seconds'] * 1e3:.3f} ms, {first['kernels']} kernels", flush=True)
        _write(rows)


if __name__ == "__main__":
    main()
