"""A graph under construction: values to draw from, and new ones when none fits."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from gensyn_tvm.canonical.graph import Graph, Input, Node, Output, eliminate_dead_nodes
from gensyn_tvm.canonical.rules import infer
from gensyn_tvm.canonical.types import NARROW, TensorType, carrier_of, from_carrier
from gensyn_tvm.errors import InvalidProgramError

from ..operators.case import array

#: Most elements that a value may have, so that the interpreter is quick.
MAX_ELEMENTS = 2000
#: Most multiplications of a product or convolution, and most elements looked at by a pooling.
MAX_WORK = 60_000
_EXTENTS = (1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 13, 15, 16, 16, 17, 24, 31, 32, 33, 48, 64, 65, 100)
#: The dtypes that values have, the frequent ones several times.
DRAWN: tuple[str, ...] = ("float32",) * 5 + ("float64",) * 2 + ("int32", "int64") * 2 + ("int8", "uint8", "uint32", "bool")
DRAWN += ("int16", "uint16", "uint64", "float16", "bfloat16", "float8_e4m3fn", "int4")
T = TypeVar("T")
Shape = tuple[int, ...]


class Unsuitable(Exception):
    """What was drawn does not fit; draw again."""


def values(t: TensorType, rng: np.random.Generator, *, special: bool) -> np.ndarray:
    """Random values; of narrow dtypes every bit pattern is as likely as any other."""
    if t.dtype not in NARROW:
        return array(t, rng, special=special)
    return from_carrier(rng.integers(0, 2 ** NARROW[t.dtype], t.shape, carrier_of(t.dtype)), t.dtype)


class Draft:
    """Values, by handles that number them in the order of their making, inputs and nodes mixed.

    Attributes:
        rng: where all choices come from.
        types: type of each value.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.types: list[TensorType] = []
        self._made: list[tuple[str, tuple[int, ...], dict[str, Any]] | None] = []
        self._seen: dict[Any, int] = {}

    # ---- choices ----------------------------------------------------------------------------------------------------

    def choice(self, items: Sequence[T]) -> T:
        """One of some things; ``Unsuitable`` if there are none."""
        if not items:
            raise Unsuitable
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        """True so often."""
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def numbers(self, low: int, high: int, count: int) -> tuple[int, ...]:
        """Several of them."""
        return tuple(self.number(low, high) for _ in range(count))

    def shape(self, low: int = 0, high: int = 4) -> Shape:
        """A shape with so many axes and at most ``MAX_ELEMENTS`` elements; rarely an empty one."""
        rank = self.number(low, high)
        while True:
            extents = tuple(self.choice(_EXTENTS) for _ in range(rank))
            if math.prod(extents) <= MAX_ELEMENTS:
                break
        if rank and self.chance(0.01):
            axis = self.number(0, rank - 1)
            return (*extents[:axis], 0, *extents[axis + 1 :])
        return extents

    def axes(self, rank: int, count: int | None = None) -> tuple[int, ...]:
        """Ascending axes: any number of them, or ``count``."""
        if count is None:
            return tuple(a for a in range(rank) if self.chance(0.5))
        if count > rank:
            raise Unsuitable
        return tuple(sorted(int(a) for a in self.rng.permutation(rank)[:count]))

    def accepted(self, op: str, inputs: int, **attrs: Any) -> tuple[str, ...]:
        """The dtypes that an operator takes when all its inputs have the same one (and two axes)."""
        return _accepted(op, ((2, 2),) * inputs, tuple(attrs.items()))

    def operands(self, op: str, shapes: Sequence[Shape], attrs: dict[str, Any]) -> tuple[int, ...]:
        """Values of just these shapes and of one dtype that the operator takes."""
        dtype = self.choice(_accepted(op, tuple(shapes), tuple(attrs.items())))
        return tuple(self.shaped(shape, dtype) for shape in shapes)

    # ---- values -----------------------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: int, **attrs: Any) -> int:
        """Append a node.

        Raises:
            Unsuitable: a result of more than ``MAX_ELEMENTS`` elements.
            InvalidProgramError: the operator's rule refuses the inputs or attributes.
        """
        key = (op, inputs, tuple(sorted(attrs.items())))
        if key not in self._seen:
            (type_,) = infer(op, [self.types[i] for i in inputs], attrs)
            if type_.size > MAX_ELEMENTS:
                raise Unsuitable
            self._seen[key] = self._append(type_, (op, inputs, attrs))
        return self._seen[key]

    def fresh(self, type_: TensorType) -> int:
        """A new input, or sometimes a constant."""
        if not self.chance(0.15) or type_.size > 200:
            return self._append(type_, None)
        return self.emit("constant", **self.constant(type_))

    def constant(self, type_: TensorType) -> dict[str, Any]:
        """Attributes of a constant: values of all kinds, or one value repeated."""
        data = values(type_, self.rng, special=self.chance(0.5)).astype(type_.numpy_dtype())
        if self.chance(0.4) and data.size:
            data = np.full_like(data, data.flat[0])
        return {"dtype": type_.dtype, "shape": type_.shape, "data": base64.b64encode(data.tobytes()).decode()}

    def scalar(self, dtype: str, value: int) -> int:
        """A scalar constant."""
        data = np.array(value).astype(TensorType((), dtype).numpy_dtype())
        return self.emit("constant", dtype=dtype, shape=(), data=base64.b64encode(data.tobytes()).decode())

    def value(
        self, dtypes: Sequence[str] = DRAWN, low: int = 0, high: int = 5, fits: Callable[[TensorType], bool] = lambda t: True
    ) -> int:
        """A value of one of some dtypes, with ``low`` to ``high`` axes and a type that ``fits``; mostly a recent one."""
        usable = [h for h, t in enumerate(self.types) if low <= t.rank <= high and fits(t)]
        right = [h for h in usable if self.types[h].dtype in dtypes]
        if right and self.chance(0.85):
            return right[-min(int(self.rng.geometric(0.3)), len(right))]
        dtype = self.choice(dtypes)
        if usable and self.chance(0.5):
            chosen = self.choice(usable)
            return chosen if self.types[chosen].dtype in dtypes else self.emit("cast", chosen, dtype=dtype)
        for _ in range(20):
            type_ = TensorType(self.shape(low, min(high, 4)), dtype)
            if fits(type_):
                return self.fresh(type_)
        raise Unsuitable

    def shaped(self, shape: Shape, dtype: str) -> int:
        """A value of just this type: one that there is, or a part of one, or a new one."""
        need = math.prod(shape)
        same = [h for h, t in enumerate(self.types) if t.dtype == dtype and t.shape == shape]
        if same and self.chance(0.8):
            return self.choice(same)
        larger = [h for h, t in enumerate(self.types) if t.dtype == dtype and t.size >= need]
        if not larger or self.chance(0.3):
            return self.fresh(TensorType(shape, dtype))
        chosen = self.choice(larger)
        size = self.types[chosen].size
        if size > need:
            chosen = chosen if self.types[chosen].rank == 1 else self.emit("reshape", chosen, shape=(size,))
            start = self.number(0, size - need)
            chosen = self.emit("slice", chosen, starts=(start,), limits=(start + need,), strides=(1,))
        return chosen if self.types[chosen].shape == shape else self.emit("reshape", chosen, shape=shape)

    def partner(self, handle: int, dtype: str = "") -> int:
        """A value that broadcasts with another one, of its dtype or a given one."""
        shape, dtype = self.types[handle].shape, dtype or self.types[handle].dtype
        fitting = [h for h, t in enumerate(self.types) if t.dtype == dtype and _broadcast(t.shape, shape)]
        if fitting and self.chance(0.6):
            return self.choice(fitting)
        if self.chance(0.5):
            return self.shaped(shape, dtype)
        other = tuple(1 if self.chance(0.35) else e for e in shape)[self.number(0, len(shape)) if self.chance(0.4) else 0 :]
        if self.chance(0.15) and len(other) == len(shape):
            other = (self.number(1, 4), *other)
        return self.shaped(other, dtype)

    # ---- the result -------------------------------------------------------------------------------------------------

    def finish(self, name: str) -> Graph:
        """The graph: its outputs are all values that nothing reads, and some others."""
        read = {i for made in self._made if made for i in made[1]}
        last = [h for h, made in enumerate(self._made) if made and h not in read]
        more = [h for h, made in enumerate(self._made) if made and h in read and self.chance(0.12)]
        outputs = sorted(last + more) or [0]
        used = read | set(outputs)
        inputs = [h for h, made in enumerate(self._made) if made is None and h in used]
        numbers = {h: k for k, h in enumerate(inputs)}
        nodes: list[Node] = []
        for handle, made in enumerate(self._made):
            if made:
                op, arguments, attrs = made
                numbers[handle] = len(inputs) + len(nodes)
                operands = tuple(numbers[i] for i in arguments)
                nodes.append(Node(op, operands, dict(sorted(attrs.items())), (self.types[handle],)))
        return eliminate_dead_nodes(
            Graph(
                name,
                tuple(Input(f"x{k}", "input", self.types[h]) for k, h in enumerate(inputs)),
                tuple(nodes),
                tuple(Output(f"y{k}", numbers[h]) for k, h in enumerate(outputs)),
            )
        )

    def _append(self, type_: TensorType, made: tuple[str, tuple[int, ...], dict[str, Any]] | None) -> int:
        self.types.append(type_)
        self._made.append(made)
        return len(self.types) - 1


@lru_cache(maxsize=1000)
def _accepted(op: str, shapes: tuple[Shape, ...], attrs: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    def accepts(dtype: str) -> bool:
        try:
            infer(op, [TensorType(shape, dtype) for shape in shapes], dict(attrs))
        except InvalidProgramError:
            return False
        return True

    return tuple(dtype for dtype in DRAWN if accepts(dtype))


def _broadcast(a: Shape, b: Shape) -> bool:
    """Whether two shapes broadcast to one that is not too large."""
    try:
        return math.prod(np.broadcast_shapes(a, b)) <= MAX_ELEMENTS
    except ValueError:
        return False


#: Inputs and attributes of an operator.
Sample = tuple[tuple[int, ...], dict[str, Any]]
Sampler = Callable[[Draft, str], Sample]
