"""Every kernel for NVIDIA GPUs, compiled for all architectures and read: ``make gpu-compile``.

All families of operators, and inference and a training step of the models of the pack (benchmarks/gpu_pack.py). Results go to
benchmarks/gpu/kernels.json after each item: what the lint found (nothing, or the exit status is 1), and what kernels take. An
item whose source and toolkit are those of the file, read by the same lint, is not compiled again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack import MODELS
from benchmarks.gpu_rehearsal import model_case
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.targets import gpu_lint
from gensyn_tvm.targets.gpu import CUDA, DeviceProgram
from gensyn_tvm.targets.gpu_resources import report
from gensyn_tvm.targets.nvcc import Built, Toolkit, compile_cuda, find_toolkit
from tests.operators.cases import FAMILIES, bundle

RESULT = Path(__file__).resolve().parent / "gpu" / "kernels.json"
_WORST = 3


def items() -> dict[str, Callable[[], Graph]]:
    """All programs, by name."""
    found: dict[str, Callable[[], Graph]] = {}
    for name in FAMILIES:
        found[f"operators: {name}"] = lambda name=name: bundle(FAMILIES[name])[0]  # type: ignore[misc]
    for name in MODELS:
        found[f"inference: {name}"] = lambda name=name: model_case(name, training=False)[0].graph  # type: ignore[misc]
        found[f"training step: {name}"] = lambda name=name: model_case(name, training=True)[0].graph  # type: ignore[misc]
    return found


def key_of(program: DeviceProgram, toolkit: Toolkit) -> str:
    """What decides on the machine code, and on what is found in it."""
    readers = [path.read_text(encoding="utf-8") for path in sorted(Path(gpu_lint.__file__).parent.glob("*.py"))]
    return hashlib.sha256("\0".join([str(toolkit.release), program.source, *readers]).encode()).hexdigest()


def row(graph: Graph, program: DeviceProgram, toolkit: Toolkit) -> dict[str, Any]:
    """Compile and read a program."""
    built = compile_cuda(program.source, toolkit=toolkit)
    return {
        "key": key_of(program, toolkit),
        "program": serialise.digest(graph),
        "kernels": len(program.launches),
        "bytes": len(built.fatbin),
        "findings": [asdict(f) for f in gpu_lint.lint(built)],
        "architectures": {f"sm_{a}": _taken(built, program, a) for a in built.cubins},
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


def main() -> int:
    """Compile what is asked for and write the results."""
    every, toolkit = items(), find_toolkit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(every))
    options = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in options.only or every:
        start = time.perf_counter()
        graph = every[name]()
        program = device_program(graph, CUDA)
        if rows.get(name, {}).get("key") != key_of(program, toolkit):
            rows[name] = row(graph, program, toolkit)
        found = rows[name]["findings"]
        seconds = time.perf_counter() - start
        print(f"{name}: {rows[name]['kernels']} kernels, {len(found)} findings, {seconds:.0f} s", flush=True)
        ordered = {n: rows[n] for n in every if n in rows}
        RESULT.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    return 1 if any(r["findings"] for r in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
