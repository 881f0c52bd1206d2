"""Compile random graphs in many ways and compare every output with the interpreter, bit by bit.

    python scripts/fuzz_graphs.py --count 10000            # about an hour on two cores; continues where it was stopped
    python scripts/fuzz_graphs.py --replay fuzz-failures/fuzz-7.json --reduce

Graph number s is a function of s (tests/fuzz/generate.py). Several graphs are compiled side by side in one program, in two
ways that their numbers choose (tests/fuzz/check.py). Programs are compiled and run in worker processes: one that crashes or
takes too long is recorded and does not stop the run. Failing graphs are written to --failures with their inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gensyn_tvm.canonical.rules import NUMERICS_VERSION  # noqa: E402
from gensyn_tvm.runtime.cpu import core_count, supported_levels  # noqa: E402
from tests.fuzz.check import Case, check, problem, ways_of  # noqa: E402
from tests.fuzz.generate import graph  # noqa: E402
from tests.fuzz.reduce import reduced  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "fuzz_graphs.json"
JOURNAL = "journal.jsonl"

Record = dict[str, Any]


# ---- in a worker process --------------------------------------------------------------------------------------------


def examine(seeds: list[int], number: int, failures: Path) -> Record:
    """Check the graphs of some seeds together, and each alone if anything is wrong."""
    graphs = [graph(seed) for seed in seeds]
    cases = [Case.of(g) for g in graphs]
    findings: list[Record] = []
    for way in ways_of(number):
        try:
            wrong = "\n".join(text for texts in check(cases, way) for text in texts)
        except Exception as error:  # whatever the compiler raises is a finding
            wrong = f"{type(error).__name__}: {str(error)[-600:]}"
        if not wrong:
            continue
        alone = [(seed, case, text) for seed, case in zip(seeds, cases, strict=True) if (text := problem(case, way))]
        for seed, case, text in alone:
            (failures / f"{case.graph.name}.json").write_text(case.dumps(way), encoding="utf-8")
            findings.append({"seeds": [seed], "way": str(way), "kind": _kind(text), "text": text})
        if not alone:
            findings.append({"seeds": seeds, "way": str(way), "kind": _kind(wrong), "text": wrong})
    operators = Counter(node.op for g in graphs for node in g.nodes)
    return {
        "operators": operators,
        "dtypes": Counter(node.types[0].dtype for g in graphs for node in g.nodes),
        "outputs": sum(len(g.outputs) for g in graphs),
        "ways": {str(way): len(seeds) for way in ways_of(number)},
        "findings": findings,
    }


def _kind(text: str) -> str:
    return "mismatch" if " differ; (index, " in text else "error"


def work(failures: Path) -> None:
    """Answer the bundles that come by standard input, one line of JSON each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may write to the parent
    for line in sys.stdin:
        task = json.loads(line)
        answers.write(json.dumps(examine(task["seeds"], task["number"], failures)) + "\n")
        answers.flush()


# ---- in the parent --------------------------------------------------------------------------------------------------


