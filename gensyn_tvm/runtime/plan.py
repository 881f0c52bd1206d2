"""What a compiled library needs beside its code: which array lies where, in which order its kernels run, and its constants.

A library is an ordinary shared object, after whose end the constants and the plan follow; the loader of the operating system
does not look there. The constants are in the file rather than rebuilt from the graph, because the compiler's choice of layouts
makes other constants than those of the graph.

The code reads addresses from a table of 64-bit integers with a slot for each input, each output, and each area of memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from gensyn_tvm.canonical.types import TensorType

#: Bytes; every array that is made here stands at a multiple (TVM's ``kAllocAlignment``).
ALIGNMENT = 64
#: Bytes at whose multiples kernels accept arrays: NumPy's are there, so that inputs are read where they are.
ACCEPTED = 16
#: Of the conventions between code and runtime.
VERSION = 3
#: Areas of memory, in the order of their slots behind those of inputs and outputs: constants of the program, arrays that
#: depend on parameters and constants only, intermediate arrays of a run, and intermediate arrays of the preparation.
AREAS = ("constants", "prepared", "workspace", "scratch")

# fenv_t is 32 bytes on x86-64 glibc, 8 on AArch64, 4 on RISC-V; larger than any of them does no harm.
_ENVIRONMENT_WORDS = 32

_MAGIC = b"gensyn_tvm plan\0"
_FOOTER = struct.Struct("<QQ16s")  # bytes of the constants, bytes of the plan


@dataclass(frozen=True)
class Argument:
    """An array of a call: ``offset`` bytes behind the address in a ``slot`` of the table, and its type as text."""

    slot: int
    offset: int
    type: str


@dataclass(frozen=True)
class Step:
    """The call of a kernel, whose last ``writes`` arguments are its results."""

    kernel: str
    arguments: tuple[Argument, ...]
    writes: int


@dataclass(frozen=True)
class Plan:
    """How a library runs.

    Attributes:
        inputs, outputs: carried types; outputs are followed by the extents of outputs that have some.
        steps: all calls in order; the first ``prepare`` of them depend on ``fixed`` inputs and constants only.
        prepare: number of steps of the preparation.
        fixed: inputs that are read by the preparation.
        copies: outputs without a kernel of their own, and the place whose bytes they are.
        areas: bytes of each of ``AREAS``.
        parallel: whether any kernel uses more than one thread.
        in_place: outputs that may take the memory of an input, all of them or none: their kernels read and overwrite it.
        warnings: what the user should hear about the program whenever it is compiled.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    steps: tuple[Step, ...]
    prepare: int
    fixed: tuple[int, ...]
    copies: tuple[tuple[int, Argument], ...]
    areas: Mapping[str, int]
    parallel: bool
    in_place: Mapping[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        """Length of the table."""
        return self.environment + _ENVIRONMENT_WORDS

    @property
    def status(self) -> int:
        """The slot in which the code says how it went: 0 for well."""
        return len(self.inputs) + len(self.outputs) + len(AREAS)

    @property
    def environment(self) -> int:
        """The slots in which the code keeps the floating-point environment of its caller."""
        return self.status + 1

    def area(self, name: str) -> int:
        """The slot of an area."""
        return len(self.inputs) + len(self.outputs) + AREAS.index(name)

    def dumps(self) -> str:
        """JSON; inverse of ``loads``."""
        values = {**asdict(self), "inputs": [*map(_typed, self.inputs)], "outputs": [*map(_typed, self.outputs)]}
        values["steps"] = [[s.kernel, s.writes, [[a.slot, a.offset, a.type] for a in s.arguments]] for s in self.steps]
        values["copies"] = [[k, a.slot, a.offset, a.type] for k, a in self.copies]
        return json.dumps({"version": VERSION, **values}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def loads(text: str) -> Plan:
        """Raises ValueError, TypeError or KeyError for anything but the result of ``dumps`` of this version."""
        v = json.loads(text)
        if v["version"] != VERSION:
            raise ValueError(f"version {v['version']}, expected {VERSION}")
        return Plan(
            inputs=tuple(TensorType(tuple(shape), dtype) for dtype, *shape in v["inputs"]),
            outputs=tuple(TensorType(tuple(shape), dtype) for dtype, *shape in v["outputs"]),
            steps=tuple(Step(name, tuple(Argument(*a) for a in args), writes) for name, writes, args in v["steps"]),
            prepare=v["prepare"],
            fixed=tuple(v["fixed"]),
            copies=tuple((k, Argument(*rest)) for k, *rest in v["copies"]),
            areas=v["areas"],
            parallel=v["parallel"],
            in_place={int(k): i for k, i in v["in_place"].items()},
            warnings=tuple(v["warnings"]),
        )


def _typed(t: TensorType) -> list[object]:
    return [t.dtype, *t.shape]


def nbytes(t: TensorType) -> int:
    """Bytes of an array of a carried type."""
    return t.size * np.dtype(t.dtype).itemsize


def join(code: bytes, constants: bytes, text: str, magic: bytes = _MAGIC) -> bytes:
    """A library: code, constants, and ASCII text that says what both are."""
    data = text.encode("ascii")
    return b"".join([code, constants, data, _FOOTER.pack(len(constants), len(data), magic)])


def split(library: bytes, magic: bytes = _MAGIC) -> tuple[memoryview, memoryview, str]:
    """The inverse of ``join``. Raises ValueError or ``struct.error`` for anything but its result."""
    constants, text, found = _FOOTER.unpack(library[-_FOOTER.size :])
    end = len(library) - _FOOTER.size
    if found != magic or constants + text > end:
        raise ValueError("no plan behind its code")
    view = memoryview(library)
    first, last = end - text - constants, end - text
    return view[:first], view[first:last], bytes(view[last:end]).decode("ascii")


def pack(code: bytes, plan: Plan, constants: bytes) -> bytes:
    """The library: code, constants, plan."""
    return join(code, constants, plan.dumps())


def unpack(library: bytes) -> tuple[memoryview, Plan, memoryview]:
    """Code, plan and constants of a library.

    Raises:
        ValueError: it was made by another version, or is no library.
    """
    try:
        code, constants, text = split(library)
        return code, Plan.loads(text), constants
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(f"no plan of version {VERSION} ({error})") from error
