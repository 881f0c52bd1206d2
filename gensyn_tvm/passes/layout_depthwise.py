"""The layout of the weights' gradient of a depthwise convolution, whose channels are groups of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.operators.products.image import padded_grid
from gensyn_tvm.passes.layout_shared import parameters_of, spread, tile_of
from gensyn_tvm.schedules.parameters import WeightGradientParameters

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts


def weight_gradient(layouts: Layouts, node: Node) -> int:
    """A group for each channel: channels in vectors, from both operands in panels."""
    (image, gradient), (output,) = node.inputs, node.types
    x, dy = layouts.types[image], layouts.types[gradient]
    lanes = layouts.target.lanes(8 * dy.itemsize)
    given = parameters_of(layouts, node, WeightGradientParameters)
    width = lanes * (given.vectors or (2 if output.shape[0] > lanes else 1))
    tile = tile_of(layouts, math.prod(output.shape[2:]), width, lanes, given)
    grid = padded_grid(x.shape[2:], node.attrs["padding"])
    panels = []
    for value, plane in ((spread(layouts, image, grid, node.source), grid.length), (gradient, math.prod(dy.shape[2:]))):
        channels = layouts.types[value].shape[1]
        terms = ((x.shape[0], channels * plane), (plane, 1))
        panels.append(layouts.pack(value, ((1, 0),), terms, (channels, plane), width, node.source))
    attrs = {**node.attrs, **layouts.hints(given), "depthwise": True, "panel": width, "tile": tile.rows, "number": x.shape[0]}
    attrs |= {"spatial": dy.shape[2:], "extents": grid.extents}
    return layouts.emit(Node("conv_backward_weight", tuple(panels), attrs, node.types, node.source))
