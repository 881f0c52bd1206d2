"""Options of training steps on one small model, for golden digests of their programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical import serialise
from gensyn_tvm.program import Program
from gensyn_tvm.training import ops
from gensyn_tvm.training.accumulation import accumulated_step
from gensyn_tvm.training.clipping import ClipNorm, ClipValue
from gensyn_tvm.training.emit import Emitter, build_function, op
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.precision import DynamicLossScale, MixedPrecision, StaticLossScale
from gensyn_tvm.training.step import training_step

_NORMS = ("gradient_norm", "parameter_norm")

#: Options of a step by name.
STEP_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen": {"frozen": ("first.*", "norm.shift")},
    "clip norm": {"clip": ClipNorm(0.5), "metrics": _NORMS},
    "clip value": {"clip": ClipValue(0.25)},
    "microbatches": {"microbatches": 3},
    "bfloat16": {"precision": MixedPrecision("bfloat16")},
    "float16 with a static scale": {"precision": MixedPrecision("float16", StaticLossScale(1024.0))},
    "float16 with a dynamic scale": {
        "precision": MixedPrecision("float16", DynamicLossScale(2.0**20, 100, 4.0, 0.25)),
        "metrics": ("loss_scale", "skipped"),
    },
    "everything": {
        "frozen": ("norm.shift",),
        "clip": ClipNorm(0.5),
        "microbatches": 3,
        "precision": MixedPrecision("float16", DynamicLossScale()),
        "metrics": (*_NORMS, "accuracy"),
    },
}


def program() -> Program:
    """Linear, batch normalisation, dropout, linear with rows dropped as a whole: (4, 6) → (4, 5) logits."""
    shapes = {"first.weight": (6, 7), "norm.scale": (7,), "norm.shift": (7,), "last.weight": (7, 5)}
    types = {"x": (4, 6), **shapes, "norm.mean": (7,), "norm.variance": (7,)}
    v = {name: relax.Var(name, relax.TensorType(list(shape), "float32")) for name, shape in types.items()}

    def body(e: Emitter) -> Sequence[Any]:
        h = e(op.matmul(v["x"], v["first.weight"]))
        statistics = v["norm.mean"], v["norm.variance"]
        attributes: dict[str, Any] = {"epsilon": 1e-5, "momentum": 0.1, "unbiased": True, "frozen": False}
        normed = e(ops.batch_norm(h, v["norm.scale"], v["norm.shift"], *statistics, **attributes))
        h, mean, variance = (e(relax.TupleGetItem(normed, k)) for k in range(3))
        h = e(ops.dropout(e(op.nn.relu(h)), p=0.25))
        return [e(ops.dropout(e(op.matmul(h, v["last.weight"])), p=0.5, shared_axes=[1])), mean, variance]

    arrays = {name: np.ones(shape, "float32") for name, shape in types.items()}
    parameters = {name: arrays[name] for name in shapes}
    states = {name: arrays[name] for name in ("norm.mean", "norm.variance")}
    return Program(build_function(list(v.values()), body), ("x",), ("y",), parameters, states, tuple(states))


def step_digests(name: str) -> dict[str, str]:
    """Digests of the programs of a case: ``step``, and with microbatches those of the accumulated step."""
    options = {"optimizer": SGD(0.1, 0.9), **STEP_CASES[name]}
    found = {"step": training_step(program(), **options).digest}
    if "microbatches" in options:
        apart = accumulated_step(program(), **options)
        found |= {part: serialise.digest(getattr(apart, part)) for part in ("gradient", "add", "apply")}
    return found


def digests() -> dict[str, dict[str, str]]:
    """``step_digests`` of every case."""
    return {name: step_digests(name) for name in STEP_CASES}
