"""Runs the node tests of the installed onnx package through gensyn_tvm and writes benchmarks/results/onnx_conformance.json.

Each test is imported, compiled for this machine, run, and compared as onnx's own runner compares (with the test's tolerances);
then the bits of its outputs are compared with the interpreter's. Tests run in subprocesses, so that a crash costs one test.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "onnx_conformance.json"
STATUSES = ("passed", "failed", "unsupported", "crashed", "timeout")
TIMEOUT = 60.0

Record = dict[str, Any]


# ---- one test -------------------------------------------------------------------------------------------------------


def run_case(case: Any, *, interpreter: bool) -> Record:
    """Status, reason, category, and whether the compiled bits are the interpreter's."""
    from onnx.backend.test.runner import Runner, _normalize_tensor

    from gensyn_tvm.errors import GensynError
    from gensyn_tvm.frontends.onnx_backend import GensynBackend

    equal: bool | None = None
    try:
        rep = GensynBackend.prepare(case.model, threads=1)
        for inputs, expected in case.data_sets:
            given = dict(zip(rep.names, [_normalize_tensor(i) for i in inputs], strict=True))
            special = rep.specialise(given)
            found = special.run(given)
            if interpreter and special.graph is not None:
                equal = equal is not False and _equals_interpreter(special, given, found)
            wanted = [_normalize_tensor(o) for o in expected]
            if len(wanted) != len(found):
                raise AssertionError(f"{len(found)} outputs instead of {len(wanted)}")
            for w, f in _tensors(list(zip(wanted, found, strict=True))):
                Runner.assert_similar_outputs([w], [f], case.rtol, case.atol)
    except GensynError as error:
        return {"status": "unsupported", **_reason(case, error), "equal_bits": None}
    except AssertionError as error:
        category = "random values" if _is_random(case) else "wrong values"
        return {"status": "failed", "reason": _shortened(error), "category": category, "equal_bits": equal}
    except Exception as error:
        return {"status": "failed", "reason": _shortened(error), "category": "internal error", "equal_bits": equal}
    return {"status": "passed", "reason": "", "category": "", "equal_bits": equal}


