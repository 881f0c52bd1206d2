"""Emitting Relax: every binding is called after the place in the user's model that it comes from.

The place is the name of the binding's variable: ``features.0:conv2d`` (module path, then operator) for PyTorch, the node's
name for ONNX. Names are places, not identifiers: several bindings of one place share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.canonical.types import DTYPES, FLOATS, INTEGERS
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.training import emit
from gensyn_tvm.training.emit import Expr, constant, dtype_of, number, op, shape_of

nn = relax.op.nn

#: Most elements of a constant that an importer makes of extents.
MAX_CONSTANT = 2**24
#: Most steps of a loop, or parts of a tensor, that an importer writes one after another.
MAX_STEPS = 10_000


def rank_of(expr: Expr) -> int:
    """Number of axes of a tensor expression."""
    return int(expr.ty.ndim)


def constant_of(expr: Expr) -> np.ndarray | None:
    """The array behind a constant, None for anything else."""
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


class Emitter(emit.Emitter):
    """Appends bindings to a dataflow block and refuses what cannot be converted.

    Attributes:
        place: where in the user's model the next bindings come from.
        operator: the framework's operator being converted, for messages.
    """

    def __init__(self, builder: Any) -> None:
        super().__init__(builder)
        self.operator = ""
        self._extents: dict[Any, dict[int, Expr]] = {}

    # ---- extents that are known at run time only

    def set_extent(self, value: Expr, axis: int, extent: Expr) -> None:
        """Declare that only the leading ``extent`` (an int64 scalar) elements of ``value`` along ``axis`` are the result.

        The value itself has the largest possible extent; what lies behind has no meaning.
        """
        self._extents.setdefault(value, {})[axis] = extent

    def extents_of(self, value: Expr) -> dict[int, Expr]:
        """Axes of ``value`` whose extent is known at run time only, with the int64 scalars that hold them."""
        return dict(self._extents.get(value, {}))

    def refuse(self, found: str, *, expected: str = "", remedy: str = "") -> UnsupportedOperatorError:
        """The error for the operator being converted."""
        return UnsupportedOperatorError(self.operator, where=self.place, found=found, expected=expected, remedy=remedy)

    def canonical(self, name: str, *args: Expr, **attrs: Any) -> Expr:
        """A canonical operator (docs/operators.md) with exactly its attributes: integers, booleans, strings, tuples."""
        return self(canonical(name, *args, **attrs))

    def div(self, a: Expr | float, b: Expr | float) -> Expr:
        """a / b, floats only"""
        a, b = self._pair(a, b)
        if dtype_of(a) not in FLOATS:
            raise self.refuse(f"a division of {dtype_of(a)}", expected="float32 or float64", remedy="cast to float32 first")
        return super().div(a, b)

    def maximum(self, a: Expr | float, b: Expr | float) -> Expr:
        """Larger of a and b"""
        return self(op.maximum(*self._pair(a, b)))

    def minimum(self, a: Expr | float, b: Expr | float) -> Expr:
        """Smaller of a and b"""
        return self(op.minimum(*self._pair(a, b)))

    def clip(self, x: Expr, low: float | None, high: float | None) -> Expr:
        """x limited to [low, high]; None or an infinity is no limit."""
        if low is not None and high is not None and dtype_of(x) in FLOATS and math.isfinite(low) and math.isfinite(high):
            return self(op.clip(x, float(low), float(high)))
        if low is not None and low != -math.inf:
            x = self.maximum(x, low)
        if high is not None and high != math.inf:
            x = self.minimum(x, high)
        return x

    def where(self, condition: Expr, a: Expr | float, b: Expr | float) -> Expr:
        """condition ? a : b"""
        return self(op.where(condition, *self._pair(a, b)))

    # ---- dtypes and shapes; each returns x itself if there is nothing to do

    def cast(self, x: Expr, dtype: str) -> Expr:
        """x as ``dtype``."""
        if dtype not in DTYPES:
            raise self.refuse(f"dtype {dtype}", expected=f"one of {', '.join(DTYPES)}")
        return super().cast(x, dtype)

    def reshape(self, x: Expr, shape: Sequence[int]) -> Expr:
        """x with the extents ``shape`` (no -1, no special meaning of 0)."""
        if shape_of(x) == list(shape):
            return x
        if 0 in shape:
            return self.full(shape, 0, dtype_of(x))
        return self(op.reshape(x, list(shape)))

    def broadcast(self, x: Expr, shape: Sequence[int]) -> Expr:
        """x broadcast to ``shape``."""
        return x if shape_of(x) == list(shape) else self(op.broadcast_to(x, list(shape)))

    def transpose(self, x: Expr, axes: Sequence[int]) -> Expr:
        """x with its axes permuted."""
        axes = [a % max(rank_of(x), 1) for a in axes]
        return x if axes == list(range(rank_of(x))) else self(op.permute_dims(x, axes))

    def slice(self, x: Expr, axis: int, start: int, stop: int, step: int = 1) -> Expr:
        """x[start:stop:step] along one axis; 0 <= start <= stop <= extent, step > 0."""
        if (start, stop, step) == (0, shape_of(x)[axis], 1):
            return x
        return self(op.strided_slice(x, [axis], [start], [stop], [step]))

    def concat(self, parts: Sequence[Expr], axis: int) -> Expr:
        """Parts joined along an axis."""
        return parts[0] if len(parts) == 1 else self(op.concat(list(parts), axis))

    def full(self, shape: Sequence[int], value: bool | int | float, dtype: str) -> Expr:
        """A tensor filled with one value."""
        return self(op.full(list(shape), number(value, dtype), dtype)) if shape else number(value, dtype)

    def arange(self, start: int, count: int, step: int, dtype: str) -> Expr:
        """start, start + step, …: ``count`` integers as ``dtype``."""
        if count > MAX_CONSTANT:
            raise self.refuse(f"a range of {count:,} elements", expected=f"at most {MAX_CONSTANT:,}")
        values = start + step * np.arange(count, dtype=np.int64)
        if dtype in FLOATS and (abs(start) + abs(step) * count) > 2**24:
            raise self.refuse(f"a range from {start} with {count} steps of {step}", expected="integers below 2^24")
        return constant(values.astype(dtype))

    def check_steps(self, count: int) -> int:
        """``count`` as it is.

        Raises:
            UnsupportedOperatorError: it is more than is written out.
        """
        if count > MAX_STEPS:
            raise self.refuse(f"{count:,} steps", expected=f"at most {MAX_STEPS:,}", remedy="use shorter sequences")
        return count

    def positions(self, extent: int, axis: int, rank: int) -> Expr:
        """0, 1, … (int64) along an axis, the other axes of extent 1.

        Raises:
            UnsupportedOperatorError: more elements than a constant may have: extents come from files, memory does not.
        """
        if extent > MAX_CONSTANT:
            raise self.refuse(f"an axis of {extent:,} elements", expected=f"at most {MAX_CONSTANT:,}")
        return constant(np.arange(extent, dtype=np.int64).reshape([extent if k == axis else 1 for k in range(rank)]))

    def is_integer(self, x: Expr) -> bool:
        """Whether the elements are integers (bool is not)."""
        return dtype_of(x) in INTEGERS
