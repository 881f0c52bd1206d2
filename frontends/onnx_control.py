"""ONNX control flow. Programs are static: branches are chosen or both computed, loops are unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known, optional
from gensyn_tvm.frontends.onnx_emit import OnnxEmitter
from gensyn_tvm.frontends.onnx_reader import element_type, onnx


def _type(value: Any) -> TensorType | None:
    """The type of a tensor, None for sequences and empty optionals."""
    if value is None or isinstance(value, list):
        return None
    return TensorType(tuple(shape_of(value)), dtype_of(value))


def _selectable(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Whether one of two lists of values can be chosen at run time."""
    types = [(_type(a), _type(b)) for a, b in zip(old, new, strict=True)]
    return len(old) == len(new) and all(a is not None and a == b for a, b in types)


def _scalar(e: Emitter, value: Expr) -> Expr:
    return e.reshape(value, [])


def convert_if(e: OnnxEmitter, x: Inputs, a: Attributes) -> list[Any]:
    """The branch of a condition that is known; otherwise both, if they have results of the same types."""
    condition = e.fold(x[0])
    if condition is None:
        then, other = e.run_graph(a["then_branch"], []), e.run_graph(a["else_branch"], [])
        if _selectable(then, other):
            c = _scalar(e, x[0])
            return [e.where(c, p, q) for p, q in zip(then, other, strict=True)]
        condition = known(e, x[0], "the condition of branches whose results differ in type")
    results: list[Any] = e.run_graph(a["then_branch" if condition.item() else "else_branch"], [])
    return results


# ---- Loop -----------------------------------------------------------------------------------------------------------


def convert_loop(e: OnnxEmitter, x: Inputs, a: Attributes) -> list[Any]:
    """Unrolled. A condition that is computed at run time turns the remaining iterations into selections: values stay as they
    are once it is false, and scan outputs are as long as it held."""
    trips = None if x[0] is None else int(known(e, x[0], "the trip count").item())
    loop = _Loop(e, a["body"], list(x[2:]), bounded=trips is not None)
    loop.start(optional(x, 1))
    iteration = 0
    while (trips is None or iteration < trips) and not loop.ended:
        loop.step(iteration)
        iteration += 1
    return loop.results()


class _Loop:
    """The state of a loop that is being unrolled; ``active`` is None while its condition is known to hold."""

    def __init__(self, e: OnnxEmitter, body: onnx.GraphProto, values: list[Any], *, bounded: bool) -> None:
        self.e = e
        self.body = body
        self.values = values
        self.bounded = bounded
        self.ended = False
        self.active: Expr | None = None
        self.counts: Expr | None = None
        self.scans: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(values))]

    def start(self, condition: Expr | None) -> None:
        """Before the first iteration."""
        if condition is not None:
            self._continue(condition)

    def _continue(self, condition: Expr) -> None:
        """What the condition says about the next iteration."""
        e = self.e
        found = e.fold(condition)
        if found is not None:
            self.ended = not found.item()
            return
        if not self.bounded:
            known(e, condition, "the condition of a loop without a trip count")
        held = _scalar(e, condition)
        self.active = held if self.active is None else e(op.logical_and(self.active, held))

    def step(self, iteration: int) -> None:
        """One iteration."""
        e = self.e
        condition = number(True, "bool") if self.active is None else self.active
        condition_out, *new = e.run_graph(self.body, [number(iteration, "int64"), condition, *self.values])
        carried, scanned = new[: len(self.values)], new[len(self.values) :]
        if self.active is not None:
            if not _selectable(self.values, carried):
                known(e, self.active, "the condition of a loop whose values change in type")
            carried = [e.where(self.active, y, x) for x, y in zip(self.values, carried, strict=True)]
            one = e.cast(self.active, "int64")
            before = number(iteration, "int64") if self.counts is None else self.counts
            self.counts = e.add(before, one)
        self.values = carried
        for parts, value in zip(self.scans, scanned, strict=True):
            parts.append(value)
        self._continue(condition_out)

    def results(self) -> list[Any]:
        """Final values, then scan outputs."""
        e = self.e
        outputs = list(self.body.output)[1 + len(self.values) :]
        scans = [stacked(e, parts, 0, info) for parts, info in zip(self.scans, outputs, strict=True)]
        for value in scans if self.counts is not None else ():
            e.set_extent(value, 0, self.counts)
        return [*self.values, *scans]


