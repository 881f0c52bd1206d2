"""Graphs compiled in one way or another and compared with the interpreter, bit by bit."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.compiler import compile
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.schedules.cpu import elementwise, products, rows
from gensyn_tvm.schedules.driver import STYLES

from ..operators.support import difference, executed
from .generate import Arrays, bundle, inputs


@dataclass(frozen=True)
class Way:
    """A way to compile, none of which may change a bit.

    Attributes:
        target: a target that this machine runs.
        style: style of the schedules.
        eager: use threads for the smallest kernels, too.
    """

    target: str
    style: str
    eager: bool = False

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads to run with; only fast schedules know threads."""
        return (1, 2) if self.style == "fast" else (1,)

    def __str__(self) -> str:
        return f"{self.target} {self.style}{' eager' if self.eager else ''}"


def _all_ways() -> tuple[Way, ...]:
    levels = supported_levels()
    fast = [Way(level, "fast", eager) for level in levels for eager in (False, True)]
    return (*fast, *(Way(level, style) for level in levels for style in STYLES if style != "fast"))


#: The checks that TVM puts before each kernel are half of a small kernel's code, and not what is tested here.
_NO_ARGUMENT_CHECKS = {"tirx.disable_assert": True}
#: Fast schedules, then the others; and the oracle.
WAYS = _all_ways()
ORACLE = Way("c", "none")


def ways_of(number: int) -> tuple[Way, ...]:
    """Two ways for the ``number``-th bundle: fast schedules, and mostly the oracle, which compiles quickly, or another way."""
    fast = [way for way in WAYS if way.style == "fast"]
    if not fast:
        return (ORACLE,)
    first = fast[number % len(fast)]
    others = [way for way in WAYS if way != first]
    return (first, ORACLE if number % 4 else others[number // 4 % len(others)])


@dataclass
class Case:
    """A graph with values for its inputs."""

    graph: Graph
    given: Arrays

    @staticmethod
    def of(graph: Graph) -> Case:
        """With the values that belong to a random graph."""
        return Case(graph, inputs(graph))

    def __str__(self) -> str:
        """The graph for people."""
        lines = [f"{k}: {i.name} {i.type}" for k, i in enumerate(self.graph.inputs)]
        for k, node in enumerate(self.graph.nodes):
            attrs = ", ".join(f"{name}={str(v)[:80]}" for name, v in node.attrs.items())
            lines.append(f"{len(self.graph.inputs) + k}: {node.op} {node.inputs} {attrs} -> {node.types[0]}")
        return "\n".join([*lines, f"outputs {[o.value for o in self.graph.outputs]}"])

    def dumps(self, way: Way) -> str:
        """As text that ``loads`` reads."""
        given = {name: base64.b64encode(np.ascontiguousarray(a).tobytes()).decode() for name, a in self.given.items()}
        return json.dumps({"graph": serialise.to_json(self.graph), "inputs": given, "way": asdict(way)})

    @staticmethod
    def loads(text: str) -> tuple[Case, Way]:
        """What ``dumps`` wrote."""
        data = json.loads(text)
        graph = serialise.from_json(data["graph"])
        given = {}
        for i in graph.inputs:
            raw = np.frombuffer(base64.b64decode(data["inputs"][i.name]), i.type.numpy_dtype())
            given[i.name] = raw.reshape(i.type.shape).copy()
        return Case(graph, given), Way(**data["way"])


def check(cases: Sequence[Case], way: Way) -> list[list[str]]:
    """For each case what differs from the interpreter when all are compiled together; exceptions pass through."""
    expected = [interpreter.run(case.graph, case.given) for case in cases]
    together = bundle([case.graph for case in cases])
    given = {f"{k}.{name}": array for k, case in enumerate(cases) for name, array in case.given.items()}
    with _eager_threads(way.eager), tvm.transform.PassContext(config=_NO_ARGUMENT_CHECKS):
        executable = compile(together, way.target, schedule=way.style)
    problems: list[list[str]] = [[] for _ in cases]
    for threads in way.threads:
        found = iter(executed(executable, given, threads))
        for k, arrays in enumerate(expected):
            outputs = cases[k].graph.outputs
            labels = [f"{cases[k].graph.name} {o.name} ({way}, {threads} threads)" for o in outputs]
            differences = [difference(label, next(found), want) for label, want in zip(labels, arrays, strict=True)]
            problems[k] += [d for d in differences if d]
    return problems


def problem(case: Case, way: Way) -> str:
    """What is wrong with one case, an exception of the compiler included; empty if nothing is."""
    try:
        return "\n".join(check([case], way)[0])
    except Exception as error:  # whatever the compiler raises is a finding
        return f"{case.graph.name} ({way}): {type(error).__name__}: {str(error)[-600:]}"


@contextmanager
def _eager_threads(eager: bool) -> Iterator[None]:
    """While compiling, no kernel is too small for threads."""
    modules: tuple[Any, ...] = (elementwise, products, rows)
    before = [module.PARALLEL_WORK for module in modules]
    try:
        for module in modules:
            module.PARALLEL_WORK = 0 if eager else module.PARALLEL_WORK
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.PARALLEL_WORK = value
