"""A program against the intermediate tensors of the framework that the model came from, module by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.evidence.segments import SEGMENT
from gensyn_tvm.evidence.trace import trace
from gensyn_tvm.evidence.values import Index, as_text, differing, first_index, largest_error

if TYPE_CHECKING:
    from gensyn_tvm.evidence.trace import Traceable

#: Where frontends.torch_export.place_of puts operators of the outermost forward().
_TOP = "forward"


@dataclass(frozen=True)
class ModuleDifference:
    """How far a submodule's output in the program is from the framework's.

    Attributes:
        path: of the submodule.
        number: of the value in the canonical graph that is its output.
        op, source: the operator that computes it, and its place.
        exceeds: whether the tolerance is exceeded.
        error: largest distance relative to the largest magnitude of the framework's tensor; None if not of finite floats.
        index: of the first element that exceeds the tolerance, or None.
        ours, theirs: that element in decimal and its bits, or empty.
    """

    path: str
    number: int
    op: str
    source: str
    exceeds: bool
    error: float | None
    index: Index | None = None
    ours: str = ""
    theirs: str = ""

    def __str__(self) -> str:
        text = f"{self.path or _TOP} (%{self.number} = {self.op} at {self.source})"
        if self.index is None:
            return f"{text}: within the tolerance, error {self.error}"
        return f"{text}: {self.ours} instead of {self.theirs} at {list(self.index)}, error {self.error}"


@dataclass(frozen=True)
class ModuleComparison:
    """A program against the framework, module by module.

    Attributes:
        modules: what could be compared, in the order in which the program computes it.
        unmatched: paths of captured modules without a value of their shape and dtype in the program: identities, and
            operators that the import replaces by others.
    """

    modules: tuple[ModuleDifference, ...]
    unmatched: tuple[str, ...]

    @property
    def first(self) -> ModuleDifference | None:
        """The first module that exceeds the tolerance."""
        return next((m for m in self.modules if m.exceeds), None)


def compare_modules(
    program: Traceable,
    inputs: Mapping[str, np.ndarray],
    captured: Mapping[str, np.ndarray],
    *,
    tolerance: float = 1e-4,
    target: str = "native",
    segment: int = SEGMENT,
) -> ModuleComparison:
    """Trace an imported model and compare it with what the framework computed on the same inputs.

    Args:
        program: what ``from_torch`` made of the module (its inference: capture the module in ``eval()`` mode), or a training
            step of it.
        inputs: the batch by name.
        captured: arrays by module path, for instance from ``frontends.torch_trace.capture``.
        tolerance: relative to the largest magnitude of each captured tensor.
        target: a target of the compiler, or ``interpreter``.

    Raises:
        InputError: no captured module is in the program.
    """
    from gensyn_tvm.compiler import source_of

    source = source_of(program)
    outputs = {path: _output_of(source.graph, path, array) for path, array in captured.items()}
    numbers = {path: number for path, number in outputs.items() if number is not None}
    if not numbers:
        places = sorted({node.source for node in source.graph.nodes})[:8]
        raise InputError(
            describe(
                "no captured module is in the program",
                found=f"modules {', '.join(map(repr, list(captured)[:8]))}",
                expected=f"paths of places like {', '.join(places)}",
            )
        )
    values = trace(source, inputs, target=target, segment=segment, keep=numbers.values()).values
    ordered = sorted(numbers, key=lambda path: (numbers[path], -path.count("."), path == ""))
    modules = [_compared(source.graph, p, numbers[p], values[numbers[p]], captured[p], tolerance) for p in ordered]
    return ModuleComparison(tuple(modules), tuple(path for path in captured if outputs[path] is None))


def _output_of(graph: Graph, path: str, array: np.ndarray) -> int | None:
    """The last value of a module's shape and dtype that is computed inside of the module."""
    from gensyn_tvm.frontends.assemble import identifier

    name = identifier(path)
    first = len(graph.inputs)
    for k in reversed(range(len(graph.nodes))):
        place, colon, _ = graph.nodes[k].source.rpartition(":")
        forward = bool(colon) and not place.startswith("gradient of ")
        inside = forward and (not path or place == name or place.startswith(f"{name}."))
        (type_,) = graph.nodes[k].types
        if inside and type_.shape == array.shape and type_.dtype == array.dtype.name:
            return first + k
    return None


def _compared(graph: Graph, path: str, number: int, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> ModuleDifference:
    node = graph.nodes[number - len(graph.inputs)]
    wrong = differing(ours, theirs, tolerance)
    error = largest_error(ours, theirs)
    if not wrong.any():
        return ModuleDifference(path, number, node.op, node.source, False, error)
    index = first_index(wrong)
    return ModuleDifference(
        path, number, node.op, node.source, True, error, index, as_text(ours, index), as_text(theirs, index)
    )
