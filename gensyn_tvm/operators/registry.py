"""The deterministic TIR variant of every canonical operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import (
    elementwise,
    extrema,
    gather,
    movement,
    numbers,
    ordering,
    pooling,
    products,
    reductions,
    scatter,
    suppression,
)

#: (name of the PrimFunc, input types, output type, attributes) -> PrimFunc
Variant = Callable[[str, Sequence[TensorType], TensorType, Mapping[str, Any]], Any]

VARIANTS: dict[str, Variant] = {
    **{op: elementwise.elementwise(op) for op in elementwise.SCALAR},
    "cast": numbers.conversion(saturate=False),
    "cast_saturating": numbers.conversion(saturate=True),
    "bitcast": numbers.bitcast,
    "canonical_nan": numbers.canonical_nan,
    "sum": reductions.lane_reduction(reductions.SUM),
    "prod": reductions.lane_reduction(reductions.PROD),
    "reduce_max": extrema.extremum(largest=True),
    "reduce_min": extrema.extremum(largest=False),
    "argmax": extrema.arg_extremum(largest=True),
    "argmin": extrema.arg_extremum(largest=False),
    "matmul": products.matmul,
    "conv": products.conv,
    "conv_backward_data": products.conv_backward_data,
    "conv_backward_weight": products.conv_backward_weight,
    **pooling.VARIANTS,
    "reshape": movement.reshape,
    "transpose": movement.transpose,
    "broadcast_to": movement.broadcast_to,
    "concat": movement.concat,
    "slice": movement.slice_,
    "pad": movement.pad,
    **gather.VARIANTS,
    **scatter.VARIANTS,
    **ordering.VARIANTS,
    **suppression.VARIANTS,
    "constant": movement.uniform_constant,
    "iota": movement.iota,
    "random_bits": movement.random_bits,
}

#: Not operators of the graph: kernels that move bits for products, see ``passes.layout``.
MOVES: dict[str, Variant] = {"pack": products.pack, "image": products.image, "weave": products.weave}
