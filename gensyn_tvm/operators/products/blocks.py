"""Convolutions between images in blocks: (N, C / block, spatial…, block), some channels of a position side by side.

Output channels are vectors, the positions of a line are rows, and a result is stored as it stands in the registers. The image
that is read is one line of memory for each sample and block of channels, spread out over ``grid`` if there is padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.nest import Kernel, i64, load, ravel
from gensyn_tvm.operators.products.chunked import Product, emit_product, units_per_chunk
from gensyn_tvm.operators.products.image import grid_of

Expr = Any
Index = Sequence[Expr]
Attrs = Mapping[str, Any]


def convolution(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    """x (N, C / block, length * block), w in panels of a block of output channels -> (N, O / panel, spatial…, panel).

    Attributes: ``block`` of the image, 1 if its channels are not in blocks; ``lines`` that stay in a cache while all panels
    pass by, 0: all do. If every channel is a group of its own, w is (1, C / panel, kernel…, panel) and vectors are read from
    both operands.
    """
    number, panels, *spatial, width = output.shape
    window, block, extents = attrs["window"], attrs["block"], grid_of(attrs).extents
    depthwise = attrs["groups"] > 1

    def position(batch: Index, row: Expr, offset: Index) -> Expr:
        axes = zip([*batch[2:], row], offset, attrs["strides"], attrs["dilations"], strict=True)
        return ravel([p * i64(s) + o * i64(d) for p, o, s, d in axes], extents)

    def scalar(batch: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
        place = position(batch, row, offset)
        if block == 1:
            return load(k.inputs[0], [batch[1], channel, place])
        return load(k.inputs[0], [batch[1], channel // i64(block), place * i64(block) + channel % i64(block)])

    def vector(batch: Index, row: Expr, unit: Expr, offset: Index, column: Expr) -> Expr:
        return load(k.inputs[0], [batch[1], batch[0], position(batch, row, offset) * i64(width) + column])

    def weight(batch: Index, channel: Expr, offset: Index, column: Expr) -> Expr:
        return load(k.inputs[1], [i64(0), batch[0], ravel([channel, *offset], [0, *window]), column])

    product = Product(
        (panels, number, *spatial[:-1]),
        spatial[-1],
        width,
        1 if depthwise else attrs["channels"],
        window,
        units_per_chunk(math.prod(window)),
        output.dtype,
        scalar,
        weight,
        left_by_column=vector if depthwise else None,
        panel=width,
        tile=attrs["tile"],
        lines=attrs["lines"],
    )
    emit_product(k, product, lambda i: [i[1], i[0], *i[2:]])
