"""What kernels take of a GPU, and how many warps of a multiprocessor that leaves room for: before any GPU is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gensyn_tvm.targets.nvcc import Resources

_WARP = 32
_REGISTERS = 65536
#: Registers are given to a warp in units of this many.
_REGISTER_UNIT = 256


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor (CUDA C++ programming guide, "technical specifications per compute capability").

    Attributes:
        threads, blocks: that are resident at a time.
        shared: bytes of shared memory for all of its blocks.
        reserved: bytes of shared memory that each block costs beside its own.
    """

    threads: int
    blocks: int
    shared: int
    reserved: int


MULTIPROCESSORS: dict[int, Multiprocessor] = {
    75: Multiprocessor(1024, 16, 65536, 0),
    80: Multiprocessor(2048, 32, 167936, 1024),
    86: Multiprocessor(1536, 16, 102400, 1024),
    89: Multiprocessor(1536, 24, 102400, 1024),
    90: Multiprocessor(2048, 32, 233472, 1024),
    100: Multiprocessor(2048, 32, 233472, 1024),
    120: Multiprocessor(1536, 24, 102400, 1024),
}


@dataclass(frozen=True)
class Row:
    """A kernel on an architecture.

    Attributes:
        kernel: its name.
        threads: of a block.
        resources: as the assembler reports them.
        occupancy: resident warps as a part of the most that there can be.
        limit: what holds it there: ``threads``, ``registers``, ``shared memory`` or ``blocks``.
    """

    kernel: str
    threads: int
    resources: Resources
    occupancy: float
    limit: str


def occupancy(resources: Resources, threads: int, architecture: int) -> tuple[float, str]:
    """The part of the warps that can be resident, and what limits it, for blocks of ``threads`` threads."""
    limits = MULTIPROCESSORS[architecture]
    warps = -(-threads // _WARP)
    of_a_warp = -(-resources.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    shared = resources.shared + limits.reserved
    most = {
        "threads": limits.threads // _WARP // warps,
        # A multiprocessor has four parts, among which the warps of a block are dealt.
        "registers": _REGISTERS // 4 // of_a_warp * 4 // warps if of_a_warp else limits.blocks,
        "shared memory": limits.shared // shared if shared else limits.blocks,
        "blocks": limits.blocks,
    }
    limit = min(most, key=lambda name: most[name])
    return most[limit] * warps * _WARP / limits.threads, limit


def report(resources: Mapping[str, Resources], threads: Mapping[str, int], architecture: int) -> list[Row]:
    """All kernels on an architecture: those that spill first, then those with the fewest warps.

    Args:
        resources: by kernel.
        threads: of a block, by kernel.
        architecture: one of ``MULTIPROCESSORS``.
    """
    rows = [Row(k, threads[k], r, *occupancy(r, threads[k], architecture)) for k, r in resources.items()]
    return sorted(rows, key=lambda row: (-row.resources.spill_stores, row.occupancy, row.kernel))


def as_text(rows: list[Row], top: int | None = None) -> str:
    """A table of the first ``top`` rows."""
    lines = [f"{'warps':>6} {'limit':<13} {'threads':>7} {'registers':>9} {'shared':>7} {'spilled':>7}  kernel"]
    for row in rows[:top]:
        r = row.resources
        taken = f"{row.threads:7} {r.registers:9} {r.shared:7} {r.spill_stores:7}"
        lines.append(f"{row.occupancy:6.0%} {row.limit:<13} {taken}  {row.kernel}")
    return "\n".join(lines)
