"""Run a program for OpenCL on a device that has memory in common with the host, such as PoCL's processors.

This is how GPU schedules are executed where there is no GPU: the same kernels, blocks, threads and barriers, from the same
schedules as for CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import from_carrier, to_carrier
from gensyn_tvm.errors import InputError, TargetError, describe
from gensyn_tvm.runtime.plan import ALIGNMENT, AREAS, Argument, nbytes
from gensyn_tvm.runtime.pocl import name_processor
from gensyn_tvm.targets.gpu.program import DeviceProgram

#: Division and square root of float32 are correctly rounded with this option only. FP_CONTRACT is off in the source.
_OPTIONS = ("-cl-fp32-correctly-rounded-divide-sqrt", "-cl-std=CL3.0")
#: What arithmetic a device has to have: CL_FP_DENORM, CL_FP_INF_NAN, CL_FP_ROUND_TO_NEAREST, CL_FP_FMA.
_ARITHMETIC = 0x01 | 0x02 | 0x04 | 0x20
_CORRECTLY_ROUNDED = 0x80  # CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT, for float32
_COMMON_MEMORY = 2  # CL_DEVICE_SVM_FINE_GRAIN_BUFFER


def _refuse(found: str, expected: str, remedy: str) -> TargetError:
    return TargetError(describe("OpenCL cannot run this program", found=found, expected=expected, remedy=remedy))


def find_device() -> Any:
    """The first OpenCL device that computes as the specification says and has memory in common with the host.

    Raises:
        TargetError: there is none, or pyopencl is not installed.
    """
    try:
        import pyopencl
    except ImportError as error:
        raise _refuse(str(error), "pyopencl", "pip install 'pyopencl[pocl]'") from error
    try:
        devices = [d for p in pyopencl.get_platforms() for d in p.get_devices()]
    except pyopencl.Error as error:
        raise _refuse(str(error), "an OpenCL platform", "pip install 'pyopencl[pocl]'") from error
    for device in devices:
        single, double = int(device.single_fp_config), int(device.double_fp_config)
        exact = (single & double & _ARITHMETIC) == _ARITHMETIC and single & _CORRECTLY_ROUNDED
        if exact and int(device.svm_capabilities) & _COMMON_MEMORY:
            name_processor(device)
            return device
    found = ", ".join(d.name for d in devices) or "no device"
    expected = "a device with subnormals, fma, correctly rounded division and memory in common with the host"
    raise _refuse(found, expected, "pip install 'pyopencl[pocl]', whose device is the processor")


class OpenClMachine:
    """A program that is loaded on an OpenCL device.

    Attributes:
        program: the program.

    Raises:
        TargetError: no device is fit, or its compiler refuses the source.
    """

    def __init__(self, program: DeviceProgram, definitions: Sequence[str] = ()) -> None:
        """``definitions`` are macros for the source, ``NAME=TEXT``: tests give other orders of groups and threads."""
        device = find_device()
        import pyopencl

        if program.kind != "opencl":
            raise _refuse(f"a program of kind {program.kind!r}", "opencl", "compile it for opencl")
        self.program = program
        self._cl = pyopencl
        self._context = context = pyopencl.Context([device])
        self._queue = pyopencl.CommandQueue(context)
        options = [*_OPTIONS, *(f"-D{d}" for d in definitions)]
        try:
            built = pyopencl.Program(context, program.source).build(options)
        except pyopencl.Error as error:
            raise _refuse(str(error)[:2000], "source that the device's compiler takes", "report this as a bug") from error
        self._kernels = {name: pyopencl.Kernel(built, name) for name in program.launches}
        plan = program.plan
        self._areas = {name: self._memory(plan.areas[name]) for name in AREAS}
        self._areas["constants"][: len(program.constants)] = np.frombuffer(program.constants, np.uint8)

    def _memory(self, size: int) -> np.ndarray:
        """Bytes in common with the device; not cleared."""
        return np.asarray(self._cl.fsvm_empty(self._context, max(size, 1), np.uint8, alignment=ALIGNMENT))

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs of the carried types of the plan, all steps from the first on.

        Raises:
            InputError: other arrays.
        """
        plan = self.program.plan
        found = [(a.shape, str(a.dtype)) for a in inputs]
        expected = [(t.shape, t.dtype) for t in plan.inputs]
        if found != expected:
            raise InputError(f"arrays {found}; expected {expected}")
        given, outputs = ([self._memory(nbytes(t)) for t in types] for types in (plan.inputs, plan.outputs))
        for mine, array in zip(given, inputs, strict=True):
            mine[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        slots = [*given, *outputs, *self._areas.values()]
        for step in plan.steps:
            self._launch(step.kernel, [self._address(slots, a) for a in step.arguments])
        self._queue.finish()
        for k, argument in plan.copies:
            size = nbytes(plan.outputs[k])
            outputs[k][:size] = slots[argument.slot][argument.offset : argument.offset + size]
        pairs = zip(outputs, plan.outputs, strict=True)
        return [raw[: nbytes(t)].view(t.dtype).reshape(t.shape).copy() for raw, t in pairs]

    def _address(self, slots: Sequence[np.ndarray], argument: Argument) -> Any:
        return self._cl.SVM(slots[argument.slot][argument.offset :])

    def _launch(self, name: str, arguments: Sequence[Any]) -> None:
        launch, kernel = self.program.launches[name], self._kernels[name]
        kernel.set_args(*arguments)
        size = tuple(g * b for g, b in zip(launch.grid, launch.block, strict=True))
        self._cl.enqueue_nd_range_kernel(self._queue, kernel, size, launch.block)


class OpenClExecutable:
    """A canonical graph and its program, run on arrays by name as the interpreter runs them."""

    def __init__(self, graph: Graph, program: DeviceProgram, definitions: Sequence[str] = ()) -> None:
        self.graph = graph
        self._machine = OpenClMachine(program, definitions)

    def run(self, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One array for each output of the graph, in order.

        Raises:
            InputError: an array is missing, or of another shape or dtype.
        """
        missing = [i.name for i in self.graph.inputs if i.name not in given]
        if missing:
            raise InputError(f"missing inputs {', '.join(missing)}")
        found = self._machine.run([np.asarray(to_carrier(np.asarray(given[i.name]))) for i in self.graph.inputs])
        types, extents = self.graph.value_types(), iter(found[len(self.graph.outputs) :])
        results = []
        for output, array in zip(self.graph.outputs, found, strict=False):
            for axis, _ in output.extents:
                array = array[(slice(None),) * axis + (slice(0, max(int(next(extents)), 0)),)]
            results.append(from_carrier(np.array(array, order="C"), types[output.value].dtype))
        return results

    def run_named(self, given: Mapping[str, np.ndarray]) -> dict[tuple[str, bool], np.ndarray]:
        """Like ``run``, with the outputs by (name, whether it updates the state of that name)."""
        return {(o.name, o.updates): array for o, array in zip(self.graph.outputs, self.run(given), strict=True)}
