"""An inference program with its parameters bound: the shortest way from arrays to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical.graph import STATE_ROLES
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.runtime.machine import POOL_LOCK, Machine
from gensyn_tvm.runtime.plan import ACCEPTED
from gensyn_tvm.runtime.storage import address_of

if TYPE_CHECKING:
    from gensyn_tvm.runtime.executable import Executable


class BoundCall:
    """What ``Executable.bind`` gives; called as ``call(*inputs)`` or ``call(*inputs, out=arrays)``.

    The result is an array, or a list of arrays if the program has several outputs. Arrays of ``out`` are written to, and are
    the result; their types must be those of the outputs.
    """

    def __init__(self, exe: Executable, state: Mapping[str, Any]) -> None:
        self._exe, self.state, self._machine = exe, state, exe._machine
        # What reads arrays where the host has them can take the short way.
        self._host = exe._machine if isinstance(exe._machine, Machine) else None
        machine, graph = exe._machine, exe.graph
        self.names = [i.name for i in graph.inputs if i.role not in STATE_ROLES]
        # What needs no conversion is copied to its fixed place at once, or read where it is: (slot, place, dtype, shape).
        self._places = [
            (slot, machine.stage(slot), dtype, i.type.shape) for slot, i, dtype, _ in exe._feeds if i.role not in STATE_ROLES
        ]
        first = len(graph.inputs)
        self._results = [machine.stage(first + k) for k in range(len(graph.outputs))]
        self._staged = [(k, place) for k, place in enumerate(self._results) if place is not None]
        # An output whose extent is known at run time only is smaller than its type, and fits no array that is given.
        shown = [] if any(o.extents for o in graph.outputs) else [exe._types[o.value] for o in graph.outputs]
        self._shown = [(t.shape, np.dtype(t.dtype)) for t in shown]
        plain = len(machine.plan.outputs) == len(graph.outputs) and not machine.plan.copies
        wide = all(exe._types[o.value].dtype == exe._types[o.value].carrier for o in graph.outputs)
        self._is_short = plain and wide and bool(shown) and all(d is not None for _, _, d, _ in self._places)

    def __call__(self, *inputs: Any, out: Sequence[np.ndarray] | np.ndarray | None = None) -> Any:
        """Run once.

        Raises:
            InputError: arrays that do not fit.
        """
        if len(inputs) != len(self._places):
            raise InputError(f"{len(inputs)} inputs; expected {', '.join(self.names)}")
        with POOL_LOCK:
            host = self._host
            if self._is_short and host is not None and host.owner is self and self._placed(host, inputs):
                results = self._short(host, out)
            else:
                results = self._long(inputs, out)
        return results[0] if len(results) == 1 else results

    def _short(self, host: Machine, out: Any) -> list[np.ndarray]:
        """Run on inputs that are placed. A loop costs less than a comprehension."""
        results = []
        for k, place in enumerate(self._results):
            results.append(host.new_output(k) if place is None else place)
        host.run(self._exe.threads, results)
        if out is not None:
            return self._copied(results, out)
        for k, place in self._staged:
            results[k] = place.copy()
        return results

    def _placed(self, host: Machine, inputs: Sequence[Any]) -> bool:
        """Let the code read the inputs; False if one of them needs more than that."""
        table = host.table
        for value, (slot, place, dtype, shape) in zip(inputs, self._places):  # noqa: B905  (strict takes as long as the copy)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                return False
            if place is not None:
                place[...] = value
            else:
                address = address_of(value)
                if address % ACCEPTED or not value.flags.c_contiguous:
                    return False
                table[slot] = address
        return True

    def _long(self, inputs: Sequence[Any], out: Any) -> list[np.ndarray]:
        results = self._exe._run(dict(zip(self.names, inputs, strict=True)), self.state, tensors=())
        self._machine.reset_places()
        # Arrays that somebody may modify are looked at in each call.
        self._machine.owner = self if self._machine.is_lasting else None
        return results if out is None else self._copied(results, out)

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
