"""What a call costs besides its kernels, part by part, and what memory that nobody used before costs.

``python -m benchmarks.call_overhead`` writes ``benchmarks/results/call_overhead.json``, from which
``scripts/make_cpu_limits_page.py`` makes docs/cpu-limits.md. One thread; the machine should do nothing else.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.results import machine
from benchmarks.result_files import write_result
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.machine import Machine

OUT = Path(__file__).resolve().parent / "results" / "call_overhead.json"
#: name: operator, inputs, elements, NumPy's function.
CASES: dict[str, tuple[str, int, int, Callable[..., Any]]] = {
    "neg of 1": ("neg", 1, 1, np.negative),
    "add of 16384": ("add", 2, 1 << 14, np.add),
}
LARGE = 1 << 23
_CALLS, _REPEATS = 200, 60


def program(op: str, inputs: int, elements: int) -> Graph:
    """One operator."""
    b = GraphBuilder(op)
    values = [b.add_input(f"x{k}", "input", TensorType((elements,), "float32")) for k in range(inputs)]
    b.add_output("y", b.emit(op, *values))
    return b.finish()


def _seconds(function: Callable[[], Any], calls: int = _CALLS, repeats: int = _REPEATS) -> float:
    return min(timeit.repeat(function, number=calls, repeat=repeats)) / calls


def _anywhere(function: Callable[[], Any]) -> float:
    """The least time over several places of the result.

    Where a result and an input begin in like places of a page, loads wait for stores, which takes NumPy twice as long.
    """
    held: list[Any] = []
    times = []
    for k in range(8):
        held += [function(), bytes(1024 * k)]
        times.append(_seconds(function))
    return min(times)


def parts(op: str, inputs: int, elements: int, peer: Callable[..., Any]) -> dict[str, float]:
    """Seconds of a call and of its parts."""
    exe = compile(Source(program(op, inputs, elements), State({})), threads=1)
    call = exe.bind()
    arrays = [np.linspace(-1, 1, elements, dtype=np.float32) for _ in range(inputs)]
    call(*arrays)
    assert call.is_short
    host = exe._machine
    assert isinstance(host, Machine)
    whole = _anywhere(lambda: call(*arrays))
    # The table says where the last call wrote: its result must live as long as the code runs on that table.
    _held = call(*arrays)
    table, steps = host._table_address, len(host.plan.steps)
    bare = _seconds(lambda: host._unguarded(table, 0, 0, 1))
    return {
        "call": whole,
        "kernels": _seconds(lambda: host._unguarded(table, 0, steps, 1)) - bare,
        "fesetenv": _seconds(lambda: host._run(table, 0, 0, 1)) - bare,
        "NumPy": _anywhere(lambda: peer(*arrays)),
    }


def memory() -> dict[str, float]:
    """Seconds of a sum of large arrays, into memory that was used before and into memory that was not."""
    exe = compile(Source(program("add", 2, LARGE), State({})), threads=1)
    call = exe.bind()
    arrays = [np.linspace(-1, 1, LARGE, dtype=np.float32) for _ in range(2)]
    call(*arrays)
    used = _seconds(lambda: call(*arrays), 1, 9)
    kept: list[Any] = [call(*arrays)]  # the memory that was used before
    fresh = _seconds(lambda: kept.append(call(*arrays)), 1, 9)
    return {"used before": used, "fresh": fresh, "bytes": 12.0 * LARGE}


def main() -> None:
    """Measure all and write the results."""
    found = {"machine": machine(), "calls": {name: parts(*case) for name, case in CASES.items()}, "memory": memory()}
    write_result(OUT, found)


if __name__ == "__main__":
    main()
