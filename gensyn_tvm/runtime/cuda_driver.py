"""NVIDIA's driver through ctypes: devices, memory, modules, launches and events. Nothing of the CUDA toolkit is needed.

Addresses on a device are integers. Everything runs on the device's default stream, in the order of the calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import numpy as np

from gensyn_tvm.errors import TargetError, describe

LIBRARY = "libcuda.so.1"
#: Of the driver's interface; drivers of the 580 series are the first that load what CUDA 13 builds.
OLDEST_DRIVER = 12080
#: The oldest capability that code is built for.
OLDEST_CAPABILITY = (7, 5)

_OUT_OF_MEMORY, _NO_DEVICE, _NO_IMAGE = 2, 100, 209
_ATTRIBUTES = {"major": 75, "minor": 76, "multiprocessors": 16, "clock": 13, "memory_clock": 36, "bus": 37}
_DRIVER_REMEDY = "install NVIDIA's driver, 580 or newer, on a machine with an NVIDIA GPU; `nvidia-smi` shows whether it works"


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        number: of the driver, as in ``CUDA_VISIBLE_DEVICES``.
        name: for instance ``NVIDIA H100 80GB HBM3``.
        capability: for instance ``(9, 0)``.
        memory: bytes.
        multiprocessors: their number.
        clock: of the multiprocessors, kHz.
        memory_clock: kHz.
        bus: bits of the memory bus.
    """

    number: int
    name: str
    capability: tuple[int, int]
    memory: int
    multiprocessors: int
    clock: int
    memory_clock: int
    bus: int


