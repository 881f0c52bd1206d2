"""The grammar of ``gensyn-tvm convert``; imports nothing heavy."""

from __future__ import annotations

import argparse

FRAMEWORKS = ("onnx", "torch", "tensorflow", "keras", "tflite")
#: That Keras runs on, in the order in which they are looked for.
BACKENDS = ("tensorflow", "torch", "jax")


def add_options(sub: argparse.ArgumentParser) -> None:
    """All options but ``--shape``, ``--batch`` and ``--output``, which other commands have, too."""
    sub.add_argument(
        "model",
        help=".onnx, .pt2 (torch.export), .keras, .h5, .tflite, the folder of a SavedModel, or module:callable or "
        "file.py:callable that returns a model, or a model and its example inputs; only then is code of yours run",
    )
    sub.add_argument("--framework", choices=FRAMEWORKS, help="found from the name if left out")
    sub.add_argument(
        "--backend", choices=BACKENDS, help="that Keras runs on; KERAS_BACKEND, or the first installed, if left out"
    )
    sub.add_argument("--dtype", action="append", type=_pair, metavar="NAME=DTYPE", help="of an input; may be given again")
    sub.add_argument(
        "--value",
        action="append",
        type=_pair,
        metavar="NAME=VALUE",
        help="an ONNX input that becomes a constant: 3 (a scalar), 2,3 or 3, (int64), or a .npy file; may be given again",
    )
    sub.add_argument("--signature", help="of a SavedModel; serving_default if left out")
    mode = sub.add_mutually_exclusive_group()
    mode.add_argument("--inference", dest="train", action="store_false", help="write the inference program (the default)")
    mode.add_argument("--train", action="store_true", help="write a training step; see --loss and --optimizer")
    sub.set_defaults(train=False)
    sub.add_argument("--loss", default="cross_entropy", help="of the training step (docs/losses.md)")
    sub.add_argument("--optimizer", default="adamw", help="of the training step (docs/optimizers.md)")
    sub.add_argument("--target", action="append", help="native (the default), x86-64, x86-64-v3, …; may be given again")
    sub.add_argument("--no-compile", action="store_true", help="write the program without machine code")
    sub.add_argument("--no-verify", dest="verify", action="store_false", help="compare neither inference nor a training step")
    sub.add_argument("--tolerance", type=float, default=1e-4, help="of differences from the framework, see docs/usage.md; 1e-4")
    sub.add_argument("--seed", type=int, default=0, help="of the random inputs of the comparison")
    sub.add_argument("--report", choices=("text", "json"), default="text", help="json is the same as --json")


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.rpartition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=…")
    return name, value
