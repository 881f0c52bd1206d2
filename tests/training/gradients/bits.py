"""Gradients of single operators on inputs full of special values, for comparing bits between targets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.training.gradients import CANONICAL

from ...fuzz.check import ORACLE, WAYS, Case, Way
from ...fuzz.draft import Unsuitable, values
from .backward import backward
from .draw import LARGER, SmallDraft, graph

#: Fast schedules on each instruction-set level of this machine, and the oracle in C.
TARGETS: tuple[Way, ...] = (*(way for way in WAYS if way.style == "fast" and not way.eager), ORACLE)


def case(op: str, number: int) -> Case:
    """The ``number``-th backward graph of an operator, with inputs."""
    rng = np.random.default_rng([zlib.crc32(op.encode()), number])
    while True:
        try:
            forward = graph(SmallDraft(rng, LARGER), op)
        except Unsuitable:
            continue
        wanted = [k for k, i in enumerate(forward.inputs) if i.type.dtype in FLOATS]
        made = backward(forward, wanted)
        return Case(made, {i.name: special(i.type, rng) for i in made.inputs})


def special(t: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Floats of all magnitudes with subnormals, infinities, NaN and both zeros among them; indices mostly inside."""
    if t.dtype in FLOATS or t.dtype == "bool":
        return values(t, rng, special=True)
    near = rng.integers(-9, 9, t.shape)
    return np.asarray(np.where(rng.random(t.shape) < 0.9, near, rng.integers(-(2**31), 2**31, t.shape))).astype(t.dtype)


def cases(numbers: Sequence[int]) -> list[Case]:
    """Cases of these numbers of every operator."""
    return [case(op, n) for op in CANONICAL for n in numbers]


def kinds(graphs_and_inputs: Sequence[Case]) -> dict[str, int]:
    """How many elements of each special kind the float inputs have."""
    floats = [a for c in graphs_and_inputs for a in c.given.values() if a.dtype.kind == "f"]
    tiny = [abs(a) < np.finfo(a.dtype).tiny for a in floats]
    return {
        "NaN": sum(int(np.isnan(a).sum()) for a in floats),
        "infinite": sum(int(np.isinf(a).sum()) for a in floats),
        "negative zero": sum(int((np.signbit(a) & (a == 0)).sum()) for a in floats),
        "subnormal": sum(int((t & (a != 0)).sum()) for a, t in zip(floats, tiny, strict=True)),
        "huge": sum(int((abs(a) > np.sqrt(np.finfo(a.dtype).max)).sum()) for a in floats),
    }
