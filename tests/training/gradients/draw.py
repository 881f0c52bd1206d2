"""Graphs of one differentiable operator each, with attributes, shapes and values that hypothesis draws.

Attributes come from the samplers of the fuzzer (tests/fuzz); shapes are smaller, all values are inputs of the graph and floats
are far enough from kinks, ties and the borders of the operator's domain for finite differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from gensyn_tvm.canonical.graph import Graph, Input, Node, Output
from gensyn_tvm.canonical.rule_basics import Refused
from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.errors import InvalidProgramError

from ...fuzz.draft import DRAWN, Draft, Sample, Shape, T, Unsuitable
from ...fuzz.samplers import SAMPLERS

#: Extents of axes and most elements, for finite differences and for comparing bits.
SMALL: tuple[tuple[int, ...], int] = (1, 2, 3, 4, 5, 7), 60
LARGER: tuple[tuple[int, ...], int] = (1, 2, 3, 5, 7, 8, 9, 16, 17, 33), 600


class _Choices:
    """What ``Draft`` needs of a NumPy generator, drawn by hypothesis, which shrinks it."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw

    def integers(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        return int(self._draw(st.integers(low, high - 1)))

    def random(self) -> float:
        """Shrinks towards 1, so that what happens by chance shrinks away."""
        return 1 - self._draw(st.integers(1, 1000)) / 1000

    def permutation(self, n: int) -> list[int]:
        return list(self._draw(st.permutations(range(n))))


class SmallDraft(Draft):
    """A draft whose values are new inputs, small, and floats if they may be."""

    def __init__(self, choices: Any, size: tuple[tuple[int, ...], int] = SMALL) -> None:
        super().__init__(choices)
        self._extents, self._most = size

    def choice(self, items: Sequence[T]) -> T:
        """Every different thing as often as any other."""
        return super().choice(list(dict.fromkeys(items)))

    def shape(self, low: int = 0, high: int = 4) -> Shape:
        rank = self.number(low, high)
        extents = tuple(self.choice(self._extents) for _ in range(rank))
        if math.prod(extents) > self._most:
            raise Unsuitable
        return extents

    def fresh(self, type_: TensorType) -> int:
        return self._append(type_, None)

    def value(
        self,
        dtypes: Sequence[str] = DRAWN,
        low: int = 0,
        high: int = 5,
        fits: Callable[[TensorType], bool] = lambda t: True,
    ) -> int:
        floats = [d for d in dtypes if d in FLOATS]
        return self.fresh(TensorType(self.shape(low, min(high, 4)), self.choice(floats)))

    def shaped(self, shape: Shape, dtype: str) -> int:
        same = [h for h, t in enumerate(self.types) if t == TensorType(shape, dtype)]
        return self.choice(same) if same and self.chance(0.1) else self.fresh(TensorType(shape, dtype))

    def partner(self, handle: int, dtype: str = "") -> int:
        shape, dtype = self.types[handle].shape, dtype or self.types[handle].dtype
        if self.chance(0.5):
            return self.shaped(shape, dtype)
        other = tuple(1 if self.chance(0.4) else e for e in shape)[self.number(0, len(shape)) if self.chance(0.4) else 0 :]
        return self.shaped((self.number(1, 3), *other) if self.chance(0.2) and len(other) == len(shape) else other, dtype)

    def operands(self, op: str, shapes: Sequence[Shape], attrs: dict[str, Any]) -> tuple[int, ...]:
        dtype = self.choice(("float32", "float32", "float64"))
        return tuple(self.shaped(shape, dtype) for shape in shapes)


# ---- samplers of our own --------------------------------------------------------------------------------------------


def _matmul(d: Draft, op: str) -> Sample:
    """Leading axes on either side, on both, and broadcast."""
    dtype = d.choice(("float32", "float64"))
    m, k, n = d.numbers(1, 5, 3)
    lead = d.numbers(1, 3, 2)
    left, right = (tuple(1 if d.chance(0.3) else e for e in lead[d.choice((2, 1, 0)) :]) for _ in range(2))
    return (d.shaped((*left, m, k), dtype), d.shaped((*right, k, n), dtype)), {}


def _cast(d: Draft, op: str) -> Sample:
    return (d.value(),), {"dtype": d.choice(FLOATS)}


OWN: dict[str, Callable[[Draft, str], Sample]] = {"matmul": _matmul, "cast": _cast}

#: Operators whose results have jumps; there are no finite differences of them.
ROUNDING = ("cast_saturating",)

_POSITIVE, _UNIT = (0.3, 3.0), (-0.95, 0.95)
#: From where an operator's floats are drawn, where not from (-2, 2) without (-0.05, 0.05).
DOMAINS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "pow", "div"), _POSITIVE),
    **dict.fromkeys(("asin", "acos", "atanh"), _UNIT),
    "log1p": (-0.9, 3.0),
    "acosh": (1.05, 4.0),
    "tan": (-1.3, 1.3),
}


