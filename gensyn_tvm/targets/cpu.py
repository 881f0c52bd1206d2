"""CPU targets: instruction-set levels through LLVM, and the slow oracle through C and gcc."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gensyn_tvm.errors import TargetError
from gensyn_tvm.runtime.cpu import COMMON_WAYS, first_level_ways, processor_maker, supported_levels


@dataclass(frozen=True)
class CpuTarget:
    """What code is generated for. The bits of a program do not depend on it; its speed does.

    Attributes:
        name: how users write it.
        kind: TVM's code generator, ``llvm`` or ``c``.
        cpu: LLVM's name of the processor, empty for ``c``.
        has_fma: whether fma is an instruction.
        vector_bits: width of a vector register in bits; 0: scalar code only.
        registers: number of vector registers.
        maker: of the processor whose tuned records are used, ``intel`` or ``amd``; empty if any processor may run the code.
        ways: of the first-level data cache.
    """

    name: str
    kind: str
    cpu: str
    has_fma: bool
    vector_bits: int
    registers: int
    maker: str = ""
    ways: int = COMMON_WAYS

    def to_tvm(self) -> Any:
        """The corresponding ``tvm.target.Target``."""
        from tvm.target import Target

        return Target("c") if self.kind == "c" else Target({"kind": "llvm", "mcpu": self.cpu})

    def lanes(self, element_bits: int = 32) -> int:
        """Elements in a vector register."""
        return max(1, self.vector_bits // element_bits)


TARGETS: dict[str, CpuTarget] = {
    "x86-64": CpuTarget("x86-64", "llvm", "x86-64", False, 128, 16),
    "x86-64-v3": CpuTarget("x86-64-v3", "llvm", "x86-64-v3", True, 256, 16),
    "x86-64-v4": CpuTarget("x86-64-v4", "llvm", "x86-64-v4", True, 512, 32),
    "c": CpuTarget("c", "c", "", False, 0, 0),
}

#: The levels from the widest to the narrowest.
LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64")


def resolve_target(name: str | CpuTarget) -> CpuTarget:
    """The target called ``name``; ``native`` is the highest level that this machine runs, with what is
    known of its processor.

    Raises:
        TargetError: no such target, or ``native`` on a machine that none of the targets fits.
    """
    if isinstance(name, CpuTarget):
        return name
    if name == "native":
        supported = supported_levels()
        for level in LEVELS:
            if level in supported:
                return replace(TARGETS[level], maker=processor_maker(), ways=first_level_ways())
        raise TargetError("no native target for this machine: it is not an x86-64 processor; use target='c'")
    if name not in TARGETS:
        raise TargetError(f"unknown target {name!r}; expected native, {', '.join(TARGETS)}")
    return TARGETS[name]
