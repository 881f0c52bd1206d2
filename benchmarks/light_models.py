"""The nine light models of the onnx package's backend suite: ``python benchmarks/light_models.py``.

The suite gives each model one input (0, 1/n, 2/n, …) and the expected output with a tolerance; weights are uniform constants,
so most outputs are a thousand equal numbers. Therefore each model runs twice: with the suite's weights, compared with the
expected output, and with random ones. Each time it is compiled for ``native`` and for ``x86-64`` and run by the interpreter,
and all three outputs must be the same bits. One process for each model, one line of progress for each stage. ``--only NAME``
runs one model (repeatable), ``--without-interpreter`` skips what takes longest and writes nothing; otherwise each model's row
goes into benchmarks/results/light_models.json. The exit status is 1 if a model fails.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader
import onnx.numpy_helper

RESULT = Path(__file__).resolve().parent / "results" / "light_models.json"
TARGETS = ("native", "x86-64")
#: Loader's folder of the suite's data.
_DATA = Path(onnx.backend.test.loader.DATA_DIR)


def tolerances() -> dict[str, dict[str, Any]]:
    """For each model the path below the suite's data, and the suite's relative and absolute tolerance."""
    found = {}
    for path in sorted((_DATA / "real").glob("*/data.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        found[data["model_name"]] = {
            "path": _DATA / "light" / Path(data["url"]).name,
            "rtol": data["rtol"],
            "atol": data["atol"],
        }
    return found


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The inputs that the suite's runner generates."""
    stored = {t.name for t in model.graph.initializer}
    arrays = {}
    for info in model.graph.input:
        if info.name not in stored:
            shape = [d.dim_value if d.HasField("dim_value") else 1 for d in info.type.tensor_type.shape.dim]
            n = int(np.prod(shape))
            arrays[info.name] = (np.arange(n).reshape(shape) / n).astype(np.float32)
    return arrays


def expected_output(path: Path) -> np.ndarray:
    """The output that the suite stores beside a model."""
    return onnx.numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with initializers in place of its uniform weights: normal with variance 2 / fan-in, vectors near 1.

    Without the softmax at the end, which would turn large numbers into zeros and a one.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(4, model.ir_version)  # before, initializers had to be inputs
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    uniform = [n for n in result.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    for node in uniform:
        shape = [int(e) for e in shapes[node.input[0]]]
        rng = np.random.default_rng(zlib.crc32(node.output[0].encode()))
        normal = rng.standard_normal(shape, np.float32)
        scaled = normal * np.float32(math.sqrt(2 / math.prod(shape[1:]))) if len(shape) > 1 else 1 + np.abs(normal) / 8
        result.graph.initializer.append(onnx.numpy_helper.from_array(scaled.astype(np.float32), node.output[0]))
        result.graph.node.remove(node)
    if result.graph.node[-1].op_type == "Softmax":
        result.graph.output[0].name = result.graph.node.pop().input[0]
    return result


class Stages:
    """Runs the stages of one model, with their seconds and a line of progress for each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, action: Callable[[], Any]) -> Any:
        """The result of the stage."""
        print(f"{self.name}: {stage}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        result = action()
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        return result


def executed(model: onnx.ModelProto, timed: Stages, *, interpret: bool) -> dict[str, np.ndarray]:
    """The model's output by executor."""
    import gensyn_tvm
    from gensyn_tvm.interpreter import run

    given = feeds(model)
    program = timed("import", lambda: gensyn_tvm.from_onnx(model))
    given = {name: given[name] for name in program.inputs}
    outputs = {}
    for target in TARGETS:
        exe = timed(f"compile {target}", partial(gensyn_tvm.compile, program, target))
        outputs[target] = timed(f"run {target}", partial(exe, **given))
    if interpret:
        arrays = {**program.parameters, **program.states, **given}
        (outputs["interpreter"],) = timed("interpret", lambda: run(exe.graph, arrays))
    return outputs


def measure(name: str, *, interpret: bool) -> dict[str, Any]:
    """Import, compile, run and compare one model, with the suite's weights and with random ones."""
    from gensyn_tvm.evidence.digests import array_digest

    suite = tolerances()[name]
    model = onnx.load(suite["path"])
    expected = expected_output(suite["path"])
    row: dict[str, Any] = {"model": name, "rtol": suite["rtol"], "atol": suite["atol"]}
    for weights, variant in (("suite", model), ("random", with_random_weights(model))):
        timed = Stages(f"{name}, {weights} weights")
        outputs = executed(variant, timed, interpret=interpret)
        digests = {executor: array_digest(output) for executor, output in outputs.items()}
        row[weights] = {"digests": digests, "equal": len(set(digests.values())) == 1, "seconds": timed.seconds}
        row[weights]["distinct_values"] = len(np.unique(outputs["native"]))
        if weights == "suite":
            native = outputs["native"].astype(np.float64)
            row["largest_difference"] = float(np.abs(native - expected).max())
            row["tolerance_met"] = native.shape == expected.shape and np.allclose(
                native, expected, suite["rtol"], suite["atol"]
            )
    row["equal"] = row["suite"]["equal"] and row["random"]["equal"]
    row["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def in_process(name: str, *, interpret: bool) -> dict[str, Any]:
    """``measure`` in a process of its own; its failure is a result too."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, *([] if interpret else ["--without-interpreter"])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"model": name, "failed": f"exit status {done.returncode}", "tolerance_met": False, "equal": False}
    return dict(json.loads(done.stdout))


def store(row: dict[str, Any]) -> None:
    """Put a model's row into the results, in place of its earlier one."""
    data = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": []}
    rows = sorted([r for r in data["rows"] if r["model"] != row["model"]] + [row], key=lambda r: str(r["model"]))
    RESULT.write_text(json.dumps({"onnx": onnx.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(tolerances()))
    parser.add_argument("--without-interpreter", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    interpret = not options.without_interpreter
    if options.child:
        print(json.dumps(measure(options.child, interpret=interpret)))
        return
    rows = []
    for name in options.only or sorted(tolerances()):
        row = in_process(name, interpret=interpret)
        rows.append(row)
        state = "ok" if row["tolerance_met"] and row["equal"] else "FAILED"
        print(f"{row['model']:14} {state:7} {row.get('failed', '')}")
        if interpret:
            store(row)
    sys.exit(0 if all(row["tolerance_met"] and row["equal"] for row in rows) else 1)


if __name__ == "__main__":
    main()
