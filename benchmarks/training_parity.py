"""Training of eleven models beside PyTorch: the same loss, the same bits everywhere: ``python -m benchmarks.training_parity``.

Each model of ``training_models.py`` is imported from PyTorch with random weights and trained for 100 steps of AdamW on the same
batches as PyTorch (eager, float32, all cores). A row of benchmarks/results/training_parity.json holds

* ``imported``: whether the model became a training step, otherwise ``failed`` says why;
* ``max_loss_drift``: the largest |our loss - PyTorch's| / max(1, |PyTorch's|) of the steps, and ``losses`` of some steps;
  ``peer_drift``: the same between PyTorch and PyTorch with the same weights in float64, which says how far rounding alone
  drives this training apart;
* ``digests``: of all state after the last step, for every target and number of threads, with and without checkpointing;
  ``microbatches``: of steps of two microbatches, run together and one by one; ``interpreted``: after the first steps only;
* ``time_ratio``: PyTorch's median step / ours, alternating in one process, on all cores; ``memory_ratio``: PyTorch's peak /
  ours, each the growth of a process's largest resident size from before its first step to after some steps.

One process for each model. ``--only NAME`` runs one model (repeatable), ``--steps`` fewer steps (nothing is written then);
``--timing`` measures nothing but time and memory again, which want an idle machine. The
exit status is 1 if a model fails: not imported, two digests where one is expected, or a drift above ``DRIFT`` and above twice
that of PyTorch.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gensyn_tvm
from benchmarks.training_models import MODELS, TrainingModel
from gensyn_tvm import interpreter
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.runtime.cpu import core_count, supported_levels

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "training_parity.json"
STEPS, INTERPRETED, TIMED, BLOCK, MICROBATCHES = 100, 2, 60, 10, 2
LEARNING_RATE = 1e-3
#: Batches are drawn once and repeated.
BATCHES = 10
#: Largest drift of the loss that is accepted in any case.
DRIFT = 0.02

Batch = dict[str, np.ndarray]


def batches(model: TrainingModel, program: Any, steps: int) -> Iterator[Batch]:
    """The batches of the first steps, by our input names."""
    drawn = [model.batch(seed) for seed in range(BATCHES)]
    for k in range(steps):
        inputs, target = drawn[k % BATCHES]
        yield {**dict(zip(program.inputs, (inputs[n] for n in model.inputs), strict=True)), "target": target}


# ---- PyTorch --------------------------------------------------------------------------------------------------------


class Peer:
    """PyTorch eager."""

    def __init__(self, model: TrainingModel, dtype: torch.dtype = torch.float32) -> None:
        self.module, self.dtype = model.build(0).to(dtype), dtype
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE)
        self.inputs = len(model.inputs)

    def __call__(self, batch: Batch) -> float:
        """One step; the loss before it."""
        tensors = [torch.from_numpy(a) for a in batch.values()]
        *inputs, target = (t.to(self.dtype) if t.is_floating_point() else t for t in tensors)
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.module(*inputs), target)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class Ours:
    """One of our executables with its state."""

    def __init__(self, exe: Any) -> None:
        self.exe = exe
        self.state = exe.init(seed=0)

    def __call__(self, batch: Batch) -> float:
        """One step; the loss before it."""
        self.state, metrics = self.exe(self.state, batch)
        return float(metrics["loss"])


# ---- bits -----------------------------------------------------------------------------------------------------------


def training(program: Any, **options: Any) -> Any:
    """The training step of the comparison."""
    return gensyn_tvm.training_step(program, optimizer=gensyn_tvm.AdamW(lr=LEARNING_RATE), metrics=(), **options)


def configurations(program: Any) -> dict[str, Callable[[], Any]]:
    """Executables of one program that must leave the same state."""
    step = training(program)
    found: dict[str, Callable[[], Any]] = {}
    for target in supported_levels():
        for threads in sorted({1, core_count()}):
            found[f"{target}, {threads} threads"] = partial(gensyn_tvm.compile, step, target, threads=threads)
    found["native, checkpointed"] = lambda: gensyn_tvm.compile(training(program, checkpoint="sqrt"))
    return found


def digests(model: TrainingModel, program: Any, steps: int) -> tuple[dict[str, str], list[float]]:
    """The digest of all state after the steps by configuration, and the losses."""
    found: dict[str, str] = {}
    losses: list[float] = []
    for name, make in configurations(program).items():
        ours = Ours(make())
        losses = [ours(batch) for batch in batches(model, program, steps)]
        found[name] = ours.state.digest()
    return found, losses


def microbatches(model: TrainingModel, program: Any, steps: int) -> dict[str, str]:
    """The digest after as many steps of ``MICROBATCHES`` batches each, in one program and one batch after another."""
    options: dict[str, Any] = {
        "optimizer": gensyn_tvm.AdamW(lr=LEARNING_RATE),
        "metrics": (),
        "microbatches": MICROBATCHES,
    }
    together = gensyn_tvm.compile(gensyn_tvm.training_step(program, **options))
    apart = gensyn_tvm.compile(gensyn_tvm.accumulated_step(program, **options))
    one, other = together.init(seed=0), apart.init(seed=0)
    drawn = list(batches(model, program, BATCHES))
    for k in range(steps):
        group = [drawn[(MICROBATCHES * k + m) % BATCHES] for m in range(MICROBATCHES)]
        one, _ = together(one, {name: np.stack([b[name] for b in group]) for name in group[0]})
        other, _ = apart(other, iter(group))
    return {"together": one.digest(), "one by one": other.digest()}


def interpreted(model: TrainingModel, program: Any) -> dict[str, str]:
    """The digest of all state after the first steps, compiled and interpreted."""
    step = training(program)
    ours = Ours(gensyn_tvm.compile(step, "x86-64"))
    arrays = {**step.parameters, **step.states, **step.optimizer_state}
    clock = {"seed": np.int64(0), "learning_rate": np.float32(LEARNING_RATE)}
    for k, batch in enumerate(batches(model, program, INTERPRETED)):
        ours(batch)
        results = interpreter.run(step.graph, {**arrays, **batch, **clock, "step": np.int64(k)})
        arrays = {o.name: a for o, a in zip(step.graph.outputs, results, strict=True) if o.updates}
    return {"x86-64": ours.state.digest(), "interpreter": state_digest(arrays)}


# ---- time and memory ------------------------------------------------------------------------------------------------


def time_ratio(model: TrainingModel, program: Any) -> dict[str, float]:
    """Medians of both in milliseconds over alternating blocks of steps on the same batches."""
    ours, peer = Ours(gensyn_tvm.compile(training(program))), Peer(model)
    times: dict[str, list[float]] = {"gensyn_tvm": [], "torch": []}
    for block in range(1 + TIMED // BLOCK):
        for name, run in (("gensyn_tvm", ours), ("torch", peer)):
            time.sleep(0.2)  # the idle threads of either library spin for a while
            for k, batch in enumerate(batches(model, program, BLOCK)):
                start = time.perf_counter()
                run(batch)
                if block and k >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["torch"] / medians["gensyn_tvm"]}


def peak_growth(run: Callable[[Batch], float], given: list[Batch]) -> int:
    """Growth in KiB of the largest resident size of this process over some steps."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    for batch in given:
        run(batch)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(name: str, program: Any) -> dict[str, float]:
    """Peaks of both in KiB, each in a process of its own; ours loads a file and has no compiler in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.gtvm"
        gensyn_tvm.compile(training(program)).save(path)
        given = json.dumps(list(program.inputs))
        peaks = {who: int(_child("--memory", name, who, str(path), given)) for who in ("gensyn_tvm", "torch")}
    return {**peaks, "ratio": peaks["torch"] / max(1, peaks["gensyn_tvm"])}


def memory_child(name: str, who: str, path: str, inputs: list[str]) -> int:
    """The peak of one of both, in this process."""
    model = MODELS[name]
    drawn = [model.batch(seed) for seed in range(5)]
    given = [{**dict(zip(inputs, (b[n] for n in model.inputs), strict=True)), "target": t} for b, t in drawn]
    run: Callable[[Batch], float] = Peer(model) if who == "torch" else Ours(gensyn_tvm.load(path))
    return peak_growth(run, given)


# ---- rows -----------------------------------------------------------------------------------------------------------


def measure(name: str, steps: int) -> dict[str, Any]:
    """The row of one model."""
    model = MODELS[name]
    say = partial(print, f"{name}:", file=sys.stderr, flush=True)
    row: dict[str, Any] = {"model": name, "imported": False, "steps": steps}
    say("import")
    program = gensyn_tvm.from_torch(model.build(0), model.example(0), input_names=model.inputs)
    row |= {"imported": True, "operators": len(training(program).graph.nodes)}
    row["parameters"] = sum(a.size for a in program.parameters.values())
    say("PyTorch")
    reference, exact = ([peer(b) for b in batches(model, program, steps)] for peer in (Peer(model), Peer(model, torch.float64)))
    say("digests")
    row["digests"], losses = digests(model, program, steps)
    row |= {"max_loss_drift": drift(losses, reference), "peer_drift": drift(exact, reference)}
    row["losses"] = {k: [losses[k], reference[k]] for k in (0, steps // 2, steps - 1)}
    row["microbatches"] = microbatches(model, program, steps)
    row["interpreted"] = interpreted(model, program)
    say("time and memory")
    return row | cost(model, name, program)


def cost(model: TrainingModel, name: str, program: Any) -> dict[str, Any]:
    """The part of a row that depends on what else the machine does."""
    times, peaks = time_ratio(model, program), memory(name, program)
    return {"time_ratio": times["ratio"], "milliseconds": times, "memory_ratio": peaks["ratio"], "peak_kib": peaks}


def measure_cost(name: str) -> dict[str, Any]:
    """The stored row of one model with time and memory measured again."""
    model = MODELS[name]
    program = gensyn_tvm.from_torch(model.build(0), model.example(0), input_names=model.inputs)
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["models"]
    return {**next(r for r in rows if r["model"] == name), **cost(model, name, program)}


def drift(losses: list[float], reference: list[float]) -> float:
    """The largest difference of two runs' losses, relative where the reference is above 1."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses, reference, strict=True))


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row."""
    if not row["imported"] or "failed" in row:
        return [row.get("failed", "not imported")]
    found = []
    for part in ("digests", "interpreted", "microbatches"):
        if len(set(row.get(part, {}).values())) > 1:
            found.append(f"{part} differ")
    if row["max_loss_drift"] > max(DRIFT, 2 * row["peer_drift"]):
        found.append(f"drift {row['max_loss_drift']:.2g}")
    return found


def _child(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training_parity", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit status {done.returncode}")
    return done.stdout.splitlines()[-1]


def in_process(name: str, steps: int, *, timing: bool) -> dict[str, Any]:
    """``measure`` or ``measure_cost`` in a process of its own; its failure is a result too."""
    try:
        return dict(json.loads(_child("--child", name, "--steps", str(steps), *(["--timing"] if timing else []))))
    except RuntimeError as error:
        return {"model": name, "imported": False, "failed": str(error)}


def store(row: dict[str, Any]) -> None:
    """Put a model's row into the results, in place of its earlier one."""
    data = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"models": []}
    rows = sorted([r for r in data["models"] if r["model"] != row["model"]] + [row], key=lambda r: str(r["model"]))
    machine = {"machine": platform.machine(), "levels": supported_levels(), "cores": core_count(), "torch": torch.__version__}
    RESULT.write_text(json.dumps({"machine": machine, "models": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(MODELS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--timing", action="store_true", help="measure time and memory of stored rows again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        row = measure_cost(options.child) if options.timing else measure(options.child, options.steps)
        print(json.dumps(row))
        return
    if options.memory:
        name, who, path, inputs = options.memory
        print(memory_child(name, who, path, json.loads(inputs)))
        return
    failed = False
    for name in options.only or MODELS:
        row = in_process(name, options.steps, timing=options.timing)
        wrong = problems(row)
        failed |= bool(wrong)
        if options.steps == STEPS:
            store(row)
        numbers = [
            f"{key} {row[key]:.3g}" for key in ("max_loss_drift", "peer_drift", "time_ratio", "memory_ratio") if key in row
        ]
        print(f"{name:14} {'; '.join(wrong) or 'ok':8} {', '.join(numbers)}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
