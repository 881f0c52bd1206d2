"""A small GPT on real text, killed and continued: ``python benchmarks/train_text.py`` (``make train-text``).

The text is the Python standard library's own: the bytes of the ``*.py`` files in its top folder, in the order of their names,
the last twentieth held out. The model is a decoder of 256 byte values, written in plain PyTorch operations, with exact initial
values. It is trained twice: in one go, and killed by SIGKILL at moments that the clock decides, each time continued by a new
process. benchmarks/results/train_text.json says what text it was (SHA-256 of every file), the losses, the seconds, and the
digests. The exit status is 1 if the digests or the logs differ, or the held-out loss is not below the bound.

``--run FOLDER`` is one run, which continues if there are checkpoints; ``--steps N`` changes the length.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import gensyn_tvm
from gensyn_tvm.demo.models import initial_values
from gensyn_tvm.trainer import Checkpoints, CsvLog, Evaluation, Tokens, Trainer, evaluation_graph
from gensyn_tvm.training.learning_rates import Cosine, Warmup

RESULT = Path(__file__).resolve().parent / "results" / "train_text.json"
STEPS = 800
#: The held-out cross entropy, in nats a byte, that a run of ``STEPS`` steps must reach.
REQUIRED_LOSS = 2.0
BATCH, CONTEXT, WIDTH, HEADS, LAYERS = 16, 64, 96, 4, 2
EVALUATED_BATCHES = 40
_HELD_OUT = 20


# ---- text -----------------------------------------------------------------------------------------------------------


def standard_library() -> list[Path]:
    """The ``*.py`` files in the top folder of this Python's standard library, by name."""
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda p: p.name)


