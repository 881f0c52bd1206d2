"""The layout of convolutions: output channels or positions in vectors, and what is packed or padded for that first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.products.image import Grid, flat, padded_grid, positions, wide_grid
from gensyn_tvm.passes.layout_costs import COPY, FMA, SCATTER, SCATTERED_COPY, TRANSPOSE
from gensyn_tvm.passes.layout_matmul import Operand
from gensyn_tvm.schedules.cpu.tiles import Tile, best_tile, given_tile
from gensyn_tvm.schedules.parameters import ConvolutionParameters, ProductParameters, WeightGradientParameters

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts

P = TypeVar("P", bound=ProductParameters)

#: Fewer channels than this fill no vector.
_FEW_CHANNELS = 8


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


def _tile(layouts: Layouts, rows: int, columns: int, lanes: int, given: ProductParameters, window: int = 1) -> Tile:
    if given.rows is None or given.vectors is None:
        return best_tile(rows, columns, lanes, layouts.target, window)
    return given_tile(given.rows, given.vectors, columns, lanes)


def _channels_cost(
    shape: _Shape, lanes: int, layouts: Layouts, weight: int, given: ConvolutionParameters
) -> tuple[float, Tile]:
    """Channels in vectors, the positions of a line as rows."""
    tile = _tile(layouts, shape.spatial[-1], shape.outputs, lanes, given, shape.window[-1])
    lines = shape.number * shape.groups * math.prod(shape.spatial[:-1])
    total = lines * shape.terms * tile.padded(shape.spatial[-1], shape.outputs) * FMA * tile.slowness
    if weight not in layouts.fixed:
        total += layouts.types[weight].size * (TRANSPOSE if math.prod(shape.window) == 1 else SCATTERED_COPY)
    return total + shape.results * SCATTER, tile


def _positions_cost(
    shape: _Shape, grid: Grid, lanes: int, layouts: Layouts, strides: Sequence[int], given: ConvolutionParameters
) -> tuple[float, Tile]:
    """Positions in vectors, channels as rows."""
    columns = positions(shape.spatial, grid.extents)
    tile = _tile(layouts, shape.outputs, columns, lanes, given)
    total = shape.number * shape.groups * shape.terms * tile.padded(shape.outputs, columns) * FMA * tile.slowness
    copied = shape.number * shape.groups * shape.channels * grid.length
    copy = COPY if all(s == 1 for s in strides) else TRANSPOSE
    return total + copied * copy + shape.results * COPY, tile


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


def _parameters(layouts: Layouts, node: Node, kind: type[P]) -> P:
    return layouts.parameters(node, [Operand(v, layouts.types[v], ()) for v in node.inputs], kind)


def conv(layouts: Layouts, node: Node) -> int:
    """x (N, C, spatial…), w (O, C / groups, kernel…): the cheaper of both layouts."""
    (image, weight), (output,) = node.inputs, node.types
    x, w = layouts.types[image], layouts.types[weight]
    attrs: dict[str, Any] = dict(node.attrs)
    groups, lanes = attrs["groups"], layouts.target.lanes(8 * x.itemsize)
    shape = _Shape(x.shape[0], groups, w.shape[1], w.shape[0] // groups, w.shape[2:], output.shape[2:])
    geometry = (x.shape[2:], shape.window, attrs["strides"], attrs["dilations"], attrs["padding"], shape.spatial)
    given = _parameters(layouts, node, ConvolutionParameters)
    attrs |= layouts.hints(given)
    channels, tile = _channels_cost(shape, lanes, layouts, weight, given)
    wide = wide_grid(*geometry, 1)
    over_positions, other = _positions_cost(shape, wide, lanes, layouts, attrs["strides"], given)
    if given.layout == "positions" and not _even(wide):
        raise layouts.refused("layout positions", "channels: the phases of this image are not evenly spaced")
    if _even(wide) and (over_positions < channels if given.layout is None else given.layout == "positions"):
        grid = wide_grid(*geometry, other.columns)
        attrs |= {"layout": "positions", "grid": as_attribute(grid), "panel": other.columns, "tile": other.rows}
        inputs = (spread(layouts, image, grid, node.source), weight)
    else:
        attrs |= {"layout": "channels", "panel": tile.columns, "tile": tile.rows, "window": shape.window}
        packed = _pack_weight(layouts, weight, groups, True, tile.columns, node.source)
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
    given = _parameters(layouts, node, ConvolutionParameters)
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
    ones = (1,) * len(axes)
    channels, tile = _channels_cost(shape, lanes, layouts, weight, given)
    over_positions, other = _positions_cost(shape, grid, lanes, layouts, ones, given)
    if over_positions < channels if given.layout is None else given.layout == "positions":
        computed = math.ceil(positions(spatial, grid.extents) / other.columns) * other.columns
        reach = flat([a.start - low for a, low in zip(axes, lowest, strict=True)], grid.extents)
        grid = replace(grid, length=max(grid.length, reach + computed))
        attrs |= {"layout": "positions", "grid": as_attribute(grid), "panel": other.columns, "tile": other.rows}
        return layouts.emit(Node("conv", (spread(layouts, image, grid, node.source), weight), attrs, types, node.source))
    attrs |= {"layout": "channels", "panel": tile.columns, "tile": tile.rows}
    packed = _pack_taps(layouts, weight, groups, taps, window, tile.columns, node.source)
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
        return _depthwise_weight(layouts, node)
    dy = layouts.types[gradient]
    attrs: dict[str, Any] = dict(node.attrs)
    groups, lanes = attrs["groups"], layouts.target.lanes(8 * dy.itemsize)
    columns, plane = output.shape[0] // groups, math.prod(dy.shape[2:])
    given = _parameters(layouts, node, WeightGradientParameters)
    tile = _tile(layouts, math.prod(output.shape[1:]), columns, lanes, given)
    attrs |= layouts.hints(given) | {"panel": tile.columns, "tile": tile.rows, "spatial": dy.shape[2:]}
    batch, terms = ((groups, columns * plane),), ((dy.shape[0], dy.shape[1] * plane), (plane, 1))
    packed = layouts.pack(gradient, batch, terms, (columns, plane), tile.columns, node.source)
    source = _padded(layouts, image, attrs["padding"], attrs, node.source)
    return layouts.emit(Node("conv_backward_weight", (source, packed), attrs, node.types, node.source))


def _depthwise_weight(layouts: Layouts, node: Node) -> int:
    """A group for each channel: channels in vectors, from both operands in panels."""
    (image, gradient), (output,) = node.inputs, node.types
    x, dy = layouts.types[image], layouts.types[gradient]
    lanes = layouts.target.lanes(8 * dy.itemsize)
    given = _parameters(layouts, node, WeightGradientParameters)
    width = lanes * (given.vectors or (2 if output.shape[0] > lanes else 1))
    tile = _tile(layouts, math.prod(output.shape[2:]), width, lanes, given)
    grid = padded_grid(x.shape[2:], node.attrs["padding"])
    panels = []
    for value, plane in ((spread(layouts, image, grid, node.source), grid.length), (gradient, math.prod(dy.shape[2:]))):
        channels = layouts.types[value].shape[1]
        terms = ((x.shape[0], channels * plane), (plane, 1))
        panels.append(layouts.pack(value, ((1, 0),), terms, (channels, plane), width, node.source))
    attrs = {**node.attrs, **layouts.hints(given), "depthwise": True, "panel": width, "tile": tile.rows, "number": x.shape[0]}
    attrs |= {"spatial": dy.shape[2:], "extents": grid.extents}
    return layouts.emit(Node("conv_backward_weight", tuple(panels), attrs, node.types, node.source))
