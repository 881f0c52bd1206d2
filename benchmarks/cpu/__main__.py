"""Measure the compiler's code beside PyTorch, ONNX Runtime, NumPy and stock TVM.

    python -m benchmarks.cpu [--quick] [--only GROUP] [--compiled] [--check-digests]
    python -m benchmarks.cpu --only models --model bert --mode infer --batch 1 --threads 2

A whole run, or that of whole groups, writes rows to benchmarks/results/cpu.json as they are measured, and goes on where it was
stopped; on another processor than that file's, to one of its own beside it. With ``--quick`` or a choice of cases or threads
everything is measured afresh and nothing is written. The last line is one JSON object: for each group the geometric mean of
(the fastest peer's time / ours); above 1 we are faster.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.parent import run_jobs
from benchmarks.cpu.report import changed_digests, line, summary
from benchmarks.cpu.results import RESULT, Results, file_of_this_machine, machine
from benchmarks.cpu.roofline import measure
from benchmarks.cpu.suite import GROUPS, jobs
from gensyn_tvm.runtime.cpu import core_count


def arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample in less than five minutes; writes no file")
    parser.add_argument("--only", action="append", choices=(*GROUPS, "models"), help="this group only (repeatable)")
    parser.add_argument("--case", action="append", default=[], help="cases whose name contains this (repeatable)")
    parser.add_argument("--model", action="append", default=[], help="the same of networks")
    parser.add_argument("--mode", choices=("infer", "train"), help="only this of networks")
    parser.add_argument("--batch", type=int, help="only cases of this batch size")
    parser.add_argument(
        "--threads", type=int, action="append", help="so many threads (repeatable), by default one and all cores"
    )
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, whose compilation takes minutes")
    parser.add_argument("--again", action="store_true", help="measure rows again that the file has")
    parser.add_argument("--output", type=Path, default=file_of_this_machine(), help="the file, see above")
    parser.add_argument("--check-digests", action="store_true", help="exit 1 if a digest is not that of the committed file")
    return parser.parse_args()


def chosen_groups(only: Sequence[str] | None, mode: str | None) -> tuple[str, ...]:
    """The groups of the command line's ``--only`` and ``--mode``; ``models`` stands for both of theirs."""
    networks = {"infer": ("inference",), "train": ("training",)}.get(mode or "", ("inference", "training"))
    given = only or (["models"] if mode else GROUPS)
    return tuple(g for name in given for g in (networks if name == "models" else (name,)))


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    groups = chosen_groups(options.only, options.mode)
    wanted = [*options.case, *options.model]
    fresh = bool(options.quick or wanted or options.batch or options.threads)
    threads = sorted({*(options.threads or (1, core_count()))})
    committed = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]  # digests are those of any machine
    results = Results(None if fresh else options.output, [] if fresh else [measure(t) for t in threads])
    todo = jobs(
        groups,
        quick=options.quick,
        wanted=wanted,
        done=set() if options.again else results.done(),
        ending="" if options.batch is None else f"batch {options.batch}",
    )
    settings: dict[str, Any] = {"quick": options.quick, "compiled": options.compiled, "threads": threads}
    print(json.dumps(machine()), flush=True)
    for row in run_jobs(todo, settings, together=2):
        print(line(row), flush=True)
        results.add(row)
    rows = [r for r in results.rows() if r["group"] in groups]
    changed = changed_digests(rows, committed) if options.check_digests else []
    for text in changed:
        print(text, file=sys.stderr)
    print(json.dumps(summary(rows)))
    wrong = [r for r in rows if not r.get("agrees")]
    sys.exit(1 if changed or wrong else 0)


if __name__ == "__main__":
    main()
