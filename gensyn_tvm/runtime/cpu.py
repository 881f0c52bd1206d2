"""What the processor of this machine can execute."""

from __future__ import annotations

import os
import platform
from pathlib import Path

#: Flags (in /proc/cpuinfo's spelling) that a processor needs for each level of the x86-64 psABI, beyond the level before.
X86_64_LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset({"cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2"}),
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}),
}
#: The levels that are targets of the compiler.
TARGET_LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
#: Makers of processors by what ``vendor_id`` calls them.
_MAKERS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
#: Lines of a first-level cache that addresses a page apart may share, on most processors.
COMMON_WAYS = 8


def cpu_features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Feature flags that every core has, as Linux spells them (``flags`` on x86-64, ``Features`` on AArch64).

    Empty if the system does not tell, so that code which needs a feature is refused rather than tried.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    cores = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in ("flags", "Features"):
            cores.append(frozenset(value.split()))
    return frozenset.intersection(*cores) if cores else frozenset()


def supported_levels(features: frozenset[str] | None = None, machine: str | None = None) -> tuple[str, ...]:
    """The x86-64 targets whose code this processor runs, weakest first; empty on another architecture.

    Args:
        features: flags as from ``cpu_features``; this machine's if None.
        machine: architecture as from ``platform.machine``; this machine's if None.
    """
    if (platform.machine() if machine is None else machine) not in ("x86_64", "AMD64"):
        return ()
    flags = cpu_features() if features is None else features
    levels = []
    for level, needed in X86_64_LEVELS.items():
        # The base level is what any x86-64 processor has; the operating system need not tell.
        if level != "x86-64" and not needed <= flags:
            break
        levels.append(level)
    return tuple(level for level in levels if level in TARGET_LEVELS)


def required_features(level: str) -> frozenset[str]:
    """All flags that code for ``level`` needs; KeyError for an unknown level."""
    names = list(X86_64_LEVELS)
    if level not in X86_64_LEVELS:
        raise KeyError(level)
    return frozenset().union(*(X86_64_LEVELS[name] for name in names[1 : names.index(level) + 1]))


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself, with family and model where the system tells; else the architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in reversed([line.partition(":") for line in lines])}
    numbers = [f"{name} {found[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in found]
    return " ".join([found.get("model name", platform.machine()), *numbers])


def processor_maker(cpuinfo: Path = _CPUINFO) -> str:
    """Who made the processor, ``intel`` or ``amd``; empty for others, and where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "vendor_id"]
    return _MAKERS.get(found[0], "") if found else ""


def first_level_ways(caches: Path = _CACHES) -> int:
    """Ways of the first-level data cache: so many lines a page apart fit; ``COMMON_WAYS`` where the system does not tell."""
    for index in sorted(caches.glob("index*")):
        try:
            level, kind = ((index / name).read_text(encoding="ascii").strip() for name in ("level", "type"))
            if (level, kind) == ("1", "Data"):
                return max(1, int((index / "ways_of_associativity").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return COMMON_WAYS


def core_count() -> int:
    """Number of logical cores that this process may use (its affinity mask where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
