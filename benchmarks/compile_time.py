"""How long building takes, first with an empty cache, then again in another process.

    python -m benchmarks.compile_time [MODEL …]

In a process of its own each time, the networks of ``benchmarks/cpu`` for inference (batch 1) and for training (cross entropy,
AdamW): *import* is from the PyTorch module to a program, *graph* the training step made of it (loss, gradients, optimizer), and
*compile* all from there to an executable, parameters included. Writes benchmarks/results/compile_time.json;
scripts/make_benchmarks_page.py shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result_files import write_result

RESULT = Path(__file__).resolve().parent / "results" / "compile_time.json"
MODELS = ("resnet50", "gpt2")
MODES = ("inference", "training")


def build(name: str, mode: str) -> dict[str, float]:
    """Seconds of each part of building the network."""
    import gensyn_tvm
    from benchmarks.cpu import models

    network = models.NETWORKS[name]
    workload = models.training(network) if mode == "training" else models.inference(network, 1)
    times = [time.perf_counter()]
    program: Any = gensyn_tvm.from_torch(workload.module, workload.inputs)
    times.append(time.perf_counter())
    if mode == "training":
        program = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=1e-3))
    times.append(time.perf_counter())
    gensyn_tvm.compile(program)
    times.append(time.perf_counter())
    parts = ("import", "graph", "compile")
    return {part: round(b - a, 2) for part, a, b in zip(parts, times, times[1:], strict=False)}


def measure(name: str, mode: str) -> dict[str, Any]:
    """A row: the parts of the first build and of the second."""
    row: dict[str, Any] = {"model": name, "mode": mode}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GENSYN_TVM_CACHE": folder, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        for run in ("first", "again"):
            command = [sys.executable, "-m", "benchmarks.compile_time", "--child", mode, name]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            row[run] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure the networks and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL", help=f"of benchmarks/cpu ({', '.join(MODELS)})")
    parser.add_argument("--child", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(build(options.models[0], options.child)))
        return
    from gensyn_tvm.runtime.cpu import processor_name

    rows = []
    for name in options.models:
        for mode in MODES:
            rows.append(measure(name, mode))
            print(json.dumps(rows[-1]), flush=True)
    write_result(RESULT, {"processor": processor_name(), "rows": rows})


if __name__ == "__main__":
    main()
