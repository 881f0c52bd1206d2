"""A program for a GPU: its source, its kernels' launches, and its plan (``gensyn_tvm.runtime.plan``).

Every kernel takes addresses only: those of the arguments of its step, in order. A step begins when the one before it is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from gensyn_tvm.runtime.plan import Plan

#: Of the JSON that ``DeviceProgram.dumps`` gives.
VERSION = 1


@dataclass(frozen=True)
class Launch:
    """How a kernel is started: blocks of the grid, threads of a block, bytes of shared memory (which its source declares)."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int = 0


@dataclass(frozen=True)
class DeviceProgram:
    """A program as source text.

    Attributes:
        kind: language of the source, ``cuda`` or ``opencl``.
        source: one translation unit that needs no header.
        launches: of each kernel, by its name.
        plan: what is launched in which order on which arrays.
        constants: the bytes of the area of constants.
    """

    kind: str
    source: str
    launches: Mapping[str, Launch]
    plan: Plan
    constants: bytes

    def dumps(self) -> str:
        """JSON of everything but the source and the constants."""
        launches = {name: asdict(launch) for name, launch in self.launches.items()}
        values = {"version": VERSION, "kind": self.kind, "launches": launches, "plan": self.plan.dumps()}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def loads(text: str, source: str, constants: bytes) -> DeviceProgram:
        """The inverse of ``dumps``. Raises ValueError, TypeError or KeyError for anything but its result."""
        v = json.loads(text)
        if v["version"] != VERSION:
            raise ValueError(f"version {v['version']} of a program for a GPU, expected {VERSION}")
        launches = {n: Launch(tuple(x["grid"]), tuple(x["block"]), x["shared"]) for n, x in v["launches"].items()}
        return DeviceProgram(v["kind"], source, launches, Plan.loads(v["plan"]), constants)
