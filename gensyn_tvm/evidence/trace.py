"""Traces: every intermediate value of a run of a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph, Output
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.evidence.nonfinite import Nonfinite, origin
from gensyn_tvm.evidence.segments import INTERPRETER, SEGMENT, Part, Way, run_parts
from gensyn_tvm.evidence.values import Summary, differing, summarise

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.program import Program
    from gensyn_tvm.training.step import TrainingStep

    Traceable = Program | TrainingStep | Graph | Source


@dataclass(frozen=True)
class Record:
    """One intermediate value.

    Attributes:
        number: of the value, as ``gensyn-tvm inspect`` shows it.
        op: the canonical operator that made it.
        source: place in the user's model.
        type: shape and dtype.
        digest: ``array_digest`` of it.
        summary: extremes and counts of special values.
    """

    number: int
    op: str
    source: str
    type: TensorType
    digest: str
    summary: Summary


@dataclass(frozen=True)
class Trace:
    """All values of one run.

    Attributes:
        graph: the program that ran.
        way: how it ran.
        records: one for each node, in the order of execution.
        values: the arrays that were kept, by number; the graph's inputs are among them.
        origins: every operator that made NaNs or infinities of inputs without, in the order of execution.
        outputs: the graph's outputs, made of the traced values.
        changed: names of the outputs whose bits are others in the program as it is compiled untraced. Nothing may be here:
            such a difference belongs to what tracing changes, which is the fusion of kernels.
    """

    graph: Graph
    way: Way
    records: tuple[Record, ...]
    values: Mapping[int, np.ndarray] = field(repr=False)
    origins: tuple[Nonfinite, ...]
    outputs: tuple[np.ndarray, ...] = field(repr=False)
    changed: tuple[str, ...]

    def record(self, number: int) -> Record:
        """The record of the value ``number``; IndexError if it is no node's."""
        if number < len(self.graph.inputs):
            raise IndexError(number)
        return self.records[number - len(self.graph.inputs)]


def trace(
    program: Traceable,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    target: str = "native",
    schedule: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    segment: int = SEGMENT,
    keep: bool | Iterable[int] = True,
) -> Trace:
    """Run a program once with every intermediate value as an output.

    The graph is compiled in segments whose values are all outputs, so fewer operators are fused than in the program itself;
    by contract that changes no bit, and ``Trace.changed`` says whether it did.

    Args:
        program: a program (inference), a training step, or anything else that ``compile`` takes.
        inputs: the batch by name, see ``samples.arrays_for``; drawn from ``seed`` if None.
        target: a target of the compiler, or ``interpreter``.
        schedule, threads: as for ``compile``.
        seed: of the drawn arrays.
        segment: nodes compiled together; fewer take less memory and more compilations.
        keep: whether ``Trace.values`` keeps the arrays, or the numbers of those to keep.

    Raises:
        InputError: arrays that do not fit.
        TargetError: no such target.
    """
    from gensyn_tvm.compiler import source_of
    from gensyn_tvm.evidence.samples import arrays_for

    source = source_of(program)
    graph, way = source.graph, Way(target, schedule, threads)
    arrays = arrays_for(source, inputs, seed)
    total = len(graph.inputs) + len(graph.nodes)
    kept = set(range(total) if keep is True else keep or ())
    outputs = Outputs(graph, arrays)
    values = {v: array for v, array in outputs.values.items() if v in kept}
    records: list[Record] = []
    origins: list[Nonfinite] = []
    for part in run_parts(graph, arrays, way, segment):
        outputs.add(part)
        for number in part.makes:
            records.append(_record(graph, number, part.values[number]))
            begun = origin(graph, number, part.values)
            origins += [begun] if begun else []
            if number in kept:
                values[number] = part.values[number]
    traced = outputs.finished()
    changed = changed_outputs(graph, traced, untraced(graph, arrays, way, traced))
    return Trace(graph, way, tuple(records), values, tuple(origins), tuple(traced), changed)


def first_nonfinite(trace: Trace) -> Nonfinite | None:
    """The first operator that made NaN or an infinity of inputs without (see ``nonfinite.origin``); None if there is none."""
    return trace.origins[0] if trace.origins else None


def _record(graph: Graph, number: int, value: np.ndarray) -> Record:
    node = graph.nodes[number - len(graph.inputs)]
    return Record(number, node.op, node.source, node.types[0], array_digest(value), summarise(value))


class Outputs:
    """Collects the values that a graph's outputs are made of."""

    def __init__(self, graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.values = dict(enumerate(interpreter.checked_inputs(graph, arrays)))
        self._needed = {v for o in graph.outputs for v in (o.value, *(extent for _, extent in o.extents))}

    def add(self, part: Part) -> None:
        """See the values of a segment."""
        self.values.update({v: part.values[v] for v in part.makes if v in self._needed})

    def finished(self) -> list[np.ndarray]:
        """The outputs in order, cut to the extents that were computed."""
        return [self._finished(o) for o in self.graph.outputs]

    def _finished(self, output: Output) -> np.ndarray:
        return interpreter.finished(output, self.values)


def untraced(graph: Graph, arrays: Mapping[str, np.ndarray], way: Way, traced: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of the whole program in one piece; the interpreter runs node by node anyway, so they are the traced ones."""
    return traced if way.target == INTERPRETER else way.run(graph, arrays)


def changed_outputs(graph: Graph, traced: list[np.ndarray], whole: list[np.ndarray]) -> tuple[str, ...]:
    """Names of the outputs that differ in bits or shape."""
    pairs = zip(graph.outputs, traced, whole, strict=True)
    return tuple(o.name for o, a, b in pairs if a.shape != b.shape or bool(differing(a, b).any()))
