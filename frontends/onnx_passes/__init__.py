"""Transformations of ONNX models: each takes an ``onnx.ModelProto``, leaves it as it is, and returns a new one.

    from gensyn_tvm.frontends import onnx_passes
    model = onnx_passes.run(model, ["convert_version=21", "inline_functions", "fold_constants", "eliminate_dead_ends"])

Names of values and nodes, metadata, doc strings and operator set imports are kept. Models are checked
before and after each pass. ``scripts/convert_onnx.py`` runs passes on files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.onnx_passes.convert_version import convert_version
from gensyn_tvm.frontends.onnx_passes.eliminate_dead_ends import eliminate_dead_ends
from gensyn_tvm.frontends.onnx_passes.fold_constants import fold_constants
from gensyn_tvm.frontends.onnx_passes.infer_shapes import infer_shapes
from gensyn_tvm.frontends.onnx_passes.inline_functions import inline_functions
from gensyn_tvm.frontends.onnx_passes.training_mode import training_mode
from gensyn_tvm.frontends.onnx_reader import validate

__all__ = [
    "PASSES",
    "convert_version",
    "eliminate_dead_ends",
    "fold_constants",
    "infer_shapes",
    "inline_functions",
    "run",
    "training_mode",
]

Pass = Callable[..., onnx.ModelProto]

PASSES: dict[str, Pass] = {
    "convert_version": convert_version,
    "infer_shapes": infer_shapes,
    "fold_constants": fold_constants,
    "inline_functions": inline_functions,
    "training_mode": training_mode,
    "eliminate_dead_ends": eliminate_dead_ends,
}


def _mode(text: str) -> dict[str, Any]:
    return {"training": {"training": True, "inference": False}[text]}


#: What may follow a pass's name after ``=``, and how it becomes the pass's arguments.
_ARGUMENTS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "convert_version": ("an opset", lambda text: {"opset": int(text)}),
    "fold_constants": ("a number of bytes", lambda text: {"limit": int(text)}),
    "inline_functions": ("operators, separated by commas", lambda text: {"operators": text.split(",")}),
    "training_mode": ("training or inference", _mode),
}


def run(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Apply passes in order.

    Args:
        model: any valid model; it is not changed.
        names: names in ``PASSES``, or ``name=argument``: ``convert_version=21``, ``training_mode=training``,
            ``inline_functions=Gelu,HardSwish``, ``fold_constants=65536``.

    Raises:
        InputError: an unknown pass, an argument that it does not take.
        ImportModelError: the model is not valid, or a pass cannot be applied to it.
    """
    steps = [_step(name) for name in names]
    origin = f"onnx:{model.graph.name}" if isinstance(model, onnx.ModelProto) else "onnx"
    validate(model, origin)
    for step, arguments, name in steps:
        model = step(model, **arguments)
        validate(model, f"{origin} after {name}")
    return model


def _step(name: str) -> tuple[Pass, dict[str, Any], str]:
    key, equals, text = name.partition("=")
    if key not in PASSES:
        raise InputError(describe(f"unknown ONNX pass {key!r}", expected=", ".join(PASSES)))
    if not equals:
        return PASSES[key], {}, name
    expected, parse = _ARGUMENTS.get(key, ("no argument", None))
    try:
        if parse is None:
            raise ValueError
        return PASSES[key], parse(text), name
    except (ValueError, KeyError):
        raise InputError(describe(f"pass {key} does not take this argument", found=repr(text), expected=expected)) from None
