"""Everything that a GPU is asked, compiled and packed where there is no GPU: ``python -m benchmarks.gpu_pack``.

Operator families with every kind of special value, five models (inference, and 100 steps of training), the elementary
functions, training steps of ResNet-50 and GPT-2, each with the digest that the CPU has, and operators to be timed. The pack
runs by itself: ``scripts/gpu_check.py`` is in it, and this package's Python files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cpu.work import bytes_moved, float_operations
from benchmarks.gpu_rehearsal import digest_of, model_case, on_cpu
from gensyn_tvm import SGD, AdamW, from_torch, interpreter, training_step
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder, Input
from gensyn_tvm.canonical.types import TensorType, to_carrier
from gensyn_tvm.compiler import Source, build_cuda, source_of
from gensyn_tvm.evidence.samples import Draw, sample
from gensyn_tvm.operators.exact import ELEMENTARY
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.targets.gpu import CUDA
from scripts.gpu_peers import OPERATORS, TRAINED, Operator, Trained
from tests.operators.cases import FAMILIES, bundle

ROOT = Path(__file__).resolve().parent.parent
#: The pack must be less.
LIMIT = 60 * 10**6
MODELS = ("mlp", "resnet18", "gpt2", "bert", "lstm")
STEPS = 100
_CHUNK = 2**22  # inputs of the elementary functions in a run

Build = Callable[[Graph], bytes]


@dataclass(frozen=True)
class Item:
    """A program of the pack.

    Attributes:
        name, kind: ``bits``, ``elementary``, ``time``, or ``training``: bits of a step, and its time.
        graph: the program.
        given: its inputs; others are drawn on the machine.
        more: what else ``gpu_check.py`` reads of it.
    """

    name: str
    kind: str
    graph: Graph
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def operators(name: str) -> Item:
    """A family of operators, whose digest is the interpreter's."""
    graph, given = bundle(FAMILIES[name])
    return bits(f"operators: {name}", graph, given, list(interpreter.run(graph, given)))


def bits(name: str, graph: Graph, given: Mapping[str, np.ndarray], expected: list[np.ndarray], steps: int = 1) -> Item:
    """A program whose outputs are known."""
    return Item(name, "bits", graph, given, {"steps": steps, "digest": digest_of(graph, expected)})


def inference(name: str) -> Item:
    """A model on a batch."""
    source, given = model_case(name, training=False)
    return bits(f"inference: {name}", source.graph, given, on_cpu(source, given))


def training(name: str, steps: int = STEPS) -> Item:
    """Some steps of training on one batch."""
    source, given = model_case(name, training=True)
    from gensyn_tvm import compile
    from gensyn_tvm.canonical.graph import STATE_ROLES
    from gensyn_tvm.runtime.executable import as_array

    exe, now = compile(source), dict(given)
    clock = [i.name for i in source.graph.inputs if i.role == "step"]
    found: list[np.ndarray] = []
    for step in range(steps):
        now |= {c: np.asarray(np.int64(step)) for c in clock}
        state = {i.name: now[i.name] for i in source.graph.inputs if i.role in STATE_ROLES}
        found = [as_array(a) for a in exe.run({n: a for n, a in now.items() if n not in state}, state)]
        now |= {o.name: a for o, a in zip(source.graph.outputs, found, strict=True) if o.updates}
    return bits(f"training: {name}", source.graph, given, found, steps)


def elementary(count: int = _CHUNK, functions: Sequence[str] = ELEMENTARY) -> Item:
    """Elementary functions of ``count`` inputs, with the digests of their proofs."""
    b = GraphBuilder("elementary")
    x = b.add_input("x", "input", TensorType((count,), "float32"))
    for name in functions:
        b.add_output(name, b.emit(name, x))
    proofs = {n: json.loads((ROOT / "proofs" / f"{n}.json").read_text(encoding="utf-8"))["digest"] for n in functions}
    return Item("elementary functions", "elementary", b.finish(), {}, {"proofs": proofs})


def graph_of(chosen: Operator) -> Graph:
    """Our program of a function of PyTorch."""
    if chosen.canonical is None:
        return source_of(from_torch(_Function(chosen.run), tuple(chosen.example()))).graph
    b = GraphBuilder("operator")
    inputs = [b.add_input(f"x{k}", "input", TensorType(shape, "float32")) for k, shape in enumerate(chosen.shapes)]
    name, attributes = chosen.canonical
    b.add_output("y", b.emit(name, *inputs, **attributes))
    return b.finish()


class _Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, run: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.run(*inputs)


