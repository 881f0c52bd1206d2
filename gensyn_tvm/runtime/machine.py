"""Run a library: its memory, the table of addresses that its code reads, and the threads.

Arrays that do not change between two runs are not copied again: small inputs are copied to a fixed place, large ones are read
where they are, and parameters stay bound until others are given. What depends on fixed parameters only is computed again when
one of them is another array or, for NumPy arrays, which anybody may write to, has other bytes than before.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gensyn_tvm.errors import EnvironmentChangedError, TargetError, describe
from gensyn_tvm.runtime.cpu import core_count
from gensyn_tvm.runtime.fpenv import ieee754_environment
from gensyn_tvm.runtime.plan import ACCEPTED, ALIGNMENT, nbytes, unpack
from gensyn_tvm.runtime.storage import KEPT, PAGE, Bound, address_of, aligned, aligned_array

try:
    from gensyn_tvm.runtime._call import Call, Entry, Pool, Results
except ImportError as error:
    raise TargetError(
        describe(
            "gensyn_tvm's compiled module cannot be loaded",
            where="gensyn_tvm/runtime",
            found=str(error),
            expected="gensyn_tvm.runtime._call, built from _call.c and its neighbours when gensyn_tvm is installed",
            remedy="install gensyn_tvm again for this Python, with its headers and gcc: make test, or pip install .",
        )
    ) from error

#: The entry of a library, and the same without care for the floating-point environment.
RUN, UNGUARDED = "gensyn_run", "gensyn_run_unguarded"
#: What TVM puts in front of a function's name (``tvm_ffi_prefix``); its interface is that of every packed function.
_SYMBOL = "__tvm_ffi_"
#: What the entry returns if the floating-point environment cannot be set.
NO_ENVIRONMENT = 77
#: Inputs and outputs up to this many bytes are copied to and from a fixed place, which is no slower than their addresses, a new
#: array's own allocation, and a look at how they lie.
STAGED = 2048
#: Inputs up to this many bytes are copied to a page of their own where an output is large (``KEPT``), which takes nothing
#: beside writing that: if they are read for each of its rows, where a caller has them may delay each read (``PAGE``).
STAGED_BESIDE = 16 * 2**10

_ALL_CORES = 1  # TVM's affinity mode "big"

#: TVM has one thread pool for the process; runs with different numbers of threads must not overlap. A lock, as ``RLock``.
POOL = Pool()


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Machine:
    """A loaded library.

    Attributes:
        plan: its plan.
        table: the addresses of all arrays.

    Raises:
        TargetError: the library cannot be loaded on this machine, or was made by another version.
        EnvironmentChangedError: the floating-point environment cannot be controlled here.
    """

    def __init__(self, library: bytes, target: str) -> None:
        try:
            code, self.plan, constants = unpack(library)
        except ValueError as error:
            _refuse(target, str(error))
        self._run, self._unguarded, (address, bare) = _load(code, target)
        with ieee754_environment():
            pass  # it can be set, and arithmetic obeys
        self.table = np.zeros(self.plan.slots, np.int64)
        self._status = self.plan.status
        self._steps = self.plan.prepare, len(self.plan.steps)
        self._table_address = address_of(self.table)
        self._areas: dict[str, np.ndarray] = {}
        self._constants = constants
        self._is_prepared = False
        self._ready = False
        self.states: dict[int, Bound] = {}
        #: For calls that rely on what the table says of states and small outputs.
        self.entry = Entry(POOL, self.table, self._run, _fail, address, bare, self.plan.parallel, self._status, *self._steps)
        self._results: dict[int, Results] = {}
        self._stages: dict[int, np.ndarray] = {}
        for slot, t in enumerate((*self.plan.inputs, *self.plan.outputs)):
            if nbytes(t) <= STAGED:
                self._place(slot, aligned_array(t))

    def _place(self, slot: int, stage: np.ndarray) -> None:
        self._stages[slot] = stage
        self.table[slot] = address_of(stage)

    def _area(self, name: str) -> np.ndarray:
        """The memory of an area, made at its first use."""
        found = self._areas.get(name)
        if found is None:
            found = self._areas[name] = aligned(self.plan.areas[name])
            self.table[self.plan.area(name)] = address_of(found)
        return found

    def stage(self, slot: int) -> Any:
        """The fixed place of a small input or output; None for large ones."""
        return self._stages.get(slot)

    def stage_input(self, slot: int) -> Any:
        """The fixed place of an input that differs from call to call, which larger ones have, too, beside a large output."""
        t = self.plan.inputs[slot]
        if nbytes(t) > STAGED_BESIDE or all(nbytes(o) < KEPT for o in self.plan.outputs):
            return self.stage(slot)
        with POOL:  # not while a run of another thread reads the table
            stage = self.stage(slot)
            # Once it has its page, other calls of this machine know it.
            if stage is None or address_of(stage) % PAGE:
                self._place(slot, aligned_array(t, PAGE))
            return self.stage(slot)

    @property
    def is_lasting(self) -> bool:
        """Whether nobody modifies the arrays of state that are bound."""
        return all(bound.given is not None for bound in self.states.values())

    def forget(self) -> None:
        """Arrays of state that are bound may have other bytes by now: the next run binds all anew."""
        self.states.clear()
        self.entry.own(None)
        self._is_prepared = False

    def reset_places(self) -> None:
        """Small outputs are written to their fixed places again."""
        for slot, stage in self._stages.items():
            if slot >= len(self.plan.inputs):
                self.table[slot] = address_of(stage)

    def feed(self, slot: int, array: np.ndarray) -> Any:
        """Let the code read an array of the slot's carried type; the result must live as long as the run."""
        stage = self._stages.get(slot)
        if stage is not None:
            stage[...] = array
            return None
        address = address_of(array)
        if address % ACCEPTED or not array.flags.c_contiguous:
            stage = self._areas.setdefault(f"input {slot}", aligned(nbytes(self.plan.inputs[slot])))
            held = stage.view(array.dtype).reshape(array.shape)
            held[...] = array
            array, address = held, address_of(held)
        self.table[slot] = address
        return array

    def bind(self, slot: int, value: Any, array: np.ndarray, *, lasting: bool, keep: bool) -> Any:
        """Let the code read an array of state.

        Args:
            slot: of the input.
            value: what the caller gave.
            array: the same as a NumPy array of the carried type.
            lasting: whether nobody modifies it; otherwise its bytes are compared with those of the last run.
            keep: whether it stays bound; otherwise the result must live as long as the run.
        """
        self.entry.own(None)
        bound = self.states.get(slot)
        if bound is not None and bound.given is None and np.array_equal(_bytes(bound.array), _bytes(array)):
            return None
        if not lasting or address_of(array) % ALIGNMENT or not array.flags.c_contiguous:
            copy = aligned_array(self.plan.inputs[slot])
            copy[...] = array
            array = copy
        self.table[slot] = address_of(array)
        if keep:
            self.states[slot] = Bound(value if lasting else None, array)
            self._is_prepared = self._is_prepared and slot not in self.plan.fixed
        return array

    def outputs(self, lasting: Sequence[bool], given: Mapping[int, np.ndarray] | None = None) -> list[np.ndarray]:
        """Arrays that the code is to write: those of ``given``, fixed places, or new ones where ``lasting``."""
        self.entry.own(None)
        first = len(self.plan.inputs)
        arrays = []
        for k, t in enumerate(self.plan.outputs):
            array = self._stages.get(first + k)
            if given is not None and k in given:
                array = given[k]
            elif array is None or lasting[k]:
                array = aligned_array(t, PAGE if nbytes(t) >= KEPT else ALIGNMENT)
            self.table[first + k] = address_of(array)
            arrays.append(array)
        return arrays

    def let_rely(self, call: Call) -> None:
        """After a run of a call: let it rely on what the table says until something changes that.

        Arrays that somebody may modify are looked at in each run.
        """
        self.reset_places()
        self.entry.own(call if self.is_lasting else None)

    def maker(self, output: int) -> Results | None:
        """What makes arrays for a large output; None for others, whose memory is not kept."""
        t = self.plan.outputs[output]
        return self._results.setdefault(output, Results(t.shape, np.dtype(t.dtype))) if nbytes(t) >= KEPT else None

    def is_staged(self, output: int) -> bool:
        """Whether an output has a fixed place, out of which it is copied."""
        return len(self.plan.inputs) + output in self._stages

    def run(self, threads: int, outputs: Sequence[np.ndarray]) -> None:
        """Run on what the table says; the caller has ``POOL``.

        Raises:
            EnvironmentChangedError: the floating-point environment cannot be set or restored.
            MemoryError: a kernel got no memory.
        """
        use_threads(threads)
        if not self._is_prepared:
            self._prepare(threads)
        self._run(self._table_address, *self._steps, threads)
        status = self.table[self._status]
        if status:
            _fail(int(status))
        for k, argument in self.plan.copies:
            source = int(self.table[argument.slot]) + argument.offset
            ctypes.memmove(address_of(outputs[k]), source, outputs[k].nbytes)

    def execute(self, first: int, last: int, threads: int) -> None:
        """Run some steps. Raises as ``run``."""
        self._run(self._table_address, first, last, threads)
        status = self.table[self._status]
        if status:
            _fail(int(status))

    def unguarded(self, threads: int) -> None:
        """Run in whatever floating-point environment the threads have: only to show that it matters."""
        self._get_memory()
        self._area("scratch")
        self._unguarded(self._table_address, 0, len(self.plan.steps), threads)

    def _get_memory(self) -> None:
        if not self._ready:
            self._area("constants")[: len(self._constants)] = np.frombuffer(self._constants, np.uint8)
            for name in ("prepared", "workspace"):
                self._area(name)
            self._ready = True

    def _prepare(self, threads: int) -> None:
        """Compute what depends on fixed parameters and constants only."""
        self._get_memory()
        if self.plan.prepare:
            self._area("scratch")
            self.execute(0, self.plan.prepare, threads)
            del self._areas["scratch"]
        self._is_prepared = True

    def timed(self, threads: int) -> list[float]:
        """Seconds of each step, run one by one; the preparation included."""
        use_threads(threads)
        self._is_prepared = False
        self._prepare(threads)
        self._area("scratch")
        seconds = []
        for k in range(len(self.plan.steps)):
            before = time.perf_counter()
            self.execute(k, k + 1, threads)
            seconds.append(time.perf_counter() - before)
        del self._areas["scratch"]
        return seconds


