"""Compiling graphs in every configuration and comparing bits with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.compiler import compile
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.runtime.executable import Executable, as_array

LEVELS = supported_levels()
NATIVE = LEVELS[-1] if LEVELS else "c"


@dataclass(frozen=True)
class Configuration:
    """A way to compile and run, none of which may change a bit."""

    target: str
    style: str
    threads: tuple[int, ...] = (1,)

    def __str__(self) -> str:
        return f"{self.target}-{self.style}"


#: Schedules on every instruction-set level of this machine, no schedules on the best one, and the C oracle.
CONFIGURATIONS = (
    *(Configuration(level, "fast", (1, 2)) for level in LEVELS),
    *(Configuration(level, "plain") for level in LEVELS[-1:]),
    Configuration("c", "none"),
)


def executed(executable: Executable, inputs: Mapping[str, np.ndarray], threads: int) -> list[np.ndarray]:
    """The outputs of a run with so many threads."""
    return [as_array(o) for o in replace(executable, threads=threads).run(inputs, {})]


def outputs(graph: Graph, inputs: Mapping[str, np.ndarray], configuration: Configuration) -> dict[int, list[np.ndarray]]:
    """The graph's outputs by the number of threads."""
    executable = compile(graph, configuration.target, schedule=configuration.style)
    return {n: executed(executable, inputs, n) for n in configuration.threads}


def raw_bits(array: np.ndarray) -> np.ndarray:
    """Bit patterns as unsigned integers."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)


def difference(name: str, found: np.ndarray, expected: np.ndarray) -> str:
    """Empty if the bits are the same; otherwise what differs, with index and both values."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"{name}: {found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
    got, want = raw_bits(found), raw_bits(expected)
    wrong = np.argwhere(got != want)
    if not len(wrong):
        return ""
    shown = [
        (tuple(map(int, i)), found[tuple(i)], hex(got[tuple(i)]), expected[tuple(i)], hex(want[tuple(i)])) for i in wrong[:3]
    ]
    return f"{name}: {len(wrong)} of {got.size} differ; (index, found, bits, expected, bits): {shown}"


def assert_all_same(names: Sequence[str], found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    """Compare arrays bit by bit and report the first few that differ."""
    differences = [difference(n, f, e) for n, f, e in zip(names, found, expected, strict=True)]
    differences = [d for d in differences if d]
    assert not differences, f"{len(differences)} of {len(names)}:\n" + "\n".join(differences[:10])
