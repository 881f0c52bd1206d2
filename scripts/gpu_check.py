"""Run what ``benchmarks/gpu_pack.py`` packed on the GPU of this machine: bits first, then times.

Needs the pack, Python, NumPy with ml_dtypes, and NVIDIA's driver; PyTorch, where it is installed, is timed beside.

    unzip gpu-pack.zip -d gpu-pack && python gpu-pack/gpu_check.py

Every operator family, model and training run must have the digest that the CPU has; the elementary functions that of their
proof, over all float32 inputs. Training steps of ResNet-50 and GPT-2 make their weights here, from a seed. Times are medians by
events, in turns with PyTorch's in float32 without TF32. Results go to benchmarks/gpu/<device>.json after each part.
Exit status: 0 all bits are right, 1 some differ or could not be run, 2 this machine cannot run anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
if (HERE / "gensyn_tvm").is_dir():
    sys.path.insert(0, str(HERE))

from gensyn_tvm.canonical import serialise  # noqa: E402
from gensyn_tvm.canonical.graph import Graph  # noqa: E402
from gensyn_tvm.canonical.types import from_carrier, to_carrier  # noqa: E402
from gensyn_tvm.errors import GensynError  # noqa: E402
from gensyn_tvm.evidence.digests import state_digest  # noqa: E402
from gensyn_tvm.evidence.samples import Draw, sample  # noqa: E402
from gensyn_tvm.runtime.cuda import CudaMachine  # noqa: E402
from gensyn_tvm.runtime.cuda_driver import Context, Event  # noqa: E402

ALL_FLOATS = 2**32
_WARM, _ROUNDS = 3, 20
_COPIED = 2**28  # bytes of the copy whose bandwidth is the roof

Arrays = Mapping[str, np.ndarray]


class Program:
    """A packed program on the GPU."""

    def __init__(self, pack: Path, entry: Mapping[str, Any]) -> None:
        place = pack / "programs" / str(entry["number"])
        self.graph: Graph = serialise.loads(place.with_suffix(".json").read_text(encoding="ascii"))
        self.machine = CudaMachine(place.with_suffix(".cuda").read_bytes())
        self.arrays = self._arrays(place.with_suffix(".npz"), entry.get("drawn", {}))
        slots = {i.name: k for k, i in enumerate(self.graph.inputs)}
        #: Outputs that are inputs of the next step, and which.
        self.updates = [(k, slots[o.name]) for k, o in enumerate(self.graph.outputs) if o.updates]

    def _arrays(self, path: Path, drawn: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Carriers of all inputs: those of the pack, others drawn, some of them as the pack says."""
        given: dict[str, np.ndarray] = {}
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                given = {f"{k}": stored[f"{k}"] for k in range(len(self.graph.inputs)) if f"{k}" in stored.files}
        others = [(k, i.type, drawn.get(f"{k}")) for k, i in enumerate(self.graph.inputs) if f"{k}" not in given]
        return {**given, **{f"{k}": np.asarray(to_carrier(sample(t, 0, k, d and Draw(**d)))) for k, t, d in others}}

    def give(self, carriers: Mapping[int, np.ndarray]) -> None:
        """Send inputs to the device."""
        for slot, array in carriers.items():
            self.machine.feed(slot, array)

    def run(self) -> list[np.ndarray]:
        """All outputs, as carriers; the preparation runs again."""
        self.machine.prepare()
        outputs = self.machine.outputs([])
        self.machine.run(1, outputs)
        return outputs

    def given(self) -> dict[int, np.ndarray]:
        """Carriers by slot."""
        return {k: self.arrays[f"{k}"] for k in range(len(self.graph.inputs))}

    def named(self, outputs: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs as the graph declares them, cut to their extents."""
        found = list(outputs)
        types, extents = self.graph.value_types(), iter(found[len(self.graph.outputs) :])
        result = {}
        for k, (o, array) in enumerate(zip(self.graph.outputs, found, strict=False)):
            for axis, _ in o.extents:
                array = array[(slice(None),) * axis + (slice(0, max(int(next(extents)), 0)),)]
            result[f"{k} {o.name}"] = from_carrier(np.array(array, order="C"), types[o.value].dtype)
        return result


def checked(pack: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Digest of a program's outputs, after as many steps as the entry says."""
    return _compared(Program(pack, entry), entry)


def _compared(program: Program, entry: Mapping[str, Any]) -> dict[str, Any]:
    carriers = program.given()
    clock = next((k for k, i in enumerate(program.graph.inputs) if i.role == "step"), None)
    outputs: list[np.ndarray] = []
    for step in range(entry["steps"]):
        if clock is not None:
            carriers[clock] = np.asarray(np.int64(step))
        program.give(carriers)
        outputs = program.run()
        carriers = {**carriers, **{slot: outputs[k] for k, slot in program.updates}}
    found = state_digest(program.named(outputs))
    return {"digest": found, "expected": entry["digest"], "equal": found == entry["digest"]}


def elementary(pack: Path, entry: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Digests of elementary functions over the first ``count`` bit patterns; those of their proofs if these are all."""
    program = Program(pack, entry)
    size = program.graph.inputs[0].type.size
    digests = [hashlib.sha256() for _ in program.graph.outputs]
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, size):
            x = np.arange(start, start + size, dtype=np.uint64).astype(np.uint32).view(np.float32)
            program.give({0: x})
            outputs = program.run()
            list(pool.map(lambda pair: pair[0].update(pair[1]), zip(digests, outputs, strict=True)))
    found = {o.name: d.hexdigest() for o, d in zip(program.graph.outputs, digests, strict=True)}
    row: dict[str, Any] = {"inputs": count, "digests": found}
    if count == ALL_FLOATS:
        row |= {"expected": entry["proofs"], "equal": found == entry["proofs"]}
    return row


def timed(context: Context, pack: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Median seconds of a run on arrays that are on the device, and of PyTorch where it is there."""
    program = Program(pack, entry)
    program.give(program.given())
    program.machine.prepare()
    return _beside(context, program, entry, program.machine.launch)


def trained(context: Context, pack: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The digest of a training step, then the seconds of steps that go on from one another."""
    program = Program(pack, entry)
    row = _compared(program, entry)
    updates = dict(program.updates)

    def step() -> None:
        program.machine.launch()
        program.machine.advance(updates)

    program.give(program.given())
    return {**row, **_beside(context, program, entry, step)}


def _beside(context: Context, program: Program, entry: Mapping[str, Any], run: Callable[[], object]) -> dict[str, Any]:
    """Seconds of ours and of PyTorch's, which take turns."""
    theirs, problem = _peer(context, entry["peer"])
    runs: dict[str, Callable[[], object]] = {"": run, **({"torch_": theirs} if theirs else {})}
    row: dict[str, Any] = {"kernels": len(program.machine.plan.steps)}
    for name, seconds in alternating(context, runs).items():
        row |= {f"{name}seconds": statistics.median(seconds), f"{name}best": min(seconds)}
    if entry.get("flops"):
        row["tflops"] = entry["flops"] / row["seconds"] / 1e12
    if entry.get("bytes"):
        row["gbytes_per_second"] = entry["bytes"] / row["seconds"] / 1e9
    if not theirs:
        return {**row, "torch": problem}
    return {**row, "of_torch": row["torch_seconds"] / row["seconds"]}


def alternating(context: Context, runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each round of each, by events; they take turns, so that the device's clocks are the same for all."""
    before, after = Event(context), Event(context)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(_WARM + _ROUNDS):
        for name, run in runs.items():
            context.synchronize()
            before.record()
            run()
            after.record()
            elapsed = after.seconds_since(before)
            if k >= _WARM:
                seconds[name].append(elapsed)
    before.destroy()
    after.destroy()
    return seconds


def torch_version() -> str | None:
    """Of PyTorch, with that of CUDA; None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return f"{torch.__version__}, CUDA {torch.version.cuda}"


def _peer(context: Context, name: str) -> tuple[Callable[[], object] | None, str]:
    """What PyTorch does, after a first run; or None, and why there is nothing to compare with."""
    try:
        import torch
    except ImportError:
        return None, "not installed; what to do: pip install torch"
    if not torch.cuda.is_available():
        return None, "PyTorch has no CUDA here; what to do: install the build for the CUDA of the driver (pytorch.org)"
    try:
        run = import_module("gpu_peers").peer(name, context.device.number)
        run()
        torch.cuda.synchronize()
    except RuntimeError as error:  # of memory, too
        return None, f"{error}; what to do: `nvidia-smi` shows who has the memory; both need room at a time"
    return run, ""


def copy_bandwidth(context: Context, size: int = _COPIED) -> float:
    """Bytes read and written each second by a copy on the device: what kernels that move data are measured against."""
    places = [context.allocate(size) for _ in range(2)]
    before, after = Event(context), Event(context)
    seconds = []
    for _ in range(_WARM + _ROUNDS):
        before.record()
        context.copy(places[0], places[1], size)
        after.record()
        seconds.append(after.seconds_since(before))
    for place in places:
        context.free(place)
    return 2 * size / statistics.median(seconds[_WARM:])


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def attempted(part: Any, *arguments: Any) -> dict[str, Any]:
    """A row of the results; an error of the device or of PyTorch is one, too."""
    try:
        return dict(part(*arguments))
    except (GensynError, MemoryError, RuntimeError) as error:
        return {"error": str(error), "equal": False}


def state_of(row: Mapping[str, Any]) -> str:
    """What a row says, in a few words."""
    if "error" in row:
        return str(row["error"])
    parts = [] if "equal" not in row else ["equal" if row["equal"] else "OTHER BITS"]
    parts += [f"{row['seconds'] * 1e3:.3f} ms"] if "seconds" in row else []
    parts += [f"{row['of_torch']:.2f} of PyTorch's speed"] if "of_torch" in row else []
    return ", ".join(parts) or "not compared"


def main() -> int:
    """Run everything in the pack; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, default=HERE, help="folder of the pack; where this file is if left out")
    parser.add_argument("--output", type=Path, help="the file to write; benchmarks/gpu/<device>.json if left out")
    parser.add_argument("--only", action="append", metavar="NAME", help="this program only; may be given again")
    parser.add_argument(
        "--elementary", type=int, default=ALL_FLOATS, metavar="N", help="inputs of elementary functions; 0: none"
    )
    options = parser.parse_args()
    try:
        manifest = json.loads((options.pack / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"there is no pack in {options.pack}: {error}\n  what to do: python -m benchmarks.gpu_pack", file=sys.stderr)
        return 2
    try:
        context = Context()
    except (GensynError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2
    device = context.device
    path = options.output or Path("benchmarks/gpu") / f"{re.sub(r'[^a-z0-9]+', '-', device.name.lower()).strip('-')}.json"
    record: dict[str, Any] = {"device": {**vars(device), "driver": context.driver.version}, "pack": manifest["digest"]}
    record |= {"torch": torch_version(), "copy_gbytes_per_second": copy_bandwidth(context) / 1e9, "programs": {}}
    wrong = []
    for entry in manifest["programs"]:
        name, kind = entry["name"], entry["kind"]
        if (options.only and name not in options.only) or (kind == "elementary" and not options.elementary):
            continue
        start = time.perf_counter()
        parts = {"bits": (checked, options.pack, entry), "elementary": (elementary, options.pack, entry, options.elementary)}
        timing = (trained if kind == "training" else timed, context, options.pack, entry)
        row = attempted(*parts.get(kind, timing))
        record["programs"][name] = row
        wrong += [name] if row.get("equal") is False else []
        print(f"{name}: {state_of(row)} ({time.perf_counter() - start:.1f} s)", flush=True)
        write(path, record)
    print(f"{path}: " + (f"{len(wrong)} wrong: {', '.join(wrong)}" if wrong else "all bits are those of the CPU"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
