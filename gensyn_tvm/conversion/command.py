"""``gensyn-tvm convert``: from parsed options to a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.commands import load_arrays
from gensyn_tvm.conversion.convert import Settings, Stage, convert
from gensyn_tvm.conversion.report import Report
from gensyn_tvm.conversion.sources import Request
from gensyn_tvm.errors import InputError, describe


def run(options: argparse.Namespace, stage: Stage) -> Report:
    """Convert what parsed options ask for; errors as ``convert``."""
    request = Request(
        model=options.model,
        framework=options.framework,
        shapes=dict(options.shape or ()),
        dtypes=dict(options.dtype or ()),
        values={name: _value(name, text) for name, text in options.value or ()},
        batch=options.batch,
        signature=options.signature,
        train=options.train,
        backend=options.backend,
    )
    targets = () if options.no_compile else tuple(options.target or ("native",))
    settings = Settings(
        targets=targets,
        verify=options.verify,
        tolerance=options.tolerance,
        seed=options.seed,
        loss=options.loss,
        optimizer=options.optimizer,
    )
    return convert(request, Path(options.output), settings, stage)


def _value(name: str, text: str) -> np.ndarray[Any, Any]:
    """``2,3`` and ``3,`` as one axis of int64, ``3`` as a scalar, or the array of a ``.npy`` file."""
    if text.endswith(".npy"):
        arrays = load_arrays(text)
        if "" in arrays:
            return arrays[""]
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise InputError(describe(f"--value {name}", found=text, expected="integers like 2,3, or a .npy file")) from None
    return np.array(numbers if "," in text else numbers[0], np.int64)
