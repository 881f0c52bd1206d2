"""A program before the freeze: one Relax function with its parameters and state by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Program:
    """A model imported by a frontend.

    The Relax module has one function ``main`` with a single dataflow block. Its parameters are, in order: ``inputs``, the
    names of ``parameters``, the names of ``states``. It returns a flat tuple: the model's outputs, then one value for each
    entry of ``state_updates`` and of ``extents``. Batch normalisation and dropout appear as ``gensyn.batch_norm`` and
    ``gensyn.dropout`` (see ``gensyn_tvm.training.ops``), which behave as in training or as in inference depending on what
    is built.

    Attributes:
        module: IRModule with the Relax function ``main``.
        inputs: names of the inputs that come with each batch.
        outputs: names of the model's outputs.
        parameters: trainable arrays by framework name, in the framework's order.
        states: arrays that the model itself updates (running statistics), by framework name.
        state_updates: names of the states for which ``main`` returns a new value, in the order of the returned tuple.
        extents: (output, axis) of every axis of an output whose extent is only known at run time; ``main`` returns one int64
            scalar for each, after all else. Along such an axis the output is as long as it can become.
        origin: where the model came from, for messages: ``onnx:model.onnx``, ``torch:MyModule``.
    """

    module: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray] = field(default_factory=dict)
    state_updates: tuple[str, ...] = ()
    extents: tuple[tuple[int, int], ...] = ()
    origin: str = ""
