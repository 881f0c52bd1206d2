"""Two runs of one program, value by value: the first operator whose results differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.evidence.nonfinite import Nonfinite, origin
from gensyn_tvm.evidence.samples import arrays_for
from gensyn_tvm.evidence.segments import SEGMENT, Part, Way, run_parts
from gensyn_tvm.evidence.trace import Outputs, Trace, changed_outputs, untraced
from gensyn_tvm.evidence.values import Index, as_text, differing, first_index, largest_error, ulp_distance

if TYPE_CHECKING:
    from gensyn_tvm.evidence.trace import Traceable


@dataclass(frozen=True)
class Difference:
    """A value in which two runs differ.

    Attributes:
        number: of the value, as ``gensyn-tvm inspect`` shows it.
        op: the canonical operator that made it.
        source: place in the user's model.
        type: shape and dtype.
        count: how many elements differ.
        index: of the first that does, in row-major order.
        a, b: that element in both runs, in decimal and its bits.
        ulps: distance of these two in representable values; None if one is NaN.
        error: largest distance in the whole value, relative to the largest magnitude of ``b``; None if not of floats.
        culprit: whether no input of the operator differs (by the same tolerance); otherwise this may be a consequence.
        inputs_equal: whether all inputs of the operator have the same bits in both runs.
    """

    number: int
    op: str
    source: str
    type: TensorType
    count: int
    index: Index
    a: str
    b: str
    ulps: int | None
    error: float | None
    culprit: bool
    inputs_equal: bool

    def __str__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        ulps = "" if self.ulps is None else f", {self.ulps} ulp apart"
        cause = "its inputs are equal" if self.inputs_equal else "inputs within the tolerance"
        cause = cause if self.culprit else "a consequence: its inputs differ"
        return (
            f"%{self.number} = {self.op}{where}: {self.type}, {self.count} elements differ, first at {list(self.index)}: "
            f"{self.a} against {self.b}{ulps}; {cause}"
        )


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` and ``compare_runs`` found.

    Attributes:
        graph: the program.
        a, b: the two ways to run it; ``b`` is the reference.
        tolerance: relative to the largest magnitude of a value; None: bits were compared.
        values: how many values were compared.
        differences: every value that differs, in the order of execution.
        outputs: names of the outputs that differ between the untraced programs.
        changed: (``a`` or ``b``, output) of every output that the run with all values kept computes with other bits than the
            untraced program: a mistake in a fused kernel, or in how it is scheduled, that tracing hides.
        origins: operators that made NaNs or infinities in run ``a``.
    """

    graph: Graph
    a: Way
    b: Way
    tolerance: float | None
    values: int
    differences: tuple[Difference, ...]
    outputs: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]
    origins: tuple[Nonfinite, ...] = ()

    @property
    def first(self) -> Difference | None:
        """The first difference in the order of execution; its operator's inputs do not differ."""
        return self.differences[0] if self.differences else None

    @property
    def agree(self) -> bool:
        """Whether nothing differs: no value, no output, and tracing changed nothing."""
        return not self.differences and not self.outputs and not self.changed


def compare(a: Trace, b: Trace, tolerance: float | None = None) -> Comparison:
    """Compare two traces of one program on the same inputs; ``b`` is the reference.

    Outputs of untraced programs are in ``changed`` of the traces only.

    Args:
        tolerance: see ``values.differing``; None compares bits.

    Raises:
        InputError: traces of different programs or inputs, or without their values.
    """
    if serialise.digest(a.graph) != serialise.digest(b.graph):
        raise InputError("the traces are of different programs")
    total = len(a.graph.inputs) + len(a.graph.nodes)
    if len(a.values) != total or len(b.values) != total:
        raise InputError("a trace did not keep its values; make it with keep=True, or use compare_runs")
    for number, declared in enumerate(a.graph.inputs):
        if differing(a.values[number], b.values[number]).any():
            raise InputError(f"the traces are of runs on different inputs: {declared.name!r} differs")
    comparer = _Comparer(a.graph, tolerance)
    everything = range(len(a.graph.inputs), total)
    comparer.add(Part(everything, a.values), Part(everything, b.values))
    changed = (*(("a", name) for name in a.changed), *(("b", name) for name in b.changed))
    found = tuple(comparer.differences)
    return Comparison(a.graph, a.way, b.way, tolerance, len(everything), found, (), changed, a.origins)