class Driver:
    """The driver's library, initialised.

    Attributes:
        version: of its interface, for instance 13000.

    Raises:
        TargetError: there is no driver, it is too old, or it does not work.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            _refuse("there is no NVIDIA driver on this machine", str(error), "a driver for target cuda", _DRIVER_REMEDY)
        self.call("cuInit", 0)
        version = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        self.version = version.value
        if self.version < OLDEST_DRIVER:
            found = f"a driver for CUDA {self.version // 1000}.{self.version % 1000 // 10}"
            oldest = f"CUDA {OLDEST_DRIVER // 1000}.{OLDEST_DRIVER % 1000 // 10} or newer"
            _refuse("NVIDIA's driver is too old", found, oldest, _DRIVER_REMEDY)

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            TargetError: it returns an error, or the driver has no such function.
            MemoryError: the device has no memory left.
        """
        try:
            entry = getattr(self._library, function)
        except AttributeError:
            _refuse("NVIDIA's driver is too old", f"no {function}", "a driver for CUDA 12.8 or newer", _DRIVER_REMEDY)
        status = entry(*arguments)
        if status == _OUT_OF_MEMORY:
            raise MemoryError("the GPU has no memory left: run a smaller batch, or stop other programs (`nvidia-smi`)")
        if status:
            what = f"{function} failed: {self._text('cuGetErrorName', status)}, {self._text('cuGetErrorString', status)}"
            _refuse("NVIDIA's driver reports an error", what, "success", _remedy(status))

    def _text(self, function: str, status: int) -> str:
        text = ctypes.c_char_p()
        failed = getattr(self._library, function)(status, ctypes.byref(text))
        return str(status) if failed or text.value is None else text.value.decode("utf-8", "replace")

    def devices(self) -> list[Device]:
        """All devices that this process may use."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return [self._device(n) for n in range(count.value)]

    def _device(self, number: int) -> Device:
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self.call("cuDeviceGetName", name, len(name), number)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(memory), number)
        found: dict[str, int] = {}
        for key, attribute in _ATTRIBUTES.items():
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, number)
            found[key] = value.value
        capability = (found.pop("major"), found.pop("minor"))
        return Device(number, name.value.decode("utf-8", "replace"), capability, memory.value, **found)


def _remedy(status: int) -> str:
    if status == _NO_DEVICE:
        return "run on a machine with an NVIDIA GPU, or let this process see one: CUDA_VISIBLE_DEVICES"
    if status == _NO_IMAGE:
        return "compile the program again with this version: it has no code for this GPU"
    return "`nvidia-smi` shows whether the GPU works; a process whose GPU failed must be started again"


def _refuse(what: str, found: str, expected: str, remedy: str) -> NoReturn:
    raise TargetError(describe(what, found=found, expected=expected, remedy=remedy))


@cache
def driver() -> Driver:
    """The driver of this process. Raises as ``Driver`` does."""
    return Driver(LIBRARY)


class Context:
    """The first fit device of a driver, with its memory.

    Raises:
        TargetError: there is no device, or none that code is built for.
    """

    def __init__(self, of: Driver | None = None) -> None:
        self.driver = of or driver()
        devices = self.driver.devices()
        fit = [d for d in devices if d.capability >= OLDEST_CAPABILITY]
        if not fit:
            found = ", ".join(f"{d.name} of compute capability {d.capability[0]}.{d.capability[1]}" for d in devices)
            expected = "a GPU of compute capability 7.5 (Turing) or newer"
            _refuse("no GPU can run this program", found or "no GPU", expected, _remedy(_NO_DEVICE))
        self.device = fit[0]
        self._context = ctypes.c_void_p()
        self.driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self.device.number)
        self.enter()

    def enter(self) -> None:
        """Let this thread use the device."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of the device, at a multiple of 256. Raises MemoryError if there are none."""
        address = ctypes.c_uint64()
        self.driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.driver.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, data: np.ndarray) -> None:
        """Copy an array to the device."""
        data = np.ascontiguousarray(data)
        if data.nbytes:
            source = ctypes.c_void_p(data.ctypes.data)
            self.driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(data.nbytes))

    def download(self, data: np.ndarray, address: int) -> None:
        """Copy from the device to a contiguous array, when all launches before are over."""
        if data.nbytes:
            target = ctypes.c_void_p(data.ctypes.data)
            self.driver.call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(data.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device, after all launches before."""
        if size:
            addresses = (ctypes.c_uint64(target), ctypes.c_uint64(source))
            self.driver.call("cuMemcpyDtoDAsync_v2", *addresses, ctypes.c_size_t(size), None)

    def load(self, image: bytes) -> Module:
        """Load a fat binary."""
        return Module(self, image)

    def synchronize(self) -> None:
        """Wait until all launches are over. Raises TargetError if one of them failed."""
        self.driver.call("cuCtxSynchronize")


class Module:
    """Kernels that are loaded on a device."""

    def __init__(self, context: Context, image: bytes) -> None:
        self._context = context
        self._handle = ctypes.c_void_p()
        context.driver.call("cuModuleLoadData", ctypes.byref(self._handle), image)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def function(self, name: str) -> ctypes.c_void_p:
        """A kernel. Raises TargetError if there is none of this name."""
        if name not in self._functions:
            found = ctypes.c_void_p()
            self._context.driver.call("cuModuleGetFunction", ctypes.byref(found), self._handle, name.encode("ascii"))
            self._functions[name] = found
        return self._functions[name]

    def unload(self) -> None:
        """Free it."""
        self._context.driver.call("cuModuleUnload", self._handle)


class Call:
    """A kernel with its launch and the addresses of its arguments, ready to be launched again and again."""

    def __init__(self, module: Module, name: str, grid: Sequence[int], block: Sequence[int], addresses: Sequence[int]) -> None:
        self._driver = module._context.driver
        self._values = (ctypes.c_uint64 * len(addresses))(*addresses)
        size = ctypes.sizeof(ctypes.c_uint64)
        first = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * len(addresses))(*(first + k * size for k in range(len(addresses))))
        sizes = [ctypes.c_uint(n) for n in (*grid, *block)]
        self._arguments = (module.function(name), *sizes, ctypes.c_uint(0), None, self._pointers, None)

    def launch(self) -> None:
        """Start it behind all that was launched before."""
        self._driver.call("cuLaunchKernel", *self._arguments)


class Event:
    """A point of time on the device."""

    def __init__(self, context: Context) -> None:
        self._driver = context.driver
        self._handle = ctypes.c_void_p()
        self._driver.call("cuEventCreate", ctypes.byref(self._handle), 0)

    def record(self) -> None:
        """When all launches before are over."""
        self._driver.call("cuEventRecord", self._handle, None)

    def seconds_since(self, earlier: Event) -> float:
        """Waits for this event; the time between the two."""
        self._driver.call("cuEventSynchronize", self._handle)
        milliseconds = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier._handle, self._handle)
        return milliseconds.value / 1e3

    def destroy(self) -> None:
        """Free it."""
        self._driver.call("cuEventDestroy_v2", self._handle)


def survey(library: str = LIBRARY) -> tuple[bool, str, Mapping[str, str]]:
    """For the doctor: whether programs for cuda run here, what was found, and remedies."""
    try:
        found = Driver(library)
        context = Context(found)
    except (TargetError, MemoryError) as error:
        lines = str(error).splitlines()
        remedy = next((x.split("what to do: ", 1)[1] for x in lines if "what to do: " in x), "")
        return False, lines[0], {"remedy": remedy}
    d = context.device
    capability = f"compute capability {d.capability[0]}.{d.capability[1]}"
    return True, f"{d.name}, {capability}, driver for CUDA {found.version // 1000}.{found.version % 1000 // 10}", {}
