"""An inference program with its parameters bound: the shortest way from arrays to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.machine import POOL, Call, Machine

if TYPE_CHECKING:
    from gensyn_tvm.runtime._call import Slot
    from gensyn_tvm.runtime.executable import Executable


class BoundCall(Call):
    """What ``Executable.bind`` gives; called as ``call(*inputs)`` or ``call(*inputs, out=arrays)``.

    The result is an array, or a list of arrays if the program has several outputs. Arrays of ``out`` are written to, and are
    the result; their types must be those of the outputs. Arrays that do not fit raise ``InputError``.

    A call is one of ``Call``, in C, which comes back to ``_long`` and ``_into`` here.
    """

    def __init__(self, exe: Executable, state: Mapping[str, Any]) -> None:
        self._exe, self.state = exe, state
        graph, types = exe.graph, [exe._types[o.value] for o in exe.graph.outputs]
        self.names = [i.name for i in graph.inputs if i.role not in STATE_ROLES]
        # An output whose extent is known at run time only is smaller than its type, and fits no array that is given.
        shown = [] if any(o.extents for o in graph.outputs) else types
        self._shown = [(t.shape, np.dtype(t.dtype)) for t in shown]
        # What reads arrays where the host has them, as they are, can take the short way.
        self._host: Machine | None = None
        machine = exe._machine
        if isinstance(machine, Machine) and self._is_plain(machine, types):
            self._host = machine
            super().__init__(exe, machine.entry, self._inputs(machine), self._outputs(machine))

    def _is_plain(self, machine: Machine, types: Sequence[TensorType]) -> bool:
        """Whether inputs and outputs are what the code reads and writes."""
        alone = len(machine.plan.outputs) == len(types) and not machine.plan.copies
        given = [dtype for _, i, dtype, _ in self._exe._feeds if i.role not in STATE_ROLES]
        wide = all(t.dtype == t.carrier for t in types) and all(dtype is not None for dtype in given)
        return alone and wide and bool(self._shown)

    def _inputs(self, machine: Machine) -> tuple[Slot, ...]:
        feeds = [(slot, dtype, i.type.shape) for slot, i, dtype, _ in self._exe._feeds if i.role not in STATE_ROLES]
        return tuple((slot, dtype, shape, machine.stage_input(slot), None) for slot, dtype, shape in feeds)

    def _outputs(self, machine: Machine) -> tuple[Slot, ...]:
        first = len(self._exe.graph.inputs)
        return tuple(
            (first + k, dtype, shape, machine.stage(first + k), machine.maker(k))
            for k, (shape, dtype) in enumerate(self._shown)
        )

    def _long(self, inputs: Sequence[Any]) -> Any:
        """Run on whatever a caller may give."""
        if len(inputs) != len(self.names):
            raise InputError(f"{len(inputs)} inputs; expected {', '.join(self.names)}")
        with POOL:
            results = self._exe._run(dict(zip(self.names, inputs, strict=True)), self.state, tensors=())
            if self._host is not None:
                self._host.let_rely(self)
        return results[0] if len(results) == 1 else results

    def _into(self, *inputs: Any, out: Sequence[np.ndarray] | np.ndarray | None = None) -> Any:
        """Run, and copy the results to given arrays."""
        results = self(*inputs)
        if out is None:
            return results
        targets = self._copied(results if isinstance(results, list) else [results], out)
        return targets[0] if len(targets) == 1 else targets

    def _copied(self, results: Sequence[np.ndarray], out: Any) -> list[np.ndarray]:
        targets = self._targets(out)
        for target, value in zip(targets, results, strict=True):
            target[...] = value
        return targets

    def _targets(self, out: Any) -> list[np.ndarray]:
        """The arrays of ``out``, in a list."""
        targets = [out] if isinstance(out, np.ndarray) else list(out)
        if len(targets) != len(self._shown) or any(
            t.dtype != dtype or t.shape != shape for t, (shape, dtype) in zip(targets, self._shown, strict=True)
        ):
            expected = [str(self._exe._types[o.value]) for o in self._exe.graph.outputs]
            raise InputError(
                describe(
                    f"the arrays for the results of program {self._exe.graph.name!r} do not fit",
                    found=", ".join(f"{t.dtype}{list(t.shape)}" for t in targets),
                    expected=", ".join(expected) or "no output whose extent is known at run time only",
                )
            )
        return targets
