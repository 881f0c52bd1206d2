"""The NumPy interpreter of canonical graphs: docs/numerics.md, word for word, with no TVM and no compiler.

It shares no code with the compiled path beyond the canonical graph itself, so the two executors check each other. It runs
on one core and takes its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import Graph, Input, Output
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.interpreter import scalar
from gensyn_tvm.interpreter.registry import OPERATORS

__all__ = ["checked_inputs", "evaluate", "finished", "run", "run_named"]

#: Receives a value's number and its elements (read-only, NaNs canonical).
Observer = Callable[[int, np.ndarray], None]


def run(program: str | bytes | Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Execute a program.

    Args:
        program: the serialised text of a canonical graph, or the graph.
        inputs: an array for every input of the graph, by name, of exactly its shape and dtype.

    Returns:
        One array for each of ``graph.outputs``, in that order, with canonical NaNs.

    Raises:
        InvalidProgramError: the text is not a program, or the graph breaks the operators' rules.
        InputError: arrays are missing, unknown, or of another shape or dtype.
        EnvironmentChangedError: this thread flushes subnormals or rounds in another way.
    """
    return evaluate(_graph(program), inputs)


def run_named(program: str | bytes | Graph, inputs: Mapping[str, np.ndarray]) -> dict[tuple[str, bool], np.ndarray]:
    """Like ``run``, with the outputs by (name, whether it updates the state of that name)."""
    graph = _graph(program)
    return {(o.name, o.updates): array for o, array in zip(graph.outputs, evaluate(graph, inputs), strict=True)}


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray], observe: Observer | None = None) -> list[np.ndarray]:
    """Like ``run``, showing every value to ``observe``, in the order of their numbers, inputs first."""
    rules.validate(graph)
    scalar.check_environment()
    values: list[np.ndarray | None] = list(checked_inputs(graph, inputs))
    last_use = _last_uses(graph)
    with np.errstate(all="ignore"):
        for number, value in enumerate(values):
            _show(observe, number, value)
        for index, node in enumerate(graph.nodes):
            (out,) = node.types
            arguments = [values[i] for i in node.inputs]
            result = np.asarray(OPERATORS[node.op](node.attrs, out, *arguments))
            if result.shape != out.shape or result.dtype.name != out.dtype:
                raise AssertionError(f"{node.op} computed {result.dtype.name}{list(result.shape)} instead of {out}")
            _show(observe, len(values), result)
            values.append(result)
            for i in last_use.get(index, ()):
                values[i] = None
        return [finished(o, values) for o in graph.outputs]


def _graph(program: str | bytes | Graph) -> Graph:
    return program if isinstance(program, Graph) else serialise.loads(program)


def finished(output: Output, values: Sequence[np.ndarray | None] | Mapping[int, np.ndarray]) -> np.ndarray:
    """An output: a row-major array of its own, with canonical NaNs, cut to the extents that were computed."""
    value = values[output.value]
    assert value is not None
    for axis, number in output.extents:
        extent = values[number]
        assert extent is not None
        value = value[(slice(None),) * axis + (slice(0, max(int(extent), 0)),)]
    return np.array(scalar.canonical_nan(value), order="C")


def _show(observe: Observer | None, number: int, value: np.ndarray | None) -> None:
    if observe is not None and value is not None:
        shown = scalar.canonical_nan(value).view()
        shown.flags.writeable = False
        observe(number, shown)


def _last_uses(graph: Graph) -> dict[int, list[int]]:
    """For the index of each node, the values that nothing needs after it."""
    last = {i: k for k, node in enumerate(graph.nodes) for i in node.inputs}
    for o in graph.outputs:
        for value in (o.value, *(number for _, number in o.extents)):
            last.pop(value, None)
    result: dict[int, list[int]] = {}
    for value, index in last.items():
        result.setdefault(index, []).append(value)
    return result


def checked_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays in the order of the graph's inputs, in this machine's byte order.

    Raises:
        InputError: arrays are missing, unknown, or of another shape or dtype.
    """
    known = {i.name for i in graph.inputs}
    missing = [i.name for i in graph.inputs if i.name not in inputs]
    unknown = [str(name) for name in inputs if name not in known]
    problems = [f"{len(missing)} missing: {', '.join(map(repr, missing))}"] if missing else []
    if unknown:
        problems.append(f"{len(unknown)} unknown: {', '.join(map(repr, unknown))}")
    for i in graph.inputs:
        if i.name in inputs:
            problems.extend(_problem(i, inputs[i.name]))
    if problems:
        raise InputError(
            describe(
                f"the inputs do not fit the program {graph.name!r}",
                found="; ".join(problems),
                expected=", ".join(f"{i.name!r}: {i.type}" for i in graph.inputs) or "no inputs",
                remedy="give one NumPy array of that dtype and shape for each name",
            )
        )
    return [np.asarray(inputs[i.name]).astype(np.dtype(i.type.dtype), copy=False) for i in graph.inputs]


def _problem(declared: Input, value: object) -> list[str]:
    if not isinstance(value, np.ndarray | np.generic):
        return [f"input {declared.name!r} is a {type(value).__name__}, not a NumPy array"]
    if value.shape == declared.type.shape and value.dtype.name == declared.type.dtype:
        return []
    found = f"{value.dtype.name}[{', '.join(map(str, value.shape))}]"
    return [f"input {declared.name!r} is {found}, expected {declared.type}"]
