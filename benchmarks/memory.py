"""Peak memory of a training step beside PyTorch: the most resident memory of a process, above what it had before.

``python benchmarks/memory.py [MODEL …]`` writes ``benchmarks/results/memory.json``. Each contestant has a process of its own,
which imports what it needs, takes a step of a network of two by two, and from then on is measured: it makes its model and a
batch, and takes a few steps of AdamW. So parameters, optimizer state, gradients, activations and whatever the libraries
allocate for them are counted, for both; imports, thread pools and what a first step loads are not.

- ``torch``: the module, ``loss.backward()``, ``torch.optim.AdamW``.
- ``gensyn_tvm``: a ``.gtvm`` file that another process wrote, loaded and started with ``start(release=True)``, as on a machine
  that trains or audits. The compiler and PyTorch are no part of it; reading the file and loading its library are.
- ``with import``: the same from the module, in one process: import, differentiation and the library from the build cache are
  counted. The module is gone before the first step.

Beside them stands what the memory plan says.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.result_files import write_result

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "memory.json"
#: Model of ``benchmarks.cpu.models`` → batch size.
MODELS = {"mlp": 64, "resnet50": 16, "mobilenetv2": 16, "vit-small": 16, "bert-base": 4, "gpt2": 4, "llama": 4, "lstm": 16}
STEPS = 3
OURS, IMPORTED, PEER = "gensyn_tvm", "with import", "torch"
#: What a child does that measures nothing, and the network that every contestant takes a step of before it is measured.
PREPARE, TINY = "prepare", "tiny"
#: Threads of both; more take a little more memory for their stacks.
THREADS = 2


def _workload(name: str, batch: int) -> Any:
    from benchmarks.cpu.models import NETWORKS, training

    return training(replace(NETWORKS[name], train=batch))


def _baseline() -> int:
    """MiB that this process has now; the peak begins anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    from benchmarks.cpu.child import peak_memory

    return peak_memory()


def _tiny() -> Any:
    import numpy as np
    import torch

    from benchmarks.cpu.cases import Workload

    return Workload(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), target=np.zeros(2, np.int64))


def _torch(workload: Any) -> Callable[[], Any]:
    import torch

    optimizer = torch.optim.AdamW(workload.module.parameters(), lr=1e-3)
    target = torch.from_numpy(workload.target)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(workload.module(*workload.inputs), target).backward()
        optimizer.step()

    return step


def _compiled(workload: Any) -> tuple[Any, tuple[Any, ...]]:
    import gensyn_tvm

    program = gensyn_tvm.from_torch(workload.module, workload.inputs)
    exe = gensyn_tvm.compile(gensyn_tvm.training_step(program, optimizer=gensyn_tvm.AdamW(lr=1e-3)), threads=THREADS)
    return exe, (*(i.numpy() for i in workload.inputs), workload.target)


def _imported(workload: Any) -> Callable[[], Any]:
    exe, batch = _compiled(workload)
    run = exe.start(release=True)
    return lambda: run(batch)


def _loaded(folder: Path, name: str) -> Callable[[], Any]:
    import numpy as np

    import gensyn_tvm

    with np.load(folder / f"{name}.npz") as arrays:
        batch = tuple(arrays[k] for k in sorted(arrays))
    run = gensyn_tvm.load(folder / f"{name}.gtvm", threads=THREADS).start(release=True)
    return lambda: run(batch)


def prepare(name: str, batch: int, folder: Path) -> dict[str, Any]:
    """Write the files that ``_loaded`` reads; what the plan says of the model's."""
    import numpy as np

    from gensyn_tvm.runtime.plan import nbytes

    for label, workload in ((TINY, _tiny()), (name, _workload(name, batch))):
        exe, arrays = _compiled(workload)
        exe.save(folder / f"{label}.gtvm")
        np.savez(folder / f"{label}.npz", **{str(k): a for k, a in enumerate(arrays)})
    plan = exe._machine.plan
    row = {f"{area} MiB": round(size / 2**20, 1) for area, size in plan.areas.items() if size}
    row["state in place MiB"] = round(sum(nbytes(plan.outputs[k]) for k in plan.in_place) / 2**20, 1)
    row["state MiB"] = round(sum(nbytes(t) for t in plan.inputs) / 2**20, 1)
    return row


def child(name: str, batch: int, contestant: str, folder: Path) -> dict[str, Any]:
    """What one contestant needs; to be called in a process of its own."""
    makers: dict[str, Callable[[str], Callable[[], Any]]] = {OURS: lambda label: _loaded(folder, label)}
    if contestant != OURS:
        import torch

        import benchmarks.cpu.models  # noqa: F401

        torch.set_num_threads(THREADS)
        make = _torch if contestant == PEER else _imported
        makers[contestant] = lambda label: make(_tiny() if label == TINY else _workload(name, batch))
    makers[contestant](TINY)()
    before = _baseline()
    step = makers[contestant](name)
    row = {"made MiB": _peak() - before}
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
    row: dict[str, Any] = {"model": name, "batch": batch}
    with tempfile.TemporaryDirectory() as folder:
        row["plan"] = _run("--child", name, str(batch), PREPARE, folder, GENSYN_TVM_CACHE=folder)
        for contestant in (OURS, IMPORTED, PEER):
            row[contestant] = _run("--child", name, str(batch), contestant, folder, GENSYN_TVM_CACHE=folder)
    for column, contestant in (("ratio", OURS), ("ratio with import", IMPORTED)):
        row[column] = round(row[contestant]["peak MiB"] / row[PEER]["peak MiB"], 3)
    return row


def main() -> None:
    """Measure the models and write their rows, beside those of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="; ".join(MODELS))
    parser.add_argument("--child", nargs=4, metavar=("MODEL", "BATCH", "CONTESTANT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.child:
        name, batch, contestant, folder = options.child
        path = Path(folder)
        done = prepare(name, int(batch), path) if contestant == PREPARE else child(name, int(batch), contestant, path)
        print(json.dumps(done))
        return
    rows = {r["model"]: r for r in (json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else [])}
    for name in options.models:
        rows[name] = measure(name, MODELS[name])
        print(json.dumps(rows[name]), flush=True)
        write_result(RESULT, [rows[n] for n in MODELS if n in rows])


if __name__ == "__main__":
    main()
