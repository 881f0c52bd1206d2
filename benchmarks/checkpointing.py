"""Memory and time of training steps with and without recomputation, and that both give the same bits.

Writes ``benchmarks/results/checkpointing.json``: for three deep models the bytes of the memory plan (the arena, and the outputs
beside it), the growth of a process's resident memory while it runs steps, the CPU time of a step, and for small versions of
the models the digests after two steps on every level and in the interpreter.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.runtime.plan import nbytes
from gensyn_tvm.targets.cpu import resolve_target
from gensyn_tvm.training.step import TrainingStep

RESULT = Path(__file__).parent / "results" / "checkpointing.json"
CLASSES, STEPS = 10, 7

# Runs in a process of its own that never compiled anything.
RUN = r"""
import json, re, sys, time
from pathlib import Path
import numpy as np, gensyn_tvm
exe = gensyn_tvm.load(sys.argv[1], threads=1)
state, batch = exe.init(seed=0), tuple(np.load(sys.argv[2]).values())
peak = lambda: 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
before, times = peak(), []
for _ in range(int(sys.argv[3])):
    start = time.process_time()
    state, _ = exe(state, batch)
    times.append(time.process_time() - start)
print(json.dumps({"resident": peak() - before, "times": times[2:], "digest": state.digest()}))
"""


class Residual(nn.Module):
    """x + layer(x), repeated, then a mean over all but the first and last axis or over the image, and a head."""

    def __init__(self, layers: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The classes' logits."""
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Attention(nn.Module):
    """Normalised self-attention with two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) → the same."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / (d // 2) ** 0.5, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, t, d))


def mlp(depth: int, batch: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Linear layers with GELU and dropout."""
    layers: list[nn.Module] = [nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1)) for _ in range(depth)]
    return Residual(layers, nn.Linear(width, CLASSES)), torch.randn(batch, width)


def cnn(depth: int, batch: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Convolutions with batch normalisation on images of 12 by 12."""
    layers: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(depth)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return Residual(layers, head), torch.randn(batch, width, 12, 12)


def transformer(depth: int, batch: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Attention and feed-forward layers on 16 tokens."""
    layers: list[nn.Module] = []
    for _ in range(depth // 2):
        feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        layers += [Attention(width), feed]
    return Residual(layers, nn.Sequential(nn.Flatten(), nn.Linear(16 * width, CLASSES))), torch.randn(batch, 16, width)


#: The model, its large version (depth, batch, width) and its small one.
MODELS: dict[str, tuple[Callable[..., Any], tuple[int, int, int], tuple[int, int, int]]] = {
    "mlp": (mlp, (16, 2048, 64), (4, 17, 8)),
    "cnn": (cnn, (10, 64, 16), (4, 3, 4)),
    "transformer": (transformer, (8, 64, 32), (4, 3, 8)),
}


def step_of(make: Callable[..., Any], size: tuple[int, int, int], checkpoint: str | None) -> tuple[TrainingStep, Any]:
    """The training step of a model of a size, with a batch."""
    torch.manual_seed(0)
    model, x = make(*size)
    program = gensyn_tvm.from_torch(model, (x,))
    step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer="adamw", checkpoint=checkpoint)
    return step, (x.numpy(), np.arange(len(x)) % CLASSES)


def planned(step: TrainingStep) -> dict[str, int]:
    """Bytes of the arena and of the outputs of a step compiled for this machine."""
    plan = run_phases(step.graph, resolve_target("native"), "fast", recomputed=step.recomputed).plan
    return {"arena": plan.areas["workspace"], "outputs": sum(map(nbytes, plan.outputs))}


def measured(step: TrainingStep, batch: Any) -> dict[str, Any]:
    """Growth of resident memory and median CPU seconds of a step, in a fresh process with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        program, data = Path(folder) / "step.gtvm", Path(folder) / "batch.npz"
        gensyn_tvm.compile(step, threads=1).save(program)
        np.savez(data, *batch)
        command = [sys.executable, "-c", RUN, str(program), str(data), str(STEPS)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {"resident": found["resident"], "seconds": statistics.median(found["times"]), "digest": found["digest"]}


def digests(step: TrainingStep, batch: Any) -> dict[str, str]:
    """The state's digest after two steps, on every level that this machine has and in the interpreter."""
    found = {}
    for level in supported_levels():
        exe = gensyn_tvm.compile(step, level, threads=2)
        state = exe.init(seed=0)
        for _ in range(2):
            state, _ = exe(state, batch)
        found[level] = state.digest()
    arrays = {**step.parameters, **step.states, **step.optimizer_state}
    names = [i.name for i in step.graph.inputs if i.role in ("input", "target")]
    for count in range(2):
        clock = {"step": np.int64(count), "seed": np.int64(0), "learning_rate": np.float32(step.learning_rate)}
        clock = {name: np.asarray(v) for name, v in clock.items()}
        outputs = run_named(step.graph, {**arrays, **clock, **dict(zip(names, batch, strict=True))})
        arrays = {**arrays, **{name: a for (name, updates), a in outputs.items() if updates}}
    return {**found, "interpreter": state_digest(arrays)}


def main() -> None:
    """Measure every model with and without recomputation."""
    rows = []
    for name, (make, large, small) in MODELS.items():
        row: dict[str, Any] = {"model": name, "depth_batch_width": large}
        for label, checkpoint in (("kept", None), ("sqrt", "sqrt")):
            step, batch = step_of(make, large, checkpoint)
            row[label] = {"program": step.digest, **planned(step), **measured(step, batch)}
            row[label]["small"] = digests(*step_of(make, small, checkpoint))
        row["same_bits"] = (
            all(row["kept"][k] == row["sqrt"][k] for k in ("program", "digest"))
            and len({d for label in ("kept", "sqrt") for d in row[label]["small"].values()}) == 1
        )
        row["arena_ratio"] = row["kept"]["arena"] / row["sqrt"]["arena"]
        row["time_ratio"] = row["sqrt"]["seconds"] / row["kept"]["seconds"]
        rows.append(row)
        print(
            f"{name}: arena {row['kept']['arena'] / 1e6:.1f} → {row['sqrt']['arena'] / 1e6:.1f} MB, outputs "
            f"{row['sqrt']['outputs'] / 1e6:.1f} MB, resident {row['kept']['resident'] / 1e6:.1f} → "
            f"{row['sqrt']['resident'] / 1e6:.1f} MB, time x {row['time_ratio']:.2f}, same bits: {row['same_bits']}",
            flush=True,
        )
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if not all(row["same_bits"] for row in rows):
        sys.exit("recomputation changed bits")


if __name__ == "__main__":
    main()
