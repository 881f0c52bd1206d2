"""The program's side of weights: parameters and states by the framework's names, optimizer state left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.weights.fit import Type, check_fit, type_of

#: Roles of the arrays that belong to the model; the optimizer's are ours, no framework has them.
WEIGHT_ROLES = ("parameter", "buffer")


def weights_of(program: Any, state: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Copies of the parameters, then of the states of a model, by the framework's names and in its order.

    Args:
        program: a ``Program``, ``TrainingStep``, ``Source`` or ``Executable``.
        state: what training made of them: a ``State``, or arrays by name; by default the arrays of ``program`` itself.
            What else it has, such as the optimizer's arrays, is left out.

    Raises:
        InputError: ``state`` lacks arrays, or has them in another shape or dtype; all of them are named.
        InvalidProgramError: ``program`` is something else.
    """
    own, types = _arrays_of(program)
    if state is None:
        return {name: np.array(own[name], order="C", copy=True) for name in types}
    given = {name: np.asarray(state[name]) for name in types if name in state}
    check_fit(given, types, what="the state is not one of this program")
    return {name: np.array(given[name], order="C", copy=True) for name in types}


@overload
def with_weights(program: Program, arrays: Mapping[str, Any], *, may_exceed: bool = False) -> Program: ...


@overload
def with_weights(program: Source, arrays: Mapping[str, Any], *, may_exceed: bool = False) -> Source: ...


def with_weights(program: Program | Source, arrays: Mapping[str, Any], *, may_exceed: bool = False) -> Program | Source:
    """The program with other parameters and states; its canonical graph stays, optimizer state of a ``Source`` too.

    Args:
        program: a ``Program``, or a ``Source`` (of a ``.gtvm`` file).
        arrays: one for each parameter and state, by name; a ``State`` after training has them.
        may_exceed: whether arrays without a place are left out, as those of an optimizer are.

    Raises:
        InputError: missing or unknown names, other shapes or dtypes; all of them are named.
    """
    own, types = _arrays_of(program)
    given = {name: np.asarray(arrays[name]) for name in arrays}
    check_fit(given, types, what="the weights do not fit the program", may_exceed=may_exceed)
    new = {name: np.array(given[name], order="C", copy=True) for name in types}
    if isinstance(program, Program):
        parameters = {name: new[name] for name in program.parameters}
        states = {name: new[name] for name in program.states}
        return replace(program, parameters=parameters, states=states)
    state = program.state
    return replace(program, state=State({**own, **new}, state.step, state.seed))


def _arrays_of(program: Any) -> tuple[Mapping[str, Any], dict[str, Type]]:
    """All arrays that a program holds, and the types of those that are weights."""
    if isinstance(program, Program):
        arrays: Mapping[str, Any] = {**program.parameters, **program.states}
        return arrays, {name: type_of(array) for name, array in arrays.items()}
    source = program if isinstance(program, Executable) else source_of(program)
    if isinstance(program, Graph):
        remedy = "pass the program, or load(...) of the file"
        raise InputError(describe("a canonical graph alone has no weights", found=program.name, remedy=remedy))
    types = {i.name: (i.type.shape, i.type.dtype) for i in source.graph.inputs if i.role in WEIGHT_ROLES}
    return source.state.numpy(), types
