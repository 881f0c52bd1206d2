"""Every kernel for NVIDIA GPUs, compiled for all architectures and read: ``make gpu-compile``.

All families of operators, inference and a training step of the models of the pack (benchmarks/gpu_pack.py), and the operators
that it times. Results go to benchmarks/gpu/kernels.json after each item: what the lint found (nothing, or the exit status is
1), and what kernels take; of the operators that are timed all that a roofline needs (benchmarks/gpu_roofline.py). An item whose
source and toolkit are those of the file, read by the same lint, is not compiled again.

``--check PATH`` (``make gpu-compile-check``) compiles everything again, writes to PATH, and fails unless the record says the
same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import gpu_roofline
from benchmarks.gpu_pack import MODELS, graph_of
from benchmarks.gpu_rehearsal import model_case
from benchmarks.result_files import write_result
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.targets import gpu_lint
from gensyn_tvm.targets.gpu import CUDA, DeviceProgram
from gensyn_tvm.targets.gpu_resources import report
from gensyn_tvm.targets.nvcc import Built, Toolkit, compile_cuda, find_toolkit
from scripts.gpu_peers import OPERATORS
from tests.operators.cases import FAMILIES, bundle

RESULT = Path(__file__).resolve().parent / "gpu" / "kernels.json"
#: Operators that are timed, before their names.
TIMED = "timed: "
_WORST = 3

#: What the record has of an item.
Row = dict[str, Any]


def items() -> dict[str, Callable[[], Graph]]:
    """All programs, by name."""
    found: dict[str, Callable[[], Graph]] = {}
    for name in FAMILIES:
        found[f"operators: {name}"] = lambda name=name: bundle(FAMILIES[name])[0]  # type: ignore[misc]
    for name in MODELS:
        found[f"inference: {name}"] = lambda name=name: model_case(name, training=False)[0].graph  # type: ignore[misc]
        found[f"training step: {name}"] = lambda name=name: model_case(name, training=True)[0].graph  # type: ignore[misc]
    for name, chosen in OPERATORS.items():
        found[f"{TIMED}{name}"] = lambda chosen=chosen: graph_of(chosen)  # type: ignore[misc]
    return found


def key_of(program: DeviceProgram, *, roofline: bool = False) -> str:
    """What decides, with the toolkit, on the machine code, and on what is found in it."""
    files = [*sorted(Path(gpu_lint.__file__).parent.glob("*.py")), *([Path(gpu_roofline.__file__)] if roofline else [])]
    readers = [path.read_text(encoding="utf-8") for path in files]
    return hashlib.sha256("\0".join([program.source, *readers]).encode()).hexdigest()


def release_of(toolkit: Toolkit) -> str:
    """As the record names it."""
    return ".".join(map(str, toolkit.release))


def row(graph: Graph, program: DeviceProgram, toolkit: Toolkit, *, roofline: bool = False) -> Row:
    """Compile and read a program."""
    built = compile_cuda(program.source, toolkit=toolkit)
    more = {"roofline": gpu_roofline.detail(built, program)} if roofline else {}
    return {
        "key": key_of(program, roofline=roofline),
        "toolkit": release_of(toolkit),
        "program": serialise.digest(graph),
        "kernels": len(program.launches),
        "bytes": len(built.fatbin),
        "findings": [asdict(f) for f in gpu_lint.lint(built)],
        "architectures": {f"sm_{a}": _taken(built, program, a) for a in built.cubins},
        **more,
    }


def _taken(built: Built, program: DeviceProgram, architecture: int) -> dict[str, Any]:
    """How many kernels spill or leave warps idle, and the worst of them."""
    threads = {name: math.prod(launch.block) for name, launch in program.launches.items()}
    rows = report(built.resources[architecture], threads, architecture)
    worst = [
        {"kernel": r.kernel, "occupancy": r.occupancy, "limit": r.limit, "registers": r.resources.registers}
        for r in rows[:_WORST]
    ]
    spilling = [r.kernel for r in rows if r.resources.spill_stores]
    return {"spilling": spilling, "below half": sum(r.occupancy < 0.5 for r in rows), "worst": worst}


def rows_of(makers: Mapping[str, Callable[[], Graph]], known: Mapping[str, Row], toolkit: Toolkit) -> Iterator[tuple[str, Row]]:
    """Rows by name, in order: those of ``known`` that are up to date, others compiled while the next program is made."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[tuple[str, Future[Row]]] = []
        for name, make in makers.items():
            graph = make()
            program = device_program(graph, CUDA)
            old, roofline = known.get(name, {}), name.startswith(TIMED)
            if (old.get("key"), old.get("toolkit")) == (key_of(program, roofline=roofline), release_of(toolkit)):
                waiting.append((name, pool.submit(dict, old)))
            else:
                waiting.append((name, pool.submit(row, graph, program, toolkit, roofline=roofline)))
            if len(waiting) == 2:
                yield waiting[0][0], waiting.pop(0)[1].result()
        yield from ((name, future.result()) for name, future in waiting)


def differences(recorded: Mapping[str, Row], found: Mapping[str, Row]) -> list[str]:
    """What the record says otherwise than what was found. Of another toolkit, resources and sizes may be others."""
    lines = [f"{name}: not in the record" for name in found if name not in recorded]
    lines += [f"{name}: in the record, but no item any longer" for name in recorded if name not in found]
    for name in (n for n in found if n in recorded):
        old, new = recorded[name], found[name]
        fields = list(new) if old.get("toolkit") == new["toolkit"] else ["key", "program", "kernels", "findings"]
        other = [field for field in fields if old.get(field) != new[field]]
        if other:
            lines.append(f"{name}: the record has another {', '.join(other)}")
    return lines


def read_record() -> dict[str, Row]:
    """The committed rows, none if there is no file."""
    return dict(json.loads(RESULT.read_text(encoding="utf-8"))) if RESULT.exists() else {}


def write_record(path: Path, rows: Mapping[str, Row], order: Iterable[str]) -> None:
    """Replace a file in one step."""
    write_result(path, {n: rows[n] for n in order if n in rows})


def main() -> int:
    """Compile what is asked for and write the results."""
    every = items()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(every), help="this item; may be given again")
    parser.add_argument("--check", type=Path, metavar="PATH", help="compile all again, write to PATH, compare with the record")
    options = parser.parse_args()
    chosen = {name: every[name] for name in options.only or every}
    path = options.check or RESULT
    rows: dict[str, Row] = {} if options.check else read_record()
    start = time.perf_counter()
    for name, found in rows_of(chosen, rows, find_toolkit()):
        rows[name] = found
        seconds, start = time.perf_counter() - start, time.perf_counter()
        print(f"{name}: {found['kernels']} kernels, {len(found['findings'])} findings, {seconds:.0f} s", flush=True)
        for finding in found["findings"]:
            print(f"  {finding['kernel']} ({finding['code']}): {finding['instruction']}: {finding['reason']}")
        write_record(path, rows, every)
    return max(_checked(rows, chosen) if options.check else 0, 1 if any(r["findings"] for r in rows.values()) else 0)


def _checked(rows: Mapping[str, Row], chosen: Collection[str]) -> int:
    """The exit status of a check, whose result is printed."""
    lines = differences({n: r for n, r in read_record().items() if n in chosen or n not in items()}, rows)
    if not lines:
        print(f"{RESULT}: up to date")
        return 0
    print(f"{RESULT} is out of date:", *lines, sep="\n  ", file=sys.stderr)
    print("what to do: make gpu-compile, and commit the file", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
