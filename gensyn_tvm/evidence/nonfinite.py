"""Where NaNs and infinities come from: operators that make them of inputs without any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.canonical.elementary_rules import ELEMENTARY_RULES
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.evidence.values import Index, as_text, first_index, is_float, summarise, widened

#: Operators whose element depends on the elements of the (broadcast) inputs at the same index only.
_ELEMENTWISE = frozenset(
    {"neg", "abs", "sqrt", "floor", "ceil", "round", "sign", "where", "cast", "cast_saturating", "bitcast", "broadcast_to"}
    | {"add", "sub", "mul", "div", "rem", "maximum", "minimum"}
    | ELEMENTARY_RULES.keys()
)
_REDUCTIONS = frozenset({"sum", "prod", "reduce_max", "reduce_min"})
#: What only hands values on: a constant that holds an infinity is the user's.
_SOURCES = frozenset({"constant", "iota", "random_bits"})


@dataclass(frozen=True)
class Nonfinite:
    """An operator that makes NaNs or infinities.

    Attributes:
        number: of the value, as ``gensyn-tvm inspect`` shows it.
        op: the canonical operator.
        source: place in the user's model.
        type: of the value.
        kind: ``NaN`` or ``infinity``, of the first such element.
        count: how many elements are of that kind.
        index: of the first such element in row-major order.
        operands: for each input what the element was computed from, as text.
    """

    number: int
    op: str
    source: str
    type: TensorType
    kind: str
    count: int
    index: Index
    operands: tuple[str, ...]

    def __str__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        lines = [
            f"%{self.number} = {self.op}{where}: {self.type} holds {self.count} of {self.kind}, first at {list(self.index)}"
        ]
        return "\n".join([*lines, *(f"  of {operand}" for operand in self.operands)])


def origin(graph: Graph, number: int, values: Mapping[int, np.ndarray]) -> Nonfinite | None:
    """What ``Nonfinite`` says of a node's value if non-finite elements begin there, None otherwise.

    They begin where a value holds NaN or infinity and all inputs of the node are finite, or where it holds NaN and no input
    does. So an infinity that a constant or an input brings along (a mask) is no beginning, but a NaN made of it is one.

    Args:
        values: the value and those that its node reads, by number.
    """
    node = graph.nodes[number - len(graph.inputs)]
    value = values[number]
    if node.op in _SOURCES or not is_float(value):
        return None
    wide = widened(value)
    if np.isfinite(wide).all():
        return None
    inputs = [summarise(values[i]) for i in node.inputs]
    if all(s.is_finite for s in inputs):
        wrong = ~np.isfinite(wide)
    elif not any(s.nans for s in inputs):
        wrong = np.isnan(wide)
    else:
        return None
    if not wrong.any():
        return None
    index = first_index(wrong)
    is_nan = bool(np.isnan(wide[index]))
    count = int((np.isnan(wide) if is_nan else np.isinf(wide)).sum())
    operands = tuple(_operand(graph, node, k, index, values[i]) for k, i in enumerate(node.inputs))
    return Nonfinite(number, node.op, node.source, node.types[0], "NaN" if is_nan else "infinity", count, index, operands)


def _operand(graph: Graph, node: Node, position: int, index: Index, array: np.ndarray) -> str:
    """``parameter 'w' [0, :]: -1.5 to 2.0``: what of an input went into an element, as far as that is a simple region."""
    value = node.inputs[position]
    name = _name(graph, value)
    region = _region(node, position, index, array.shape)
    if region is None:
        return f"{name}: {summarise(array)}"
    shown = ", ".join(":" if isinstance(r, slice) else str(r) for r in region)
    if not any(isinstance(r, slice) for r in region):
        return f"{name} [{shown}] = {as_text(array, tuple(r for r in region if isinstance(r, int)))}"
    return f"{name} [{shown}]: {summarise(np.asarray(array[region]))}"


def _region(node: Node, position: int, index: Index, shape: Index) -> tuple[int | slice, ...] | None:
    if node.op in _ELEMENTWISE:
        aligned = index[len(index) - len(shape) :]
        return tuple(i if extent != 1 else 0 for i, extent in zip(aligned, shape, strict=True))
    if node.op in _REDUCTIONS:
        axes, rest = node.attrs["axes"], list(index)
        if node.attrs["keepdims"]:
            rest = [i for axis, i in enumerate(rest) if axis not in axes]
        return tuple(slice(None) if axis in axes else rest.pop(0) for axis in range(len(shape)))
    if node.op == "matmul":
        batch = index[len(index) - len(shape) : -2]
        leading = tuple(i if extent != 1 else 0 for i, extent in zip(batch, shape[:-2], strict=True))
        return (*leading, index[-2], slice(None)) if position == 0 else (*leading, slice(None), index[-1])
    return None


def _name(graph: Graph, value: int) -> str:
    if value < len(graph.inputs):
        declared = graph.inputs[value]
        return f"%{value}, {declared.role} {declared.name!r}"
    node = graph.nodes[value - len(graph.inputs)]
    return f"%{value}, {node.op}" + (f" at {node.source}" if node.source else "")
