"""Damage ONNX files at random and import each: the outcome has to be a program or a GensynError.

    python scripts/fuzz_onnx_files.py --count 20000 --seconds 360
    python scripts/fuzz_onnx_files.py --replay 1234

The files are the models of onnx's own tests. Mutation number s depends on s and on the installed onnx: it damages either the
bytes of a file or fields of the parsed model. Imports happen in a worker process of limited memory; a mutation
that ends it, or takes too long, is recorded and does not stop the run. Findings are written to --failures as .onnx files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx.backend.test.loader import load_model_tests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gensyn_tvm.errors import GensynError  # noqa: E402
from gensyn_tvm.frontends.onnx import from_onnx  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "fuzz_onnx_files.json"
#: Larger files mostly hold numbers, which may be anything.
LARGEST = 8192
MEMORY = 12 << 30
INTEGERS = (0, 1, -1, 2, 3, 7, 16, 127, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 3.4e38, float("inf"), float("nan"))
TEXTS = ("", "x", "gone", "Loop", "If", "Reshape", "ai.onnx", "../x", "a\0b", "é", "y" * 300)

Record = dict[str, Any]


# ---- mutations ------------------------------------------------------------------------------------------------------


def corpus() -> list[tuple[str, bytes]]:
    """Names and bytes of the models that are damaged, in a fixed order."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    files = {path.parent.name: path.read_bytes() for path in folder.glob("*/*/model.onnx")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if case.model is not None:
                files[case.name] = case.model.SerializeToString(deterministic=True)
    return [(name, data) for name, data in sorted(files.items()) if 0 < len(data) <= LARGEST]


def mutated(number: int, files: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """The damaged file of a number, and a description of the damage."""
    rng = random.Random(number)
    name, data = rng.choice(files)
    kind = rng.choice(("bytes", "fields"))
    changes = rng.choice((1, 1, 2, 4))
    if kind == "bytes":
        _, other = rng.choice(files)
        for _ in range(changes):
            data = damage(data, other, rng)
    else:
        model = onnx.load_model_from_string(data)
        for _ in range(changes):
            change_field(model, rng)
        data = model.SerializeToString()
    return data, f"{name}: {changes} {kind}"


def damage(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One change of bytes."""
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 40))
    end = min(len(data), at + length)
    match rng.randrange(7):
        case 0:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data
        case 1:
            return data[:at] + rng.randbytes(end - at) + data[end:]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + rng.randbytes(length) + data[at:]
        case 4:
            return data[:end] + data[at:end] * rng.choice((1, 3, 50)) + data[end:]
        case 5:
            return data[:at]
    start = rng.randrange(len(other))
    return data[:at] + other[start : start + length] + data[end:]


def messages(message: Message) -> list[Message]:
    """A message and all in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                found.extend(messages(part))
    return found


def change_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """One change of a field: another value, absent, removed, doubled, or in another order."""
    target = rng.choice(messages(model))
    fields = list(target.DESCRIPTOR.fields)
    present = [field for field, _ in target.ListFields()]
    field = rng.choice(present) if present and rng.random() < 0.85 else rng.choice(fields)
    if field.message_type is None:
        _change_scalar(target, field, rng)
    elif field.is_repeated:
        _change_list(getattr(target, field.name), rng)
    elif rng.random() < 0.3:
        target.ClearField(field.name)
    else:
        getattr(target, field.name).SetInParent()


def _change_scalar(target: Message, field: Any, rng: random.Random) -> None:
    if rng.random() < 0.15:
        target.ClearField(field.name)
        return
    values = {"string": TEXTS, "bytes": tuple(t.encode() for t in TEXTS), "float": FLOATS}
    kinds = {field.TYPE_STRING: "string", field.TYPE_BYTES: "bytes", field.TYPE_FLOAT: "float", field.TYPE_DOUBLE: "float"}
    new = rng.choice(values.get(kinds.get(field.type, ""), INTEGERS))
    # A value that the field's type cannot hold leaves the model as it is.
    with contextlib.suppress(ValueError, TypeError):
        if not field.is_repeated:
            setattr(target, field.name, new)
            return
        items = getattr(target, field.name)
        if items and rng.random() < 0.6:
            items[rng.randrange(len(items))] = new
        elif items and rng.random() < 0.5:
            del items[rng.randrange(len(items))]
        else:
            items.append(new)


def _change_list(items: Any, rng: random.Random) -> None:
    if not items:
        items.add()
        return
    at = rng.randrange(len(items))
    match rng.randrange(3):
        case 0:
            del items[at]
        case 1:
            items.add().CopyFrom(items[at])
        case _:
            other = rng.randrange(len(items))
            copy = type(items[at])()
            copy.CopyFrom(items[at])
            items[at].CopyFrom(items[other])
            items[other].CopyFrom(copy)


# ---- in the worker process ------------------------------------------------------------------------------------------


def outcome(path: str) -> tuple[str, str]:
    """``imported``, the name of a GensynError and of what it was made of, or ``error`` for anything else, with its text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from_onnx(path)
    except GensynError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError):  # of a small file: a size that no check has seen
            return "error", f"MemoryError: {str(error)[:600]}"
        return type(error).__name__ + (f" from {type(cause).__name__}" if cause else ""), ""
    except BaseException as error:  # whatever else comes out is a finding
        return "error", f"{type(error).__name__}: {str(error)[:600]}"
    return "imported", ""


def work() -> None:
    """Import the files whose paths come by standard input, one line each, and answer each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may write to the parent
    for line in sys.stdin:
        answers.write(json.dumps(outcome(line.rstrip("\n"))) + "\n")
        answers.flush()


# ---- in the parent --------------------------------------------------------------------------------------------------


class Worker:
    """A process that imports, started again after it died."""

    def __init__(self, limit: float, log: Path) -> None:
        self._limit = limit
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def outcome(self, path: Path) -> tuple[str, str]:
        """As ``outcome``; also ``crash`` and ``timeout``."""
        if self._process is None:
            command = [sys.executable, "-W", "ignore", __file__, "--worker"]
            with self._log.open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._limit, end)
        timer.start()
        try:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            kind, text = json.loads(line)
            return kind, text
        self.stop()
        return ("timeout", f"longer than {self._limit:g} s") if late.is_set() else ("crash", f"status {process.returncode}")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def run(args: argparse.Namespace) -> int:
    """Import damaged files until --count or --seconds; the exit status is 1 if there are findings."""
    args.failures.mkdir(parents=True, exist_ok=True)
    files, counts, findings = corpus(), Counter[str](), []
    worker = Worker(args.limit, args.failures / "worker.log")
    path = args.failures.resolve() / "current.onnx"
    start = time.monotonic()
    number = args.first
    while number < args.first + args.count and time.monotonic() - start < args.seconds:
        data, what = mutated(number, files)
        path.write_bytes(data)
        kind, text = worker.outcome(path)
        counts[kind] += 1
        if kind in ("error", "crash", "timeout"):
            (args.failures / f"mutation-{number}.onnx").write_bytes(data)
            findings.append({"number": number, "damage": what, "kind": kind, "text": text})
            print(f"{number} ({what}): {kind}, {text}", flush=True)
        number += 1
    worker.stop()
    path.unlink(missing_ok=True)
    result: Record = {
        "onnx": onnx.__version__,
        "files": len(files),
        "mutations": number - args.first,
        "numbers": [args.first, number - 1],
        "seconds": round(time.monotonic() - start),
        "outcomes": dict(sorted(counts.items())),
        "findings": findings,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['mutations']} damaged files: {len(findings)} findings; {args.output}")
    return 1 if findings else 0


def replay(number: int) -> int:
    """Import one damaged file in this process, whatever happens."""
    data, what = mutated(number, corpus())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        kind, text = outcome(str(path))
    print(f"{number} ({what}): {kind} {text}")
    return 1 if kind == "error" else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000, help="number of damaged files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--limit", type=float, default=20, help="seconds for each import")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--failures", type=Path, default=ROOT / "fuzz-failures" / "onnx")
    parser.add_argument("--replay", type=int, help="import the damaged file of this number")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
    else:
        sys.exit(run(args) if args.replay is None else replay(args.replay))


if __name__ == "__main__":
    main()
