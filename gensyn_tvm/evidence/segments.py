"""A graph in segments that keep every intermediate value, and ways to run them.

A segment is a graph of its own: a run of nodes whose values are all outputs. Its inputs are the values that it reads from
before. Compile time and memory are those of one segment, however long the graph is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Input, Node, Output
from gensyn_tvm.errors import InputError, describe

#: Nodes in a segment.
SEGMENT = 64
INTERPRETER = "interpreter"


@dataclass(frozen=True)
class Way:
    """A way to run a program; none of them may change a bit.

    Attributes:
        target: a target of the compiler, or ``interpreter``.
        schedule: style of the schedules; the target's default if None.
        threads: compute threads; all cores if None.
    """

    target: str = "native"
    schedule: str | None = None
    threads: int | None = None

    @staticmethod
    def parse(text: str) -> Way:
        """``TARGET[:SCHEDULE[:THREADS]]``, for instance ``native``, ``x86-64:plain``, ``native:fast:4``, ``native::2``.

        Raises:
            InputError: something else.
        """
        target, *rest = text.split(":")
        schedule, threads = (*rest, "", "")[:2]
        alone = target == INTERPRETER and rest
        if not target or len(rest) > 2 or alone or (threads and not threads.isdecimal()):
            raise InputError(
                describe("no way to run a program", found=text, expected="TARGET[:SCHEDULE[:THREADS]], or interpreter")
            )
        return Way(target, schedule or None, int(threads) if threads else None)

    def run(self, graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of a graph on arrays for all of its inputs, in order.

        Raises:
            InputError: arrays do not fit.
            TargetError: no such target.
        """
        if self.target == INTERPRETER:
            return interpreter.run(graph, inputs)
        from gensyn_tvm.compiler import compile
        from gensyn_tvm.runtime.executable import as_array

        state = {i.name: inputs[i.name] for i in graph.inputs if i.role in STATE_ROLES}
        given = {name: array for name, array in inputs.items() if name not in state}
        exe = compile(graph, self.target, schedule=self.schedule, threads=self.threads)
        return [as_array(value) for value in exe.run(given, state)]

    def __str__(self) -> str:
        return ":".join([self.target, self.schedule or "", str(self.threads or "")]).rstrip(":")


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes of a graph as a graph.

    Attributes:
        graph: its inputs and outputs are called after the values' numbers, ``%12``.
        reads: values from before that it reads, in the order of its inputs.
        makes: values of its nodes that are outputs, in their order.
    """

    graph: Graph
    reads: tuple[int, ...]
    makes: tuple[int, ...]


def segments(graph: Graph, size: int = SEGMENT) -> list[Segment]:
    """The whole graph in segments of at most ``size`` nodes whose values are all outputs.

    Raises:
        InputError: a size below 1.
    """
    if size < 1:
        raise InputError(f"segments of {size} nodes; expected at least 1")
    first, stop = len(graph.inputs), len(graph.inputs) + len(graph.nodes)
    cuts = [range(start, min(start + size, stop)) for start in range(first, stop, size)]
    return [_segment(graph, cut, tuple(cut)) for cut in cuts]


def stretch(graph: Graph, cut: range) -> Segment:
    """The nodes of the values ``cut`` as they are in the program: outputs are only the values that are read behind them."""
    behind = {v for node in graph.nodes[cut.stop - len(graph.inputs) :] for v in node.inputs}
    behind |= {v for o in graph.outputs for v in (o.value, *(extent for _, extent in o.extents))}
    return _segment(graph, cut, tuple(v for v in cut if v in behind))


def _segment(graph: Graph, cut: range, makes: tuple[int, ...]) -> Segment:
    first = len(graph.inputs)
    types = graph.value_types()
    before = sorted({v for value in cut for v in graph.nodes[value - first].inputs if v < cut.start})
    # Constants are repeated, because an operator on a constant is compiled in another way than one on an input.
    constants = [v for v in before if v >= first and graph.nodes[v - first].op == "constant"]
    reads = tuple(v for v in before if v not in constants)
    renumber = {value: number for number, value in enumerate([*reads, *constants, *cut])}
    nodes = [graph.nodes[v - first] for v in (*constants, *cut)]
    return Segment(
        Graph(
            f"{graph.name} {_name(cut.start)}…{_name(cut.stop - 1)}",
            tuple(Input(_name(v), "input", types[v]) for v in reads),
            tuple(Node(n.op, tuple(renumber[i] for i in n.inputs), n.attrs, n.types, n.source) for n in nodes),
            tuple(Output(_name(v), renumber[v]) for v in makes),
        ),
        reads,
        makes,
    )


def run_segment(segment: Segment, values: Mapping[int, np.ndarray], way: Way) -> dict[int, np.ndarray]:
    """What a segment makes of values, by number; it reads those that it needs."""
    results = way.run(segment.graph, {_name(v): values[v] for v in segment.reads})
    return dict(zip(segment.makes, results, strict=True))


def _name(value: int) -> str:
    return f"%{value}"


@dataclass(frozen=True)
class Part:
    """What one segment computed.

    Attributes:
        makes: numbers of the new values.
        values: those, and all values that their nodes read.
    """

    makes: Sequence[int]
    values: Mapping[int, np.ndarray]


def run_parts(graph: Graph, inputs: Mapping[str, np.ndarray], way: Way, size: int = SEGMENT) -> Iterator[Part]:
    """Run a graph segment by segment; a value is dropped once no later segment reads it.

    Raises:
        InputError: arrays do not fit the graph, or a size below 1.
    """
    values = dict(enumerate(interpreter.checked_inputs(graph, inputs)))
    first = len(graph.inputs)
    last_use = {v: first + k for k, node in enumerate(graph.nodes) for v in node.inputs}
    for segment in segments(graph, size):
        values.update(run_segment(segment, values, way))
        yield Part(segment.makes, dict(values))
        values = {v: array for v, array in values.items() if last_use.get(v, -1) > segment.makes[-1]}
