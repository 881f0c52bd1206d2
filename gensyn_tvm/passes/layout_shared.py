"""What the layouts of convolutions and their gradients share: images spread out over grids, tiles and tuned parameters."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.image import Grid
from gensyn_tvm.passes.layout_matmul import Operand
from gensyn_tvm.schedules.cpu.tiles import Tile, best_tile, given_tile
from gensyn_tvm.schedules.parameters import ProductParameters

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts

P = TypeVar("P", bound=ProductParameters)


def parameters_of(layouts: Layouts, node: Node, kind: type[P]) -> P:
    """What the record of a convolution says, whose operands are read as they are."""
    return layouts.parameters(node, [Operand(v, layouts.types[v], ()) for v in node.inputs], kind)


def tile_of(
    layouts: Layouts, rows: int, columns: int, lanes: int, given: ProductParameters, window: int = 1, *, whole: bool = False
) -> Tile:
    """The register tile that a record asks for, else the best one (``best_tile``)."""
    if given.rows is None or given.vectors is None:
        return best_tile(rows, columns, lanes, layouts.target, window, whole=whole)
    return given_tile(given.rows, given.vectors, columns, lanes)


def as_attribute(grid: Grid) -> tuple[Any, ...]:
    """The grid as the attribute ``grid`` of an ``image`` node and of who reads it."""
    return tuple(getattr(grid, f.name) for f in fields(grid))


def spread(layouts: Layouts, value: int, grid: Grid, source: str) -> int:
    """The value of an image (N, C, spatial…) spread out over a grid (N, C, length)."""
    t = layouts.types[value]
    result = TensorType((*t.shape[:2], grid.length), t.dtype)
    if grid.length == math.prod(grid.size) and grid.extents == grid.size and not any(map(any, grid.padding)):
        return layouts.shared(Node("reshape", (value,), {"shape": result.shape}, (result,), source))
    attrs = {"grid": as_attribute(grid), "lanes": layouts.lanes(t)}
    return layouts.shared(Node("image", (value,), attrs, (result,), source))
