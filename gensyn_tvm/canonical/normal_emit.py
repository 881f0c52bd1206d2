"""Nodes of a normal form: shared, keyed by what they compute, and movement from one access to another."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.access import NOWHERE, Access, Dim, Loop, extent_of, indices, slice_of
from gensyn_tvm.canonical.graph import Attribute, Node
from gensyn_tvm.canonical.types import TensorType


@dataclass(frozen=True)
class Leaf:
    """Part of an input: the array that one access makes of it."""

    number: int
    access: Access


@dataclass
class Emitter:
    """Nodes and leaves, numbered together; equal ones are one.

    Attributes:
        entries: leaves and nodes; a node reads entries before it.
        types: of each entry.
        keys: of each entry: what it computes, of inputs only role and type.
        colours: of leaves: where a former pass has found what tells those of one type apart.
    """

    colours: dict[Leaf, str] = field(default_factory=dict)
    entries: list[Leaf | Node] = field(default_factory=list)
    types: list[TensorType] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _shades: list[str] = field(default_factory=list)
    _seen: dict[Any, int] = field(default_factory=dict)

    def leaf(self, leaf: Leaf, role: str, dtype: str) -> int:
        """The array of an input that an access makes."""
        if leaf not in self._seen:
            key = hashed("input", role, dtype, leaf.access.shape)
            self._seen[leaf] = self._add(leaf, TensorType(leaf.access.shape, dtype), key, self.colours.get(leaf, ""))
        return self._seen[leaf]

    def emit(self, op: str, *inputs: int, source: str = "", **attrs: Attribute) -> int:
        """One node; operands of operators that commute are ordered by their keys."""
        if op in MIRRORED:
            op, inputs = MIRRORED[op], inputs[::-1]
        if op in COMMUTATIVE:
            inputs = tuple(sorted(inputs, key=lambda i: (self.keys[i], self._shades[i])))
        seen = (op, inputs, tuple(sorted(attrs.items())))
        if seen not in self._seen:
            (type_,) = rules.infer(op, [self.types[i] for i in inputs], attrs, where=source)
            key = hashed(op, [self.keys[i] for i in inputs], sorted(attrs.items()), str(type_))
            node = Node(op, inputs, dict(sorted(attrs.items())), (type_,), source)
            self._seen[seen] = self._add(node, type_, key, hashed(key, [self._shades[i] for i in inputs]))
        return self._seen[seen]

    def _add(self, entry: Leaf | Node, type_: TensorType, key: str, shade: str) -> int:
        self._shades.append(shade)
        self.entries.append(entry)
        self.types.append(type_)
        self.keys.append(key)
        return len(self.entries) - 1

    # ---- movement ---------------------------------------------------------------------------------------------------

    def reshape(self, value: int, shape: Sequence[int]) -> int:
        """``value`` in another shape; of several reshapes the last one is left, one value is repeated to the shape itself."""
        shape, entry = tuple(shape), self.entries[value]
        if self.types[value].shape == shape:
            return value
        if isinstance(entry, Node) and entry.op == "reshape":
            return self.reshape(entry.inputs[0], shape)
        if isinstance(entry, Node) and entry.op == "broadcast_to" and self.types[entry.inputs[0]].size == 1:
            return self.broadcast(entry.inputs[0], shape)
        return self.emit("reshape", value, shape=shape)

    def transpose(self, value: int, perm: Sequence[int]) -> int:
        """``value`` with permuted axes; where only axes of extent 1 move it is a reshape."""
        shape = self.types[value].shape
        moved = [p for p in perm if shape[p] != 1]
        if moved == sorted(moved):
            return self.reshape(value, [shape[p] for p in perm])
        return self.emit("transpose", value, perm=tuple(perm))

    def broadcast(self, value: int, shape: Sequence[int]) -> int:
        """``value`` repeated to ``shape``."""
        if self.types[value].size == math.prod(shape):
            return self.reshape(value, shape)
        return self.emit("broadcast_to", value, shape=tuple(shape))

    def constant(self, array: np.ndarray, dtype: str) -> int:
        """Bytes in the graph."""
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
        return self.emit("constant", dtype=dtype, shape=tuple(array.shape), data=data)

    def regroup(self, value: int, have: Sequence[Dim], want: Sequence[Dim]) -> int:
        """A value that has these dims, with its loops in other dims."""
        loops = [loop for dim in have for loop in dim]
        left = list(enumerate(loops))
        perm = []
        for loop in (loop for dim in want for loop in dim):
            place = next(k for k, entry in enumerate(left) if entry[1] == loop)
            perm.append(left.pop(place)[0])
        return self._arranged(value, [loop.extent for loop in loops], perm, [extent_of(d) for d in want])

    def _arranged(self, value: int, extents: Sequence[int], perm: Sequence[int], shape: Sequence[int]) -> int:
        """Reshape, transpose, reshape, as coarse as possible: factors that stay neighbours are not taken apart."""
        runs: list[list[int]] = []
        for p in perm:
            if runs and p == runs[-1][-1] + 1:
                runs[-1].append(p)
            else:
                runs.append([p])
        if len(runs) > 1:
            order = sorted(range(len(runs)), key=lambda k: runs[k][0])
            value = self.reshape(value, [math.prod(extents[p] for p in runs[k]) for k in order])
            value = self.transpose(value, [order.index(k) for k in range(len(runs))])
        return self.reshape(value, shape)

    def access(self, value: int, access: Access) -> int:
        """The array that an access makes of a value of this graph; it may not run nowhere."""
        shape = self.types[value].shape
        plan = slice_of(access, shape)
        if plan is None:
            flat = self.reshape(value, [math.prod(shape)])
            return self.emit("take", flat, self.constant(indices(access, shape), "int64"), axis=0)
        starts, limits, strides = plan
        if (starts, limits, strides) != ((0,) * len(shape), tuple(shape), (1,) * len(shape)):
            value = self.emit("slice", value, starts=starts, limits=limits, strides=strides)
        by_axis = sorted(access.loops, key=lambda loop: (loop.axis, -loop.stride))
        have = tuple((loop,) for loop in by_axis)
        return self.regroup(value, have, access.dims)

    def loose(self, value: int, want: Sequence[Dim]) -> int:
        """A value whose shape is that of ``want`` without the loops that run nowhere, with those loops as repetitions."""
        split: list[list[Loop]] = []
        for dim in want:
            for k, loop in enumerate(dim):
                if k == 0 or (loop.axis == NOWHERE) != (split[-1][-1].axis == NOWHERE):
                    split.append([])
                split[-1].append(loop)
        core = [1 if part[0].axis == NOWHERE else extent_of(tuple(part)) for part in split]
        full = [extent_of(tuple(part)) for part in split]
        value = self.broadcast(self.reshape(value, core), full)
        return self.reshape(value, [extent_of(dim) for dim in want])


def hashed(*parts: Any) -> str:
    """A key for anything whose text says all about it."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def context(emitter: Emitter, results: Iterable[tuple[int, Any]]) -> dict[Leaf, str]:
    """For each leaf a key of what it is and what becomes of it; ``results``: (entry, place) of the graph's outputs."""
    uses: list[list[Any]] = [[] for _ in emitter.entries]
    for entry, place in results:
        uses[entry].append(("output", place))
    found: dict[Leaf, str] = {}
    for number in reversed(range(len(emitter.entries))):
        key = hashed(emitter.keys[number], sorted(map(repr, uses[number])))
        entry_ = emitter.entries[number]
        if isinstance(entry_, Leaf):
            found[entry_] = key
            continue
        for position, read in enumerate(entry_.inputs):
            uses[read].append((key, 0 if entry_.op in COMMUTATIVE else position))
    return found


#: Operators whose operands may change places: the bits stay, NaNs have none.
COMMUTATIVE = frozenset(
    ("add", "mul", "maximum", "minimum", "equal", "not_equal", "logical_and", "logical_or", "bit_and", "bit_or", "bit_xor")
)
#: Comparisons that are another one with the operands in the other order.
MIRRORED = {"greater": "less", "greater_equal": "less_equal"}
