"""The process that compiles and measures: ``python -m gensyn_tvm.tuning.child``, driven by ``tuning.measure``.

A line of JSON for each candidate on its standard input, a line of JSON with what came of it on its standard output. What
crashes or hangs is this process, not the tuner.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import STATE_ROLES
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import GensynError
from gensyn_tvm.evidence.samples import arrays_for
from gensyn_tvm.runtime.executable import Executable, State, as_array
from gensyn_tvm.schedules.parameters import parse
from gensyn_tvm.schedules.records import NONE, Records, using

#: Shortest time that is measured as one.
_TICK = 1e-3
#: Calls from which blocks need no call to warm up.
_LONG = 0.2


class Subject:
    """A program by its default schedule, with arrays; candidates are compared with it."""

    def __init__(self, text: str, target: str) -> None:
        self.text, self.target = text, target
        graph = serialise.loads(text)
        arrays = arrays_for(Source(graph, State({})))
        self.source = Source(graph, State({i.name: arrays[i.name] for i in graph.inputs if i.role in STATE_ROLES}))
        self.given = [arrays[i.name] for i in graph.inputs if i.role not in STATE_ROLES]
        self.default = self.build(NONE)

    def build(self, records: Records) -> Executable:
        """The program by some records."""
        with using(records):
            return compile(self.source, self.target, threads=1)

    def caller(self, exe: Executable, threads: int) -> Callable[[], Any]:
        """A call without arguments."""
        call, given = replace(exe, threads=threads).bind(), self.given
        return lambda: call(*given)


def bits(value: Any) -> list[np.ndarray]:
    """Outputs as unsigned integers."""
    arrays = [as_array(v) for v in (value if isinstance(value, list) else [value])]
    return [np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}").copy() for a in arrays]


def race(first: Callable[[], Any], second: Callable[[], Any], rounds: int, seconds: float) -> float:
    """The median time of a call of the first divided by that of the second, from blocks in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    counts, long = [], False
    for run in (first, second):
        run()
        start = time.perf_counter()
        run()
        once = time.perf_counter() - start
        counts.append(max(1, math.ceil(_TICK / max(once, 1e-7))))
        long = long or once > _LONG
    for turn in range(rounds):
        # Who is second finds warm threads; so they take turns in that, too.
        for which in (0, 1) if turn % 2 else (1, 0):
            run, begin = (first, second)[which], time.perf_counter()
            if not long:
                run()
            while True:
                start = time.perf_counter()
                for _ in range(counts[which]):
                    run()
                end = time.perf_counter()
                times[which].append((end - start) / counts[which])
                if end - begin >= seconds:
                    break
    return statistics.median(times[0]) / statistics.median(times[1])


def measure(subject: Subject, request: dict[str, Any]) -> dict[str, Any]:
    """Ratios by number of threads, or why there are none."""
    parameters = parse(request["key"].split(" ", 1)[0], request["parameters"], "candidate")
    try:
        candidate = subject.build(Records({request["key"]: parameters}))
    except GensynError as error:
        return {"refused": str(error)}
    ratios = []
    for threads in request["threads"]:
        pair = [subject.caller(exe, threads) for exe in (subject.default, candidate)]
        expected, found = (bits(run()) for run in pair)
        if not _equal(expected, found):
            return {"differs": f"with {threads} threads"}
        ratios.append(race(pair[0], pair[1], request["rounds"], request["seconds"]))
    return {"ratios": ratios}


def _equal(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(x.shape == y.shape and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def main() -> None:
    """Answer until the input ends."""
    os.environ["GENSYN_TVM_CACHE"] = "off"  # candidates would fill it
    logging.disable(logging.WARNING)
    # Answers go to the real standard output; what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject: Subject | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if subject is None or (subject.text, subject.target) != (request["graph"], request["target"]):
            subject = Subject(request["graph"], request["target"])
        print(json.dumps(measure(subject, request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
