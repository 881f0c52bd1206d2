"""Measure the compiler's code beside PyTorch, ONNX Runtime and NumPy.

    python -m benchmarks.cpu [--quick] [--only GROUP] [--compiled] [--check-digests]

Without ``--quick`` rows go to benchmarks/results/cpu.json as they are measured, and a run that was stopped goes on
where it was. The last line is one JSON object: for each group the geometric mean of (the fastest peer's time / ours);
above 1 we are faster.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.cpu.parent import run_jobs
from benchmarks.cpu.report import changed_digests, line, summary
from benchmarks.cpu.results import RESULT, Results, machine
from benchmarks.cpu.suite import GROUPS, jobs
from gensyn_tvm.runtime.cpu import core_count


def arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample in less than five minutes; writes no file")
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group only (repeatable)")
    parser.add_argument("--case", action="append", default=[], help="cases whose name contains this (repeatable)")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, whose compilation takes minutes")
    parser.add_argument("--again", action="store_true", help="measure rows again that the file has")
    parser.add_argument("--output", type=Path, default=RESULT, help="the file, by default benchmarks/results/cpu.json")
    parser.add_argument("--check-digests", action="store_true", help="exit 1 if a digest is not that of the committed file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    groups = tuple(options.only or GROUPS)
    results = Results(None if options.quick else options.output)
    todo = jobs(groups, quick=options.quick, wanted=options.case, done=set() if options.again else results.done())
    settings: dict[str, Any] = {
        "quick": options.quick,
        "compiled": options.compiled,
        "threads": sorted({1, core_count()}),
    }
    print(json.dumps(machine()), flush=True)
    for row in run_jobs(todo, settings, together=2 if options.quick else 1):
        print(line(row), flush=True)
        results.add(row)
    rows = [r for r in results.rows() if r["group"] in groups]
    changed = changed_digests(rows, Results(RESULT).rows()) if options.check_digests else []
    for text in changed:
        print(text, file=sys.stderr)
    print(json.dumps(summary(rows)))
    wrong = [r for r in rows if not r.get("agrees")]
    sys.exit(1 if changed or wrong else 0)


if __name__ == "__main__":
    main()
