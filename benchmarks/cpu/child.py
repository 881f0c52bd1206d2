"""The process that measures a few cases: ``python -m benchmarks.cpu.child JSON``, started by ``benchmarks.cpu``.

It builds all contestants, prints ``{"ready": …}``, waits for a line on its standard input, and then prints a row for each case.
So the parent can let two processes build while none measures.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import warnings
from typing import Any


def peak_memory() -> int:
    """The most memory that this process has had, in MiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def _send(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _build(case: Any, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contestants and the beginning of the row; peers that cannot are named in it with the reason."""
    from benchmarks.cpu.contestants import OURS, Contestant, Ours, peers_of
    from benchmarks.cpu.work import bytes_moved, float_operations

    row: dict[str, Any] = {"group": case.group, "case": case.name, "failed": {}}
    workload = case.make()
    makers: dict[str, Any] = {OURS: lambda: Ours(workload), **peers_of(workload, compiled=options["compiled"])}
    contestants: dict[str, Contestant] = {}
    for name, make in makers.items():
        start = time.perf_counter()
        try:
            contestants[name] = make()
        except Exception as error:
            row["failed"][name] = f"{type(error).__name__}: {str(error)[:200]}"
            print(traceback.format_exc(), file=sys.stderr)
            continue
        row.setdefault("build_seconds", {})[name] = round(time.perf_counter() - start, 3)
    ours = [c for c in contestants.values() if isinstance(c, Ours)]
    if ours:
        graph = ours[0].built.graph
        row["work"] = {"flops": float_operations(graph), "bytes": bytes_moved(graph)}
        row["compile_seconds"] = round(ours[0].seconds["compile"], 3)
    return contestants, row


def _measure(case: Any, contestants: dict[str, Any], row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.cpu.contestants import OURS
    from benchmarks.cpu.measure import FULL, QUICK, differences, race, ratios
    from gensyn_tvm.evidence.digests import state_digest

    if OURS not in contestants:
        return row
    row["digest"] = state_digest(contestants[OURS].digested())
    row["differences"] = differences(contestants, options["threads"][-1], "torch" if "torch" in contestants else OURS)
    for name in [n for n, d in row["differences"].items() if n not in (OURS, "torch") and d > case.tolerance]:
        # Whoever computes something else has no time to compare.
        row["failed"][name] = f"outputs differ from PyTorch's by {row['differences'].pop(name)}"
        del contestants[name]
    row["agrees"] = all(d <= case.tolerance for d in row["differences"].values())
    row["times"] = []
    for threads in options["threads"]:
        seconds = race(contestants, threads, QUICK if options["quick"] else FULL)
        row["times"].append({"threads": threads, "seconds": seconds, **ratios(seconds)})
    return row


def main() -> None:
    """Build, wait, measure."""
    warnings.simplefilter("ignore")
    options = json.loads(sys.argv[1])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["GENSYN_TVM_CACHE"] = "off"  # compile times are those of a first build
    logging.disable(logging.WARNING)
    # Rows go to the real standard output; what libraries print goes to standard error.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = rows
    from benchmarks.cpu.suite import all_cases

    wanted = [tuple(key) for key in options["cases"]]
    chosen = [c for group in dict(wanted) for c in all_cases(group) if (group, c.name) in wanted]
    built = [(case, *_build(case, options)) for case in chosen]
    _send({"ready": len(built)})
    sys.stdin.readline()
    for case, contestants, row in built:
        _send({"row": _measure(case, contestants, row, options)})
    _send({"peak_memory_mib": peak_memory()})


if __name__ == "__main__":
    main()
