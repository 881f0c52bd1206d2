"""Which tiles a product is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gensyn_tvm.schedules.gpu.products import Product

#: Blocks that keep every processor of a large GPU busy, and how much of the work may be for results that nobody stores.
BLOCKS, _WASTE = 128, 1.3


@dataclass(frozen=True)
class Tile:
    """A tile of the results, and the terms for which operands are in shared memory at a time."""

    rows: int
    columns: int
    depth: int

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    def blocks(self, rows: int, columns: int) -> int:
        """Tiles that cover a matrix."""
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)


TILES = (Tile(128, 128, 8), Tile(128, 64, 16), Tile(64, 64, 16), Tile(32, 32, 32))
#: Of elements of 64 bits.
WIDE_TILES = TILES[2:]


def tile_for(rows: int, columns: int, batch: int, tiles: Sequence[Tile]) -> Tile:
    """The largest tile that leaves no processor idle; small ones waste less at the borders."""
    for tile in tiles:
        blocks = tile.blocks(rows, columns)
        waste = blocks * tile.rows * tile.columns / (rows * columns)
        if batch * blocks >= BLOCKS and waste < _WASTE:
            return tile
    return tiles[-1]


def apart(product: Product) -> list[Product]:
    """The product itself; or, where its tiles are few and its chunks many, its chunks as results that other stages add up."""
    chunks = [s for s in product.stages if s.role == "chunk"]
    first, axis = chunks[0], product.chunk_axis[0]
    batch = math.prod(first.extents[k] for k in product.shared_axes)
    if axis is None or first.extents[axis] == 1 or batch * TILES[-1].blocks(product.rows, product.columns) >= BLOCKS:
        return [product]
    found = []
    for stage, counted, left, right in zip(chunks, product.chunk_axis, product.left, product.right, strict=True):
        shared = [k for k in range(stage.spatial) if k not in (*left.own, *right.own)]
        sizes = (product.rows, product.columns)
        brought = product.brought if stage is first else ()
        found.append(Product((stage,), tuple(shared), (None,), (left,), (right,), *sizes, brought, None))
        assert counted is None or counted in shared
    return found
