"""The floating-point environment of the calling thread: probe it, set the IEEE-754 default, put it back.

Any library in the process may leave flush-to-zero, denormals-are-zero or another rounding mode behind (MXCSR on x86-64,
FPCR on AArch64), which changes bits silently. A run happens inside ``ieee754_environment``. The environment belongs to a
thread; a thread that is started inside the guard inherits the default from its parent.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from gensyn_tvm.errors import EnvironmentChangedError, describe

# fenv_t is 32 bytes on x86-64 glibc, 8 on AArch64, 4 on RISC-V; larger than any of them does no harm.
_FENV_BYTES = 256
# glibc and musl define FE_DFL_ENV as this pointer, which fesetenv recognises.
_FE_DFL_ENV = ctypes.c_void_p(-1)

# Each row is ``x op y`` and the one right result, as bits. Half-way cases and cases just above them tell the four rounding
# modes apart; a subnormal operand shows denormals-are-zero, a subnormal result flush-to-zero.
_PRODUCTS32 = np.array(
    [
        [0x00000001, 0x3F800000, 0x00000001],  # 2^-149 * 1: subnormal in and out
        [0x00000001, 0x4B000000, 0x00800000],  # 2^-149 * 2^23 = 2^-126: subnormal in only
        [0x00800000, 0x3F000000, 0x00400000],  # 2^-126 * 0.5: subnormal out only
        [0x80800000, 0x3F000000, 0x80400000],
    ],
    dtype=np.uint32,
)
_SUMS32 = np.array(
    [
        [0x3F800000, 0x33000000, 0x3F800000],  # 1 + 2^-25: below half an ulp, stays
        [0x3F800000, 0x33800000, 0x3F800000],  # 1 + 2^-24: a tie, to even
        [0x3F800000, 0x33C00000, 0x3F800001],  # 1 + 1.5 * 2^-24: above half, goes up
        [0xBF800000, 0xB3000000, 0xBF800000],
        [0xBF800000, 0xB3C00000, 0xBF800001],
    ],
    dtype=np.uint32,
)
_PRODUCTS64 = np.array(
    [
        [0x0000000000000001, 0x3FF0000000000000, 0x0000000000000001],
        [0x0000000000000001, 0x4330000000000000, 0x0010000000000000],
        [0x0010000000000000, 0x3FE0000000000000, 0x0008000000000000],
    ],
    dtype=np.uint64,
)
_SUMS64 = np.array(
    [
        [0x3FF0000000000000, 0x3C90000000000000, 0x3FF0000000000000],  # 1 + 2^-54
        [0x3FF0000000000000, 0x3CA8000000000000, 0x3FF0000000000001],  # 1 + 1.5 * 2^-53
        [0xBFF0000000000000, 0xBC90000000000000, 0xBFF0000000000000],
        [0xBFF0000000000000, 0xBCA8000000000000, 0xBFF0000000000001],
    ],
    dtype=np.uint64,
)


@cache
def _libm() -> ctypes.PyDLL:
    # The interpreter itself links the mathematical library, so its symbols are in the process. PyDLL keeps the GIL: these
    # calls take nanoseconds.
    library = ctypes.PyDLL(None)
    try:
        for name in ("fegetenv", "fesetenv"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_int
    except AttributeError as error:
        raise EnvironmentChangedError(
            describe(
                "the floating-point environment cannot be controlled on this system",
                found=str(error),
                expected="a C library with fegetenv and fesetenv",
                remedy="run on Linux with glibc or musl",
            )
        ) from error
    return library


def _wrong(table: np.ndarray, operation: np.ufunc, float_dtype: type) -> bool:
    columns = np.ascontiguousarray(table.T)
    results: np.ndarray = operation(columns[0].view(float_dtype), columns[1].view(float_dtype))
    return bool(np.any(results.view(table.dtype) != columns[2]))


def is_default() -> bool:
    """Whether arithmetic in the calling thread rounds to nearest even and keeps subnormals, as operands and as results.

    The arithmetic is really done, in float32 and float64, by NumPy's compiled loops.
    """
    with np.errstate(all="ignore"):
        return not (
            _wrong(_PRODUCTS32, np.multiply, np.float32)
            or _wrong(_SUMS32, np.add, np.float32)
            or _wrong(_PRODUCTS64, np.multiply, np.float64)
            or _wrong(_SUMS64, np.add, np.float64)
        )


@contextmanager
def ieee754_environment() -> Iterator[None]:
    """Run the body in the default floating-point environment of the calling thread, then restore the whole old one.

    The default: round to nearest even, no flush-to-zero, no denormals-are-zero, all exceptions masked. May be nested. The
    old environment, status flags included, is restored however the body ends.

    Raises:
        EnvironmentChangedError: the environment cannot be saved, set or restored here.
    """
    libm = _libm()
    saved = (ctypes.c_uint8 * _FENV_BYTES)()
    if libm.fegetenv(ctypes.byref(saved)) != 0:
        raise EnvironmentChangedError("the C library could not read the floating-point environment (fegetenv failed)")
    try:
        if libm.fesetenv(_FE_DFL_ENV) != 0 or not is_default():
            raise EnvironmentChangedError(
                describe(
                    "the floating-point environment of this thread cannot be set to the IEEE-754 default",
                    found="arithmetic that flushes subnormals or does not round to nearest even",
                    expected="the default environment after fesetenv(FE_DFL_ENV)",
                    remedy="run `gensyn-tvm doctor`; look for a library that forces flush-to-zero in this process",
                )
            )
        yield
    finally:
        if libm.fesetenv(ctypes.byref(saved)) != 0:
            raise EnvironmentChangedError("the C library could not restore the floating-point environment (fesetenv failed)")
