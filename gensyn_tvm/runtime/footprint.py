"""What a plan says of memory: its areas, the call at which most of the workspace is in use, and which arrays are in it then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.runtime.plan import Plan, nbytes


@dataclass(frozen=True)
class Resident:
    """An array of the workspace.

    Attributes:
        type: as its writer sees it.
        bytes: its size.
        writer, first: the kernel that writes it, and the number of that call.
        reader, last: the kernel that reads it last, and the number of that call; its writer's if nobody does.
    """

    type: str
    bytes: int
    writer: str
    first: int
    reader: str
    last: int


@dataclass(frozen=True)
class Footprint:
    """Bytes that a program needs.

    Attributes:
        inputs, outputs: of all arrays of the caller.
        in_place: of the outputs that may be written over an input.
        areas: of each area of the plan.
        calls: of a run, the preparation included.
        peak: bytes of the workspace in use at call ``at``, where most of them are; the area has gaps, and may be larger.
        residents: the arrays that are in use at that call, the largest first.
    """

    inputs: int
    outputs: int
    in_place: int
    areas: Mapping[str, int]
    calls: int
    peak: int
    at: int
    residents: tuple[Resident, ...]


def footprint_of(plan: Plan) -> Footprint:
    """The footprint of a plan."""
    arrays = _residents(plan)
    change = np.zeros(len(plan.steps) + 1, np.int64)
    for a in arrays:
        change[a.first] += a.bytes
        change[a.last + 1] -= a.bytes
    used = np.cumsum(change)
    at = int(np.argmax(used))
    alive = sorted((a for a in arrays if a.first <= at <= a.last), key=lambda a: (-a.bytes, a.first))
    sizes = [nbytes(t) for t in plan.outputs]
    return Footprint(
        inputs=sum(map(nbytes, plan.inputs)),
        outputs=sum(sizes),
        in_place=sum(sizes[k] for k in plan.in_place),
        areas=dict(plan.areas),
        calls=len(plan.steps),
        peak=int(used[at]),
        at=at,
        residents=tuple(alive),
    )


def _residents(plan: Plan) -> list[Resident]:
    """All arrays of the workspace; what is written where another was is another."""
    workspace = plan.area("workspace")
    last: list[int] = []
    written: list[tuple[str, int]] = []
    current: dict[int, int] = {}
    for k, step in enumerate(plan.steps):
        reads = len(step.arguments) - step.writes
        for place, a in enumerate(step.arguments):
            if a.slot != workspace:
                continue
            if place < reads:
                last[_at(current, a.offset)] = k
            else:
                for begin in [o for o in current if a.offset <= o < a.offset + _bytes(a.type)]:
                    del current[begin]
                current[a.offset] = len(last)
                written.append((a.type, k))
                last.append(k)
    for _, a in plan.copies:  # made when all calls are over
        if a.slot == workspace:
            last[_at(current, a.offset)] = len(plan.steps) - 1
    kernels = [s.kernel for s in plan.steps]
    return [Resident(t, _bytes(t), kernels[k], k, kernels[r], r) for (t, k), r in zip(written, last, strict=True)]


def _at(current: Mapping[int, int], offset: int) -> int:
    """The array that holds a byte, of arrays by their first one: a call may read a part of an array."""
    return current[max(o for o in current if o <= offset)]


def _bytes(text: str) -> int:
    """Of a type such as ``float32[2, 3]``."""
    dtype, _, shape = text.rstrip("]").partition("[")
    return math.prod(int(n) for n in shape.split(",") if n) * np.dtype(dtype).itemsize


def as_text(footprint: Footprint, top: int = 20) -> str:
    """A table in MiB: the caller's arrays, the areas, and the residents at the peak."""
    f = footprint
    lines = [
        f"{'MiB':>10}",
        f"{_mib(f.inputs)}  inputs and state",
        f"{_mib(f.outputs)}  outputs and next state; in exe.start() {_mib(f.in_place).strip()} of them over what they replace",
    ]
    lines += [f"{_mib(size)}  {area}" for area, size in f.areas.items() if size]
    lines.append(
        f"{_mib(f.peak)}  of the workspace in use at call {f.at} of {f.calls}, the most, by {len(f.residents)} arrays:"
    )
    lines += [
        f"{_mib(r.bytes)}  {r.type}  from call {r.first} ({r.writer}) to {r.last} ({r.reader})" for r in f.residents[:top]
    ]
    rest = f.residents[top:]
    if rest:
        lines.append(f"{_mib(sum(r.bytes for r in rest))}  {len(rest)} more")
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:10.3f}"
