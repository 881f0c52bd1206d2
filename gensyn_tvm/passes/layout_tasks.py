"""What tuned records are about: single products with the types of what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType


@dataclass(frozen=True)
class Read:
    """An operand.

    Attributes:
        type: as it is stored.
        axes: the permutation through which it is read; none: ().
        fixed: whether it depends on parameters and constants only, so that packing it costs nothing.
    """

    type: TensorType
    axes: tuple[int, ...]
    fixed: bool

    def __str__(self) -> str:
        axes = f"/{_joined(self.axes)}" if self.axes else ""
        return f"{'fixed ' if self.fixed else ''}{'x'.join(map(str, self.type.shape))}{axes}"


@dataclass(frozen=True)
class Task:
    """One operator of a program, alone.

    Attributes:
        op: canonical operator.
        attrs: its attributes.
        operands: what it reads.
    """

    op: str
    attrs: Mapping[str, Any]
    operands: tuple[Read, ...]

    def key(self) -> str:
        """Under which a record is found: operator, dtype, operands as they are stored and read, attributes."""
        attrs = [f"{name}={_joined(value)}" for name, value in sorted(self.attrs.items())]
        return " ".join([self.op, self.operands[0].type.dtype, *map(str, self.operands), *attrs])

    def graph(self) -> Graph:
        """A program that computes the operator and nothing else."""
        b = GraphBuilder("tuned")
        values = []
        for number, operand in enumerate(self.operands):
            value = b.add_input(f"x{number}", "parameter" if operand.fixed else "input", operand.type)
            values.append(b.emit("transpose", value, perm=operand.axes) if operand.axes else value)
        b.add_output("y", b.emit(self.op, *values, **self.attrs))
        return b.finish()


def _joined(value: Any) -> str:
    """Nested tuples of numbers as text."""
    if isinstance(value, list | tuple):
        return ",".join(_joined(v) for v in value)
    return str(value)
