"""A processor that PoCL's own LLVM does not know.

PoCL 3.0, the one on PyPI, has LLVM 14. A younger processor gets the name ``generic`` from it, which the same LLVM's compiler
then refuses ("unknown target CPU 'generic'", pocl issue 1049), and there is no option for another name. So the name in PoCL's
description of the device is replaced by that of the instruction set that the processor has.
"""

from __future__ import annotations

import bisect
import ctypes
from typing import Any

from gensyn_tvm.runtime.cpu import supported_levels

_UNKNOWN = b"generic"
#: PoCL's description of a device is shorter than this.
_DESCRIPTION_BYTES = 4096
_WORD = 8

#: Names that have been given out must stay where they are.
_NAMES: list[Any] = []


def name_processor(device: Any) -> None:
    """Let PoCL compile for this device, if it has not recognised the processor."""
    if not device.platform.name.startswith("Portable Computing Language") or not device.version.endswith("-generic"):
        return
    level = next((x for x in ("x86-64-v3", "x86-64") if x in supported_levels()), None)
    if level is None:
        return
    readable = _Readable()
    for address in range(device.int_ptr, device.int_ptr + _DESCRIPTION_BYTES, _WORD):
        if not readable.has(address):
            return
        field = ctypes.c_uint64.from_address(address)
        if readable.has(field.value) and ctypes.string_at(field.value, len(_UNKNOWN) + 1) == _UNKNOWN + b"\0":
            name = ctypes.create_string_buffer(level.encode("ascii"))
            _NAMES.append(name)
            field.value = ctypes.addressof(name)
            return


class _Readable:
    """The memory of this process."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            for line in maps:
                limits, rights = line.split()[:2]
                if rights.startswith("r"):
                    start, end = (int(x, 16) for x in limits.split("-"))
                    self._starts.append(start)
                    self._ends.append(end)

    def has(self, address: int) -> bool:
        """Whether a word at an address can be read."""
        k = bisect.bisect_right(self._starts, address) - 1
        return k >= 0 and address + _WORD <= self._ends[k]
