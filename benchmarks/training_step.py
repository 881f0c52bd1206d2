"""Time a training step of the demonstration's models beside PyTorch eager, in alternating blocks of one run.

    python benchmarks/training_step.py [--repeats 200]

Writes benchmarks/results/training_step.json: medians in milliseconds and ratios (PyTorch's time / ours: above 1 we are faster).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gensyn_tvm
from gensyn_tvm.demo.data import load_digits
from gensyn_tvm.demo.models import MODELS, Model
from gensyn_tvm.demo.peer import build
from gensyn_tvm.demo.run import steps_of
from gensyn_tvm.runtime.cpu import core_count, supported_levels

BLOCK, WARM_UP, PAUSE = 22, 2, 0.3

RESULT = Path(__file__).resolve().parent / "results" / "training_step.json"


def our_step(model: Model, threads: int) -> Callable[[Any], object]:
    """A function that takes one of our steps."""
    step = gensyn_tvm.training_step(model.load(64), loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=model.learning_rate))
    exe = gensyn_tvm.compile(step, threads=threads)
    state = exe.init(seed=0)

    def run(batch: tuple[np.ndarray, np.ndarray]) -> object:
        nonlocal state
        state, metrics = exe(state, batch)
        return metrics

    return run


def torch_step(model: Model, threads: int) -> Callable[[Any], object]:
    """A function that takes one of PyTorch's steps."""
    module = build(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=model.learning_rate)

    def run(batch: tuple[np.ndarray, np.ndarray]) -> object:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(batch[0])), torch.from_numpy(batch[1]))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def measure(model: Model, threads: int, repeats: int) -> dict[str, Any]:
    """Medians of both over alternating blocks of steps on the same batches.

    Blocks, and a pause between them, because the idle threads of either library spin for a while and would take a core from the
    other one.
    """
    ours, peer = our_step(model, threads), torch_step(model, threads)
    times: dict[str, list[float]] = {"gensyn_tvm": [], "torch": []}
    batches = list(steps_of(model, load_digits(), BLOCK))
    for block in range(1 + math.ceil(repeats / BLOCK)):
        for name, run in (("gensyn_tvm", ours), ("torch", peer)):
            time.sleep(PAUSE)
            for k, batch in enumerate(batches):
                start = time.perf_counter()
                run(batch)
                # The first block warms up caches and allocators, the first steps of each the threads.
                if block and k >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    ratio = medians["torch"] / medians["gensyn_tvm"]
    return {"model": model.name, "threads": threads, "milliseconds": medians, "ratio": ratio}


def main() -> None:
    """Measure every model on one and on all cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    rows = [measure(m, t, repeats) for m in MODELS for t in sorted({1, core_count()})]
    machine = {"machine": platform.machine(), "levels": supported_levels(), "cores": core_count(), "torch": torch.__version__}
    RESULT.write_text(json.dumps({"machine": machine, "batch": 64, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        ms = row["milliseconds"]
        print(
            f"{row['model']} threads {row['threads']}: gensyn_tvm {ms['gensyn_tvm']:.2f} ms, "
            f"PyTorch {ms['torch']:.2f} ms, ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
