"""Which parameters are tried for a task. The search is told what does not fit only by leaving it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gensyn_tvm.operators.products import units_per_chunk
from gensyn_tvm.operators.products.matmul import CHUNK
from gensyn_tvm.passes.layout_matmul import Operand
from gensyn_tvm.passes.layout_tasks import Task
from gensyn_tvm.schedules.parameters import (
    LEFT_PANELS,
    ConvolutionParameters,
    MatmulParameters,
    ProductParameters,
    WeightGradientParameters,
)
from gensyn_tvm.targets.cpu import CpuTarget

#: Multiplications up to which it is worth asking whether threads pay.
_LITTLE_WORK = 4_000_000
_NEVER = 2**53
_BLOCKS = (0, 1, 2, 4, 8, 16, 32, 64)
_MOST_ROWS, _MOST_VECTORS = 14, 4


class Trial(Protocol):
    """What is used of ``optuna.Trial``."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A number from low to high."""


def suggest(trial: Trial, task: Task, target: CpuTarget) -> ProductParameters:
    """Valid parameters for a task. A few of them may turn out not to fit its operands; the build then refuses them."""
    return _SPACES[task.op](trial, task, target)


def _tile(trial: Trial, rows: int, columns: int, lanes: int, target: CpuTarget, side: str) -> dict[str, Any]:
    """A register tile that leaves a register for a scalar and those of a row of vectors."""
    most = _MOST_VECTORS if rows > 1 else 2 * _MOST_VECTORS
    most = min(most, math.ceil(columns / lanes), (target.registers - 2) // 2)
    vectors = trial.suggest_int(f"vectors {side}", 1, max(1, most))
    high = max(1, min(rows, _MOST_ROWS, (target.registers - 2 - vectors) // vectors))
    return {"vectors": vectors, "rows": trial.suggest_int(f"rows {side} {vectors}", 1, high)}


def _threads(trial: Trial, work: int) -> dict[str, Any]:
    if work > _LITTLE_WORK:
        return {}
    chosen = trial.suggest_categorical("threads", ("default", "always", "never"))
    return {} if chosen == "default" else {"threads_from": 0 if chosen == "always" else _NEVER}


def _flags(trial: Trial, *names: str) -> dict[str, Any]:
    return {name: trial.suggest_categorical(name, (False, True)) for name in names}


def _matmul(trial: Trial, task: Task, target: CpuTarget) -> MatmulParameters:
    a, b = (Operand(0, o.type, o.axes) for o in task.operands)
    (m, k), n = a.shape[-2:], b.shape[-1]
    lanes = target.lanes(8 * a.type.itemsize)
    leading = max(math.prod(a.shape[:-2]), math.prod(b.shape[:-2]))
    threads = _threads(trial, leading * m * n * k)
    if b.views()[-1][1] == 1 and n % lanes == 0 and trial.suggest_categorical("in_place", (False, True)):
        chunks = _flags(trial, "by_chunks") if leading == 1 and k > CHUNK else {}
        return MatmulParameters(in_place=True, **chunks, **threads)
    transposed = trial.suggest_categorical("transposed", (False, True))
    side = "of columns" if transposed else "of rows"
    rows, columns = (n, m) if transposed else (m, n)
    found: dict[str, Any] = {"transposed": transposed, **threads}
    found |= _tile(trial, rows, columns, lanes, target, side)
    vector = a if transposed else b
    along = vector.matrix(transposed)[1][1] == 1 and not task.operands[0 if transposed else 1].fixed
    if along and columns % (found["vectors"] * lanes) == 0 and trial.suggest_categorical("by_panel", (False, True)):
        return MatmulParameters(by_panel=True, **found)
    found["left_panel"] = rows >= LEFT_PANELS[0] and trial.suggest_categorical("left_panel", (False, True))
    if found["left_panel"]:
        found["rows"] = trial.suggest_categorical("panel rows", [w for w in LEFT_PANELS if w + 2 < target.registers])
        found["vectors"] = min(found["vectors"], max(1, (target.registers - 2) // (found["rows"] + 1)))
    inside = leading > 1 and all(e == 1 for e in vector.shape[:-2])
    if inside:
        found |= _flags(trial, "batch_inside")
    if not found.get("batch_inside") and rows > found["rows"]:
        found["block"] = trial.suggest_categorical("block", _BLOCKS)
    if not found.get("block"):
        found |= _flags(trial, "rows_outside")
    if leading == 1 and k > CHUNK:
        found |= _flags(trial, "by_chunks")
    return MatmulParameters(**found)


def _conv(trial: Trial, task: Task, target: CpuTarget) -> ConvolutionParameters:
    x, w = (o.type for o in task.operands)
    back = task.op == "conv_backward_data"
    groups, window = task.attrs["groups"], math.prod(w.shape[2:])
    outputs, units = (w.shape[1], w.shape[0] // groups) if back else (w.shape[0] // groups, w.shape[1])
    spatial = task.attrs["input_spatial"] if back else task.graph().nodes[-1].types[0].shape[2:]
    places = {"channels": (spatial[-1], outputs), "positions": (outputs, math.prod(spatial)), "lines": (outputs, spatial[-1])}
    if units == outputs == 1 < groups:
        places = {"channels": places["channels"], "depthwise": (math.prod(spatial[:-1]), spatial[-1])}
    layout = trial.suggest_categorical("layout", tuple(places))
    found = _tile(trial, *places[layout], target.lanes(8 * x.itemsize), target, layout)
    found |= _threads(trial, x.shape[0] * math.prod(spatial) * outputs * groups * units * window)
    found |= _flags(trial, "rows_outside")
    if x.shape[0] * groups == 1 and units > units_per_chunk(window):
        found |= _flags(trial, "by_chunks")
    return ConvolutionParameters(layout=layout, **found)


def _weight(trial: Trial, task: Task, target: CpuTarget) -> WeightGradientParameters:
    x, dy = (o.type for o in task.operands)
    groups, window = task.attrs["groups"], task.attrs["kernel"]
    rows, columns = x.shape[1] // groups * math.prod(window), dy.shape[1] // groups
    if columns == 1:  # depthwise: channels in vectors
        rows, columns = math.prod(window), dy.shape[1]
    found = _tile(trial, rows, columns, target.lanes(8 * x.itemsize), target, "")
    return WeightGradientParameters(**found, **_flags(trial, "rows_outside"))


_SPACES: dict[str, Callable[[Trial, Task, CpuTarget], ProductParameters]] = {
    "matmul": _matmul,
    "conv": _conv,
    "conv_backward_data": _conv,
    "conv_backward_weight": _weight,
}
