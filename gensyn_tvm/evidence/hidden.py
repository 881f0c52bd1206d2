"""Where a difference is that tracing hides: the shortest stretch of a program that computes other bits in one piece."""

from __future__ import annotations

from dataclasses import dataclass

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.segments import run_segment, stretch
from gensyn_tvm.evidence.trace import Trace
from gensyn_tvm.evidence.values import differing


@dataclass(frozen=True)
class Hidden:
    """Consecutive operators that compute other bits fused than one by one.

    Attributes:
        values: numbers of their values.
        operators: of each, the operator and its place in the user's model.
        differ: the values behind which something is read and which differ.
    """

    values: range
    operators: tuple[tuple[str, str], ...]
    differ: tuple[int, ...]

    def __str__(self) -> str:
        shown = "; ".join(f"{op} at {place}" if place else op for op, place in self.operators)
        wrong = ", ".join(f"%{v}" for v in self.differ)
        return f"%{self.values.start} to %{self.values.stop - 1}, compiled together, give another {wrong}: {shown}"


def locate(trace: Trace) -> Hidden | None:
    """The shortest stretch that this finds: no end of it can be left out. None if the program agrees with its trace.

    Every attempt compiles a part of the program as the program is compiled and runs it on the traced values, so one mistake
    does not hide behind another; the number of attempts grows with the logarithm of the program's length.

    Raises:
        InputError: the trace did not keep its values.
    """
    graph = trace.graph
    first, stop = len(graph.inputs), len(graph.inputs) + len(graph.nodes)
    if len(trace.values) != stop:
        raise InputError("the trace did not keep its values; make it with keep=True")
    cut = range(first, stop)
    wrong = _wrong(trace, cut)
    if not wrong:
        return None
    step = len(cut) // 2
    while step:
        for shorter in (range(cut.start + step, cut.stop), range(cut.start, cut.stop - step)):
            found = _wrong(trace, shorter) if len(shorter) else ()
            if found:
                cut, wrong = shorter, found
                break
        else:
            step //= 2
    return Hidden(cut, _operators(graph, cut), wrong)


def _wrong(trace: Trace, cut: range) -> tuple[int, ...]:
    """The values that a stretch computes with other bits than the trace has."""
    made = run_segment(stretch(trace.graph, cut), trace.values, trace.way)
    return tuple(v for v, array in made.items() if differing(array, trace.values[v]).any())


def _operators(graph: Graph, cut: range) -> tuple[tuple[str, str], ...]:
    nodes = [graph.nodes[v - len(graph.inputs)] for v in cut]
    return tuple((n.op, n.source) for n in nodes if n.op != "constant")
