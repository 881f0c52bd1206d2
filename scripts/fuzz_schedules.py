"""Apply random schedule primitives to kernels of every operator family; what the order verifier accepts must keep the bits.

    python scripts/fuzz_schedules.py --count 200            # schedules for each family; some ten minutes on two cores

Schedule number s of a family is a function of s (tests/fuzz/schedules.py). Families run in processes of their own, so that a
crash is recorded and does not stop the run; one that was stopped goes on with the next family (schedule-journal.json).
Writes benchmarks/results/random_schedules.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gensyn_tvm.runtime.cpu import core_count, supported_levels  # noqa: E402
from tests.fuzz.schedules import FAMILIES, Outcome, draw, outcome  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "random_schedules.json"
#: Schedules that are compiled together.
_BATCH = 40


def examined(family: str, first: int, count: int) -> dict[str, Any]:
    """What becomes of schedules ``first``, … of a family."""
    drawn = [s for s in (draw(family, number) for number in range(first, first + count)) if s.applied]
    accepted = [s for s in drawn if not s.refusal]
    found = outcome(accepted) if accepted else Outcome()
    uses = [Counter(p for s in group for p in set(s.applied)) for group in (accepted, [s for s in drawn if s.refusal])]
    return {
        "count": len(drawn),
        "refused": len(drawn) - len(accepted),
        "equal": found.equal,
        "not_compiled_by_tvm": found.uncompiled,
        "failures": [f"{s.name}: {', '.join(s.applied)}" for s in found.different],
        "accepted_with": dict(uses[0]),
        "refused_with": dict(uses[1]),
    }


def run(count: int, workers: int, journal: Path) -> dict[str, dict[str, Any]]:
    """Results by family; those that the journal has are not computed again."""
    known = json.loads(journal.read_text()) if journal.exists() else {}
    results: dict[str, dict[str, Any]] = known.get("families", {}) if known.get("count") == count else {}
    for family in FAMILIES:
        if family in results:
            continue
        start = time.monotonic()
        total: dict[str, Any] = {"count": 0, "refused": 0, "equal": 0, "not_compiled_by_tvm": 0, "failures": []}
        total |= {"accepted_with": Counter(), "refused_with": Counter()}
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            starts = range(0, count, _BATCH)
            futures = [pool.submit(examined, family, s, min(_BATCH, count - s)) for s in starts]
            for start, future in zip(starts, futures, strict=True):
                try:
                    part = future.result()
                except BrokenProcessPool:
                    total["failures"].append(f"{family}: the process of schedules {start}, … crashed")
                    continue
                for key, value in part.items():
                    total[key] = total[key] + (Counter(value) if isinstance(value, dict) else value)
        results[family] = {**total, "seconds": round(time.monotonic() - start)}
        journal.write_text(json.dumps({"count": count, "families": results}))
        print(family, {k: v for k, v in total.items() if not k.endswith("_with")}, flush=True)
    return results


def report(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The contents of the result file."""
    keys = ("count", "refused", "equal", "not_compiled_by_tvm", "seconds")
    whole = {key: sum(r[key] for r in results.values()) for key in keys}
    primitives: dict[str, dict[str, int]] = {}
    for key in ("accepted_with", "refused_with"):
        for r in results.values():
            for name, n in r[key].items():
                known = primitives.setdefault(name, {"accepted_with": 0, "refused_with": 0})
                known[key] += n
    families = {f: {k: v for k, v in r.items() if not k.endswith("_with")} for f, r in results.items()}
    failures = [text for r in results.values() for text in r["failures"]]
    return {
        **whole,
        "failures": failures,
        "target": supported_levels()[-1],
        "families": families,
        "primitives": dict(sorted(primitives.items())),
    }


def main() -> int:
    """Run, write the file, and fail if any bit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="schedules for each family")
    parser.add_argument("--workers", type=int, default=core_count())
    parser.add_argument("--journal", type=Path, default=ROOT / "schedule-journal.json")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = report(run(arguments.count, arguments.workers, arguments.journal))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    arguments.journal.unlink()
    print(f"{found['count']} schedules: {found['refused']} refused, {found['equal']} equal, {len(found['failures'])} failures")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
