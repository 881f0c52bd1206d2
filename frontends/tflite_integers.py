"""Integers of 8 bits that stand for real numbers: their scales, and the way from totals to a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, NARROW_FLOATS
from gensyn_tvm.frontends.emit import Emitter, Expr, number, op
from gensyn_tvm.frontends.tflite_fixed import Multiplier, Wide, half_away
from gensyn_tvm.frontends.tflite_nodes import LIMITS, QUANTISED, LiteNode, activation_of
from gensyn_tvm.frontends.tflite_reader import Tensor


def is_quantised(n: LiteNode) -> bool:
    """Whether the first input or a result is integers that stand for real numbers."""
    ends = [*n.inputs[:1], *n.results]
    return any(t is not None and t.quantisation is not None and t.dtype not in (*FLOATS, *NARROW_FLOATS) for t in ends)


def check_moved(e: Emitter, n: LiteNode) -> None:
    """Refuse an operator that moves integers between tensors of different scales.

    Raises:
        UnsupportedOperatorError: there are such.
    """
    ends = [t for t in (*n.inputs, *n.results) if t is not None and t.dtype in (*QUANTISED, "int16") and t.quantisation]
    first = n.quantisation(e, ends[0])
    for tensor in ends[1:]:
        other = n.quantisation(e, tensor)
        if (other.scales[0], other.zeros[0]) != (first.scales[0], first.zeros[0]):
            raise e.refuse(
                f"scale {other.scales[0]} and zero point {other.zeros[0]} of {tensor.name!r}",
                expected=f"scale {first.scales[0]} and zero point {first.zeros[0]}, those of {ends[0].name!r}",
                remedy="convert the model again",
            )


def eight_bits(e: Emitter, *tensors: Tensor) -> None:
    """Refuse other integers than those of 8 bits.

    Raises:
        UnsupportedOperatorError: there are such.
    """
    for tensor in tensors:
        if tensor.dtype not in QUANTISED:
            raise e.refuse(
                f"{tensor.dtype} in the tensor {tensor.name!r}",
                expected="int8 or uint8",
                remedy="convert with inference_input_type=tf.int8 and 8-bit activations",
            )


def scale_of(e: Emitter, n: LiteNode, tensor: Tensor) -> tuple[np.float32, int]:
    """Scale and zero point of a tensor of 8 bits."""
    eight_bits(e, tensor)
    found = n.quantisation(e, tensor)
    return found.scales[0], int(found.zeros[0])


def centred(e: Emitter, x: Expr, zero: int) -> Expr:
    """x - zero point, in int32."""
    wide = e.cast(x, "int32")
    return wide if zero == 0 else e.sub(wide, zero)


def bounds_of(e: Emitter, n: LiteNode) -> tuple[int, int]:
    """What the activation limits the integers of the result to."""
    return limits_of(e, n, activation_of(e, n))


def limits_of(e: Emitter, n: LiteNode, name: str) -> tuple[int, int]:
    """What the activation ``name`` limits the integers of the result to."""
    scale, zero = scale_of(e, n, n.results[0])
    info = np.iinfo(n.dtype())
    if name not in LIMITS:
        raise e.refuse(f"activation {name}", expected=", ".join(LIMITS))
    low, high_ = (None if v is None else zero + int(half_away(np.float32(v) / scale)) for v in LIMITS[name])
    return max(info.min, info.min if low is None else low), min(info.max, info.max if high_ is None else high_)


def finished(e: Emitter, n: LiteNode, value: Wide, bounds: tuple[int, int]) -> Expr:
    """The result: value + zero point, limited."""
    zero = scale_of(e, n, n.results[0])[1]
    value = value + zero if zero else value
    return e.cast(value.clip(*bounds).expr, n.dtype())


def in_range(e: Emitter, n: LiteNode, value: Expr, bounds: tuple[int, int]) -> Expr:
    """The result of float64 in its units: rounded, halves away from 0, plus the zero point, limited."""
    size = e(op.floor(e.add(e(op.abs(value)), 0.5)))
    rounded = e.where(e(op.less(value, number(0.0, "float64"))), e(op.negative(size)), size)
    moved = e.add(rounded, float(scale_of(e, n, n.results[0])[1]))
    return e.cast(e.clip(moved, float(bounds[0]), float(bounds[1])), n.dtype())


def rescaled(e: Emitter, n: LiteNode, total: Expr, real: Any) -> Expr:
    """The result of int32 totals that stand for multiples of ``real`` units of the result."""
    return finished(e, n, Multiplier.of(real).apply(Wide(e, e.cast(total, "int64"))), bounds_of(e, n))
