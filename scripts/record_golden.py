"""Record tests/golden/training.json. Only for a new numerics version: a changed digest is a changed product."""

from __future__ import annotations

import json
from pathlib import Path

import gensyn_tvm
from gensyn_tvm.canonical import rules
from gensyn_tvm.demo.data import load_digits
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.demo.run import COMPARED_STEPS, INTERPRETED_STEPS, advance, steps_of

PATH = Path(__file__).resolve().parent.parent / "tests" / "golden" / "training.json"


def record() -> dict[str, object]:
    """Program and state digests of the demonstration's models on the native target."""
    programs: dict[str, str] = {}
    states: dict[str, dict[str, str]] = {}
    for model in MODELS:
        step = gensyn_tvm.training_step(
            model.load(64), loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=model.learning_rate)
        )
        programs[model.name] = step.digest
        exe = gensyn_tvm.compile(step)
        states[model.name] = {}
        for count in (INTERPRETED_STEPS, COMPARED_STEPS):
            state, _, _ = advance(exe, exe.init(seed=0), steps_of(model, load_digits(), count))
            states[model.name][str(count)] = state.digest()
    return {"numerics": rules.NUMERICS_VERSION, "programs": programs, "states": states}


if __name__ == "__main__":
    PATH.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