def read_text(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes of the files (uint8[n]): the first 19 twentieths, and the rest."""
    text = np.frombuffer(b"".join(p.read_bytes() for p in files), np.uint8)
    split = len(text) - len(text) // _HELD_OUT
    return text[:split], text[split:]


# ---- model ----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a normalisation and beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("mask", torch.triu(torch.full((CONTEXT, CONTEXT), -math.inf), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, WIDTH) → the same."""
        n, t, d = x.shape
        q, k, v = self.attention(self.norm1(x)).reshape(n, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (d // HEADS) ** -0.5 + self.mask
        x = x + self.projection((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Byte values (N, T), int64 → logits (N, 256, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        self.positions = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)


def build_model() -> GPT:
    """The model with initial values that are the same bits everywhere: matrices uniform in ±1 / √(fan-in), the rest small."""
    model = GPT()
    with torch.no_grad():
        for k, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() == 2:
                fan_in = parameter.shape[1] if name.endswith("weight") and not name.startswith("tokens") else 64
                parameter.copy_(torch.from_numpy(initial_values(tuple(parameter.shape), fan_in, seed=500 + k)))
            elif name.endswith("bias"):
                parameter.zero_()
    return model.train()


def build(steps: int) -> tuple[Any, Any, Any]:
    """The program, its training step, and the learning rates."""
    program = gensyn_tvm.from_torch(build_model(), (torch.zeros(BATCH, CONTEXT, dtype=torch.int64),))
    step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.AdamW(weight_decay=0.1))
    return program, step, Warmup(steps // 20, Cosine(4e-3, steps - steps // 20, 4e-4))


# ---- runs -----------------------------------------------------------------------------------------------------------


def one_run(folder: Path, steps: int) -> None:
    """Train, or continue; prints one JSON object. The compiled programs are kept in the folder for the next process."""
    train, test = read_text(standard_library())
    start = time.perf_counter()
    programs = [folder / "step.gtvm", folder / "evaluation.gtvm"]
    if not all(p.exists() for p in programs):
        program, step, _ = build(steps)
        gensyn_tvm.compile(step).save(programs[0])
        gensyn_tvm.compile(source_of_evaluation(program)).save(programs[1])
    exe, measured = (gensyn_tvm.load(p) for p in programs)
    compiled = time.perf_counter()
    trainer = Trainer(
        exe,
        learning_rate=Warmup(steps // 20, Cosine(4e-3, steps - steps // 20, 4e-4)),
        checkpoints=Checkpoints(folder / "checkpoints", every=25),
        evaluation=Evaluation(measured, Tokens(test, CONTEXT), every=100, batches=EVALUATED_BATCHES),
        logs=[CsvLog(folder / "log.csv")],
    )
    result = trainer.fit(Tokens(train, CONTEXT), steps=steps, resume="auto")
    print(
        json.dumps(
            {
                "program": exe.digest,
                "target": exe.target,
                "threads": exe.threads,
                "parameters": sum(math.prod(i.type.shape) for i in exe.graph.inputs if i.role == "parameter"),
                "prepare_seconds": round(compiled - start, 1),
                "train_seconds": round(time.perf_counter() - compiled, 1),
                "steps": len(result.losses),
                "training_loss": sum(result.losses[-20:]) / 20 if len(result.losses) >= 20 else None,
                "held_out": [{"step": s, **numbers} for s, numbers in result.evaluations],
                "digest": result.state.digest(),
            }
        )
    )


def source_of_evaluation(program: Any) -> Any:
    """The evaluation of a program with its arrays, as something to compile."""
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.runtime.executable import State

    return Source(evaluation_graph(program), State({**program.parameters, **program.states}))


def start_run(folder: Path, steps: int) -> subprocess.Popen[str]:
    """A process with one run."""
    command = [sys.executable, __file__, "--run", str(folder), "--steps", str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run prints."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run failed with status {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def killed_run(folder: Path, steps: int, kills: int) -> tuple[dict[str, Any], list[int]]:
    """A run that is killed ``kills`` times, each time after its log has got a few more lines; the steps logged at each kill."""
    log, moments = folder / "log.csv", []
    for number in range(1, kills + 1):
        process = start_run(folder, steps)
        wanted = number * steps // (kills + 1)
        while process.poll() is None and _logged(log) < wanted:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        moments.append(_logged(log))
        print(f"killed after step {moments[-1]}", file=sys.stderr)
    return finish(start_run(folder, steps)), moments


def _logged(log: Path) -> int:
    return max(log.read_bytes().count(b"\n") - 1, 0) if log.exists() else 0


def main() -> int:
    """See the head of this file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--run", type=Path, metavar="FOLDER")
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--output", type=Path, default=RESULT)
    options = arguments.parse_args()
    if options.run is not None:
        one_run(options.run, options.steps)
        return 0
    files = standard_library()
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "whole", Path(folder) / "part"
        for path in (whole, part):
            path.mkdir()
        first = finish(start_run(whole, options.steps))
        print(f"in one go: held-out loss {first['held_out'][-1]['loss']:.4f}, {first['digest']}", file=sys.stderr)
        for name in ("step.gtvm", "evaluation.gtvm"):
            (part / name).write_bytes((whole / name).read_bytes())
        second, moments = killed_run(part, options.steps, options.kills)
        same_log = _without_seconds(whole / "log.csv") == _without_seconds(part / "log.csv")
    text = b"".join(p.read_bytes() for p in files)
    result = {
        "text": {
            "what": f"standard library of Python {platform.python_version()}, {len(files)} files, {len(text)} bytes",
            "sha256": hashlib.sha256(text).hexdigest(),
            "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        },
        "machine": {"processor": _processor(), "system": platform.platform()},
        "model": {"batch": BATCH, "context": CONTEXT, "width": WIDTH, "heads": HEADS, "layers": LAYERS},
        "in_one_go": first,
        "killed_at_steps": moments,
        "killed_and_continued": {"digest": second["digest"], "same_log": same_log},
    }
    found = problems(result)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"killed and continued: {second['digest']}; {'; '.join(found) or 'passed'}", file=sys.stderr)
    return 1 if found else 0


def problems(result: dict[str, Any]) -> list[str]:
    """What is wrong with a result; the loss is judged after a full run only."""
    whole, part = result["in_one_go"], result["killed_and_continued"]
    found = [] if whole["digest"] == part["digest"] else ["the digests differ"]
    found += [] if part["same_log"] else ["the logs differ"]
    last = whole["held_out"][-1]
    if last["step"] >= STEPS and last["loss"] >= REQUIRED_LOSS:
        found.append(f"held-out loss {last['loss']:.4f}, required below {REQUIRED_LOSS}")
    return found


def _without_seconds(log: Path) -> list[list[str]]:
    rows = [line.split(",") for line in log.read_text(encoding="utf-8").splitlines()]
    at = rows[0].index("seconds")
    return [row[:at] + row[at + 1 :] for row in rows]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
