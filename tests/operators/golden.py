"""What tests/golden/<version>/operators.json records: for each case of each operator the program's and the output's digest.

The inputs come from SHAKE-256, because NumPy may change its random distributions, and are not those of the other tests, which
may change too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import NARROW, TensorType, from_carrier
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.interpreter import run
from tests.operators.cases import CASES, Case

#: Cases with more elements than this in an input or the output are left out: they only exist to reach every kind of schedule.
_MAX_ELEMENTS = 20_000


def recorded_cases() -> Iterator[Case]:
    """The cases that are small enough to be recorded."""
    for case in CASES:
        (result,) = graph_of(case).nodes[-1].types
        if max(t.size for t in (*case.types(), result)) <= _MAX_ELEMENTS:
            yield case


def graph_of(case: Case) -> Graph:
    """The case as a program of its own."""
    builder = GraphBuilder(case.name)
    values = [builder.add_input(f"x{k}", "input", t) for k, t in enumerate(case.types())]
    builder.add_output("y", builder.emit(case.op, *values, **case.attrs))
    return builder.finish()


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """Arrays for the case's inputs, the same forever."""
    return {f"x{k}": _array(t, f"{case.name}/{k}", case.special) for k, t in enumerate(case.types())}


def _array(t: TensorType, label: str, special: bool) -> np.ndarray:
    """Three of four elements are small numbers; with ``special`` the fourth is any bit pattern, otherwise they all are."""
    stream = hashlib.shake_256(label.encode()).digest(17 * t.size)
    choice = np.frombuffer(stream[: t.size], np.uint8)
    words, small = (np.frombuffer(stream[t.size * k : t.size * (k + 8)], "<u8") for k in (1, 9))
    dtype = np.dtype(t.dtype)
    if t.dtype == "bool":
        values = choice % 2 == 0
    elif t.dtype in NARROW:
        patterns = words.astype(t.carrier) if NARROW[t.dtype] >= 8 else words.astype(np.uint8) % 2 ** NARROW[t.dtype]
        return from_carrier(patterns.astype(t.carrier).reshape(t.shape), t.dtype)
    else:
        any_pattern = words.astype(f"<u{dtype.itemsize}").view(dtype)
        numbers = small.astype(np.uint16).view(np.int16)
        moderate = numbers.astype(dtype) / dtype.type(2**13) if t.is_float else (numbers % 7).astype(dtype)
        values = np.where((choice % 4 == 0) & special, any_pattern, moderate)
    return np.asarray(values).astype(dtype).reshape(t.shape)


def digests_of(case: Case) -> dict[str, str]:
    """The digests of a case's program and of what the interpreter computes."""
    graph = graph_of(case)
    (output,) = run(graph, inputs_of(case))
    return {"program": serialise.digest(graph), "output": array_digest(output)}


def digests() -> dict[str, dict[str, dict[str, str]]]:
    """Digests by operator and case."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for case in recorded_cases():
        found.setdefault(case.op, {})[case.name] = digests_of(case)
    return found
