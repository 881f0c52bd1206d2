"""What a training step is given beside its state: a batch, a learning rate, a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError

Batch = Mapping[str, Any] | Sequence[Any]


def checked_seed(seed: Any) -> int:
    """A seed as the program reads it. Raises InputError if it is no integer of 64 bits."""
    if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
        raise InputError(f"seed={seed!r}; expected a 64-bit integer")
    return int(seed)


def named_batch(graph: Graph, batch: Batch) -> Mapping[str, Any]:
    """The arrays of a batch by name: they are given so, or in the order of the graph's inputs.

    Raises:
        InputError: something else, or another number of arrays.
    """
    if isinstance(batch, Mapping):
        return batch
    names = [i.name for i in graph.inputs if i.role in ("input", "target")]
    if not isinstance(batch, Sequence):
        raise InputError(f"the batch is a {type(batch).__name__}, expected {', '.join(names)} in a tuple or by name")
    if len(batch) != len(names):
        raise InputError(f"the batch has {len(batch)} arrays, expected {len(names)}: {', '.join(names)}")
    return dict(zip(names, batch, strict=True))


def rate_of(graph: Graph, rate: Any) -> np.float32:
    """The learning rate as the program reads it; zero if the program has none.

    Raises:
        InputError: it is no finite float32.
    """
    if rate is None and all(i.role != "learning_rate" for i in graph.inputs):
        return np.float32(0.0)
    if not isinstance(rate, int | float | np.number) or not abs(float(rate)) <= float(np.finfo(np.float32).max):
        raise InputError(f"learning_rate={rate!r}; expected a finite number")
    return np.float32(rate)
