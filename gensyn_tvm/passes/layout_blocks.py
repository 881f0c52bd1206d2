"""Images in blocks of channels between one convolution and the next.

A value (N, C, spatial…) is kept as (N, C / block, spatial…, block) where convolutions follow one another: a register tile with
output channels in vectors is stored as it is, and so is what elementwise operators, poolings and concatenations make of it;
depthwise convolutions have whole vectors whatever the image's width. A block's size depends on the number of channels only, so
that values of one shape fit together. Nothing here can change a bit: each element sees the same operands and, in products,
sums and windows, the same terms in the same order.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.canonical.normal_movement import ELEMENTWISE
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.image import padded_grid
from gensyn_tvm.passes.layout_shared import as_attribute, spread
from gensyn_tvm.schedules.cpu.tiles import block_tile, block_width, line_block
from gensyn_tvm.targets.cpu import CpuTarget

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts

_POOLS = ("max_pool", "avg_pool")
_SUMS = ("sum", "prod", "reduce_max", "reduce_min")
#: Positions of a line below which a tile has too few rows.
_FEW_POSITIONS = 4


@dataclass
class Blocks:
    """Which values of a graph are kept in blocks, found from its convolutions.

    Attributes:
        graph: before layouts are chosen.
        target: its vectors are what blocks are made of.
        region: by value that may be kept in blocks, the number of the connected set of such values.
    """

    graph: Graph
    target: CpuTarget
    region: dict[int, int] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _unpadded: dict[int, int] = field(default_factory=dict)  # images in zeros that a convolution puts around them itself

    def chosen(self) -> set[int]:
        """The values to keep in blocks: of each set in which a convolution reads what another one has made."""
        if self.target.vector_bits == 0 or any(n.op.startswith("conv_backward") for n in self.graph.nodes):
            return set()
        types = self.graph.value_types()
        chains: set[int] = set()
        producers: dict[int, Node] = {}
        value = len(self.graph.inputs)
        for node in self.graph.nodes:
            producers[value] = node
            if node.op == "pad" and zeros_around(node, producers.get(node.inputs[1])) and node.inputs[0] in self.region:
                self._unpadded[value] = node.inputs[0]
            linked = self._linked(node, types)
            if linked is not None:
                self.region[value] = self._joined([self.region[v] for v in linked])
                if node.op == "conv" and linked:
                    chains.add(value)
            value += len(node.types)
        roots = {self._root(self.region[v]) for v in chains}
        return {v for v, r in self.region.items() if self._root(r) in roots}

    def _linked(self, node: Node, types: Sequence[TensorType]) -> list[int] | None:
        """The operands in blocks of a node whose result may be in blocks, too; None if it may not."""
        (t, *others) = node.types
        if others or t.rank < 3 or not block_width(t.shape[1], self.target):
            return None
        inside = [v for v in node.inputs if v in self.region]
        if node.op == "conv":
            inside = [v for v in [self._unpadded.get(node.inputs[0], node.inputs[0])] if v in self.region]
            return inside if self._is_eligible(node, types) else None
        if node.op in ELEMENTWISE:
            shapes = [types[v].shape for v in node.inputs]
            fits = all(len(s) <= t.rank for s in shapes) and any(types[v].shape == t.shape for v in inside)
            return inside if fits and t.shape[2:] != (1,) * (t.rank - 2) else None
        if node.op in _POOLS:
            return inside or None
        if node.op == "concat" and node.attrs["axis"] == 1 and len(inside) == len(node.inputs):
            widths = {block_width(types[v].shape[1], self.target) for v in inside}
            return inside if widths == {block_width(t.shape[1], self.target)} else None
        return None

    def _is_eligible(self, node: Node, types: Sequence[TensorType]) -> bool:
        x, w = (types[v] for v in node.inputs)
        depthwise = node.attrs["groups"] == x.shape[1] == w.shape[0] and w.shape[1] == 1
        positions = node.types[0].shape[-1] >= _FEW_POSITIONS
        return x.dtype == "float32" and x.size > 0 and w.size > 0 and positions and (depthwise or node.attrs["groups"] == 1)

    def _joined(self, regions: Sequence[int]) -> int:
        """The union of some sets, a new one of none."""
        number = len(self._parents)
        self._parents.append(number)
        for r in regions:
            self._parents[self._root(r)] = number
        return number

    def _root(self, region: int) -> int:
        while self._parents[region] != region:
            region = self._parents[region]
        return region


def zeros_around(pad: Node | None, value: Node | None) -> tuple[tuple[int, int], ...] | None:
    """What a ``pad`` node puts around spatial axes, if it is that and +0.0; ``value`` is the node of what it puts there."""
    if pad is None or pad.op != "pad" or pad.types[0].rank < 3 or value is None or value.op != "constant":
        return None
    padding: tuple[tuple[int, int], ...] = pad.attrs["padding"]
    return None if any(map(any, padding[:2])) or any(base64.b64decode(value.attrs["data"])) else padding[2:]


def without_pads(layouts: Layouts, node: Node) -> Node:
    """A convolution, or its weights' gradient, that reads its image without the zeros that a ``pad`` has put around it.

    The padding of a convolution is +0.0 and takes part in the product like these zeros.
    """
    if node.op not in ("conv", "conv_backward_weight") or (pad := layouts.producers.get(node.inputs[0])) is None:
        return node
    added = zeros_around(pad, layouts.producers.get(pad.inputs[1]) if len(pad.inputs) > 1 else None)
    if added is None:
        return node
    both = zip(node.attrs["padding"], added, strict=True)
    padding = tuple((lo + low, hi + high) for (lo, hi), (low, high) in both)
    return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, "padding": padding})


def in_blocks(layouts: Layouts, value: int, width: int, source: str) -> int:
    """A value (N, C, spatial…) as (N, C / width, spatial…, width)."""
    if value in layouts.blocked:
        return layouts.blocked[value]
    t = layouts.types[value]
    number, channels, *spatial = t.shape
    size = math.prod(spatial)
    if size > 1:
        value = layouts.pack(value, ((number, channels * size),), ((size, 1),), (channels, size), width, source)
    return _reshaped(layouts, value, (number, channels // width, *spatial, width), source)


def plain(layouts: Layouts, value: int, source: str) -> int:
    """A value (N, C / width, spatial…, width) as (N, C, spatial…)."""
    number, blocks, *spatial, width = layouts.types[value].shape
    size = math.prod(spatial)
    if size > 1:
        value = layouts.pack(value, ((number * blocks, size * width),), ((width, 1),), (size, width), size, source)
    return _reshaped(layouts, value, (number, blocks * width, *spatial), source)


def _reshaped(layouts: Layouts, value: int, shape: tuple[int, ...], source: str) -> int:
    t = TensorType(shape, layouts.types[value].dtype)
    return value if layouts.types[value] == t else layouts.shared(Node("reshape", (value,), {"shape": shape}, (t,), source))


def emit(layouts: Layouts, node: Node) -> int:
    """The result in blocks of a node that ``Blocks`` has chosen."""
    (t,) = node.types
    width = block_width(t.shape[1], layouts.target)
    if node.op == "conv":
        return _conv(layouts, node, width)
    shape = (t.shape[0], t.shape[1] // width, *t.shape[2:], width)
    if node.op in ELEMENTWISE:
        inputs = [_operand(layouts, v, t, width, node.source) for v in node.inputs]
        attrs = node.attrs
    else:
        inputs = [in_blocks(layouts, v, width, node.source) for v in node.inputs]
        attrs = dict(node.attrs)
        if node.op in _POOLS:
            attrs |= {name: (*attrs[name], 1) for name in ("kernel", "strides", "dilations")}
            attrs["padding"] = (*attrs["padding"], (0, 0))
    return layouts.emit(Node(node.op, tuple(inputs), attrs, (TensorType(shape, t.dtype),), node.source))


def _operand(layouts: Layouts, value: int, result: TensorType, width: int, source: str) -> int:
    """An operand of an elementwise operator in the place of blocks: broadcast along what it was broadcast along."""
    t = layouts.types[value]
    if t.shape == result.shape:
        return in_blocks(layouts, value, width, source)
    shape = (1,) * (result.rank - t.rank) + t.shape
    if shape[1] == 1:
        return value if t.rank == 0 else _reshaped(layouts, value, (*shape, 1), source)
    if t.rank < result.rank:
        value = _reshaped(layouts, value, shape, source)
    return in_blocks(layouts, value, width, source)


def sums(layouts: Layouts, node: Node) -> int | None:
    """A reduction over all spatial axes of a value in blocks; None if it is another one."""
    if node.op not in _SUMS or node.inputs[0] not in layouts.blocked:
        return None
    blocked, (t,) = layouts.blocked[node.inputs[0]], node.types
    number, blocks, *spatial, width = layouts.types[blocked].shape
    axes = tuple(range(2, 2 + len(spatial)))
    if tuple(node.attrs["axes"]) != axes:
        return None
    kept = [1] * len(spatial) if node.attrs["keepdims"] else []
    result = TensorType((number, blocks, *kept, width), t.dtype)
    value = layouts.emit(Node(node.op, (blocked,), node.attrs, (result,), node.source))
    return _reshaped(layouts, value, t.shape, node.source)


def _conv(layouts: Layouts, node: Node, width: int) -> int:
    """x in blocks, or as it is if its channels are none; w in panels of a block of output channels each."""
    image, weight = node.inputs
    (output,), x, w = node.types, layouts.types[image], layouts.types[weight]
    groups, window = node.attrs["groups"], w.shape[2:]
    block = width if groups > 1 else block_width(x.shape[1], layouts.target) if image in layouts.blocked else 0
    grid = padded_grid(x.shape[2:], node.attrs["padding"])
    if block:
        source = _spread_blocks(layouts, in_blocks(layouts, image, block, node.source), node.attrs["padding"], node.source)
    else:
        source = spread(layouts, image, grid, node.source)
    taps = math.prod(window)
    columns, units = (w.shape[0], w.shape[1] * taps), (w.shape[1], taps)
    packed = layouts.pack(weight, ((1, w.size),), (units, (taps, 1)), columns, width, node.source)
    shape = (output.shape[0], output.shape[1] // width, *output.shape[2:], width)
    tile = block_tile(output.shape[-1], width, layouts.target, window[-1] if groups == 1 else 1)
    panels = output.shape[1] // width
    steps = math.prod(max(1, step // extent) for step, extent in zip(node.attrs["strides"], window, strict=True))
    block_of = (math.prod(output.shape[2:-1]), x.itemsize, panels, w.size * w.itemsize, steps)
    lines = 0 if groups > 1 else line_block(x.shape, *block_of)
    attrs: dict[str, Any] = {**node.attrs, "layout": "blocks", "window": window, "panel": width, "tile": tile}
    attrs |= {"grid": as_attribute(grid), "block": block or 1, "channels": w.shape[1], "lines": lines}
    return layouts.emit(Node("conv", (source, packed), attrs, (TensorType(shape, output.dtype),), node.source))


def _spread_blocks(layouts: Layouts, value: int, padding: Sequence[tuple[int, int]], source: str) -> int:
    """(N, C / width, spatial…, width) with zeros around it, as (N, C / width, length): each block is a position of a line."""
    number, blocks, *spatial, width = layouts.types[value].shape
    if not any(map(any, padding)):
        return _reshaped(layouts, value, (number, blocks, math.prod(spatial) * width), source)
    lines = (number, blocks, *spatial[:-1], spatial[-1] * width)
    low, high = padding[-1]
    grid = padded_grid(lines[2:], (*padding[:-1], (low * width, high * width)))
    return spread(layouts, _reshaped(layouts, value, lines, source), grid, source)
