"""What a kernel computes, whatever its loops: a number for every element of every buffer.

Reads of a stage without reduction are replaced by the stage's expression, so a stage that was inlined, cached, copied or laid
out differently has the same number as before. A reduction is one value: its initial value, its body and the extents of its
axes, at an index of its spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gensyn_tvm.operators.exact import dtype_of
from gensyn_tvm.passes.order.affine import ZERO, Form, Space, Unproved, bounds, constant, text
from gensyn_tvm.passes.order.blocks import Block, Kernel, constant_of, refuse
from gensyn_tvm.passes.order.numbers import Environment, Numbers


@dataclass(eq=False)
class Definition:
    """What defines the elements of a buffer. Its blocks may share them out: whole tiles, then what is left.

    Attributes:
        place: the stored index, forms over the blocks' axes.
        axes: forms of the spatial axes.
        parts: the blocks that store values, or, of a reduction, those that add terms.
        inits: the blocks that store a reduction's initial value, if the parts do not do so themselves.
        key: number of the reduction; None for a stage without.
    """

    place: tuple[Form, ...]
    axes: list[Form]
    parts: list[Block]
    inits: list[Block]
    key: int | None = None
    inverse: dict[tuple[Form, ...], list[Form]] = field(default_factory=dict)

    @property
    def buffer(self) -> Any:
        """The buffer."""
        return self.parts[0].store.buffer

    @property
    def name(self) -> str:
        """Name of the block, for messages."""
        return self.parts[-1].name


class Meaning:
    """The values of all buffers of a kernel.

    ``given``: it is the variant, which reads only what exists: whatever an index into an axis of extent 1 is, it is 0.
    """

    def __init__(self, numbers: Numbers, kernel: Kernel, *, given: bool = False) -> None:
        self.numbers = numbers
        self.kernel = kernel
        self._given = given
        self._params = {hash(p): k for k, p in enumerate(kernel.params)}
        self._memo: dict[tuple[int, tuple[Form, ...]], int] = {}
        self.definitions: dict[int, Definition] = {}
        self._open: list[Definition] = []
        self._waiting = self._writers()
        self._begun: set[int] = set()
        for buffer in [*self._waiting]:
            self._defined(buffer)

    def _writers(self) -> dict[int, list[Block]]:
        writers: dict[int, list[Block]] = {}
        for block in self.kernel.blocks:  # in the order of the last ones, which complete the values
            key = hash(block.store.buffer)
            writers[key] = [*writers.pop(key, []), block]
        return writers

    def _defined(self, buffer: int) -> Definition | None:
        """The definition of a buffer by its hash; None for one that is only read.

        A reduction may read a buffer that a later block completes, of whose elements it reads those that are there by then.
        """
        if buffer in self._waiting:
            blocks = self._waiting.pop(buffer)
            self._begun.add(buffer)
            self.definitions[buffer] = self._define(blocks)
        elif buffer in self._begun and buffer not in self.definitions:
            raise Unproved("buffers whose elements depend on one another")
        return self.definitions.get(buffer)

    def _define(self, blocks: list[Block]) -> Definition:
        parts = [b for b in blocks if b.reductions] or blocks
        inits = [b for b in blocks if not b.reductions] if parts[0].reductions else []
        name = parts[-1].name
        if parts[0].reductions and any((b.init is None) != bool(inits) for b in parts):
            found = "several initial values" if inits else "a reduction without an initial value"
            refuse(self.kernel.name, name, found=found, expected="one for every pass over the terms")
        try:
            env, spatial = axes_of(self.numbers.space, parts[0])
            definition = Definition(self._place(parts[0].store, env), spatial, parts, inits)
            found_keys = {self._key(definition, block) for block in _distinct(parts)}
            if parts[0].reductions:
                (definition.key,) = found_keys if len(found_keys) == 1 else {-1}
        except Unproved as problem:
            expected = "arithmetic that can be compared"
            refuse(self.kernel.name, name, found=str(problem), expected=expected, what=CHANGED, remedy=AS_VARIANT)
        if len(found_keys) != 1:
            found = f"different values of {definition.buffer.name} in the blocks that store it"
            refuse(self.kernel.name, name, found=found, expected="the same value", what=CHANGED, remedy=AS_VARIANT)
        return definition

    def _place(self, store: Any, env: Environment) -> tuple[Form, ...]:
        return tuple(self.numbers.index(i, env, self.load) for i in store.indices)

    def _key(self, definition: Definition, block: Block) -> int:
        """The number of a reduction: initial value, body and extents; of one of several stages without, of its value."""
        numbers = self.numbers
        env, spatial = axes_of(numbers.space, block)
        if self._place(block.store, env) != definition.place or spatial != definition.axes:
            raise Unproved(f"blocks with different axes store {definition.buffer.name}")
        if not block.reductions:
            return numbers.value(block.store.value, env, self.load) if len(_distinct(definition.parts)) > 1 else 0

        def load(source: Any, place: tuple[Form, ...]) -> int:
            if not source.same_as(definition.buffer):
                return self.load(source, place)
            if place != definition.place:
                raise Unproved(f"another element of {definition.buffer.name} than the one that is stored")
            return numbers.of("accumulator")

        body = numbers.value(block.store.value, env, load)
        starts = {self._start(definition, block.init, env)} if block.init is not None else set()
        for init in _distinct(definition.inits):
            starts.add(self._start(definition, init.store, axes_of(numbers.space, init)[0]))
        if len(starts) != 1:
            raise Unproved(f"different initial values of {definition.buffer.name}")
        extents = tuple(tuple(a.extent for a in axes if a.extent != 1) for axes in (block.spatial, block.reductions))
        return numbers.of("reduction", dtype_of(block.store.value), *starts, body, *extents)

    def _start(self, definition: Definition, store: Any, env: Environment) -> int:
        if self._place(store, env) != definition.place:
            raise Unproved("an initial value of another element than the one that is stored")
        return self.numbers.value(store.value, env, self.load)

    def load(self, buffer: Any, place: tuple[Form, ...]) -> int:
        """The number of the element of a buffer at an index."""
        key = (hash(buffer), place)
        number = self._memo.get(key)
        if number is None:
            number = self._memo[key] = self._load(buffer, place)
        return number

    def _load(self, buffer: Any, place: tuple[Form, ...]) -> int:
        definition = self._defined(hash(buffer))
        if definition is None:
            if hash(buffer) not in self._params:
                raise Unproved(f"buffer {buffer.name}, which nothing writes")
            return self.numbers.of("input", self._params[hash(buffer)], place)
        point = self.point(definition, place)
        if definition.key is not None:
            moving = (p for p, a in zip(point, definition.axes, strict=True) if a != ZERO)
            return self.numbers.of("reduced", definition.key, *moving)
        if definition in self._open:
            raise Unproved(f"buffer {buffer.name}, whose elements depend on one another")
        block = definition.parts[-1]
        env = {hash(a.var): p for a, p in zip(block.spatial, point, strict=True)}
        self._open.append(definition)
        number = self.numbers.value(block.store.value, env, self.load)
        self._open.pop()
        return number

    def point(self, definition: Definition, place: tuple[Form, ...]) -> list[Form]:
        """Where on its axes a stage stores the element at ``place``."""
        found = definition.inverse.get(place)
        if found is None:
            shape = [constant_of(e) for e in definition.buffer.shape] if self._given else [0] * len(place)
            inside = tuple(ZERO if extent == 1 else p for extent, p in zip(shape, place, strict=True))
            found = definition.inverse[place] = _invert(self.numbers.space, definition, inside)
        return found


#: How refusals of changed values begin, and what to do about them.
CHANGED = "the schedule would change what a kernel computes"
AS_VARIANT = "use primitives that leave each stage's arithmetic as the variant has it"


def axes_of(space: Space, block: Block) -> tuple[dict[int, Form], list[Form]]:
    """Forms of a block's axes, by hash of their variables, and of the spatial ones in order.

    Axes of the same place, kind and extent are the same in every block, which makes reductions comparable; axes of extent 1
    are not counted.
    """
    env: dict[int, Form] = {}
    spatial: list[Form] = []
    counts = [0, 0]
    for axis in block.axes:
        kind = int(axis.reduces)
        form = ZERO if axis.extent == 1 else space.variable((kind, counts[kind], axis.extent), axis.extent, str(axis.var))
        counts[kind] += axis.extent != 1
        env[hash(axis.var)] = form
        if not axis.reduces:
            spatial.append(form)
    return env, spatial


def _distinct(blocks: list[Block]) -> list[Block]:
    """One of each: a block may stand at several places."""
    return list({hash(b.node): b for b in blocks}.values())


def _invert(space: Space, definition: Definition, place: tuple[Form, ...]) -> list[Form]:
    """The axes' values for which the stored index is ``place``: the digits of the stored index, put together again."""
    digits: dict[Form, list[tuple[int, int, Form]]] = {}
    for stored, wanted in zip(definition.place, place, strict=True):
        rest = space.add(wanted, constant(-stored[0]))
        inner = 0
        for atom, factor in sorted(stored[1], key=lambda term: term[1]):
            if factor <= inner or atom.low != 0 or atom.high is None:
                raise Unproved(f"elements of {definition.buffer.name} that {text(stored)} does not tell apart")
            inner += factor * atom.high
        for atom, factor in sorted(stored[1], key=lambda term: -term[1]):
            whole, rest = space.floordiv(rest, factor), space.floormod(rest, factor)
            assert atom.high is not None
            base, low, high = atom.digit or ((0, ((atom, 1),)), 1, atom.high + 1)
            digits.setdefault(base, []).append((low, high, whole))
        if rest != ZERO:
            raise Unproved(f"an element of {definition.buffer.name} at {text(wanted)}, where none is stored")
    return [_assembled(space, axis, digits.get(axis, [])) for axis in definition.axes]


def _assembled(space: Space, axis: Form, found: list[tuple[int, int, Form]]) -> Form:
    if axis == ZERO:
        return ZERO
    next_low, result = 1, ZERO
    for low, high, value in sorted(found, key=lambda d: d[0]):
        if low != next_low:
            break
        result, next_low = space.add(result, value, low), high
    limit = bounds(axis)[1]
    if limit is None or next_low <= limit:
        raise Unproved(f"a stored index from which {text(axis)} cannot be told")
    return result
