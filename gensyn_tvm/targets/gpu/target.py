"""What GPU code is generated for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuTarget:
    """A kind of device. The bits of a program do not depend on it, nor on the sizes given here.

    Attributes:
        name: how users write it.
        kind: TVM's code generator and the language of the source, ``cuda`` or ``opencl``.
        threads: threads of a block where a schedule has no reason for another number.
        shared_bytes: shared memory of a block.
    """

    name: str
    kind: str
    threads: int = 256
    shared_bytes: int = 49152

    @property
    def has_fma(self) -> bool:
        """Every GPU has it."""
        return True

    def to_tvm(self) -> Any:
        """The corresponding ``tvm.target.Target``; the architecture is chosen by who compiles the source."""
        from tvm.target import Target

        return Target({"kind": "cuda", "arch": "sm_75"} if self.kind == "cuda" else {"kind": self.kind})


CUDA = GpuTarget("cuda", "cuda")
OPENCL = GpuTarget("opencl", "opencl")
GPU_TARGETS = {t.name: t for t in (CUDA, OPENCL)}
