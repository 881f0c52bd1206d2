"""Models of PyTorch, Keras, TensorFlow and ONNX, imported, compared and trained: ``python -m benchmarks.frontends``.

Each model is small and has random weights; nothing is downloaded. A row of benchmarks/results/frontends.json holds

* ``imported``: whether the frontend made a program of it, otherwise ``reason`` says why not;
* ``max_difference``: of the outputs in inference from the framework's, relative to the largest magnitude of an output;
* ``trained``: whether ten steps of SGD on the mean squared error against random targets had finite losses, the last one not
  above the first (``losses``); ``loss_difference``: the largest difference of the ten losses from those of the framework that
  trains the same model, relative where they are above 1; ``loss_tolerance``: what is accepted; ``learning_rate``: small where
  batch normalisation makes the losses sensitive to small weights, so that the framework's own trainings would go apart;
* ``equal_bits``: whether all state after the ten steps is the same bits on x86-64, x86-64-v3 and x86-64-v4.

One process for each row. What is in the file is kept, so that an interrupted run goes on where it was; ``--again`` measures all
rows, ``--only PATTERN`` (repeatable) those whose name fits, ``--failed`` those that failed. The exit status is 1 if less than
95 % of the rows are in order.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.frontends.report import RESULT, failures, line, summary
from benchmarks.frontends.rows import ROWS, Row

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds for a row.
LIMIT = 1800
#: Part of the rows that has to be in order.
WANTED = 0.95


def _environment(row: Row) -> dict[str, str]:
    # Keras exports ONNX by PyTorch's exporter on its torch backend; on tensorflow it wants tf2onnx.
    backend = {"keras": row.source, "onnx": "torch"}.get(row.framework, "tensorflow")
    return {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def in_process(row: Row) -> dict[str, Any]:
    """The row measured by a child process; what stops the child is a result too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.frontends", "--child", row.name, str(path)]
        try:
            done = subprocess.run(
                command, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=_environment(row), timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return {"imported": False, "reason": f"no result after {LIMIT} seconds"}
        if path.exists():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"imported": False, "reason": f"exit status {done.returncode}: {last}"}


def child(row: Row, path: Path) -> None:
    """Measure a row in this process."""
    from benchmarks.frontends.measure import measure

    found: dict[str, Any] = {"imported": False}
    try:
        measure(row, found)
    except Exception as error:  # frameworks raise anything, and the table says what
        if os.environ.get("FRONTENDS_TRACEBACK"):
            raise
        # Where this checkout lies says nothing to a reader of the table.
        text = " ".join(str(error).split()).replace(f"{ROOT}/", "")
        found["reason"] = f"{type(error).__name__}: {text[:600]}"
    path.write_text(json.dumps(found), encoding="utf-8")


def stored() -> dict[str, dict[str, Any]]:
    """The rows of the result file by name."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["models"] if RESULT.exists() else []
    return {Row(r["framework"], r["source"], r["model"]).name: r for r in rows}


def store(rows: dict[str, dict[str, Any]]) -> None:
    """Replace the result file."""
    found = [rows[r.name] for r in ROWS if r.name in rows]
    versions = {name: version(name) for name in ("torch", "keras", "tensorflow-cpu", "onnx", "onnxruntime", "transformers")}
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(
        json.dumps({"versions": versions, **summary(found), "models": found}, indent=1) + "\n", encoding="utf-8"
    )
    temporary.replace(RESULT)


def main() -> None:
    """Measure the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="PATTERN")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(next(r for r in ROWS if r.name == options.child[0]), Path(options.child[1]))
        return
    rows = stored()
    for row in ROWS:
        asked = any(fnmatch(row.name, pattern) for pattern in options.only or ["*"])
        kept = row.name in rows and not options.again and not (options.failed and failures([rows[row.name]]))
        if asked and not kept:
            place = {"model": row.model, "framework": row.framework, "source": row.source}
            rows[row.name] = place | in_process(row)
            store(rows)
            print(line(rows[row.name]), flush=True)
    found = [rows[r.name] for r in ROWS if r.name in rows]
    wrong = failures(found)
    print(f"{len(found) - len(wrong)} of {len(found)} rows import, match and train with equal bits")
    sys.exit(len(found) - len(wrong) < WANTED * len(ROWS))


if __name__ == "__main__":
    main()