def _fail(status: int) -> None:
    if status == NO_ENVIRONMENT:
        raise EnvironmentChangedError(
            describe(
                "the floating-point environment of this thread cannot be set or restored",
                found="fegetenv or fesetenv failed",
                expected="a C library that controls the floating-point environment",
                remedy="run `gensyn-tvm doctor`",
            )
        )
    raise MemoryError(f"a kernel could not get memory for its intermediate values or threads (status {status})")


def _load(code: memoryview, target: str) -> tuple[Callable[..., Any], Callable[..., Any], tuple[int, int]]:
    """The two entries, and their addresses, which the functions keep in memory."""
    import tvm_ffi  # noqa: F401  (loads the FFI before TVM's runtime)
    from tvm import runtime

    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
        path = Path(folder) / "program.so"
        path.write_bytes(code)
        try:
            module = runtime.load_module(str(path))
            _touch_constants(path)
            run, unguarded = (module.get_function(name, query_imports=True) for name in (RUN, UNGUARDED))
            return run, unguarded, _addresses(path)
        except (RuntimeError, OSError, AttributeError) as error:
            _refuse(target, str(error)[:400])


def _addresses(library: Path) -> tuple[int, int]:
    """Where the two entries are of a library that somebody else has loaded."""
    opened = ctypes.CDLL(str(library))
    try:
        run, unguarded = (ctypes.cast(getattr(opened, _SYMBOL + name), ctypes.c_void_p).value for name in (RUN, UNGUARDED))
        return run or 0, unguarded or 0
    finally:
        _ctypes.dlclose(opened._handle)


