"""The operators by name; every key of ``canonical.rules.RULES`` is here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gensyn_tvm.interpreter import (
    elementary,
    elementwise,
    indexing,
    movement,
    numbers,
    ordering,
    pooling,
    power,
    products,
    reductions,
    scalar,
)
from gensyn_tvm.interpreter.elementwise import correctly_rounded, simple

#: name -> function(attributes, type of the output, *input arrays) -> output array
OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    # elementwise, one input
    "neg": simple(scalar.neg),
    "abs": simple(scalar.absolute),
    "sqrt": simple(np.sqrt),
    "floor": simple(elementwise.floor),
    "ceil": simple(elementwise.ceil),
    "round": simple(elementwise.round_even),
    "sign": simple(elementwise.sign),
    **{name: correctly_rounded(name) for name in elementary.FUNCTIONS},
    "is_nan": simple(elementwise.is_nan),
    "logical_not": simple(np.logical_not),
    # elementwise, several inputs
    "add": simple(np.add),
    "sub": simple(np.subtract),
    "mul": simple(np.multiply),
    "div": simple(numbers.divide),
    "maximum": simple(scalar.maximum),
    "minimum": simple(scalar.minimum),
    "equal": simple(np.equal),
    "not_equal": simple(np.not_equal),
    "less": simple(np.less),
    "less_equal": simple(np.less_equal),
    "greater": simple(np.greater),
    "greater_equal": simple(np.greater_equal),
    "pow": simple(power.power),
    "logical_and": simple(np.logical_and),
    "logical_or": simple(np.logical_or),
    "where": simple(np.where),
    "cast": numbers.cast,
    "cast_saturating": numbers.cast_saturating,
    "bitcast": numbers.bitcast,
    "rem": simple(numbers.remainder),
    "bit_and": simple(np.bitwise_and),
    "bit_or": simple(np.bitwise_or),
    "bit_xor": simple(np.bitwise_xor),
    "bit_not": simple(np.invert),
    "shift_left": simple(numbers.shift_left),
    "shift_right": simple(numbers.shift_right),
    # reductions
    "sum": reductions.reduce_sum,
    "prod": reductions.reduce_prod,
    "reduce_max": reductions.reduce_max,
    "reduce_min": reductions.reduce_min,
    "argmax": reductions.argmax,
    "argmin": reductions.argmin,
    # linear algebra, convolution, pooling
    "matmul": products.matmul,
    "conv": products.conv,
    "conv_backward_data": products.conv_backward_data,
    "conv_backward_weight": products.conv_backward_weight,
    "max_pool": pooling.max_pool,
    "max_pool_indices": pooling.max_pool_indices,
    "max_pool_backward": pooling.max_pool_backward,
    "avg_pool": pooling.avg_pool,
    "avg_pool_backward": pooling.avg_pool_backward,
    # data movement
    "reshape": movement.reshape,
    "transpose": movement.transpose,
    "broadcast_to": movement.broadcast_to,
    "concat": movement.concat,
    "slice": movement.slice_,
    "pad": movement.pad,
    # indexing with data, order
    **indexing.OPERATORS,
    **ordering.OPERATORS,
    # sources
    "constant": movement.constant,
    "iota": movement.iota,
    "random_bits": movement.random_bits,
}
