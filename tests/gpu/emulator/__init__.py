"""A driver without a GPU: what runs is the CUDA source itself, compiled by g++, in blocks and threads with their barriers.

So everything is rehearsed that needs no device: the text of the kernels, launches, addresses, memory, the order of the calls.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

HERE = Path(__file__).resolve().parent
_KERNEL = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\([^;{]*\) \{(.*?)^\}', re.MULTILINE | re.DOTALL
)
_WAITS = re.compile(r"__sync|__shfl")
#: Contraction off; fma as an instruction where there is one. Wrapping integers and bit casts as CUDA has them. A vector that is
#: not at a multiple of its size ends the process, as it would end a kernel.
_FLAGS = [
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-w",
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fsanitize=alignment",
    "-fsanitize-undefined-trap-on-error",
    "-O1",
    "-march=native",
]


def compiled(source: str, path: Path) -> Path:
    """A shared object from C++."""
    done = subprocess.run(
        ["g++", *_FLAGS, "-x", "c++", "-", "-o", str(path), "-ldl"], input=source.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[:2000]
    return path


@cache
def driver() -> str:
    """Path of the emulated ``libcuda.so.1``."""
    return str(compiled((HERE / "driver.cpp").read_text(encoding="ascii"), Path(mkdtemp(prefix="emulator-")) / "libcuda.so.1"))


def image_name(fatbin: bytes) -> str:
    """The name under which the emulated driver looks for the kernels of a fat binary."""
    size = int.from_bytes(fatbin[6:8], "little") + int.from_bytes(fatbin[8:16], "little")
    value = 0xCBF29CE484222325
    for (word,) in struct.iter_unpack("<Q", fatbin[: size // 8 * 8]):
        value = (value ^ word) * 0x100000001B3 % 2**64
    return f"{value:016x}.so"


def add_kernels(folder: Path, source: str, fatbin: bytes) -> None:
    """Let the emulated driver execute the kernels of a program, given ``EMULATED_KERNELS=folder``."""
    compiled("\n".join([f'#include "{HERE / "device.h"}"', source, *_entries(source)]), folder / image_name(fatbin))


def _entries(source: str) -> Iterable[str]:
    for name, body in _KERNEL.findall(source):
        waits = "true" if _WAITS.search(body) else "false"
        yield (
            f'extern "C" void emulated_{name}(void** values, Dim grid, Dim block) '
            f"{{ emulator::launch({name}, values, {waits}, grid, block); }}"
        )
