"""ONNX sequences and optionals, which exist at import only: lists of values, and None for an empty optional."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, number, rank_of, shape_of
from gensyn_tvm.frontends.onnx_control import stacked
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known, optional
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter
from gensyn_tvm.frontends.onnx_reader import onnx


def _sequence(e: Emitter, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise e.refuse("a tensor" if value is not None else "an empty optional", expected="a sequence")
    return value


def _position(e: Emitter, value: Expr, length: int, last: int) -> int:
    """A position in a sequence; negative ones count from the end."""
    position = int(known(e, value, "the position").item())
    if not -length <= position <= last:
        raise e.refuse(f"position {position}", expected=f"-{length} to {last}")
    return position % length if position < 0 else position


def convert_insert(e: Emitter, x: Inputs, a: Attributes) -> list[Any]:
    sequence = _sequence(e, x[0])
    length = len(sequence)
    at = length if optional(x, 2) is None else _position(e, x[2], length, length)
    return [[*sequence[:at], x[1], *sequence[at:]]]


def convert_erase(e: Emitter, x: Inputs, a: Attributes) -> list[Any]:
    sequence = _sequence(e, x[0])
    at = len(sequence) - 1 if optional(x, 1) is None else _position(e, x[1], len(sequence), len(sequence) - 1)
    return [[*sequence[:at], *sequence[at + 1 :]]]


def convert_at(e: Emitter, x: Inputs, a: Attributes) -> list[Any]:
    sequence = _sequence(e, x[0])
    return [sequence[_position(e, x[1], len(sequence), len(sequence) - 1)]]


def convert_join(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    sequence = _sequence(e, x[0])
    if not sequence:
        raise e.refuse("an empty sequence", expected="at least one tensor")
    if a.get("new_axis", 0):
        return stacked(e, sequence, int(a["axis"]), onnx.ValueInfoProto())
    return e.concat(sequence, convert_axis(int(a["axis"]), rank_of(sequence[0])))


def convert_split(e: Emitter, x: Inputs, a: Attributes) -> list[Any]:
    axis = convert_axis(a.get("axis", 0), rank_of(x[0]))
    extent = shape_of(x[0])[axis]
    if optional(x, 1) is None:
        sizes = [1] * e.check_steps(extent)
    else:
        split = known(e, x[1], "split")
        step = int(split) if split.ndim == 0 else 0
        e.check_steps(extent // step if step > 0 else 0)
        sizes = [min(step, extent - k) for k in range(0, extent, step)] if step else [int(v) for v in split.reshape(-1)]
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise e.refuse(f"a split of {extent} elements into {sizes}", expected="sizes that add up")
    starts = np.cumsum([0, *sizes])
    parts = [e.slice(x[0], axis, int(s), int(s) + n) for s, n in zip(starts, sizes, strict=False)]
    if optional(x, 1) is None and not a.get("keepdims", 1):
        shape = shape_of(x[0])
        parts = [e.reshape(p, [*shape[:axis], *shape[axis + 1 :]]) for p in parts]
    return [parts]


def convert_map(e: OnnxEmitter, x: Inputs, a: Attributes) -> list[Any]:
    """The body for each element of the first sequence, with the elements at that place of further ones, and tensors as they
    are."""
    first = _sequence(e, x[0])
    if any(isinstance(v, list) and len(v) != len(first) for v in x):
        raise e.refuse("sequences of different lengths", expected="equal lengths")
    results = [e.run_graph(a["body"], [v[k] if isinstance(v, list) else v for v in x]) for k in range(len(first))]
    return [[r[k] for r in results] for k in range(a.outputs)]


def convert_get(e: Emitter, x: Inputs, a: Attributes) -> list[Any]:
    if x[0] is None:
        raise e.refuse("an empty optional", expected="an element")
    return [x[0]]


SEQUENCES: dict[str, Converter] = {
    "SequenceEmpty": lambda e, x, a: [[]],
    "SequenceConstruct": lambda e, x, a: [list(x)],
    "SequenceInsert": convert_insert,
    "SequenceErase": convert_erase,
    "SequenceAt": convert_at,
    "SequenceLength": lambda e, x, a: number(len(_sequence(e, x[0])), "int64"),
    "SequenceMap": convert_map,  # type: ignore[dict-item]
    "SplitToSequence": convert_split,
    "ConcatFromSequence": convert_join,
    "Optional": lambda e, x, a: [optional(x, 0)],
    "OptionalGetElement": convert_get,
    "OptionalHasElement": lambda e, x, a: constant(np.array(optional(x, 0) is not None)),
}
