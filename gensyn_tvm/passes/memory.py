"""The memory plan: every intermediate array has a fixed place, shared by arrays that are never alive together.

TVM's own plan hands whole allocations on from one array to another, so that a small array may hold a large one.
Outputs are not in it: they live on in the caller's hands. What the preparation leaves behind has an area of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from gensyn_tvm.passes.calls import Array, Calls, View, rounded
from gensyn_tvm.runtime.plan import AREAS, Argument, Plan, Step


@dataclass
class Interval:
    """An array and the calls from ``start`` to ``end``, both included, during which it must keep its bytes."""

    size: int
    start: int
    end: int


def plan_memory(program: Calls, *, parallel: bool, in_place: Mapping[int, int]) -> Plan:
    """A place for every array of a program.

    Args:
        program: its calls in their final order.
        parallel: whether any kernel uses more than one thread.
        in_place: for outputs that may take the memory of an input that input.
    """
    places: dict[int, tuple[str, int]] = {}
    areas = dict.fromkeys(AREAS, 0)
    areas["constants"] = sum(rounded(len(c)) for c in program.constants)
    first = program.prepared
    inner = {id(v.array): v.array for call in program.calls for v in call.written if v.array.kind == "inner"}
    kept = [a for a in inner.values() if a.writer < first and any(r >= first for r in a.readers)]
    for array in kept:
        places[id(array)] = ("prepared", areas["prepared"])
        areas["prepared"] += rounded(array.size)
    rest = [a for a in inner.values() if id(a) not in places]
    for area, arrays in (
        ("scratch", [a for a in rest if a.writer < first]),
        ("workspace", [a for a in rest if a.writer >= first]),
    ):
        offsets = place([Interval(a.size, a.writer, max(a.readers, default=a.writer)) for a in arrays])
        places.update({id(a): (area, o) for a, o in zip(arrays, offsets, strict=True)})
        areas[area] = max((o + rounded(a.size) for a, o in zip(arrays, offsets, strict=True)), default=0)
    return _plan(program, places, areas, parallel, in_place)


def constant_offsets(constants: Sequence[bytes]) -> list[int]:
    """Where each constant lies in their area."""
    return [end - rounded(len(c)) for c, end in zip(constants, accumulate(rounded(len(c)) for c in constants), strict=True)]


def constant_area(constants: Sequence[bytes]) -> bytes:
    """The bytes of their area."""
    return b"".join(c.ljust(rounded(len(c)), b"\0") for c in constants)


def _plan(
    program: Calls, places: Mapping[int, tuple[str, int]], areas: dict[str, int], parallel: bool, in_place: Mapping[int, int]
) -> Plan:
    slots = {"input": 0, "output": len(program.inputs)}
    slots |= {name: len(program.inputs) + len(program.outputs) + k for k, name in enumerate(AREAS)}
    offsets = constant_offsets(program.constants)

    def argument(view: View) -> Argument:
        a: Array = view.array
        if a.kind == "inner":
            area, offset = places[id(a)]
            return Argument(slots[area], offset + view.offset, str(view.type))
        if a.kind == "constant":
            return Argument(slots["constants"], offsets[a.index] + view.offset, str(view.type))
        return Argument(slots[a.kind] + a.index, view.offset, str(view.type))

    steps = tuple(Step(c.kernel, tuple(argument(v) for v in c.arguments), c.writes) for c in program.calls)
    own = [v.array.kind == "output" and v.array.index == k for k, v in enumerate(program.outputs)]
    prepared = program.calls[: program.prepared]
    return Plan(
        inputs=tuple(v.type for v in program.inputs),
        outputs=tuple(v.type for v in program.outputs),
        steps=steps,
        prepare=program.prepared,
        fixed=tuple(sorted({v.array.index for c in prepared for v in c.read if v.array.kind == "input"})),
        copies=tuple((k, argument(v)) for k, v in enumerate(program.outputs) if not own[k]),
        areas=areas,
        parallel=parallel,
        in_place=dict(in_place),
    )


def array_bytes(ty: Any) -> int:
    """Bytes of an array of a static Relax type."""
    return math.prod(int(n) for n in ty.shape) * np.dtype(str(ty.dtype.dtype)).itemsize


def place(intervals: Sequence[Interval]) -> list[int]:
    """An offset for each interval, such that no two that overlap in time overlap in space.

    The largest first, each into the smallest gap that holds it, the lowest of equal ones (Pisarchyk and Lee 2020,
    arXiv:2001.03288, greedy by size).
    """
    sizes = np.array([rounded(i.size) for i in intervals], np.int64)
    starts, ends = (np.array([getattr(i, end) for i in intervals], np.int64) for end in ("start", "end"))
    offsets = np.full(len(intervals), -1, np.int64)
    for k in np.lexsort((np.arange(len(intervals)), starts, -sizes)):
        beside = np.flatnonzero((offsets >= 0) & (starts <= ends[k]) & (starts[k] <= ends))
        beside = beside[np.argsort(offsets[beside], kind="stable")]
        # What is placed up to each array ends where the gap before the next begins.
        reached = np.maximum.accumulate(offsets[beside] + sizes[beside]) if len(beside) else beside
        begins = np.concatenate([np.zeros(1, np.int64), reached])
        gaps = np.concatenate([offsets[beside], [np.iinfo(np.int64).max]]) - begins
        fits = np.flatnonzero(gaps >= sizes[k])
        offsets[k] = begins[fits[np.argmin(gaps[fits])]]
    return [int(o) for o in offsets]
