"""When things happen: every term once and in ascending order, every value complete before it is read, no two threads at one
element.

All of it is decided on forms (``affine``): what a block does in one iteration of the loops that it shares with another is the
box that its own loops span.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from gensyn_tvm.passes.order.affine import Digit, Digits, Form, Unproved, text
from gensyn_tvm.passes.order.blocks import SEQUENTIAL, Block, Loop, constant_of, refuse
from gensyn_tvm.passes.order.places import Placed, Places, decodable
from gensyn_tvm.passes.order.regions import Regions
from gensyn_tvm.passes.order.values import AS_VARIANT, CHANGED, Definition, Meaning, axes_of

EARLY = "the schedule would read values before they are complete"
RACE = "the schedule would let iterations that run side by side touch the same elements"
#: Memory of all threads of a block. TVM makes them wait for one another wherever one reads there what another has written, so
#: that all of them have done a statement before any does the next.
_SHARED = "shared"
KEEP_ORDER = "keep producers before their consumers and compute all that is read"


class Flow:
    """The order of events in a kernel."""

    def __init__(self, meaning: Meaning) -> None:
        self.meaning = meaning
        self.name = meaning.kernel.name
        self.space = meaning.numbers.space
        self.places = Places(meaning.numbers, meaning.kernel)
        self.regions = Regions(self.places)
        self._whole_ones: dict[tuple[int, ...], bool] = {}

    def check(self) -> None:
        """Refuse what is not proved."""
        for definition in self.meaning.definitions.values():
            self.check_definition(definition)
        for block in self.meaning.kernel.blocks:
            self.check_reads(block)

    # ---- one block -----------------------------------------------------------------------------------------------------

    def check_definition(self, definition: Definition) -> None:
        """The iterations that define a buffer: each element once, or again as a whole; terms in ascending order."""
        block = definition.parts[0]
        try:
            for block in definition.inits:
                self._check_bounds(block)
                self._check_vectors(block)
                self._check_initialises(block, definition)
            for k, block in enumerate(definition.parts):
                placed = self.places.of(block)
                digits, spatial = self.regions.digits(placed)
                if block.reductions:
                    self._check_terms(placed, digits, spatial, self._check_initialised(block, definition))
                self._check_bounds(block)
                self._check_vectors(block)
                self._check_side_by_side(definition, placed, digits, spatial)
                for other in definition.parts[:k]:
                    self.regions.check_apart(self.places.of(other), placed, self.shared(other, block) or [])
        except Unproved as problem:
            refuse(self.name, block.name, found=str(problem), expected="an affine function of the loops")

    def _check_bounds(self, block: Block) -> None:
        """No axis leaves its extent, and no store its buffer."""
        placed = self.places.of(block)
        self.places.check_domain(placed)
        buffer = block.store.buffer
        for index, extent in zip(block.store.indices, buffer.shape, strict=True):
            form = self.meaning.numbers.index(index, placed.env, self.meaning.load)
            if not self.places.is_inside(form, constant_of(extent), placed.facts):
                found = f"a store to {buffer.name} at {text(form)}, where it has the extent {extent}"
                refuse(self.name, block.name, found=found, expected="stores inside", what=CHANGED, remedy=AS_VARIANT)

    def _check_initialised(self, block: Block, definition: Definition) -> int:
        """The initial value is stored before the first term of every pass; how many loops are around both."""
        placed = self.places.of(block)
        if not definition.inits:
            first = [k for k, loop in enumerate(block.loops) if self.places.moves(loop, placed.reductions)]
            return first[0] if first else len(block.loops)
        before = [(i, loops) for i in definition.inits if (loops := self.shared(i, block)) is not None]
        if not before:
            refuse(
                self.name, block.name, found=f"{definition.inits[0].name!r} after it", expected="the initial value before it"
            )
        for init, shared in before:
            for loop in shared:
                if self.places.moves(loop, placed.reductions):
                    found = "an initial value inside of the reduction"
                    refuse(self.name, init.name, loop, found=found, expected="one before it")
        found = f"elements to which {before[0][0].name!r} gives no initial value"
        self._check_covered(block, [(self.places.of(i), loops) for i, loops in before], placed.spatial, placed.facts, found)
        return min(len(loops) for _, loops in before)

    def _check_initialises(self, init: Block, definition: Definition) -> None:
        """No element gets an initial value that is not followed by all of its terms."""
        placed = self.places.of(init)
        after = [(self.places.of(b), loops) for b in definition.parts if (loops := self.shared(init, b)) is not None]
        if any(len(p.block.spatial) != len(init.spatial) for p, _ in after):
            refuse(self.name, init.name, found="other axes", expected="those of the reduction")
        self._check_covered(init, after, placed.spatial, placed.facts, "elements to which no terms are added afterwards")

    def _check_terms(self, placed: Placed, digits: Digits, spatial: list[dict[Digit, int]], fresh: int) -> None:
        block = placed.block
        inside = placed.loops[fresh:]
        terms = {d for f in placed.reductions for d in digits.expand(f)}
        moved = {d for u in spatial for d in u}
        self._check_used(block, placed.loops, digits, terms | moved)
        for loop in placed.loops:
            mine = digits.of(self.places.form(loop)) if loop.extent > 1 else []
            if any(d in terms for d in mine):
                if loop.kind not in SEQUENTIAL:
                    found = f"a reduction loop under {loop.kind}"
                    refuse(self.name, block.name, loop, found=found, expected="serial or unrolled")
                mixed = [d for d in mine if d in terms and d in moved]
                if mixed:
                    found = f"spatial index {text(placed.spatial[0])} mixed with the reduction"
                    refuse(self.name, block.name, loop, found=found, expected="separate loops")
        self.places.check_ascending(placed)
        self.places.check_complete(placed, digits)
        # After the initial value no element may be met by two passes.
        own = {d for loop in inside if loop.extent > 1 for d in digits.of(self.places.form(loop))} - terms
        if not decodable(own, [{d: f for d, f in u.items() if d in own} for u in spatial]):
            refuse(
                self.name,
                block.name,
                inside[0],
                found="elements that two iterations of the loops inside of it meet",
                expected="every term exactly once",
            )

    def _check_used(self, block: Block, loops: list[Loop], digits: Digits, used: set[Digit]) -> None:
        """A loop that no index of the block depends on would add every term again."""
        for loop in loops:
            if loop.extent > 1:
                mine = digits.of(self.places.form(loop))
                if not mine or not used.issuperset(mine):
                    found = "a loop that no index of the block depends on"
                    refuse(self.name, block.name, loop, found=found, expected="every term exactly once")

    def _check_side_by_side(
        self, definition: Definition, placed: Placed, digits: Digits, spatial: list[dict[Digit, int]]
    ) -> None:
        """No two iterations of a parallel or vectorised loop store to one element, unless both store the same value."""
        block = placed.block
        output = definition.key is None and self._is_output(block)
        if not block.reductions and not output:
            return
        for loop in placed.loops:
            # An output may lie where an input was, so that each of its elements is stored once.
            if loop.extent > 1 and (output or loop.kind not in SEQUENTIAL):
                mine = set(digits.of(self.places.form(loop)))
                if not mine or not decodable(mine, spatial):
                    refuse(
                        self.name,
                        block.name,
                        loop,
                        found="iterations that may store to the same elements",
                        expected="iterations that store to different elements",
                        what=RACE,
                    )

    def _is_output(self, block: Block) -> bool:
        return any(block.store.buffer.same_as(p) for p in self.meaning.kernel.params)

    def _check_vectors(self, block: Block) -> None:
        """A vector loop holds its block and nothing else: all lanes run a statement before the next one."""
        where = next((k for k, p in enumerate(block.path) if isinstance(p, Loop) and p.kind == "vectorize"), None)
        if where is None:
            return
        loop = block.path[where]
        assert isinstance(loop, Loop)
        if any(isinstance(p, int) for p in block.path[where:]):
            found = "a vector loop with more than one block inside"
            refuse(self.name, block.name, loop, found=found, expected="one block in a vector loop", what=RACE)

    def check_stores_all(self, definition: Definition, points: list[Form]) -> None:
        """An output's blocks run at all points."""
        try:
            self.regions.check_covered([(self.places.of(b), []) for b in definition.parts], points, [])
        except Unproved as problem:
            found = f"elements of {definition.buffer.name} that may be left out ({problem})"
            refuse(self.name, definition.name, found=found, expected="every element", what=CHANGED, remedy=AS_VARIANT)

    # ---- two blocks ----------------------------------------------------------------------------------------------------

    @staticmethod
    def shared(first: Block, second: Block) -> list[Loop] | None:
        """The loops around both blocks if ``first`` comes first in each of their iterations, else None."""
        loops: list[Loop] = []
        for a, b in zip(first.path, second.path, strict=False):
            if a is b and isinstance(a, Loop):
                loops.append(a)
            elif isinstance(a, int) and isinstance(b, int):
                if a != b:
                    return loops if a < b else None
            else:
                return None
        return None

    def check_reads(self, block: Block) -> None:
        """Everything that a block reads is complete, in each iteration of the loops that it shares with what computes it."""
        placed = self.places.of(block)
        expressions = [block.store.value] + ([block.init.value] if block.init is not None else [])
        loads: list[tuple[Any, list[Any]]] = []
        for e in expressions:
            _collect_loads(e, [], loads)
        for load, conditions in loads:
            definition = self.meaning.definitions.get(hash(load.source))
            if definition is None:
                continue
            if not load.source.same_as(block.store.buffer):
                self._check_read(placed, load, conditions, definition)
            elif not block.reductions:
                found = f"reads of {load.source.name}, which it writes"
                refuse(self.name, block.name, found=found, expected="complete values", what=EARLY, remedy=KEEP_ORDER)

    def _check_read(self, placed: Placed, load: Any, conditions: list[Any], definition: Definition) -> None:
        block = placed.block
        what = f"buffer {load.source.name}, which {definition.name!r} computes"
        before = [(self.places.of(b), loops) for b in definition.parts if (loops := self.shared(b, block)) is not None]
        if load.source.scope() == _SHARED:
            before = [(producer, [loop for loop in loops if not loop.is_thread]) for producer, loops in before]
        if not before:
            refuse(self.name, block.name, found=f"{what} later", expected="complete values", what=EARLY, remedy=KEEP_ORDER)
        for producer, shared in before:
            for loop in shared:
                if self.places.moves(loop, producer.reductions):
                    found = f"{what} inside of this loop over its terms"
                    refuse(self.name, block.name, loop, found=found, expected="complete values", what=EARLY, remedy=KEEP_ORDER)
        numbers = self.meaning.numbers
        try:
            place = tuple(numbers.index(i, placed.env, self.meaning.load) for i in load.indices)
            facts = [*placed.facts, *self.places.facts_of(conditions, placed.env, self.meaning.load)]
            point = self.meaning.point(definition, tuple(self.places.under(p, facts) for p in place))
        except Unproved as problem:
            refuse(self.name, block.name, found=f"{what}: {problem}", expected="complete values", what=EARLY, remedy=KEEP_ORDER)
        axes = definition.parts[0].spatial
        if self._whole(before) and all(self.places.is_inside(p, a.extent, facts) for p, a in zip(point, axes, strict=True)):
            return
        self._check_covered(block, before, point, facts, f"reads of {what}, beyond what it has computed by then")

    def _whole(self, producers: list[tuple[Placed, list[Loop]]]) -> bool:
        """Whether the blocks run over all of their axes in each iteration of the shared loops."""
        if any(self.places.moves(loop, p.spatial) for p, shared in producers for loop in shared):
            return False
        key = tuple(hash(p) for p, _ in producers)
        if key not in self._whole_ones:
            try:
                points = axes_of(self.space, producers[0][0].block)[1]
                self.regions.check_covered([(p, []) for p, _ in producers], points, [])
                self._whole_ones[key] = True
            except Unproved:
                self._whole_ones[key] = False
        return self._whole_ones[key]

    def _check_covered(
        self, block: Block, producers: list[tuple[Placed, list[Loop]]], point: list[Form], facts: list[Form], found: str
    ) -> None:
        """Refuse unless the producers have run at ``point`` in the same iterations of the shared loops."""
        try:
            self.regions.check_covered(producers, point, facts)
        except Unproved as problem:
            detail = f"{found} ({problem})"
            refuse(self.name, block.name, found=detail, expected="complete values", what=EARLY, remedy=KEEP_ORDER)


def _collect_loads(expr: Any, conditions: list[Any], found: list[tuple[Any, list[Any]]]) -> None:
    """Loads of an expression with the conditions under which they happen."""
    kind = type(expr)
    if kind is tvm.ir.TensorLoad:
        found.append((expr, conditions))
        for i in expr.indices:
            _collect_loads(i, conditions, found)
    elif kind is tvm.ir.Call:
        args = list(expr.args)
        if str(expr.op.name).endswith("if_then_else"):
            _collect_loads(args[0], conditions, found)
            _collect_loads(args[1], [*conditions, args[0]], found)
            _collect_loads(args[2], [*conditions, tirx.Not(args[0])], found)
            return
        for a in args:
            _collect_loads(a, conditions, found)
    elif kind is tirx.Select:
        for part in (expr.condition, expr.true_value, expr.false_value):
            _collect_loads(part, conditions, found)
    elif kind is tirx.Cast:
        _collect_loads(expr.value, conditions, found)
    elif hasattr(expr, "a"):
        _collect_loads(expr.a, conditions, found)
        if hasattr(expr, "b"):
            _collect_loads(expr.b, conditions, found)
