"""Register tiles of chunked products: rows read as scalars, columns read as vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gensyn_tvm.targets.cpu import CpuTarget

_MAX_ROWS = 14
#: How much slower rows are that a tile does not divide: each needs a pointer of its own, more than there are registers.
_RAGGED = 1.5
#: How much slower a narrow panel is when all rows come from the third-level cache for each.
_STREAMED = {1: 2.0, 2: 1.2}
#: Vectors of a line that a depthwise convolution computes at a time, at most.
_LINE_VECTORS = 8
#: Full chunks from which a product runs chunk by chunk.
MANY_CHUNKS = 8
#: Bytes of the left operand that a product keeps in the second- or third-level cache.
_SECOND_LEVEL, _THIRD_LEVEL = 256 * 1024, 4 * 1024 * 1024
#: Bytes of images that are read again for each panel of weights, and of the part of larger ones that is.
_NEAR, _LINES = 512 * 1024, 448 * 1024
#: Vectors of a block of channels, the best first.
_BLOCK_VECTORS = (2, 3, 1)


@dataclass(frozen=True)
class Tile:
    """A register tile.

    Attributes:
        rows, columns: extents.
        slowness: time for each fma compared with the best tile, at least 1.
    """

    rows: int
    columns: int
    slowness: float

    def padded(self, rows: int, columns: int) -> int:
        """Elements computed for a matrix of rows x columns, cut into whole tiles."""
        return math.ceil(rows / self.rows) * self.rows * math.ceil(columns / self.columns) * self.columns


def _slowness(rows: int, vectors: int) -> float:
    """Too few chains do not hide the latency of fma (4 cycles); more than two loads for each fma starve it."""
    chains = rows * vectors
    return max(1.0, 8 / chains, (rows + 1.5 * vectors) / (1.6 * chains)) + 0.4 / chains


@lru_cache(maxsize=4096)
def best_tile(
    rows: int,
    columns: int,
    lanes: int,
    target: CpuTarget,
    window: int = 1,
    most_rows: int = _MAX_ROWS,
    exactly: int = 0,
    streamed: bool = False,
    whole: bool = False,
    ragged: float = _RAGGED,
) -> Tile:
    """The tile that computes a matrix in the least time by a rough model; narrow matrices get a narrow vector.

    ``window``: so many consecutive terms read the same scalars for neighbouring rows. LLVM then keeps them all in registers.
    ``most_rows``: fewer rows than usual, because they lie in the same lines of the first-level cache; ``exactly``: so many,
    which lie in panels; ``streamed``: the rows' operand is too large for the second-level cache, and each panel of columns
    reads it again; ``whole``: only tiles that divide the columns, or hold all of them; ``ragged``: how much slower a tile is
    that does not divide the rows.
    """
    width = _vector(columns, lanes)
    best: Tile | None = None
    for vectors in range(1, 9 if rows == 1 or whole else 5):
        if vectors > 1 and (vectors - 1) * width >= columns:
            break
        if whole and columns % (vectors * width) and columns > vectors * width and best is not None:
            continue
        for r in [exactly] if exactly else range(1, min(rows, most_rows) + 1):
            operands = vectors + (1 if window == 1 else r + window - 1)
            if r * vectors + operands > target.registers - 1:
                break
            slowness = _slowness(r, vectors) * (_STREAMED.get(vectors, 1.0) if streamed and columns > vectors * width else 1.0)
            if rows % r and not exactly:
                slowness *= ragged
            # Half a vector or a scalar takes half the time of a vector, or less.
            tile = Tile(r, vectors * width, slowness * (lanes / (2 * width) if width < lanes else 1.0))
            if best is None or _cost(tile, rows, columns) < _cost(best, rows, columns):
                best = tile
    assert best is not None
    return best


def given_tile(rows: int, vectors: int, columns: int, lanes: int) -> Tile:
    """The tile that a record asks for; narrow matrices get a narrow vector here too."""
    return Tile(rows, vectors * _vector(columns, lanes), _slowness(rows, vectors))


def _vector(columns: int, lanes: int) -> int:
    width = lanes
    while width > 1 and width // 2 >= columns:
        width //= 2
    return width


def line_tile(lines: int, columns: int, lanes: int, target: CpuTarget) -> Tile:
    """Lines x vectors of a depthwise convolution: whole lines if they fit, else equal parts of a line, of some lines at once.

    Every term loads a vector for each fma, so a tile is only as large as it takes to hide the latency of fma.
    """
    width = _vector(columns, lanes)
    vectors = math.ceil(columns / width)
    if vectors > _LINE_VECTORS:
        parts = math.ceil(vectors / _LINE_VECTORS)
        vectors = next((v for v in range(_LINE_VECTORS, 3, -1) if columns % (v * width) == 0), math.ceil(vectors / parts))
    most = max(1, min(_MAX_ROWS, (target.registers - 4) // vectors, lines))
    rows = max((r for r in range(1, most + 1) if lines % r == 0), default=1)
    if rows * vectors < 8 and most > rows:
        rows = most
    return Tile(rows, vectors * width, 1.0)


def _cost(tile: Tile, rows: int, columns: int) -> float:
    # Of equal ones the one that divides the columns, so that the result is stored from the tile, and then the widest.
    ragged = 1.02 if columns % tile.columns else 1.0
    return tile.slowness * tile.padded(rows, columns) * ragged - 1e-9 * tile.columns


def row_block(rows: int, tile: int, terms: int, chunk: int, itemsize: int) -> int:
    """So many register tiles of rows stay in a cache while all columns pass by; 0: all do.

    The second-level cache if a product runs chunk by chunk; with all terms at once it would hold too few rows.
    """
    by_chunks = terms >= MANY_CHUNKS * chunk or chunk < terms < 2 * chunk
    memory, stored = (_SECOND_LEVEL, chunk) if by_chunks else (_THIRD_LEVEL, terms)
    count, most = math.ceil(rows / tile), max(1, memory // (tile * stored * itemsize))
    if count <= most:
        return 0
    # Blocks without rows beyond the last, if not much smaller: nothing is computed in vain, and no store needs a guard.
    whole = next((b for b in range(most, most // 2, -1) if count % b == 0), 0)
    return whole or math.ceil(count / math.ceil(count / most))


def block_width(channels: int, target: CpuTarget) -> int:
    """Channels of a block of an image in blocks: whole vectors, or half ones, as many as make a good tile; 0: none do."""
    for lanes in (target.lanes(), target.lanes() // 2):
        if lanes >= 4 and channels % lanes == 0:
            vectors = [v for v in _BLOCK_VECTORS if channels // lanes % v == 0]
            return lanes * vectors[0]
    return 0


def block_tile(rows: int, width: int, target: CpuTarget, window: int) -> int:
    """Rows of a tile of a block of output channels: positions of a line; ``window`` as for ``best_tile``."""
    lanes = target.lanes() if width % target.lanes() == 0 else target.lanes() // 2
    vectors = width // lanes

    def cost(r: int) -> float:
        return _slowness(r, vectors) * math.ceil(rows / r) * r * (_RAGGED if rows % r else 1.0)

    def registers(r: int) -> int:
        return r * vectors + vectors + (1 if window == 1 else r + window - 1)

    fitting = [r for r in range(1, min(rows, _MAX_ROWS) + 1) if registers(r) <= target.registers - 1]
    return min(fitting or [1], key=lambda r: (cost(r), -r))


def line_block(image: Sequence[int], lines: int, itemsize: int, panels: int, weights: int, steps: int = 1) -> int:
    """Lines of a result that are computed for all panels in turn, so that what they read stays in a cache; 0: all.

    Panel by panel, all of the image passes by for each, which is fine if it stays near; else for each block of lines all of the
    weights do, and what takes fewer bytes is better. ``weights``: bytes in ``panels``; ``steps``: positions for each one read.
    """
    number, channels, *spatial = image
    sample = channels * math.prod(spatial) * itemsize // steps
    if number * sample <= _NEAR or lines <= 1:
        return 0
    most = max(1, min(lines, lines * _LINES // sample))
    block = next(b for b in range(most, 0, -1) if lines % b == 0)
    if weights > _NEAR and number * (lines // block) * weights > panels * number * sample:
        return 0
    return block
