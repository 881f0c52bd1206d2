"""Gradients of every differentiable canonical operator: accuracy on many drawn cases, and bits on every target.

    python scripts/check_gradients.py                      # some minutes on two cores
    python scripts/check_gradients.py --examples 10 --graphs 1 --output /tmp/gradients.json

Accuracy: cases that hypothesis draws, against central differences in float64 and against PyTorch's autograd
(tests/training/gradients/test_every_operator.py says how). Bits: backward graphs with special values among their inputs,
many in one program, on every target of this machine against the interpreter (tests/training/gradients/bits.py).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gensyn_tvm.canonical.rules import NUMERICS_VERSION  # noqa: E402
from gensyn_tvm.training.gradients import CANONICAL  # noqa: E402
from tests.fuzz.check import Way, check, problem  # noqa: E402
from tests.training.gradients import bits  # noqa: E402
from tests.training.gradients.test_every_operator import LIMITS, check_operator  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "gradients.json"
Record = dict[str, Any]


def accuracy(op: str, examples: int) -> Record:
    """The largest errors over drawn cases, or the smallest case that is wrong."""
    try:
        errors = check_operator(op, examples)
    except Exception as error:  # whatever a case raises is a finding
        return {"cases": 0, "finding": "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])}
    largest = {name: float(f"{e:.2g}") for name in LIMITS if (e := getattr(errors, name)) is not None}
    return {"cases": errors.cases, "largest_error": largest}


def same_bits(way: Way, number: int) -> Record:
    """For each operator what is wrong with its ``number``-th graph, if anything."""
    cases = bits.cases([number])
    try:
        found = [texts[0] if texts else "" for texts in check(cases, way)]
    except Exception:  # told apart one by one
        found = [problem(case, way) for case in cases]
    return {"way": str(way), "outputs": [len(c.graph.outputs) for c in cases], "problems": found, "kinds": bits.kinds(cases)}


def run(examples: int, graphs: int, workers: int) -> Record:
    """All of it, as it is written to the file."""
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        compared = [pool.submit(same_bits, way, n) for n in range(graphs) for way in bits.TARGETS]
        drawn = {op: pool.submit(accuracy, op, examples) for op in CANONICAL}
        operators = {op: future.result() for op, future in drawn.items()}
        parts = [future.result() for future in compared]
    for k, record in enumerate(operators.values()):
        wrong = [f"{p['way']}: {p['problems'][k]}" for p in parts if p["problems"][k]]
        failed = {p["way"] for p in parts if p["problems"][k]}
        outputs = sum(p["outputs"][k] for p in parts) // len(bits.TARGETS)
        equal = [str(way) for way in bits.TARGETS if str(way) not in failed]
        record["bits"] = {
            "graphs": graphs,
            "outputs": outputs,
            "equal_to_interpreter": equal,
            **({"wrong": wrong} if wrong else {}),
        }
    special = [p["kinds"] for p in parts if p["way"] == str(bits.TARGETS[0])]
    return {
        "numerics": NUMERICS_VERSION,
        "limits": LIMITS,
        "seconds": round(time.monotonic() - started),
        "special_values": {kind: sum(k[kind] for k in special) for kind in special[0]},
        "operators": operators,
    }


def main() -> int:
    """Write the file; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=60, help="cases that hypothesis draws for each operator")
    parser.add_argument("--graphs", type=int, default=4, help="backward graphs of each operator whose bits are compared")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result = run(arguments.examples, arguments.graphs, arguments.workers)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wrong = [op for op, r in result["operators"].items() if "finding" in r or "wrong" in r["bits"]]
    cases = sum(r["cases"] for r in result["operators"].values())
    print(f"{len(result['operators'])} operators, {cases} cases, {result['seconds']} s; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
