"""Two steps of training by the interpreter, and arrays with every kind of float in them."""

from __future__ import annotations

from typing import Any

import numpy as np

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.program import Program

#: Zeros of both signs, subnormals, infinities, NaNs with payloads of both signs, the largest and the smallest.
SPECIAL = np.array(
    [0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC01234, 0xFFC00001, 0x7FA00001, 0x7F7FFFFF, 0x00800000], np.uint32
).view(np.float32)


def trained(program: Program, steps: int = 2) -> dict[str, np.ndarray]:
    """The whole state after some steps of SGD with momentum on data from a fixed seed: optimizer state is in it, too."""
    step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.SGD(lr=0.1, momentum=0.9))
    state: dict[str, Any] = {**step.parameters, **step.states, **step.optimizer_state}
    rng = np.random.Generator(np.random.Philox(5))
    batch: dict[str, Any] = {"seed": 0, "learning_rate": np.float32(0.1)}
    for declared in step.graph.inputs:
        if declared.role == "input":
            batch[declared.name] = rng.standard_normal(declared.type.shape).astype(declared.type.dtype)
        elif declared.role == "target":
            batch[declared.name] = rng.integers(0, 3, declared.type.shape)
    for k in range(steps):
        given = {**state, **batch, "step": k}
        results = interpreter.run(step.graph, {i.name: np.asarray(given[i.name]) for i in step.graph.inputs})
        new = {o.name: np.asarray(y) for o, y in zip(step.graph.outputs, results, strict=True) if o.updates}
        state = {**state, **new}
    assert any(not same(state[name], array) for name, array in program.parameters.items())
    return state


def with_specials(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies in which the first elements of each float32 array are the special ones."""
    result = {}
    for name, array in arrays.items():
        changed = np.array(array, order="C", copy=True)
        if array.dtype == np.float32:
            flat = changed.reshape(-1)
            flat[: len(SPECIAL)] = SPECIAL[: len(flat)]
        result[name] = changed
    return result


def same(a: Any, b: Any) -> bool:
    """Whether two arrays have one type and the same bits."""
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def all_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether all arrays have the same names and the same bits."""
    return set(a) == set(b) and all(same(a[name], b[name]) for name in a)