@dataclass(frozen=True)
class Drawn:
    """A graph with one output, values of its inputs, and weights of its output's elements in the loss."""

    op: str
    graph: Graph
    arrays: tuple[np.ndarray, ...]
    weights: np.ndarray

    @property
    def wanted(self) -> list[int]:
        """The inputs that are floats."""
        return [k for k, i in enumerate(self.graph.inputs) if i.type.dtype in FLOATS]


def graph(d: SmallDraft, op: str) -> Graph:
    """A graph of one operator (and what makes its indices).

    Raises:
        Unsuitable: draw again.
    """
    try:
        inputs, attrs = OWN.get(op, SAMPLERS[op])(d, op)
        last = d.emit(op, *inputs, **attrs)
    except (Refused, InvalidProgramError):
        raise Unsuitable from None
    sources = [h for h, made in enumerate(d._made) if made is None and h in _read(d, last)]
    numbers = {h: k for k, h in enumerate(sources)}
    nodes: list[Node] = []
    for handle in sorted(_read(d, last)):
        made = d._made[handle]
        if made:
            numbers[handle] = len(sources) + len(nodes)
            nodes.append(Node(made[0], tuple(numbers[i] for i in made[1]), dict(made[2]), (d.types[handle],)))
    placed = tuple(Input(f"x{k}", "input", d.types[h]) for k, h in enumerate(sources))
    if (d.types[last].dtype not in FLOATS and op not in ROUNDING) or not any(i.type.dtype in FLOATS for i in placed):
        raise Unsuitable
    return Graph(f"gradient of {op}", placed, tuple(nodes), (Output("y", numbers[last]),))


def _read(d: SmallDraft, last: int) -> set[int]:
    """A value and all that it is made of."""
    pending, found = [last], {last}
    while pending:
        made = d._made[pending.pop()]
        for i in made[1] if made else ():
            if i not in found:
                found.add(i)
                pending.append(i)
    return found


def values(g: Graph, op: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """For the inputs: floats that all differ, by about their range divided by their number; small integers; booleans."""
    low, high = DOMAINS.get(op, (-2.0, 2.0))
    counts = [i.type.size for i in g.inputs]
    gap = 0.05 if low < 0 else 0.0
    grid = np.linspace(low + gap, high - gap, sum(counts) + 2)
    grid = rng.permutation(grid + np.where(grid < 0, -gap, gap))
    result = []
    for i, first in zip(g.inputs, np.cumsum([0, *counts]), strict=False):
        if i.type.dtype in FLOATS:
            result.append(grid[first : first + i.type.size].reshape(i.type.shape).astype(i.type.dtype))
        elif i.type.dtype == "bool":
            result.append(rng.random(i.type.shape) < 0.5)
        else:
            result.append(rng.integers(-9, 9, i.type.shape).astype(i.type.dtype))
    return tuple(result)


def drawn(d: SmallDraft, op: str, rng: np.random.Generator) -> Drawn:
    """A graph with values.

    Raises:
        Unsuitable: draw again.
    """
    g = graph(d, op)
    out = g.value_types()[g.outputs[0].value]
    weights = rng.uniform(0.5, 1.5, out.shape) * rng.choice([-1.0, 1.0], out.shape)
    dtype = out.dtype if out.dtype in FLOATS else "float32"
    return Drawn(op, g, values(g, op, rng), np.asarray(weights, dtype))


def cases(op: str) -> Any:
    """Strategy of ``Drawn`` cases of an operator."""

    @st.composite
    def strategy(draw: Callable[[Any], Any]) -> Drawn:
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        for _ in range(30):
            try:
                return drawn(SmallDraft(_Choices(draw)), op, rng)
            except Unsuitable:
                continue
        reject()
        raise AssertionError

    return strategy()