def stacked(e: Emitter, parts: Sequence[Expr], axis: int, info: onnx.ValueInfoProto) -> Expr:
    """Values of equal type along a new axis; without any, an empty tensor of the declared type."""
    if not parts:
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
        shape.insert(axis, 0)
        return e.full(shape, 0, element_type(info.type.tensor_type.elem_type, info.name))
    if any(_type(p) is None or _type(p) != _type(parts[0]) for p in parts):
        raise e.refuse("a scan output whose type changes", expected="tensors of one type")
    shape = shape_of(parts[0])
    position = axis % (len(shape) + 1)
    return e(e.concat([e.reshape(p, [*shape[:position], 1, *shape[position:]]) for p in parts], position))


# ---- Scan -----------------------------------------------------------------------------------------------------------


def convert_scan(e: OnnxEmitter, x: Inputs, a: Attributes) -> list[Any]:
    """Unrolled along the axes that are scanned."""
    count = int(a["num_scan_inputs"])
    if not 0 < count <= len(x):
        raise e.refuse(f"num_scan_inputs = {count} of {len(x)} inputs", expected="at least one, at most all")
    if a.opset < 9:
        return _scan_batch(e, x, a, count)
    first = len(x) - count
    axes = a.get("scan_input_axes", [0] * count)
    return _scan(e, list(x[:first]), list(x[first:]), a, axes, a.get("scan_input_directions", [0] * count))


def _scan_batch(e: OnnxEmitter, x: Inputs, a: Attributes, count: int) -> list[Any]:
    """Opset 8: the first input may hold lengths, and all others have a batch axis."""
    if x[0] is not None:
        raise e.refuse("sequence_lens", expected="sequences of full length", remedy="export with opset 9 or newer")
    given = list(x[1:])
    results = []
    for sample in range(e.check_steps(shape_of(given[0])[0])):
        values = [e.reshape(e.slice(v, 0, sample, sample + 1), shape_of(v)[1:]) for v in given]
        first = len(values) - count
        results.append(_scan(e, values[:first], values[first:], a, [0] * count, a.get("directions", [0] * count)))
    body = list(a["body"].output)
    return [stacked(e, parts, 0, info) for parts, info in zip(zip(*results, strict=True), body, strict=True)]


def _scan(
    e: OnnxEmitter, state: list[Any], scanned: list[Any], a: Attributes, axes: Sequence[int], directions: Sequence[int]
) -> list[Any]:
    body = a["body"]
    axes = [convert_axis(axis, rank_of(v)) for axis, v in zip(axes, scanned, strict=True)]
    lengths = {shape_of(v)[axis] for v, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1:
        raise e.refuse(f"scan inputs of {sorted(lengths)} elements", expected="one length")
    length = e.check_steps(lengths.pop())
    collected: list[list[Any]] = [[] for _ in range(len(body.output) - len(state))]
    for k in range(length):
        parts = []
        for value, axis, direction in zip(scanned, axes, directions, strict=True):
            at = length - 1 - k if direction else k
            shape = shape_of(value)
            parts.append(e.reshape(e.slice(value, axis, at, at + 1), [*shape[:axis], *shape[axis + 1 :]]))
        results = e.run_graph(body, [*state, *parts])
        state, new = results[: len(state)], results[len(state) :]
        for items, value in zip(collected, new, strict=True):
            items.append(value)
    out_axes = a.get("scan_output_axes", [0] * len(collected))
    out_directions = a.get("scan_output_directions", [0] * len(collected))
    infos = list(body.output)[len(state) :]
    outputs = [
        stacked(e, items[::-1] if direction else items, axis, info)
        for items, axis, direction, info in zip(collected, out_axes, out_directions, infos, strict=True)
    ]
    return [*state, *outputs]


CONTROL: dict[str, Converter] = {"If": convert_if, "Loop": convert_loop, "Scan": convert_scan}  # type: ignore[dict-item]
