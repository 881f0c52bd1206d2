"""Run a program for NVIDIA GPUs: its memory on the device, and its launches in order.

The counterpart of ``gensyn_tvm.runtime.machine``, with the same methods; TVM's runtime has no part in it. The driver is opened
at the first run, so that programs can be compiled, loaded and saved where there is no GPU.

Parameters stay on the device until others are given. What a step of training returned and is given back is copied there
rather than sent again.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gensyn_tvm.errors import TargetError, describe
from gensyn_tvm.runtime.cuda_driver import Call, Context, Event, Module
from gensyn_tvm.runtime.plan import AREAS, Step, join, nbytes, split
from gensyn_tvm.runtime.storage import Bound, address_of, aligned_array
from gensyn_tvm.targets.gpu.program import DeviceProgram

_MAGIC = b"gensyn_tvm cuda\0"


def pack_device(fatbin: bytes, program: DeviceProgram) -> bytes:
    """The library of a program: fat binary, constants, launches and plan; its source is left out."""
    return join(fatbin, program.constants, program.dumps(), _MAGIC)


def unpack_device(library: bytes) -> tuple[bytes, DeviceProgram]:
    """The inverse of ``pack_device``.

    Raises:
        TargetError: it was made by another version, or is no library for cuda.
    """
    try:
        code, constants, text = split(library, _MAGIC)
        return bytes(code), DeviceProgram.loads(text, "", bytes(constants))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(
            describe(
                "the library for target 'cuda' cannot be loaded",
                found=str(error),
                expected="a library that this version of gensyn_tvm made",
                remedy="compile the program again: gensyn-tvm compile FILE --target cuda",
            )
        ) from error


class CudaMachine:
    """A program with its memory on a device.

    Attributes:
        plan: its plan.
        states: arrays of state that are on the device, by slot.

    Raises:
        TargetError: the library was made by another version.
    """

    def __init__(self, library: bytes) -> None:
        self._image, self.program = unpack_device(library)
        self.plan = self.program.plan
        self.states: dict[int, Bound] = {}
        self._context: Context | None = None
        self._module: Module
        self._addresses: list[int] = []
        self._calls: list[Call] = []
        self._known: dict[tuple[int, ...], list[Call]] = {}  # calls by the addresses that they were made for
        self._is_prepared = False
        # Host arrays of the last run, whose bytes are still on the device: address of the array to (output, array).
        self._produced: dict[int, tuple[int, np.ndarray]] = {}

    # ---- memory -----------------------------------------------------------------------------------------------------

    def open(self) -> Context:
        """The device with the program on it, made at the first call.

        Raises:
            TargetError: no driver, no fit GPU, or the GPU refuses the program.
            MemoryError: the GPU has too little memory for it.
        """
        if self._context is not None:
            self._context.enter()
            return self._context
        context = Context()
        module = context.load(self._image)
        owned: list[int] = []
        release = weakref.finalize(self, _release, context, module, owned)
        release.atexit = False
        types = (*self.plan.inputs, *self.plan.outputs)
        sizes = [*map(nbytes, types), *(0 if a == "scratch" else self.plan.areas[a] for a in AREAS)]
        for size in sizes:
            owned.append(context.allocate(size))
        self._addresses = list(owned)
        context.upload(self._addresses[self.plan.area("constants")], np.frombuffer(self.program.constants, np.uint8))
        self._module, self._context = module, context
        self._place()
        return context

    def _place(self) -> None:
        """Make the calls for the present addresses, or take them if they have been made."""
        key = tuple(self._addresses)
        if key not in self._known:
            self._known[key] = [self._call(step, self._addresses) for step in self.plan.steps[self.plan.prepare :]]
        self._calls = self._known[key]

    def _call(self, step: Step, addresses: Sequence[int]) -> Call:
        launch = self.program.launches[step.kernel]
        places = [addresses[a.slot] + a.offset for a in step.arguments]
        return Call(self._module, step.kernel, launch.grid, launch.block, places)

    # ---- inputs and outputs, as gensyn_tvm.runtime.machine ----------------------------------------------------------

    def stage(self, slot: int) -> None:
        """No input or output has a fixed place on the host."""

    def is_staged(self, output: int) -> bool:
        """No output has one."""
        return False

    def forget(self) -> None:
        """Arrays of state that are bound may have other bytes by now: the next run binds all anew."""
        self.states.clear()
        self._is_prepared = False

    def reset_places(self) -> None:
        """There are none."""

    def feed(self, slot: int, array: np.ndarray) -> None:
        """Send an input to the device."""
        self.open().upload(self._addresses[slot], array)

    def bind(self, slot: int, value: Any, array: np.ndarray, *, lasting: bool, keep: bool) -> None:
        """Send an array of state to the device, or copy it there; arguments as of ``Machine.bind``."""
        context, bound = self.open(), self.states.get(slot)
        if bound is not None and bound.given is None and _same_bytes(bound.array, array):
            return
        produced = self._produced.get(address_of(array)) if lasting else None
        if produced is not None and produced[1].nbytes == array.nbytes:
            context.copy(self._addresses[slot], self._addresses[len(self.plan.inputs) + produced[0]], array.nbytes)
        else:
            context.upload(self._addresses[slot], array)
        if keep:
            self.states[slot] = Bound(value if lasting else None, array if lasting else array.copy())
        self._is_prepared = self._is_prepared and slot not in self.plan.fixed

    def outputs(self, lasting: Sequence[bool], given: Mapping[int, np.ndarray] | None = None) -> list[np.ndarray]:
        """Arrays for the outputs: those of ``given``, or new ones."""
        given = given or {}
        return [given[k] if k in given else aligned_array(t) for k, t in enumerate(self.plan.outputs)]

    def advance(self, updates: Mapping[int, int]) -> None:
        """Let outputs of the last run be inputs of the next, without a copy: they change places. Raises as ``open``.

        Args:
            updates: input slot of each output; of the same type.
        """
        self.open()
        for output, slot in updates.items():
            place = len(self.plan.inputs) + output
            self._addresses[slot], self._addresses[place] = self._addresses[place], self._addresses[slot]
            self.states.pop(slot, None)
        self._is_prepared = self._is_prepared and not any(slot in self.plan.fixed for slot in updates.values())
        self._produced = {}
        self._place()

    # ---- running ----------------------------------------------------------------------------------------------------

    def run(self, threads: int, outputs: Sequence[np.ndarray]) -> None:
        """Run on what was given, and bring the outputs back; ``threads`` says nothing here.

        Raises:
            TargetError: the device fails.
            MemoryError: it has no memory left.
        """
        self.launch()
        self.fetch(outputs)

    def launch(self) -> None:
        """Start a run on what was given; it goes on while this returns. Raises as ``run``."""
        context = self.open()
        if not self._is_prepared:
            self.prepare()
        for call in self._calls:
            call.launch()
        for k, a in self.plan.copies:
            target = self._addresses[len(self.plan.inputs) + k]
            context.copy(target, self._addresses[a.slot] + a.offset, nbytes(self.plan.outputs[k]))

    def fetch(self, outputs: Sequence[np.ndarray]) -> None:
        """Wait for the run and copy its outputs to arrays of the host. Raises as ``run``."""
        context, first = self.open(), len(self.plan.inputs)
        context.synchronize()
        for k, array in enumerate(outputs):
            context.download(array, self._addresses[first + k])
        self._produced = {address_of(array): (k, array) for k, array in enumerate(outputs) if array.nbytes}

    def prepare(self) -> None:
        """Compute what depends on fixed parameters and constants only. Raises as ``run``."""
        context = self.open()
        if self.plan.prepare:
            scratch = context.allocate(self.plan.areas["scratch"])
            addresses = list(self._addresses)
            addresses[self.plan.area("scratch")] = scratch
            try:
                for step in self.plan.steps[: self.plan.prepare]:
                    self._call(step, addresses).launch()
                context.synchronize()
            finally:
                context.free(scratch)
        self._is_prepared = True

    def timed(self, threads: int) -> list[float]:
        """Seconds of each step by events on the device, run one after another; the preparation, not measured, as 0."""
        context = self.open()
        self.prepare()
        events = [Event(context) for _ in range(len(self._calls) + 1)]
        events[0].record()
        for call, event in zip(self._calls, events[1:], strict=True):
            call.launch()
            event.record()
        seconds = [after.seconds_since(before) for before, after in pairwise(events)]
        for event in events:
            event.destroy()
        return [0.0] * self.plan.prepare + seconds


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    return a.nbytes == b.nbytes and a.tobytes() == b.tobytes()


def _release(context: Context, module: Module, addresses: list[int]) -> None:
    """Give back what a machine has that nobody uses any more."""
    context.enter()
    module.unload()
    for address in addresses:
        context.free(address)
