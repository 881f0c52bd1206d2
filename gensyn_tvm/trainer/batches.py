"""Batches of a program: their size, and the names of their arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError, describe

_ROLES = ("input", "target")


def batch_size(graph: Graph, axis: int = 0) -> int:
    """The common extent of the inputs and targets along ``axis``.

    Raises:
        InputError: they have none in common.
    """
    firsts = {i.name: i.type.shape[axis] if len(i.type.shape) > axis else 0 for i in graph.inputs if i.role in _ROLES}
    if len(set(firsts.values())) != 1 or min(firsts.values()) < 1:
        types = ", ".join(f"{i.name}: {i.type}" for i in graph.inputs if i.role in _ROLES)
        remedy = "give an iterable of ready batches as the data"
        raise InputError(describe("the program's inputs have no common batch size", found=types, remedy=remedy))
    return next(iter(firsts.values()))


def named_batch(graph: Graph, batch: Any) -> dict[str, Any]:
    """The arrays of a batch by the program's names.

    Args:
        graph: its inputs and target are what the batch has.
        batch: by position, or by name; ``x`` also stands for the only input and ``y`` for the only target.

    Raises:
        InputError: neither a mapping nor a sequence, or a sequence of another length.
    """
    inputs = [i.name for i in graph.inputs if i.role == "input"]
    targets = [i.name for i in graph.inputs if i.role == "target"]
    names = [i.name for i in graph.inputs if i.role in _ROLES]
    expected = f"{len(names)}: {', '.join(names)}"
    if isinstance(batch, Mapping):
        short: dict[str, str] = {
            **({"x": inputs[0]} if len(inputs) == 1 else {}),
            **({"y": targets[0]} if len(targets) == 1 else {}),
        }
        return {str(name) if name in names else short.get(name, str(name)): array for name, array in batch.items()}
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        found = f"a {type(batch).__name__}"
        raise InputError(describe("this is no batch", found=found, expected=f"{', '.join(names)} in a tuple or by name"))
    if len(batch) != len(names):
        raise InputError(describe("a batch has another number of arrays", found=str(len(batch)), expected=expected))
    return dict(zip(names, batch, strict=True))