def timed(name: str, chosen: Operator) -> Item:
    """An operator, to be timed."""
    graph = graph_of(chosen)
    drawn = {"0": asdict(Draw(below=chosen.below))} if chosen.below else {}
    work = {"flops": float_operations(graph), "bytes": bytes_moved(graph)}
    return Item(name, "time", graph, {}, {**work, "drawn": drawn, "peer": name})


def timed_training(name: str, chosen: Trained) -> Item:
    """A training step of a network, to be compared and timed; its arrays are made where it runs."""
    rate = 3e-4 if chosen.per_token else 0.1
    optimizer = AdamW(lr=rate, weight_decay=0.01) if chosen.per_token else SGD(lr=rate, momentum=0.9, weight_decay=1e-4)
    program = from_torch(chosen.make().train(), (chosen.example(),))
    graph = source_of(training_step(program, loss="cross_entropy", optimizer=optimizer)).graph
    del program
    draws = {k: _draw(i, chosen.classes, rate) for k, i in enumerate(graph.inputs)}
    given = {i.name: sample(i.type, 0, k, draws[k]) for k, i in enumerate(graph.inputs)}
    digest = digest_of(graph, on_cpu(Source(graph, State({}), rate), given))
    more = {"steps": 1, "digest": digest, "drawn": {str(k): asdict(d) for k, d in draws.items()}}
    return Item(f"training step: {name}", "training", graph, {}, {**more, "flops": float_operations(graph), "peer": name})


def _draw(i: Input, classes: int, rate: float) -> Draw:
    """What an input begins with: weights of a size that suits their sums, normalisations that do nothing."""
    if i.role in ("input", "target"):
        return Draw(below=classes)
    if i.role == "parameter" and len(i.type.shape) > 1:
        return Draw(scale=2.0 ** -round(math.log2(math.prod(i.type.shape[1:])) / 2))
    is_one = i.role != "optimizer" and i.name.endswith(("weight", "running_var"))
    return Draw(scale=0.0, offset=rate if i.role == "learning_rate" else float(is_one))


def items() -> Iterator[Callable[[], Item]]:
    """All programs of the pack."""
    yield from (lambda n=n: operators(n) for n in FAMILIES)
    yield from (lambda n=n: inference(n) for n in MODELS)
    yield from (lambda n=n: training(n) for n in MODELS)
    yield elementary
    yield from (lambda n=n, o=o: timed(n, o) for n, o in OPERATORS.items())
    yield from (lambda n=n, t=t: timed_training(n, t) for n, t in TRAINED.items())


def write_pack(path: Path, programs: Iterator[Callable[[], Item]], build: Build, *, quiet: bool = False) -> int:
    """Write the pack, completely or not at all; returns its bytes."""
    entries, stream = [], io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, make in enumerate(programs):
            start = time.perf_counter()
            item = make()
            text, library = serialise.dumps(item.graph), build(item.graph)
            archive.writestr(f"programs/{number}.json", text)
            archive.writestr(f"programs/{number}.cuda", library)
            if item.given:
                archive.writestr(f"programs/{number}.npz", _npz(item))
            made = {"program": serialise.digest(item.graph), "library": hashlib.sha256(library).hexdigest()}
            entries.append({"number": number, "name": item.name, "kind": item.kind, **made, **item.more})
            if not quiet:
                print(f"{item.name}: {len(library) / 1e6:.1f} MB, {time.perf_counter() - start:.0f} s", flush=True)
        digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
        archive.writestr("manifest.json", json.dumps({"digest": digest, "programs": entries}, indent=1))
        for script in ("gpu_check.py", "gpu_peers.py"):
            archive.write(ROOT / "scripts" / script, script)
        for file in sorted((ROOT / "gensyn_tvm").rglob("*.py")):
            archive.write(file, file.relative_to(ROOT).as_posix())
    data = stream.getvalue()
    if len(data) >= LIMIT:
        raise SystemExit(f"the pack has {len(data)} bytes; it must be less than {LIMIT}")
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    return len(data)


def _npz(item: Item) -> bytes:
    """The inputs as carriers, by number."""
    stream = io.BytesIO()
    carriers = {str(k): np.asarray(to_carrier(np.asarray(item.given[i.name]))) for k, i in enumerate(item.graph.inputs)}
    np.savez_compressed(stream, allow_pickle=False, **carriers)
    return stream.getvalue()


def main() -> int:
    """Build the pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-pack.zip"))
    options = parser.parse_args()
    size = write_pack(options.output, items(), lambda graph: build_cuda(graph, CUDA, "fast"))
    print(f"{options.output}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
