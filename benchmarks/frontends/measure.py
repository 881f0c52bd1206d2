"""The row of one model: import, comparison in inference, ten steps of training, bits on three targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

import gensyn_tvm
from benchmarks.frontends.rows import Row
from benchmarks.frontends.subject import STEPS, Subject
from gensyn_tvm.compiler import compile
from gensyn_tvm.conversion.verify import difference
from gensyn_tvm.training.losses import MeanSquaredError

TARGETS = ("x86-64", "x86-64-v3", "x86-64-v4")
#: Of inference, relative to the largest magnitude of an output; of the losses, relative where they are above 1.
TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-3


def measure(row: Row, found: dict[str, Any]) -> None:
    """Put the columns of a row into ``found``, one after another, so that those before an exception are there.

    Raises:
        Exception: whatever the framework or the importer raises.
    """
    start = time.monotonic()
    subject: Subject = import_module(f"benchmarks.frontends.{row.module}").subject(row.model, row.source)
    found |= {"imported": True, "parameters": sum(a.size for a in subject.program.parameters.values())}
    wanted = [np.asarray(y) for y in subject.reference()]
    found |= _compared(_outputs(subject, TARGETS[1]), wanted)
    target = np.random.default_rng(1).standard_normal(wanted[0].shape).astype(wanted[0].dtype)
    optimizer = gensyn_tvm.SGD(lr=subject.learning_rate)
    step = gensyn_tvm.training_step(subject.program, loss=MeanSquaredError(output=0), optimizer=optimizer, metrics=())
    trained = {name: _trained(step, subject, target, name) for name in TARGETS}
    found |= _judged(trained[TARGETS[0]][0], subject, target)
    found["equal_bits"] = len({digest for _, digest in trained.values()}) == 1
    found["seconds"] = round(time.monotonic() - start, 1)


def _outputs(subject: Subject, target: str) -> list[np.ndarray]:
    exe = compile(subject.program, target)
    result = exe(**dict(zip(subject.program.inputs, subject.inputs, strict=True)))
    return [np.asarray(y) for y in (result if isinstance(result, list) else [result])]


def _compared(found: list[np.ndarray], wanted: list[np.ndarray]) -> dict[str, Any]:
    if len(found) != len(wanted):
        return {"max_difference": None, "reason": f"{len(found)} outputs; the framework has {len(wanted)}"}
    largest = max(difference(y, w) for y, w in zip(found, wanted, strict=True))
    return {"max_difference": largest if np.isfinite(largest) else None, "tolerance": TOLERANCE}


def _trained(step: Any, subject: Subject, target: np.ndarray, name: str) -> tuple[list[float], str]:
    """The losses before each step and the digest of all state after the last."""
    exe = compile(step, name)
    state, losses = exe.init(seed=0), []
    batch = {**dict(zip(subject.program.inputs, subject.inputs, strict=True)), "target": target}
    for _ in range(STEPS):
        state, metrics = exe(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, state.digest()


def _judged(losses: list[float], subject: Subject, target: np.ndarray) -> dict[str, Any]:
    """Whether training went well, and how far it is from the framework's."""
    found: dict[str, Any] = {"learning_rate": subject.learning_rate, "losses": [losses[0], losses[-1]]}
    found["trained"] = bool(np.isfinite(losses).all()) and losses[-1] <= losses[0]
    if subject.train is not None:
        found["loss_difference"] = _drift(losses, subject.train(target, subject.learning_rate))
        found["loss_tolerance"] = LOSS_TOLERANCE
    return found


def _drift(found: Sequence[float], wanted: Sequence[float]) -> float:
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, wanted, strict=True))
