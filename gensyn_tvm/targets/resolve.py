"""Targets by name, of processors and GPUs."""

from __future__ import annotations

from gensyn_tvm.errors import TargetError
from gensyn_tvm.targets.cpu import TARGETS, CpuTarget, resolve_target
from gensyn_tvm.targets.gpu.target import CUDA, GpuTarget

Target = CpuTarget | GpuTarget


def resolve(name: str | Target) -> Target:
    """The target called ``name``; ``native`` is the highest level that this machine's processor runs.

    Raises:
        TargetError: no such target, or ``native`` on a machine that none of the targets fits.
    """
    if isinstance(name, GpuTarget):
        return name
    if name == CUDA.name:
        return CUDA
    if isinstance(name, str) and name != "native" and name not in TARGETS:
        raise TargetError(f"unknown target {name!r}; expected native, {', '.join(TARGETS)}, {CUDA.name}")
    return resolve_target(name)
