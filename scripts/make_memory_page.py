"""Write docs/memory.md from benchmarks/results/memory.json: ``python scripts/make_memory_page.py [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Script and package are run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from benchmarks.memory import MODELS, RESULT  # noqa: E402
from scripts.generated_page import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "memory.md"

HEAD = """# Memory

## What a training step takes

Most resident memory (MiB) of a process that makes a model and takes three steps of AdamW in float32 on two threads, above what
it had after its imports and a step of a network of two by two: parameters, optimizer state, gradients, activations and what the
libraries allocate for them. *gensyn_tvm* loads a `.gtvm` file and starts it with `exe.start(release=True)`; *PyTorch* runs the
module with `torch.optim.AdamW`; *with import*: ours from the module in one process, import and differentiation included, the
library from the build cache. Ratios are to PyTorch: below 1 we need less. *Workspace* and *state* are the plan's; of the state
the part *in place* has one copy, the rest two. `make memory` measures, `python scripts/make_memory_page.py` writes this page.

| model | batch | gensyn_tvm | PyTorch | ratio | with import | ratio | workspace | state | in place |
|---|---|---|---|---|---|---|---|---|---|
"""

TAIL = """
## What is done about it

- Every intermediate array has a fixed place in one workspace, shared by arrays that are never alive together
  (`passes/memory.py`).
- Kernels run in an order with a smaller peak where one is found: an update runs where its gradient is known
  (`passes/reorder.py`).
- `exe.start()` writes the next state over the old one where the kernels allow it (`passes/in_place.py`). With `release=True` it
  takes over the executable's own state, array by array. Arrays that somebody else holds stay as they are; `exe.init()` is
  refused from then on, and `exe.save` needs `state=run.state`. `Trainer.fit(…, release=True)` and `gensyn-tvm train` do so.
- Files are read array by array, straight into the memory that kernels use (`runtime/arrays.py`).
- What the gradients can derive by cheap arithmetic from values that are kept anyway is computed again in their kernels
  (`passes/rederive.py`).
- `training_step(…, checkpoint=…)` computes activations again instead of keeping them ([training.md](training.md)).

None of this changes bits.

## What a program needs

`gensyn-tvm inspect MODEL --memory` compiles a program and lists, in MiB, its inputs and outputs, the areas of its plan, and the
arrays of the workspace that are alive at the call where most of it is in use: the type of each, the kernel that writes it and
the one that reads it last. In Python, `exe.footprint()`.
"""


def _row(r: dict[str, Any]) -> str:
    plan = r["plan"]
    cells = [r["model"], r["batch"], r["gensyn_tvm"]["peak MiB"], r["torch"]["peak MiB"], f"{r['ratio']:.2f}"]
    cells += [r["with import"]["peak MiB"], f"{r['ratio with import']:.2f}"]
    cells += [round(plan[f"{key} MiB"]) for key in ("workspace", "state", "state in place")]
    return f"| {' | '.join(map(str, cells))} |"


def page() -> str:
    """The page, from the committed result file."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))
    missing = [m for m in MODELS if m not in {r["model"] for r in rows}]
    note = f"\nNot measured yet: {', '.join(missing)}.\n" if missing else ""
    return HEAD + "\n".join(map(_row, rows)) + "\n" + note + TAIL


def main() -> None:
    """Write or check the page."""
    write_or_check(__doc__, PAGE, page())


if __name__ == "__main__":
    main()
