"""Arrays for every input of a program: those of its state, the caller's, and others drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES
from gensyn_tvm.canonical.types import NARROW_FLOATS, TensorType
from gensyn_tvm.errors import InputError, describe

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source

_BATCH = ("input", "target")


@dataclass(frozen=True)
class Draw:
    """What an array is filled with where plain samples will not do, such as the weights of a network that is to train.

    Attributes:
        scale: floats are samples times this power of two, which is exact; with 0 they are all ``offset``.
        offset: all elements, where ``scale`` is 0.
        below: integers are from 0 up to this one, which has at most 29 bits.
    """

    scale: float = 1.0
    offset: float = 0.0
    below: int = 2


def sample(type_: TensorType, seed: int, stream: int, draw: Draw | None = None) -> np.ndarray:
    """An array that depends on its arguments alone.

    Floats are multiples of 2^-22 in [-2, 2), rounded to the dtype (magnitudes where it has no sign); integers and booleans are
    0 or 1, which every index and every class may be.

    Args:
        type_: of the array.
        seed, stream: key of the generator; different streams are independent.
        draw: other numbers.
    """
    draw = draw or Draw()
    if not draw.scale:
        return np.full(type_.shape, draw.offset, np.dtype(type_.dtype))
    # Raw Philox words, because their stream, unlike that of Generator's methods, cannot change with NumPy's version.
    words = np.random.Philox(key=[seed % 2**64, stream]).random_raw(type_.size)
    high = (np.asarray(words, np.uint64) >> np.uint64(40)).astype(np.float64)
    if type_.is_float or type_.dtype in NARROW_FLOATS:
        values = (high / 2.0**22 - 2.0) * draw.scale
        values = np.abs(values) if type_.dtype == "float8_e8m0fnu" else values
    else:
        values = high * draw.below // 2.0**24
    return values.astype(np.dtype(type_.dtype)).reshape(type_.shape)


def arrays_for(source: Source, given: Mapping[str, np.ndarray] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays for every input of a program's graph, by name.

    Args:
        source: the program; its state, step, seed and learning rate are used.
        given: the whole batch by name (``x`` may stand for the only input, ``y`` for the target), and possibly state; None
            draws the batch from ``seed``. State that the program does not bring is drawn, too.

    Raises:
        InputError: arrays that the program does not know, or a batch that is not whole.
    """
    graph = source.graph
    clock = {
        "step": np.int64(source.state.step),
        "seed": np.int64(source.state.seed),
        "learning_rate": np.float32(source.learning_rate or 0.0),
    }
    known = _named(source, given or {})
    arrays: dict[str, np.ndarray] = {}
    for stream, declared in enumerate(graph.inputs):
        name = declared.name
        if name in known:
            arrays[name] = known[name]
        elif declared.role in clock:
            arrays[name] = np.asarray(clock[declared.role])
        elif declared.role in STATE_ROLES and name in source.state.arrays:
            arrays[name] = source.state[name]
        else:
            arrays[name] = sample(declared.type, seed, stream)
    missing = [i.name for i in graph.inputs if i.role in _BATCH and i.name not in known]
    unknown = [name for name in known if name not in arrays]
    if unknown or (given is not None and missing):
        raise InputError(
            describe(
                f"the arrays do not fit the program {graph.name!r}",
                found=f"missing {missing}, unknown {unknown}",
                expected=", ".join(f"{i.name!r}: {i.type}" for i in graph.inputs if i.role in _BATCH),
            )
        )
    return arrays


def _named(source: Source, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``given`` with the names of the graph for ``x`` and ``y``."""
    names = {i.name for i in source.graph.inputs}
    result = dict(given)
    for alias, role in (("x", "input"), ("y", "target")):
        found = [i.name for i in source.graph.inputs if i.role == role]
        if alias in given and alias not in names and len(found) == 1:
            result[found[0]] = result.pop(alias)
    return result