def _touch_constants(library: Path) -> None:
    """Have the pages of a loaded library's constants in memory.

    A masked load of a constant (the NaN of ``canonical_nan``) whose mask is empty does not bring its page in, and as long as
    the page is missing the processor takes hundreds of cycles to find that out, in every iteration.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():  # not Linux
        return
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith(str(library.resolve())):
            places, rights = line.split()[:2]
            begin, end = (int(place, 16) for place in places.split("-"))
            if rights.startswith("r--"):
                ctypes.string_at(begin, end - begin)


def _refuse(target: str, found: str) -> NoReturn:
    raise TargetError(
        describe(
            f"the library for target {target!r} cannot be loaded",
            found=found,
            expected="a library that this version of gensyn_tvm made for this machine",
            remedy="compile the program again: gensyn-tvm compile FILE --target native",
        )
    )


def use_threads(threads: int) -> None:
    """Size TVM's thread pool, which exists once in a process and is made at its first use.

    Its own default is half the hardware threads, and the number it is made with is the most that it can ever use.
    """
    if threads == POOL.threads:
        return
    import tvm_ffi

    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, core_count())))
    # Otherwise TVM pins the calling thread to one core, and with it whatever else the process computes.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    tvm_ffi.get_global_func("runtime.config_threadpool")(_ALL_CORES, threads)
    used = tvm_ffi.get_global_func("runtime.NumThreads")()
    if used < threads:
        warnings.warn(
            f"TVM's thread pool has {used} threads, fewer than the {threads} asked for: it was made earlier in this process, "
            f"or TVM_NUM_THREADS={os.environ['TVM_NUM_THREADS']} limits it. Results are the same bits, only slower.",
            RuntimeWarning,
            stacklevel=4,
        )
    POOL.threads = threads
