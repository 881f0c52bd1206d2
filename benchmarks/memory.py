"""Peak memory of a training step beside PyTorch: the most resident memory of a process, above what it had after its imports.

``python benchmarks/memory.py [MODEL …]`` writes ``benchmarks/results/memory.json``. Each contestant has a process of its own,
which makes the model, a batch and AdamW, and takes a few steps: parameters, gradients, optimizer state and the model in the
framework that it comes from are all counted, for both. Our library comes from the build cache, which another process filled:
the compiler's own memory is no part of training. Beside it stands what the memory plan says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "memory.json"
#: Model of ``benchmarks.cpu.models`` → batch size.
MODELS = {"mlp": 64, "resnet50": 16, "mobilenetv2": 16, "vit-small": 16, "bert-base": 4, "gpt2": 4}
STEPS = 3
OURS, PEER = "gensyn_tvm", "torch"
#: Threads of both; more take a little more memory for their stacks.
THREADS = 2


def _workload(name: str, batch: int) -> Any:
    from benchmarks.cpu.models import NETWORKS, training

    return training(replace(NETWORKS[name], train=batch))


def _peak() -> int:
    from benchmarks.cpu.child import peak_memory

    return peak_memory()


def _torch(workload: Any) -> Callable[[], Any]:
    import torch

    optimizer = torch.optim.AdamW(workload.module.parameters(), lr=1e-3)
    target = torch.from_numpy(workload.target)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(workload.module(*workload.inputs), target).backward()
        optimizer.step()

    return step


def _ours(workload: Any) -> tuple[Callable[[], Any], Any]:
    import gensyn_tvm

    program = gensyn_tvm.from_torch(workload.module, workload.inputs)
    exe = gensyn_tvm.compile(gensyn_tvm.training_step(program, optimizer=gensyn_tvm.AdamW(lr=1e-3)), threads=THREADS)
    batch = (*(i.numpy() for i in workload.inputs), workload.target)
    run = exe.start()
    return lambda: run(batch), exe


def child(name: str, batch: int, contestant: str) -> dict[str, Any]:
    """What one contestant needs; to be called in a process of its own."""
    import torch

    import gensyn_tvm  # noqa: F401
    from gensyn_tvm.runtime.plan import nbytes

    torch.set_num_threads(THREADS)
    import benchmarks.cpu.models  # noqa: F401

    before = _peak()
    workload = _workload(name, batch)
    row: dict[str, Any] = {}
    if contestant == OURS:
        step, exe = _ours(workload)
        plan = exe._machine.plan
        row = {f"{area} MiB": round(size / 2**20, 1) for area, size in plan.areas.items() if size}
        row["state in place MiB"] = round(sum(nbytes(plan.outputs[k]) for k in plan.in_place) / 2**20, 1)
        row["state MiB"] = round(sum(nbytes(t) for t in plan.inputs) / 2**20, 1)
    else:
        step = _torch(workload)
    del workload
    row["made MiB"] = _peak() - before
    for _ in range(STEPS):
        step()
    return {"peak MiB": _peak() - before, **row}


def _run(*arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), *arguments]
    found = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env={**os.environ, **found, **environment}, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, batch: int) -> dict[str, Any]:
    """A row of the table."""
    peer = _run("--child", name, str(batch), PEER)
    with tempfile.TemporaryDirectory() as cache:
        _run("--child", name, str(batch), OURS, GENSYN_TVM_CACHE=cache)
        ours = _run("--child", name, str(batch), OURS, GENSYN_TVM_CACHE=cache)
    return {"model": name, "batch": batch, OURS: ours, PEER: peer, "ratio": round(ours["peak MiB"] / peer["peak MiB"], 3)}


def main() -> None:
    """Measure the models and write their rows, beside those of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="; ".join(MODELS))
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "BATCH", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.child:
        name, batch, contestant = options.child
        print(json.dumps(child(name, int(batch), contestant)))
        return
    rows = {r["model"]: r for r in (json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else [])}
    for name in options.models:
        rows[name] = measure(name, MODELS[name])
        print(json.dumps(rows[name]), flush=True)
        temporary = RESULT.with_suffix(".tmp")
        temporary.write_text(json.dumps([rows[n] for n in MODELS if n in rows], indent=1) + "\n", encoding="utf-8")
        temporary.replace(RESULT)


if __name__ == "__main__":
    main()
