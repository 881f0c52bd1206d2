"""The layout of convolutions: output channels or positions in vectors, and what is packed or padded for that first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.chunked import units_per_chunk
from gensyn_tvm.operators.products.image import Grid, flat, padded_grid, positions, wide_grid
from gensyn_tvm.passes import layout_depthwise
from gensyn_tvm.passes.layout_costs import COPY, FAR_WEIGHTS, FMA, SCATTER, SCATTERED_COPY, TRANSPOSE, UNSTREAMED
from gensyn_tvm.passes.layout_shared import as_attribute, parameters_of, spread, tile_of
from gensyn_tvm.schedules.cpu.tiles import MANY_CHUNKS, Tile, given_tile, line_tile
from gensyn_tvm.schedules.parameters import ConvolutionParameters, WeightGradientParameters

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts

#: Fewer channels than this fill no vector.
_FEW_CHANNELS = 8
#: Bytes of a line of a cache, and of what stays in the second-level cache.
_CACHE_LINE, _CACHED = 64, 512 * 1024


@dataclass(frozen=True)
class _Shape:
    """What all three operators have in common; ``spatial`` are the positions that are computed."""

    number: int
    groups: int
    channels: int  # of each group that are summed over
    outputs: int  # of each group
    window: tuple[int, ...]
    spatial: tuple[int, ...]

    @property
    def terms(self) -> int:
        """Terms of one result."""
        return self.channels * math.prod(self.window)

    @property
    def results(self) -> int:
        """Number of results."""
        return self.number * self.groups * self.outputs * math.prod(self.spatial)


@dataclass(frozen=True)
class _Choice:
    """A layout: what it costs, its attributes, and the grid that the image is spread out over, if any."""

    cost: float
    attrs: dict[str, Any]
    grid: Grid | None = None


def _choice(layout: str, tile: Tile, cost: float, grid: Grid | None = None) -> _Choice:
    return _Choice(cost, {"layout": layout, "panel": tile.columns, "tile": tile.rows}, grid)


def _best(choices: Sequence[_Choice], given: ConvolutionParameters, layouts: Layouts) -> _Choice:
    """The cheapest, or the one that a record asks for."""
    found = [c for c in choices if given.layout in (None, c.attrs["layout"])]
    if not found:
        expected = " or ".join(c.attrs["layout"] for c in choices)
        raise layouts.refused(f"layout {given.layout}", f"{expected}, which are all that this image allows")
    return min(found, key=lambda c: c.cost)


def _channels_choice(shape: _Shape, lanes: int, layouts: Layouts, weight: int, given: ConvolutionParameters) -> _Choice:
    """Channels in vectors, the positions of a line as rows."""
    tile = tile_of(layouts, shape.spatial[-1], shape.outputs, lanes, given, shape.window[-1])
    lines = shape.number * shape.groups * math.prod(shape.spatial[:-1])
    total = lines * shape.terms * tile.padded(shape.spatial[-1], shape.outputs) * FMA * tile.slowness
    if weight not in layouts.fixed:
        total += layouts.types[weight].size * (TRANSPOSE if math.prod(shape.window) == 1 else SCATTERED_COPY)
    return _choice("channels", tile, total + shape.results * SCATTER)


def _position_choices(
    shape: _Shape,
    grid: Grid,
    furthest: int,
    layouts: Layouts,
    lanes: int,
    strides: Sequence[int],
    given: ConvolutionParameters,
    slowness: float = 1.0,
) -> list[_Choice]:
    """Reading positions in vectors from ``grid``; the first one reads elements up to ``furthest``.

    ``positions`` cuts the grid of all positions into vectors, ``lines`` each of its lines, ``depthwise`` some lines at once.
    """
    copied = shape.number * shape.groups * shape.channels * grid.length * (COPY if all(s == 1 for s in strides) else TRANSPOSE)
    terms, results = shape.number * shape.groups * shape.terms * FMA * slowness, shape.results * COPY
    *outer, width = shape.spatial
    count, line, lines = positions(shape.spatial, grid.extents), math.prod(grid.extents[1:]), math.prod(outer)

    def choice(layout: str, tile: Tile, cost: float, reached: int) -> _Choice:
        return _choice(layout, tile, copied + cost + results, replace(grid, length=max(grid.length, furthest + reached)))

    def along(tile: Tile) -> int:
        return flat([*(o - 1 for o in outer), 0], grid.extents) + math.ceil(width / tile.columns) * tile.columns

    if shape.channels == shape.outputs == 1 < shape.groups and width > 1:
        tile = line_tile(lines, width, lanes, layouts.target)
        if given.rows is not None and given.vectors is not None:
            tile = given_tile(given.rows, given.vectors, width, lanes)
        return [choice("depthwise", tile, terms * tile.padded(lines, width), along(tile))]
    tile = tile_of(layouts, shape.outputs, count, lanes, given)
    computed = math.ceil(count / tile.columns) * tile.columns
    cost = terms * tile.padded(shape.outputs, count) * tile.slowness
    choices = [choice("positions", tile, cost if computed % line == 0 else cost + shape.results * UNSTREAMED, computed)]
    if outer:
        tile = tile_of(layouts, shape.outputs, width, lanes, given, whole=True)
        choices.append(choice("lines", tile, terms * lines * tile.padded(shape.outputs, width) * tile.slowness, along(tile)))
    return choices


def _padded(layouts: Layouts, value: int, padding: Sequence[tuple[int, int]], attrs: dict[str, Any], source: str) -> int:
    """The image between zeros, whose grid then stands in the attributes; the image itself if there are none."""
    if not any(map(any, padding)):
        return value
    grid = padded_grid(layouts.types[value].shape[2:], padding)
    attrs["grid"] = as_attribute(grid)
    return spread(layouts, value, grid, source)


def _even(grid: Grid) -> bool:
    """Whether the phases that are kept are evenly spaced from 0 on."""
    return all(p == tuple(range(0, len(p) * p[1], p[1])) if len(p) > 1 else p == (0,) for p in grid.phases)


def _pack_weight(layouts: Layouts, value: int, groups: int, outputs: bool, width: int, source: str) -> int:
    """w (O, C / groups, kernel…) in panels of its output channels, or of its input channels."""
    w = layouts.types[value]
    window = math.prod(w.shape[2:])
    o, c = (w.shape[0] // groups, w.shape[1] * window), (w.shape[1], window)
    units, columns = (c, o) if outputs else (o, c)
    return layouts.pack(value, ((groups, o[0] * o[1]),), (units, (window, 1)), columns, width, source)


def conv(layouts: Layouts, node: Node) -> int:
    """x (N, C, spatial…), w (O, C / groups, kernel…): the cheapest layout."""
    (image, weight), (output,) = node.inputs, node.types
    x, w = layouts.types[image], layouts.types[weight]
    attrs: dict[str, Any] = dict(node.attrs)
    groups, lanes = attrs["groups"], layouts.target.lanes(8 * x.itemsize)
    shape = _Shape(x.shape[0], groups, w.shape[1], w.shape[0] // groups, w.shape[2:], output.shape[2:])
    given = parameters_of(layouts, node, ConvolutionParameters)
    strides, dilations = attrs["strides"], attrs["dilations"]
    wide = wide_grid(x.shape[2:], shape.window, strides, dilations, attrs["padding"], shape.spatial)
    axes = zip(shape.window, strides, dilations, strict=True)
    reach = flat([(e - 1) * d // s for e, s, d in axes], wide.extents)
    furthest = (math.prod(map(len, wide.phases)) - 1) * wide.plane + reach
    attrs |= {**layouts.hints(given), "window": shape.window}
    choices = [_channels_choice(shape, lanes, layouts, weight, given)]
    if _even(wide):
        choices += _position_choices(shape, wide, furthest, layouts, lanes, strides, given)
    chosen = _best(choices, given, layouts)
    attrs |= chosen.attrs
    if chosen.grid is not None:
        attrs["grid"] = as_attribute(chosen.grid)
        inputs = (spread(layouts, image, chosen.grid, node.source), weight)
    else:
        packed = _pack_weight(layouts, weight, groups, True, attrs["panel"], node.source)
        inputs = (_padded(layouts, image, attrs["padding"], attrs, node.source), packed)
    return layouts.emit(Node("conv", inputs, attrs, node.types, node.source))


@dataclass(frozen=True)
class _Axis:
    """One axis of a phase of an input gradient, see ``taps`` of ``operators.products.convolution.conv``."""

    extent: int
    count: int
    start: int
    step: int
    first: int
    weight_step: int


def _phase_axis(phase: int, size: int, window: int, stride: int, dilation: int, low: int) -> _Axis | None:
    """Positions phase, phase + stride, … of an axis of ``size``: the kernel positions that take part; None if none does."""
    taken = [j for j in range(window) if (phase + low - j * dilation) % stride == 0]
    if not taken:
        return None
    step = taken[1] - taken[0] if len(taken) > 1 else 1
    start = (phase + low - taken[0] * dilation) // stride
    return _Axis(len(range(phase, size, stride)), len(taken), start, -step * dilation // stride, taken[0], step)


def conv_backward_data(layouts: Layouts, node: Node) -> int:
    """dy (N, O, spatial…), w (O, C / groups, kernel…): positions of equal phase, modulo the strides, are a convolution each."""
    (output,) = node.types
    attrs, spatial = node.attrs, output.shape[2:]
    window = layouts.types[node.inputs[1]].shape[2:]
    strides = attrs["strides"]
    given = parameters_of(layouts, node, ConvolutionParameters)
    values, phases = [], []
    for phase in itertools.product(*(range(s) for s in strides)):
        parts = zip(phase, spatial, window, strides, attrs["dilations"], (lo for lo, _ in attrs["padding"]), strict=True)
        axes = [_phase_axis(*part) for part in parts]
        if all(a is not None and a.extent for a in axes):
            values.append(_phase(layouts, node, [a for a in axes if a is not None], given))
            phases.append(phase)
    if all(s == 1 for s in strides):
        return values[0]
    t = {"phases": tuple(phases), "strides": strides, "lanes": layouts.lanes(output)}
    return layouts.emit(Node("weave", tuple(values), t, node.types, node.source))


def _phase(layouts: Layouts, node: Node, axes: Sequence[_Axis], given: ConvolutionParameters) -> int:
    """One phase of an input gradient in the cheaper layout."""
    (image, weight), (output,) = node.inputs, node.types
    dy, w = layouts.types[image], layouts.types[weight]
    groups, lanes = node.attrs["groups"], layouts.target.lanes(8 * dy.itemsize)
    spatial, window = tuple(a.extent for a in axes), tuple(a.count for a in axes)
    shape = _Shape(dy.shape[0], groups, w.shape[0] // groups, w.shape[1], window, spatial)
    lowest = [a.start + (a.count - 1) * a.step for a in axes]
    padding = tuple((-low, a.extent - 1 + a.start - (e - 1)) for low, a, e in zip(lowest, axes, dy.shape[2:], strict=True))
    taps = tuple((a.start - low, a.step, a.first, a.weight_step) for a, low in zip(axes, lowest, strict=True))
    attrs: dict[str, Any] = {**node.attrs, "taps": taps, "window": window, "unit": math.prod(w.shape[2:])}
    attrs |= layouts.hints(given)
    types = (TensorType((*output.shape[:2], *spatial), output.dtype),)
    grid = padded_grid(dy.shape[2:], padding)
    furthest = flat([a.start - low for a, low in zip(axes, lowest, strict=True)], grid.extents)
    ones = (1,) * len(axes)
    channels = _channels_choice(shape, lanes, layouts, weight, given)
    # Weights of an output channel do not lie side by side here, as they do in a convolution: each brings a line of the cache.
    slowness = FAR_WEIGHTS if shape.outputs * shape.terms * _CACHE_LINE > _CACHED else 1.0
    others = _position_choices(shape, grid, furthest, layouts, lanes, ones, given, slowness)
    chosen = _best([channels, *others], given, layouts)
    attrs |= chosen.attrs
    if chosen.grid is not None:
        attrs["grid"] = as_attribute(chosen.grid)
        image = spread(layouts, image, chosen.grid, node.source)
        return layouts.emit(Node("conv", (image, weight), attrs, types, node.source))
    packed = _pack_taps(layouts, weight, groups, taps, window, attrs["panel"], node.source)
    source = _padded(layouts, image, padding, attrs, node.source)
    return layouts.emit(Node("conv", (source, packed), attrs, types, node.source))


def _pack_taps(
    layouts: Layouts, value: int, groups: int, taps: Sequence[Sequence[int]], window: Sequence[int], width: int, source: str
) -> int:
    """The weights (O, C / groups, kernel…) that a phase reads, in panels of input channels."""
    w = layouts.types[value]
    strides = [math.prod(w.shape[k + 1 :]) for k in range(w.rank)]
    units = w.shape[0] // groups
    inner = [(e, strides[2 + k] * step) for k, (e, (_, _, _, step)) in enumerate(zip(window, taps, strict=True))]
    first = sum(strides[2 + k] * tap[2] for k, tap in enumerate(taps))
    terms = ((units, strides[0]), *inner)
    batch = ((groups, units * strides[0]),)
    return layouts.pack(value, batch, terms, (w.shape[1], strides[1]), width, source, first)


def conv_backward_weight(layouts: Layouts, node: Node) -> int:
    """x (N, C, spatial…), dy (N, O, spatial…): output channels in vectors, weights of one output channel as rows."""
    (image, gradient), (output,) = node.inputs, node.types
    if node.attrs["groups"] == output.shape[0] >= _FEW_CHANNELS and output.shape[1] == 1:
        return layout_depthwise.weight_gradient(layouts, node)
    dy = layouts.types[gradient]
    attrs: dict[str, Any] = dict(node.attrs)
    groups, lanes = attrs["groups"], layouts.target.lanes(8 * dy.itemsize)
    columns, plane = output.shape[0] // groups, math.prod(dy.shape[2:])
    given = parameters_of(layouts, node, WeightGradientParameters)
    tile = tile_of(layouts, math.prod(output.shape[1:]), columns, lanes, given)
    attrs |= layouts.hints(given) | {"panel": tile.columns, "tile": tile.rows, "spatial": dy.shape[2:]}
    batch, terms = ((groups, columns * plane),), ((dy.shape[0], dy.shape[1] * plane), (plane, 1))
    packed = layouts.pack(gradient, batch, terms, (columns, plane), tile.columns, node.source)
    source = _padded(layouts, image, attrs["padding"], attrs, node.source)
    rows, width = math.prod(output.shape[1:]), tile.columns
    chunks = dy.shape[0] * math.prod(dy.shape[2:-1]) // units_per_chunk(dy.shape[-1])
    if chunks >= MANY_CHUNKS and given.by_chunks is None:
        # All of a panel passes by for each tile of weights, and fits no cache; a chunk of it does.
        attrs |= layouts.hints(replace(given, by_chunks=True))
    if groups > 1 or columns % width or chunks >= MANY_CHUNKS:
        return layouts.emit(Node("conv_backward_weight", (source, packed), attrs, node.types, node.source))
    # Results stored as they stand in the registers, and transposed afterwards: scattered one by one they take longer.
    attrs["panels"] = columns // width
    tiles = TensorType((columns // width, rows, width), output.dtype)
    stored = layouts.emit(Node("conv_backward_weight", (source, packed), attrs, (tiles,), node.source))
    panels = ((columns // width, rows * width),)
    transposed = layouts.pack(stored, panels, ((width, 1),), (rows, width), rows, node.source)
    return layouts.emit(Node("reshape", (transposed,), {"shape": output.shape}, node.types, node.source))
