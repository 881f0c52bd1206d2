"""The Relax program as calls on arrays: what remains of it once all shapes are known and every kernel writes where it is told.

Calls that depend on fixed inputs (parameters that the program does not update) and constants only come first: they are the
preparation, which runs once for a set of parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.runtime.plan import ALIGNMENT, nbytes

_ALLOCATION = "relax.builtin.alloc_tensor"
_VIEW = "relax.reshape"
_PART = "relax.memory.view"
#: A call is prepared if its results are at most this many times what it reads, so that broadcasts stay computed.
_GROWTH = 4
#: Results up to this many bytes are prepared whatever they are made of.
_SMALL = 4096


@dataclass(eq=False)
class Array:
    """An array: ``kind`` is ``input``, ``output``, ``constant`` or ``inner``, ``index`` its number among those of its kind."""

    kind: str
    index: int
    size: int
    writer: int = -1
    readers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """An array, or what begins ``offset`` bytes into it, seen as a type."""

    array: Array
    type: TensorType
    offset: int = 0


@dataclass
class Call:
    """A kernel on arrays; it writes the last ``writes`` of them."""

    kernel: str
    arguments: list[View]
    writes: int

    @property
    def read(self) -> list[View]:
        """What it reads."""
        return self.arguments[: len(self.arguments) - self.writes]

    @property
    def written(self) -> list[View]:
        """What it writes."""
        return self.arguments[len(self.arguments) - self.writes :]


@dataclass
class Calls:
    """A program.

    Attributes:
        inputs: the arrays and types of the inputs.
        outputs: what each output is; an array of kind ``output`` belongs to the first output that shows it.
        calls: in order; the first ``prepared`` are the preparation.
        constants: the bytes of each constant.
    """

    inputs: list[View]
    outputs: list[View]
    calls: list[Call]
    constants: list[bytes]
    prepared: int = 0


def type_of(ty: Any) -> TensorType:
    """The carried type of a static Relax type."""
    return TensorType(tuple(int(n) for n in ty.shape), str(ty.dtype.dtype))


class _Reader:
    def __init__(self, function: Any) -> None:
        self.values: dict[Any, Any] = {}
        self.constants: dict[bytes, Array] = {}
        self.calls: list[Call] = []
        types = [type_of(p.ty) for p in function.params]
        self.inputs = [View(Array("input", k, nbytes(t)), t) for k, t in enumerate(types)]
        self.values.update(zip(function.params, self.inputs, strict=True))

    def value(self, expr: Any) -> Any:
        """A view, or a list of values for a tuple."""
        if isinstance(expr, tvm.ir.GenericConst):
            raw = expr.value.numpy().tobytes()
            array = self.constants.setdefault(raw, Array("constant", len(self.constants), len(raw)))
            return View(array, type_of(expr.ty))
        if isinstance(expr, relax.Tuple):
            return [self.value(f) for f in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[expr.index]
        return self.values[expr]

    def bind(self, variable: Any, expr: Any) -> None:
        if not isinstance(expr, relax.Call):
            self.values[variable] = self.value(expr)
        elif isinstance(expr.op, tvm.ir.GlobalVar):
            self.call(expr)
        elif expr.op.name == _ALLOCATION:
            t = type_of(variable.ty)
            self.values[variable] = View(Array("inner", -1, nbytes(t)), t)
        elif expr.op.name == _VIEW:
            seen = self.value(expr.args[0])
            self.values[variable] = View(seen.array, type_of(variable.ty), seen.offset)
        elif expr.op.name == _PART:
            seen = self.value(expr.args[0])
            self.values[variable] = View(seen.array, type_of(variable.ty), seen.offset + int(expr.args[-1]))
        else:
            raise AssertionError(f"a call that lowering does not leave behind: {expr.op.name}")

    def call(self, expr: Any) -> None:
        arguments = [self.value(a) for a in expr.args]
        fresh = [v.array.kind == "inner" and v.array.writer < 0 for v in arguments]
        writes = sum(fresh)
        assert writes and all(fresh[len(fresh) - writes :]), f"{expr.op.name_hint} reads what no kernel wrote"
        call = Call(expr.op.name_hint, arguments, writes)
        for v in call.written:
            v.array.writer = len(self.calls)
        for v in call.read:
            v.array.readers.append(len(self.calls))
        self.calls.append(call)


def read_calls(function: Any, fixed: Collection[int] = ()) -> Calls:
    """The calls of a Relax function in destination-passing style, with those that ``fixed`` inputs suffice for in front."""
    reader = _Reader(function)
    for block in function.body.blocks:
        for b in block.bindings:
            reader.bind(b.var, b.value)
    outputs = reader.value(function.body.body)
    for k, view in enumerate(outputs):
        if view.array.kind == "inner":
            view.array.kind, view.array.index = "output", k
    program = Calls(reader.inputs, outputs, reader.calls, list(reader.constants))
    _put_first(program, _prepared(program, frozenset(fixed)))
    return program


def _prepared(program: Calls, fixed: frozenset[int]) -> set[int]:
    """The calls that are worth running only once."""
    calls = program.calls
    found: set[int] = set()
    for k, call in enumerate(calls):
        known = all(
            v.array.kind == "constant" or (v.array.kind == "input" and v.array.index in fixed) or v.array.writer in found
            for v in call.read
        )
        if known and all(v.array.kind == "inner" for v in call.written):
            found.add(k)
    while True:
        refused = {k for k in found if not _pays(calls[k], found)}
        # What reads a result that is computed in each run cannot be computed before it.
        refused |= {k for k in found if any(v.array.writer >= 0 and v.array.writer not in found for v in calls[k].read)}
        if not refused:
            return found
        found -= refused


def _pays(call: Call, found: Collection[int]) -> bool:
    kept = [v.array.size for v in call.written if any(r not in found for r in v.array.readers)]
    return pays(sum(kept), sum(v.array.size for v in call.read))


def pays(kept: int, read: int) -> bool:
    """Whether results of ``kept`` bytes, made of ``read`` bytes, are worth keeping from run to run."""
    return kept <= max(_SMALL, _GROWTH * read)


def _put_first(program: Calls, first: Collection[int]) -> None:
    order = [*(k for k in range(len(program.calls)) if k in first), *(k for k in range(len(program.calls)) if k not in first)]
    move(program, order)
    program.prepared = len(first)


def move(program: Calls, order: Sequence[int]) -> None:
    """Run the calls in another order."""
    position: Mapping[int, int] = {old: new for new, old in enumerate(order)}
    program.calls = [program.calls[k] for k in order]
    arrays = {id(v.array): v.array for call in program.calls for v in call.arguments}
    for array in arrays.values():
        array.writer = position.get(array.writer, -1)
        array.readers = sorted(position[r] for r in array.readers)


def rounded(size: int) -> int:
    """Bytes that an array takes."""
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
