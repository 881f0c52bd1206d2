"""Transform ONNX files and make programs of them.

    python scripts/convert_onnx.py model.onnx --pass convert_version=21 --pass fold_constants --output smaller.onnx
    python scripts/convert_onnx.py model.onnx --shape image=1x3x224x224 --output model.gtvm --target native

--pass (repeatable, in order) names a pass of gensyn_tvm.frontends.onnx_passes. --output may be given several times: ``.onnx``
gets the transformed model, ``.gtvm`` the compiled program. A compiled program is compared with ONNX Runtime (or onnx's
ReferenceEvaluator) on random inputs, unless --no-verify. Without --pass, ``gensyn-tvm convert`` has more options, --train among
them; an ONNX file has no training that a step could be compared with. Nothing is written unless everything succeeded; files are
replaced in one step.

Exit status: 0 done; 1 the model or an option is wrong, all unsupported operators named; 2 usage; 3 the verification failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import gensyn_tvm
from gensyn_tvm.conversion.importers import import_model
from gensyn_tvm.conversion.sources import Found, Request
from gensyn_tvm.conversion.verify import verify
from gensyn_tvm.errors import VerificationError
from gensyn_tvm.frontends import onnx_passes
from gensyn_tvm.frontends.onnx_reader import load

FAILED, DIFFERENT = 1, 3


def shape_option(text: str) -> tuple[str, tuple[int, ...]]:
    """``name=1x3x224x224``; ``name=`` is a scalar."""
    name, equals, extents = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name, tuple(int(e) for e in extents.split("x")) if extents else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=1x3x224x224") from None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pass", dest="passes", action="append", default=[], metavar="NAME[=ARGUMENT]")
    parser.add_argument("--shape", action="append", default=[], type=shape_option, metavar="NAME=1x3x224x224")
    parser.add_argument("--output", action="append", default=[], type=Path, help="a .onnx or .gtvm file; repeatable")
    parser.add_argument("--target", default="native", help="of the .gtvm file; default: native")
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative to the largest value of an output")
    options = parser.parse_args(argv)
    for path in options.output:
        if path.suffix not in (".onnx", ".gtvm"):
            parser.error(f"--output {path}: expected a .onnx or a .gtvm file")
    return options


def report(console: Console, model: onnx.ModelProto) -> None:
    """Operators with their numbers, stored tensors and size."""
    table = Table("operator", "nodes")
    for name, count in sorted(Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node).items()):
        table.add_row(name, str(count))
    console.print(table)
    stored = sum(int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer)
    console.print(f"{len(model.graph.node)} nodes, {stored:,} stored elements, {model.ByteSize():,} bytes")


def replace(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        temporary.write(data)
    os.replace(temporary.name, path)


def convert(options: argparse.Namespace, console: Console) -> int:
    """Load, transform, compile, verify, write."""
    model = onnx_passes.run(load(options.model)[0], options.passes)
    report(console, model)
    exe = None
    if any(path.suffix == ".gtvm" for path in options.output):
        imported = import_model(Found("onnx", model=model), Request(str(options.model), shapes=dict(options.shape)))
        exe = gensyn_tvm.compile(imported.program, options.target)
        console.print(f"program {exe.digest}")
        if options.verify:
            try:
                done = verify(exe, imported, tolerance=options.tolerance)
            except VerificationError as error:
                console.print(str(error), style="red")
                return DIFFERENT
            console.print(f"largest relative difference from {done.reference}: {done.largest:.3g}")
    for path in options.output:
        if path.suffix == ".onnx":
            replace(path, model.SerializeToString())
        elif exe is not None:
            exe.save(path)
        console.print(f"wrote {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; errors go to stderr as they are."""
    options = arguments(argv)
    try:
        return convert(options, Console())
    except gensyn_tvm.GensynError as error:
        print(error, file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
