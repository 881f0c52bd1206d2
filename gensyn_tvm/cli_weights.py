"""``gensyn-tvm weights`` and ``export-onnx``: grammar and commands; imports nothing heavy before one of them runs."""

from __future__ import annotations

import argparse
from typing import Any

from gensyn_tvm.cli_output import Result, busy, show


def add_options(directions: Any) -> None:
    """The parsers of ``export`` and ``import``."""
    sub = directions.add_parser("export", help="Write the weights of a .gtvm file to a file of a framework.")
    sub.add_argument("model", help="the .gtvm file: a model, or a training step with its state")
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        help=".safetensors, .pt (PyTorch), .weights.h5, .keras (Keras), .onnx, .index (TensorFlow's checkpoint), "
        "or a new folder (SavedModel)",
    )
    sub.add_argument("--checkpoint", dest="run", metavar="FOLDER", help="take the arrays from a checkpoint of a run (step-…)")
    _add_common(sub, _export)
    sub = directions.add_parser("import", help="Put weights from a file of a framework into a .gtvm file.")
    sub.add_argument("model", help="the .gtvm file")
    sub.add_argument("weights", help="the file: what export writes, or a checkpoint of a run (step-…)")
    sub.add_argument("-o", "--output", required=True, help="the .gtvm file to write; libraries in it stay")
    sub.add_argument("--allow-unknown", action="store_true", help="leave out arrays that the program has no place for")
    _add_common(sub, _import)

    sub = directions.add_parser("transfer", help="Put the weights of one .gtvm file into another that computes the same.")
    sub.add_argument("source", help="the .gtvm file with the weights, from any framework")
    sub.add_argument("model", help="the .gtvm file of the same computation, perhaps from another one (docs/one-digest.md)")
    sub.add_argument("-o", "--output", required=True, help="the .gtvm file to write: the model; libraries in it stay")
    sub.add_argument("--json", action="store_true", help="print one JSON object for machines")
    sub.set_defaults(command=_transfer)


def _add_common(sub: argparse.ArgumentParser, command: Any) -> None:
    sub.set_defaults(command=command)
    sub.add_argument("--template", metavar="MODEL", help="the framework's model whose weights are replaced; it is not changed")
    sub.add_argument("--signature", help="of a SavedModel; serving_default if left out")
    sub.add_argument("--trusted", action="store_true", help="open pickled PyTorch files, and Keras files that hold code")
    sub.add_argument("--json", action="store_true", help="print one JSON object for machines")


def _export(options: argparse.Namespace) -> int:
    from gensyn_tvm.evidence.digests import state_digest
    from gensyn_tvm.runtime.packaging import load_source
    from gensyn_tvm.trainer.checkpoint import read_checkpoint
    from gensyn_tvm.weights import save_weights, weights_of

    with busy("writing", options):
        state = read_checkpoint(options.run).state if options.run else None
        arrays = weights_of(load_source(options.model), state)
        given = {"template": options.template, "signature": options.signature, "trusted": options.trusted}
        untouched = save_weights(options.output, arrays, **given)
    result: Result = {"output": options.output, "arrays": len(arrays), "weights": state_digest(arrays)}
    return show(options, {**result, "untouched": list(untouched)} if untouched else result)


def _import(options: argparse.Namespace) -> int:
    from gensyn_tvm.evidence.digests import state_digest
    from gensyn_tvm.weights import load_weights, weights_of
    from gensyn_tvm.weights.files import may_exceed
    from gensyn_tvm.weights.gtvm import replace_weights

    with busy("writing", options):
        given = {"template": options.template, "signature": options.signature, "trusted": options.trusted}
        arrays = load_weights(options.weights, **given)
        allowed = options.allow_unknown or may_exceed(options.weights)
        source = replace_weights(options.model, arrays, options.output, may_exceed=allowed)
    new = weights_of(source)
    unused = [name for name in arrays if name not in new]
    result: Result = {"output": options.output, "arrays": len(new), "weights": state_digest(new)}
    return show(options, {**result, "unused": unused} if unused else result)


def _transfer(options: argparse.Namespace) -> int:
    from gensyn_tvm.evidence.digests import state_digest
    from gensyn_tvm.runtime.packaging import load_source
    from gensyn_tvm.weights.gtvm import replace_weights
    from gensyn_tvm.weights.transfer import transferred

    with busy("writing", options):
        arrays = transferred(load_source(options.source), load_source(options.model))
        replace_weights(options.model, arrays, options.output)
    return show(options, {"output": options.output, "arrays": len(arrays), "weights": state_digest(arrays)})


def add_onnx_options(sub: argparse.ArgumentParser) -> None:
    """All options of ``export-onnx`` but ``--output``."""
    sub.add_argument("model", help="a .gtvm file of a model for inference, or an .onnx file or file.py:function")
    sub.add_argument("--checkpoint", dest="run", metavar="FOLDER", help="take the arrays from a checkpoint of a run (step-…)")
    sub.add_argument("--approximate", action="store_true", help="compositions for what ONNX lacks; they have other bits")


def export_onnx(options: argparse.Namespace) -> int:
    """Write a program as an ``.onnx`` file."""
    from pathlib import Path

    from gensyn_tvm.commands import load_source
    from gensyn_tvm.export.onnx import to_onnx
    from gensyn_tvm.trainer.checkpoint import read_checkpoint
    from gensyn_tvm.trainer.files import replace_file
    from gensyn_tvm.weights.onnx import serialised

    with busy("writing", options):
        state = read_checkpoint(options.run).state if options.run else None
        source = load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        model = to_onnx(source, state, approximate=options.approximate)
        replace_file(Path(options.output), serialised(model))
    opset = next(o.version for o in model.opset_import if not o.domain)
    return show(options, {"output": options.output, "opset": opset, "nodes": len(model.graph.node)})