def _tensors(pairs: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Pairs of tensors out of pairs of outputs; the runner cannot compare scalars in sequences itself."""
    for wanted, found in pairs:
        if wanted is None and found is None:
            continue
        if isinstance(wanted, list | tuple) != isinstance(found, list | tuple) or (wanted is None) != (found is None):
            raise AssertionError(f"a {type(found).__name__} instead of a {type(wanted).__name__}")
        if not isinstance(wanted, list | tuple):
            yield wanted, found
        elif len(wanted) != len(found):
            raise AssertionError(f"a sequence of {len(found)} instead of {len(wanted)}")
        else:
            yield from _tensors(list(zip(wanted, found, strict=True)))


def _equals_interpreter(special: Any, given: dict[str, Any], found: Sequence[Any]) -> bool:
    from gensyn_tvm import interpreter

    arrays = {**special.executable.state.numpy(), **special.arrays(given)}
    results = interpreter.run(special.graph, {i.name: arrays[i.name] for i in special.graph.inputs})
    wanted = special.outputs(dict(zip(special.model.program.outputs, results, strict=True)))
    return bool(_same(found, wanted))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _is_random(case: Any) -> bool:
    """Whether the expected values come from the generator of whoever wrote the test."""
    operators = {n.op_type for n in case.model.graph.node}
    return any(o.startswith("Random") or o in ("Bernoulli", "Multinomial") for o in operators)


def _reason(case: Any, error: Exception) -> dict[str, str]:
    text = str(error)
    operators = {n.op_type for n in case.model.graph.node}
    domains = {n.domain for n in case.model.graph.node} - {"", "ai.onnx"}
    if "STRING" in text or any("String" in o or o == "RegexFullMatch" for o in operators):
        category = "string tensors"
    elif "no converter" in text or (text.startswith("unsupported operator") and "is not an operator" in text):
        category = f"missing operator {getattr(error, 'operator', '')}"
    elif domains:
        category = f"other domain {', '.join(sorted(domains))}"
    elif getattr(error, "operator", ""):
        category = f"refused by {error.operator}"  # type: ignore[attr-defined]
    else:
        category = "import"
    return {"reason": _shortened(error), "category": category}


def _shortened(error: BaseException) -> str:
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    return " | ".join(lines)[:400]


# ---- worker processes -----------------------------------------------------------------------------------------------


def _serve(connection: Connection, cases: dict[str, Any], interpreter: bool) -> None:
    warnings.simplefilter("ignore")
    while True:
        name = connection.recv()
        if name is None:
            return
        connection.send(run_case(cases[name], interpreter=interpreter))


class _Worker:
    def __init__(self, cases: dict[str, Any], interpreter: bool) -> None:
        context = multiprocessing.get_context("fork")  # the parent has loaded the tests, and never starts TVM
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, cases, interpreter), daemon=True)
        self.process.start()
        theirs.close()
        self.name: str | None = None
        self.deadline = 0.0

    def give(self, name: str, timeout: float) -> None:
        self.name, self.deadline = name, time.monotonic() + timeout
        self.connection.send(name)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_cases(cases: dict[str, Any], *, jobs: int, timeout: float, interpreter: bool) -> Iterator[tuple[str, Record]]:
    """Results in the order in which they are done; a worker that crashes or takes too long is replaced."""
    waiting = list(cases)[::-1]
    workers = [_Worker(cases, interpreter) for _ in range(min(jobs, len(waiting)))]
    try:
        for worker in workers:
            worker.give(waiting.pop(), timeout)
        while any(w.name for w in workers):
            busy = [w for w in workers if w.name]
            ready = wait([w.connection for w in busy], timeout=max(0.0, min(w.deadline for w in busy) - time.monotonic()))
            for worker in busy:
                record = _collect(worker, worker.connection in ready)
                if record is None:
                    continue
                name, worker.name = worker.name, None
                assert name is not None
                yield name, record
                if record["status"] in ("crashed", "timeout"):
                    worker.stop()
                    position = workers.index(worker)
                    worker = workers[position] = _Worker(cases, interpreter)
                if waiting:
                    worker.give(waiting.pop(), timeout)
    finally:
        for worker in workers:
            worker.stop()


def _collect(worker: _Worker, ready: bool) -> Record | None:
    """The record of a worker that is done, crashed or late; None while it works."""
    if ready:
        try:
            record: Record = worker.connection.recv()
            return record
        except EOFError:
            worker.process.join()
            reason = f"the process ended with {worker.process.exitcode}"
            return {"status": "crashed", "reason": reason, "category": "crash", "equal_bits": None}
    if time.monotonic() >= worker.deadline:
        return {"status": "timeout", "reason": "took too long", "category": "timeout", "equal_bits": None}
    return None


# ---- report ---------------------------------------------------------------------------------------------------------


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """What is written to the JSON file."""
    failures = {n: r for n, r in records.items() if r["status"] != "passed"}
    categories = collections.Counter(r["category"] for r in failures.values())
    passed = [r for r in records.values() if r["status"] == "passed"]
    return {
        "onnx": onnx.__version__,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "total": len(records),
        **{status: sum(r["status"] == status for r in records.values()) for status in STATUSES},
        "equal_bits": sum(r["equal_bits"] is True for r in passed),
        "unequal_bits": sorted(n for n, r in records.items() if r["equal_bits"] is False),
        "categories": dict(sorted(categories.items(), key=lambda item: (-item[1], item[0]))),
        "cases": {n: records[n] for n in sorted(records)},
    }


def show(result: dict[str, Any], console: Console, *, failures: bool) -> None:
    """Print the table of categories, and every failure if asked for."""
    table = Table(title=f"onnx {result['onnx']}: {result['passed']} of {result['total']} node tests pass")
    table.add_column("category")
    table.add_column("tests", justify="right")
    for category, count in result["categories"].items():
        table.add_row(category, str(count))
    console.print(table)
    statuses = ", ".join(f"{s} {result[s]}" for s in STATUSES)
    console.print(f"{statuses}; bits equal to the interpreter's in {result['equal_bits']} of the passed tests")
    for name in result["unequal_bits"]:
        console.print(f"[red]bits differ from the interpreter's: {name}")
    for name, record in result["cases"].items() if failures else ():
        if record["status"] != "passed":
            console.print(f"{name}: {record['status']}: {record['reason']}", markup=False, highlight=False, soft_wrap=True)


def _passed(path: Path, cases: dict[str, Any]) -> dict[str, Record]:
    """What passed in an earlier run of these tests."""
    stored = json.loads(path.read_text())["cases"] if path.exists() else {}
    return {n: r for n, r in stored.items() if n in cases and r["status"] == "passed"}


def main() -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="", help="run only the tests whose names contain this (several: a,b)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for each test")
    parser.add_argument("--list-failures", action="store_true")
    parser.add_argument("--no-interpreter", action="store_true", help="do not compare bits with the interpreter")
    parser.add_argument("--retry", action="store_true", help="keep what passed in the output file and run the rest again")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    parts = options.filter.split(",")
    cases = {c.name: c for c in load_model_tests(kind="node") if any(part in c.name for part in parts)}
    if not cases:
        parser.error(f"no test has {options.filter!r} in its name")
    console = Console()
    records = _passed(options.output, cases) if options.retry else {}
    cases = {name: case for name, case in cases.items() if name not in records}
    total = len(records) + len(cases)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("node tests", total=len(cases))
        results = run_cases(cases, jobs=options.jobs, timeout=options.timeout, interpreter=not options.no_interpreter)
        for name, record in results:
            records[name] = record
            progress.advance(task)
            progress.refresh()
            if len(records) % 100 == 0 or len(records) == total:
                # After a retry the records come from several runs, perhaps of several versions of this package.
                result = {**summary(records), "retried": options.retry}
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(result, indent=1) + "\n")
    show(result, console, failures=options.list_failures)


if __name__ == "__main__":
    main()
