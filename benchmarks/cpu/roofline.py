"""What this machine could do at most: multiply-adds in registers and copies through memory, from a small program in C.

``python -m benchmarks.cpu.roofline`` prints both for one and for all cores. ``bound`` says how long work takes at least.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gensyn_tvm.runtime.cpu import core_count

#: Independent chains: more than any core's latency times its units, few enough for 32 registers (16 on AVX2).
_CHAINS = {64: 24, 32: 12, 16: 12}
#: Float operations of one call of ``multiply`` are 2 * ROUNDS * chains * lanes.
_ROUNDS = 200_000
_COPIED = 1 << 28
_SECONDS = 0.6

_SOURCE = r"""
#include <string.h>
typedef float vector __attribute__((vector_size(WIDTH)));
/* The result depends on every chain, so that none can be left out. */
float multiply(long rounds, float x, float y) {
    vector acc[CHAINS], a, b;
    for (int i = 0; i < WIDTH / 4; i++) { a[i] = x; b[i] = y; }
    for (int k = 0; k < CHAINS; k++) acc[k] = a * (float)k;
    for (long r = 0; r < rounds; r++) {
        #pragma GCC unroll 32
        for (int k = 0; k < CHAINS; k++) acc[k] = acc[k] * a + b;
    }
    vector sum = acc[0];
    for (int k = 1; k < CHAINS; k++) sum += acc[k];
    return sum[0];
}
void copy(char *to, const char *from, long bytes) { memcpy(to, from, bytes); }
"""


@dataclass(frozen=True)
class Roof:
    """Rates of ``threads`` threads together.

    Attributes:
        flops: float32 operations each second; a multiply-add is two.
        bytes: bytes read plus bytes written each second, of arrays that no cache holds.
    """

    threads: int
    flops: float
    bytes: float


def vector_width(flags: str) -> int:
    """Bytes of the widest vectors among the processor's flags."""
    words = flags.split()
    return 64 if "avx512f" in words else 32 if "avx2" in words else 16


def _library(folder: Path) -> tuple[ctypes.CDLL, int]:
    """The compiled program, and the float operations of one round."""
    width = vector_width(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    source, library = folder / "roof.c", folder / "roof.so"
    source.write_text(_SOURCE, encoding="ascii")
    defines = [f"-DWIDTH={width}", f"-DCHAINS={_CHAINS[width]}"]
    flags = ["-O3", "-march=native", f"-mprefer-vector-width={8 * width}", "-ffp-contract=fast", "-shared", "-fPIC", "-w"]
    subprocess.run([os.environ.get("CC", "gcc"), *flags, *defines, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.multiply.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loaded.multiply.restype = ctypes.c_float
    loaded.copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return loaded, 2 * _CHAINS[width] * width // 4


def _rate(calls: Sequence[Callable[[], object]], amount: float) -> float:
    """The best rate at which all calls together, each in a thread of its own, do ``amount`` apiece."""
    best, begin = 0.0, time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as pool:
        while time.perf_counter() - begin < _SECONDS:
            start = time.perf_counter()
            # ctypes gives up the interpreter's lock during a call.
            for future in [pool.submit(call) for call in calls]:
                future.result()
            best = max(best, len(calls) * amount / (time.perf_counter() - start))
    return best


def measure(threads: int) -> Roof:
    """Rates of so many threads.

    Raises:
        CalledProcessError: the C compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-roof-") as folder:
        library, operations = _library(Path(folder))
        multiply = _rate([lambda: library.multiply(_ROUNDS, 0.5, 0.25)] * threads, float(_ROUNDS * operations))
        size = _COPIED // threads
        arrays = [(np.ones(size, np.uint8), np.ones(size, np.uint8)) for _ in range(threads)]
        copies = [partial(library.copy, to.ctypes.data, source.ctypes.data, size) for to, source in arrays]
        return Roof(threads, multiply, _rate(copies, 2.0 * size))


def bound(roof: Roof, flops: float, moved: float) -> float:
    """The fewest seconds for so many operations and so many bytes that go through memory once."""
    return max(flops / roof.flops, moved / roof.bytes)


def main() -> None:
    """Print the rates of one core and of all."""
    for threads in sorted({1, core_count()}):
        print(json.dumps(asdict(measure(threads))))


if __name__ == "__main__":
    main()