class Worker:
    """A process that examines bundles, started again after a crash."""

    def __init__(self, failures: Path) -> None:
        self._failures = failures
        self._process: subprocess.Popen[str] | None = None

    def examine(self, seeds: list[int], number: int, limit: float) -> Record | str:
        """The answer, or how the process ended instead."""
        if self._process is None:
            command = [sys.executable, "-W", "ignore", __file__, "--worker", "--failures", str(self._failures)]
            with (self._failures / "worker.log").open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit, kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({"seeds": seeds, "number": number}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            answer: Record = json.loads(line)
            return answer
        process.wait()
        self.stop()
        return f"took longer than {limit:.0f} seconds" if late.is_set() else f"ended with status {process.returncode}"

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def examine_bundle(worker: Worker, seeds: list[int], number: int, limit: float) -> Record:
    """A bundle's record. If the worker dies of it, its graphs are examined one by one to find which one it was."""
    answer = worker.examine(seeds, number, limit * len(seeds))
    if not isinstance(answer, str):
        return answer
    whole: Record = {"operators": {}, "dtypes": {}, "outputs": 0, "ways": {}, "findings": []}
    for seed in seeds:
        single = worker.examine([seed], number, limit)
        if isinstance(single, str):
            ways = ", ".join(map(str, ways_of(number)))
            whole["findings"].append({"seeds": [seed], "way": ways, "kind": "crash", "text": f"the process {single}"})
        else:
            whole = _sum(whole, single)
    if not whole["findings"]:
        text = f"the process {answer}; alone, none of the graphs fails"
        whole["findings"].append({"seeds": seeds, "way": "", "kind": "crash", "text": text})
    return whole


def _sum(a: Record, b: Record) -> Record:
    counts: Record = {name: dict(Counter(a[name]) + Counter(b[name])) for name in ("operators", "dtypes", "ways")}
    return {**counts, "outputs": a["outputs"] + b["outputs"], "findings": a["findings"] + b["findings"]}


def run(args: argparse.Namespace) -> int:
    """Examine all bundles that the journal does not have, and write the result. The exit status."""
    args.failures.mkdir(parents=True, exist_ok=True)
    journal = args.failures / JOURNAL
    done = _journal(journal, args)
    bundles = {b: list(range(b, min(b + args.bundle, args.first + args.count))) for b in range(*_span(args), args.bundle)}
    tasks: queue.Queue[int] = queue.Queue()
    for b in bundles:
        if b not in done:
            tasks.put(b)
    lock = threading.Lock()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, journal.open("a", encoding="utf-8") as file:
        bar = progress.add_task("graphs", total=args.count, completed=sum(len(bundles[b]) for b in done))

        def serve() -> None:
            worker = Worker(args.failures)
            while True:
                try:
                    b = tasks.get_nowait()
                except queue.Empty:
                    break
                start = time.monotonic()
                record = examine_bundle(worker, bundles[b], b // args.bundle, args.limit)
                with lock:
                    done[b] = {**record, "bundle": b, "seconds": time.monotonic() - start}
                    file.write(json.dumps(done[b]) + "\n")
                    file.flush()
                    for finding in record["findings"]:
                        progress.console.print(f"seeds {finding['seeds']}: {finding['kind']}, {finding['way']}", markup=False)
                    progress.advance(bar, len(bundles[b]))
            worker.stop()

        servers = [threading.Thread(target=serve) for _ in range(args.workers)]
        for server in servers:
            server.start()
        for server in servers:
            server.join()
    result = summary(args, list(done.values()))
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['graphs']} graphs, {result['nodes']} operators: {len(result['findings'])} findings; {args.output}")
    return 1 if result["findings"] else 0


def _span(args: argparse.Namespace) -> tuple[int, int]:
    return args.first, args.first + args.count


def _journal(path: Path, args: argparse.Namespace) -> dict[int, Record]:
    """Bundles that an earlier run of the same numbers has finished without a finding; the others are examined again."""
    if args.fresh or not path.exists():
        path.write_text("", encoding="utf-8")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    latest = {r["bundle"]: r for r in records if args.first <= r["bundle"] < args.first + args.count}
    return {b: r for b, r in latest.items() if not r["findings"]}


def summary(args: argparse.Namespace, records: list[Record]) -> Record:
    """What goes into the result file."""
    total: Record = {"operators": {}, "dtypes": {}, "outputs": 0, "ways": {}, "findings": []}
    for record in records:
        total = _sum(total, record)
    return {
        "numerics": NUMERICS_VERSION,
        "machine": {"machine": platform.machine(), "levels": supported_levels(), "cores": core_count()},
        "graphs": args.count,
        "seeds": [args.first, args.first + args.count - 1],
        "nodes": sum(total["operators"].values()),
        "outputs": total["outputs"],
        "mismatches": sum(f["kind"] == "mismatch" for f in total["findings"]),
        "errors": sum(f["kind"] == "error" for f in total["findings"]),
        "crashes": sum(f["kind"] == "crash" for f in total["findings"]),
        "worker_seconds": round(sum(r["seconds"] for r in records)),
        "graphs_by_configuration": dict(sorted(total["ways"].items())),
        "operators": dict(sorted(total["operators"].items())),
        "dtypes": dict(sorted(total["dtypes"].items())),
        "findings": total["findings"],
    }


def replay(args: argparse.Namespace) -> int:
    """Check one graph of a file again, and with --reduce write the smallest graph found that fails in the same way."""
    case, way = Case.loads(args.replay.read_text(encoding="utf-8"))
    text = problem(case, way)
    print(text or f"{case.graph.name} ({way}): the same bits")
    if not text:
        return 0
    if args.reduce:
        small = reduced(case, way, args.attempts)
        path = args.replay.with_suffix(".reduced.json")
        path.write_text(small.dumps(way), encoding="utf-8")
        print(f"{path}:\n{small}\n{problem(small, way)}")
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000, help="number of graphs")
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--bundle", type=int, default=8, help="graphs compiled side by side")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--limit", type=float, default=60, help="seconds for each graph")
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of continuing a run that was stopped")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--failures", type=Path, default=ROOT / "fuzz-failures")
    parser.add_argument("--replay", type=Path, help="check the graph of this file")
    parser.add_argument("--reduce", action="store_true", help="with --replay: make it small")
    parser.add_argument("--attempts", type=int, default=400, help="with --reduce: compilations at most")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.failures)
    else:
        sys.exit(replay(args) if args.replay else run(args))


if __name__ == "__main__":
    main()
