"""Record golden digests of the current numerics version: ``python scripts/record_golden.py``.

tests/golden/<version>/ holds training.json (programs, and states after training steps), operators.json (each operator's test
cases), optimizers.json (updates), losses.json and steps.json (programs) and manifest.json (the SHA-256 of the others). New
entries are added. An entry that has changed is refused: changed bits are a new version of docs/numerics.md. Only versions
0.x, which are not final, are replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["GENSYN_TVM_CACHE"] = "off"

import gensyn_tvm  # noqa: E402
from gensyn_tvm.canonical import rules  # noqa: E402
from gensyn_tvm.demo.data import load_digits  # noqa: E402
from gensyn_tvm.demo.models import MODELS  # noqa: E402
from gensyn_tvm.demo.run import COMPARED_STEPS, INTERPRETED_STEPS, advance, steps_of  # noqa: E402
from tests.operators import golden  # noqa: E402
from tests.training import loss_cases, optimizer_cases, step_cases  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"


def training() -> dict[str, Any]:
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
    return {"programs": programs, "states": states}


def merged(old: Any, new: Any, place: str = "") -> tuple[Any, list[str]]:
    """The old entries with the new ones added, and the places where they contradict each other."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return old, [place] if old != new else []
    result, changed = dict(old), []
    for key, value in new.items():
        if key in old:
            result[key], below = merged(old[key], value, f"{place}/{key}")
            changed += below
        else:
            result[key] = value
    return result, changed


def as_text(data: Any) -> str:
    """How a golden file is written."""
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def record(version: str, fresh: dict[str, Any], folder: Path) -> None:
    """Write the files of a version and its manifest.

    Raises:
        SystemExit: a final version's entries have changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    for name, data in fresh.items():
        path = folder / name
        if path.exists() and not version.startswith("0."):
            data, changed = merged(json.loads(path.read_text(encoding="utf-8")), data)
            if changed:
                places = ", ".join(changed[:8])
                sys.exit(
                    f"{name}: {len(changed)} digests of version {version} have changed ({places}); this needs a new version"
                )
        texts[name] = as_text(data)
    texts["manifest.json"] = as_text({name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    files = {
        "losses.json": loss_cases.digests(),
        "operators.json": golden.digests(),
        "optimizers.json": optimizer_cases.digests(),
        "steps.json": step_cases.digests(),
        "training.json": training(),
    }
    record(rules.NUMERICS_VERSION, files, GOLDEN / rules.NUMERICS_VERSION)
