"""Everything that a GPU would run, run as OpenCL on PoCL: ``make gpu-rehearsal``.

Each family of operators with every kind of special value, against the interpreter, in both styles of schedules and once more
with blocks and threads in descending order; inference and one training step of each model of the training comparison
(benchmarks/training_models.py), against the native CPU target, one step of some in descending order too. Results go to
benchmarks/results/gpu_rehearsal.json after each item, so that a run continues where it was stopped; ``--only NAME`` runs one
item (repeatable). The exit status is 1 if any bit differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gensyn_tvm
from benchmarks.training_models import MODELS
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.executable import as_array
from gensyn_tvm.runtime.opencl import OpenClExecutable
from gensyn_tvm.targets.gpu import OPENCL
from tests.gpu.support import DESCENDING
from tests.operators.cases import FAMILIES, bundle

RESULT = Path(__file__).resolve().parent / "results" / "gpu_rehearsal.json"

#: Style of the schedules, and definitions for the source.
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("plain", ()),
    "fast": ("fast", ()),
    "fast, descending": ("fast", DESCENDING),
}
#: Models whose training step runs in descending order too.
_TWICE = ("mlp", "resnet18", "gpt2")

Arrays = Mapping[str, np.ndarray]


def digest_of(graph: Graph, arrays: list[np.ndarray]) -> str:
    """One digest of all outputs."""
    named = {f"{k} {o.name}": a for k, (o, a) in enumerate(zip(graph.outputs, arrays, strict=True))}
    return state_digest(named)


def compared(graph: Graph, given: Arrays, expected: list[np.ndarray], ways: Sequence[str]) -> dict[str, Any]:
    """A row of the results; ``ways`` are some of ``WAYS``."""
    wanted = digest_of(graph, expected)
    row: dict[str, Any] = {"digest": wanted, "kernels": {}, "simpler": 0, "ways": list(ways), "differ": []}
    for way in ways:
        style, definitions = WAYS[way]
        program = device_program(graph, OPENCL, style)
        row["kernels"][style] = len(program.launches)
        row["simpler"] = max(row["simpler"], len(program.plan.warnings))
        if digest_of(graph, OpenClExecutable(graph, program, definitions).run(given)) != wanted:
            row["differ"].append(way)
    return row


def family(name: str) -> dict[str, Any]:
    """A family of operators."""
    graph, given = bundle(FAMILIES[name])
    return compared(graph, given, list(interpreter.run(graph, given)), list(WAYS))


def _step_inputs(source: Source, batch: Arrays) -> dict[str, np.ndarray]:
    values = {"seed": np.int64(0), "step": np.int64(0), "learning_rate": np.float32(source.learning_rate or 0.0)}
    control = {i.name: np.asarray(values[i.role]) for i in source.graph.inputs if i.role in values}
    return {**source.state.numpy(), **batch, **control}


def model_case(name: str, *, training: bool) -> tuple[Source, dict[str, np.ndarray]]:
    """A model's inference or a training step of it, and arrays for all of its inputs."""
    chosen = MODELS[name]
    program = gensyn_tvm.from_torch(chosen.build(), chosen.example())
    inputs, target = chosen.batch()
    compiled: Any = program
    if training:
        compiled = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=1e-3))
    source = source_of(compiled)
    names = [i.name for i in source.graph.inputs if i.role == "input"]
    batch = dict(zip(names, inputs.values(), strict=True))
    batch |= {i.name: target for i in source.graph.inputs if i.role == "target"}
    return source, _step_inputs(source, batch)


def model(name: str, *, training: bool) -> dict[str, Any]:
    """A model's inference, or one training step."""
    source, given = model_case(name, training=training)
    ways = ["fast", "fast, descending"] if training and name in _TWICE else ["fast"]
    return compared(source.graph, given, on_cpu(source, given), ways)


def on_cpu(source: Source, given: Arrays) -> list[np.ndarray]:
    """The outputs of the native CPU target."""
    state = {i.name: given[i.name] for i in source.graph.inputs if i.role in STATE_ROLES}
    rest = {n: a for n, a in given.items() if n not in state}
    return [as_array(o) for o in gensyn_tvm.compile(source).run(rest, state)]


def items() -> dict[str, Callable[[], dict[str, Any]]]:
    """All that there is to run, by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in FAMILIES:
        found[f"operators: {name}"] = lambda name=name: family(name)  # type: ignore[misc]
    for name in MODELS:
        found[f"inference: {name}"] = lambda name=name: model(name, training=False)  # type: ignore[misc]
        found[f"training step: {name}"] = lambda name=name: model(name, training=True)  # type: ignore[misc]
    return found


def main() -> None:
    """Run what is asked for and write the results."""
    every = items()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(every))
    parser.add_argument("--again", action="store_true", help="run also what the result file has")
    options = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in options.only or every:
        if name in rows and not options.again and not options.only:
            continue
        start = time.perf_counter()
        rows[name] = every[name]()
        print(
            f"{name}: {rows[name]['kernels']} {rows[name]['differ'] or 'equal'} {time.perf_counter() - start:.0f} s", flush=True
        )
        ordered = {n: rows[n] for n in every if n in rows}
        RESULT.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(row["differ"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
