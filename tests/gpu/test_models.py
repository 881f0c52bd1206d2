"""Whole training steps with the GPU's schedules, executed as OpenCL on PoCL: the digests of every other target (golden)."""

from __future__ import annotations

import json
from pathlib import Path

import gensyn_tvm
from gensyn_tvm.canonical import rules
from gensyn_tvm.demo.data import load_digits
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.demo.run import INTERPRETED_STEPS, first_steps
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.opencl import OpenClExecutable
from gensyn_tvm.targets.gpu import OPENCL

_GOLDEN = Path(__file__).parents[1] / "golden" / rules.NUMERICS_VERSION / "training.json"


def test_training_steps_have_the_golden_digest() -> None:
    """The smaller model; ``make gpu-rehearsal`` has many more."""
    (model,) = (m for m in MODELS if m.name == "MLP")
    step = gensyn_tvm.training_step(model.load(64), loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=model.learning_rate))
    executable = OpenClExecutable(step.graph, device_program(step.graph, OPENCL))
    state = first_steps(model, step, load_digits(), executable.run_named)
    golden = json.loads(_GOLDEN.read_text(encoding="utf-8"))
    assert state.digest() == golden["states"][model.name][str(INTERPRETED_STEPS)]