def compare_runs(
    program: Traceable,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    a: Way | str = "native",
    b: Way | str = "interpreter",
    tolerance: float | None = None,
    seed: int = 0,
    segment: int = SEGMENT,
) -> Comparison:
    """Run a program in two ways side by side and compare every intermediate value; no more than a segment is in memory.

    Args:
        program, inputs, seed, segment: as for ``trace``.
        a, b: ways to run it, or texts that ``Way.parse`` reads; ``b`` is the reference.
        tolerance: see ``values.differing``; None compares bits.

    Raises:
        InputError: arrays that do not fit, texts that name no way.
        TargetError: no such target.
    """
    from gensyn_tvm.compiler import source_of

    source = source_of(program)
    graph = source.graph
    first, second = (Way.parse(w) if isinstance(w, str) else w for w in (a, b))
    arrays = arrays_for(source, inputs, seed)
    comparer = _Comparer(graph, tolerance)
    outputs_a, outputs_b = Outputs(graph, arrays), Outputs(graph, arrays)
    runs = (run_parts(graph, arrays, way, segment) for way in (first, second))
    for part_a, part_b in zip(*runs, strict=True):
        comparer.add(part_a, part_b)
        outputs_a.add(part_a)
        outputs_b.add(part_b)
    traced_a, traced_b = outputs_a.finished(), outputs_b.finished()
    whole_a, whole_b = untraced(graph, arrays, first, traced_a), untraced(graph, arrays, second, traced_b)
    changed = [("a", name) for name in changed_outputs(graph, traced_a, whole_a)]
    changed += [("b", name) for name in changed_outputs(graph, traced_b, whole_b)]
    return Comparison(
        graph,
        first,
        second,
        tolerance,
        len(graph.nodes),
        tuple(comparer.differences),
        _differing_outputs(graph, whole_a, whole_b, tolerance),
        tuple(changed),
        tuple(comparer.origins),
    )


def _differing_outputs(graph: Graph, a: list[np.ndarray], b: list[np.ndarray], tolerance: float | None) -> tuple[str, ...]:
    pairs = zip(graph.outputs, a, b, strict=True)
    return tuple(o.name for o, x, y in pairs if x.shape != y.shape or bool(differing(x, y, tolerance).any()))


class _Comparer:
    """Compares the values of two runs as they come, and remembers which values differ."""

    def __init__(self, graph: Graph, tolerance: float | None) -> None:
        if tolerance is not None and not tolerance >= 0:
            raise InputError(describe("no tolerance", found=str(tolerance), expected="a number from 0"))
        self.graph = graph
        self.tolerance = tolerance
        self.differences: list[Difference] = []
        self.origins: list[Nonfinite] = []
        self._unequal: set[int] = set()
        self._beyond: set[int] = set()

    def add(self, a: Part, b: Part) -> None:
        """The same segment of both runs."""
        for number in a.makes:
            begun = origin(self.graph, number, a.values)
            self.origins += [begun] if begun else []
            self._compare(number, a.values[number], b.values[number])

    def _compare(self, number: int, a: np.ndarray, b: np.ndarray) -> None:
        if not differing(a, b).any():
            return
        self._unequal.add(number)
        wrong = differing(a, b, self.tolerance)
        if not wrong.any():
            return
        self._beyond.add(number)
        node = self.graph.nodes[number - len(self.graph.inputs)]
        index = first_index(wrong)
        self.differences.append(
            Difference(
                number,
                node.op,
                node.source,
                node.types[0],
                int(wrong.sum()),
                index,
                as_text(a, index),
                as_text(b, index),
                ulp_distance(np.asarray(a[index]), np.asarray(b[index])),
                largest_error(a, b),
                culprit=self._beyond.isdisjoint(node.inputs),
                inputs_equal=self._unequal.isdisjoint(node.inputs),
            )
        )
