"""Convolutions and their gradients as chunked products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.nest import Buffer, Kernel, all_of, any_of, guarded, i64, kernel, load, ravel, unravel
from gensyn_tvm.operators.products import blocks, depthwise
from gensyn_tvm.operators.products.chunked import Product, emit_product, units_per_chunk
from gensyn_tvm.operators.products.image import grid_of, positions, reach, window_start

Expr = Any
Index = Sequence[Expr]
Attrs = Mapping[str, Any]


def _padded(k: Kernel, x: Buffer, shape: Sequence[int], padding: Sequence[tuple[int, int]], dtype: str) -> Buffer:
    """A copy of x (N, C, spatial…) with +0.0 around the spatial axes, cut where a padding is negative; x itself for none."""
    if not any(lo or hi for lo, hi in padding):
        return x
    padded_shape = [*shape[:2], *(lo + e + hi for e, (lo, hi) in zip(shape[2:], padding, strict=True))]
    buffer = k.scratch(padded_shape, dtype)

    def value(index: Index) -> Expr:
        position = [*index[:2], *(i - i64(lo) for i, (lo, _) in zip(index[2:], padding, strict=True))]
        inside = [
            tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(e)))
            for p, e, pads in zip(position[2:], shape[2:], padding, strict=True)
            if any(pads)
        ]
        return guarded(all_of(inside), load(x, position), terms.zero(dtype))

    k.stage("pack", buffer, padded_shape, value)
    return buffer


@dataclass(frozen=True)
class _Source:
    """The input of a convolution, and where a position of it is found."""

    buffer: Buffer
    read: Callable[[Expr, Expr, Sequence[Expr]], Expr]  # (sample, channel, padded position) -> element


def _source(k: Kernel, x: TensorType, attrs: Attrs, padding: Sequence[tuple[int, int]], number: int = 0) -> _Source:
    """The padded image: an ``image`` node has made it (attribute ``grid``), or a stage of this kernel does."""
    if "grid" in attrs:
        grid = grid_of(attrs)
        stored = k.inputs[number]
        return _Source(stored, lambda n, c, position: load(stored, [n, c, ravel(position, grid.extents)]))
    buffer = _padded(k, k.inputs[number], x.shape, padding, x.dtype)
    return _Source(buffer, lambda n, c, position: load(buffer, [n, c, *position]))


def _panel(packed: Buffer, attrs: Attrs, axes: Sequence[int]) -> Callable[[Expr, Expr, Index, Expr], Expr]:
    """(group, unit, inner index, column) of an operand in panels (groups, panel, term, column in panel)."""
    width = attrs["panel"]

    def read(group: Expr, unit: Expr, inner: Index, column: Expr) -> Expr:
        term = ravel([unit, *inner], [0, *axes])
        return load(packed, [group, column // i64(width), term, column % i64(width)])

    return read


def conv(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), w (O, C / groups, kernel…) -> (N, O, spatial…).

    The layout pass chooses with the attribute ``layout``: ``channels`` reads output channels in vectors, from panels, and the
    positions of a line as rows. The others read positions in vectors, from an image spread out for that: ``positions`` all of
    them and ``lines`` line by line, with output channels as rows; ``depthwise`` some lines at a time, as rows. ``blocks``
    stores (N, O / panel, spatial…, panel). Without it rows are positions and columns output channels.

    With the attribute ``taps`` it is a phase of an input gradient: x is the output's gradient, w (C, O / groups, kernel…) that
    of the convolution, and for each axis (start, step, first, weight step) term t reads x at the position + start + t * step
    and weight first + t * weight step; ``window`` counts the terms, ``unit`` the kernel's positions, which chunks are made of.
    """
    layout = attrs.get("layout")
    with kernel(name, inputs, output) as k:
        if layout == "positions":
            _conv_positions(k, inputs, output, attrs)
        elif layout == "lines":
            _conv_lines(k, inputs, output, attrs)
        elif layout == "depthwise":
            depthwise.convolution(k, inputs, output, attrs)
        elif layout == "blocks":
            blocks.convolution(k, inputs, output, attrs)
        elif layout == "channels":
            _conv_channels(k, inputs, output, attrs)
        else:
            _conv_plain(k, inputs, output, attrs)
    return k.result()


def _conv_plain(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    x, w = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    channels, window, spatial, columns = w.shape[1], w.shape[2:], output.shape[2:], w.shape[0] // groups
    source = _source(k, x, attrs, attrs["padding"])

    def image(batch: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
        position = unravel(row, spatial)
        place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
        return source.read(batch[0], batch[1] * i64(channels) + channel, place)

    def weight(batch: Index, channel: Expr, offset: Index, column: Expr) -> Expr:
        return load(k.inputs[1], [batch[1] * i64(columns) + column, channel, *offset])

    product = Product(
        (x.shape[0], groups),
        math.prod(spatial),
        columns,
        channels,
        window,
        units_per_chunk(math.prod(window)),
        x.dtype,
        image,
        weight,
    )
    emit_product(k, product, lambda i: [i[0], i[1] // i64(columns), ravel(i[2:], spatial), i[1] % i64(columns)])


def _conv_channels(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    x = inputs[0]
    groups, strides, dilations, window = attrs["groups"], attrs["strides"], attrs["dilations"], attrs["window"]
    channels, spatial, columns = x.shape[1] // groups, output.shape[2:], output.shape[1] // groups
    # A phase's image has been padded as the phase needs; the attribute is that of the whole gradient.
    padding = () if "taps" in attrs else attrs["padding"]
    source, weight = _source(k, x, attrs, padding), _panel(k.inputs[1], attrs, window)

    def image(batch: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
        position = [*batch[2:], row]
        if "taps" in attrs:
            place = [p + r for p, r in zip(position, reach(offset, attrs["taps"]), strict=True)]
        else:
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
        return source.read(batch[1], batch[0] * i64(channels) + channel, place)

    product = Product(
        (groups, x.shape[0], *spatial[:-1]),
        spatial[-1],
        columns,
        channels,
        window,
        units_per_chunk(attrs.get("unit", math.prod(window))),
        x.dtype,
        image,
        lambda batch, channel, offset, column: weight(batch[0], channel, offset, column),
        panel=attrs["panel"],
        tile=attrs["tile"],
        around=1,
    )
    emit_product(k, product, lambda i: [*_group(i[1], columns, groups), i[0], *i[2:], _within(i[1], columns, groups)])


def _group(channel: Expr, columns: int, groups: int) -> list[Expr]:
    return [i64(0) if groups == 1 else channel // i64(columns)]


def _within(channel: Expr, columns: int, groups: int) -> Expr:
    return channel if groups == 1 else channel % i64(columns)


def _conv_positions(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    x, spatial = inputs[0], output.shape[2:]
    groups, rows, extents = attrs["groups"], output.shape[1] // attrs["groups"], grid_of(attrs).extents
    count, line = positions(spatial, extents), math.prod(extents[1:])
    # TVM proves that a line's results are all there only if whole lines are computed.
    whole_lines = math.ceil(count / attrs["panel"]) * attrs["panel"] % line == 0
    streamed = extents if whole_lines else ()
    product = _over_positions(k, x, rows, attrs, (x.shape[0], groups), count, lambda batch: i64(0), streamed)

    def place(i: Index) -> Index:
        position = i[2:] if whole_lines else [ravel(i[2:], extents)]
        return [i[0], *_group(i[1], rows, groups), _within(i[1], rows, groups), *position]

    emit_product(k, product, place)


def _conv_lines(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    x, outer = inputs[0], output.shape[2:-1]
    groups, rows, extents = attrs["groups"], output.shape[1] // attrs["groups"], grid_of(attrs).extents

    def line(batch: Index) -> Expr:
        return ravel([*batch[2:], i64(0)], extents)

    product = _over_positions(k, x, rows, attrs, (x.shape[0], groups, *outer), output.shape[-1], line)
    emit_product(k, product, lambda i: [i[0], *_group(i[1], rows, groups), *i[2:-1], _within(i[1], rows, groups), i[-1]])


def _over_positions(
    k: Kernel,
    x: TensorType,
    rows: int,
    attrs: Attrs,
    batch: Sequence[int],
    count: int,
    line: Callable[[Index], Expr],
    streamed: Sequence[int] = (),
) -> Product:
    """``rows`` output channels by ``count`` positions of the grid from ``line(batch index)`` on, read in vectors."""
    taps, channels = attrs.get("taps"), x.shape[1] // attrs["groups"]

    def image(b: Index, channel: Expr, offset: Index, column: Expr) -> Expr:
        return load(k.inputs[0], [b[0], b[1] * i64(channels) + channel, window_start(attrs, offset) + line(b) + column])

    def weight(b: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
        if not taps:
            return load(k.inputs[1], [b[1] * i64(rows) + row, channel, *offset])
        places = [o * i64(step) + i64(first) for o, (_, _, first, step) in zip(offset, taps, strict=True)]
        return load(k.inputs[1], [b[1] * i64(channels) + channel, row, *places])

    return Product(
        batch,
        rows,
        count,
        channels,
        attrs["window"],
        units_per_chunk(attrs.get("unit", math.prod(attrs["window"]))),
        x.dtype,
        weight,
        image,
        panel=attrs["panel"],
        tile=attrs["tile"],
        streamed=streamed,
    )


def conv_backward_weight(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), dy (N, O, spatial…) -> dw (O, C / groups, kernel…).

    Rows are weight positions (channel, kernel…), columns output channels, units output rows, whose last axis is inner. If
    every channel is a group of its own (attribute ``depthwise`` of the layout pass) columns are channels. With its
    attribute ``panels`` the result is (O / panel, rows, panel), as the register tiles are, of one group.
    """
    if attrs.get("depthwise"):
        return depthwise.weight_gradient(name, inputs, output, attrs)
    x, dy = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    spatial = attrs["spatial"] if "panel" in attrs else dy.shape[2:]
    window, channels = attrs["kernel"], x.shape[1] // groups
    apart = attrs.get("panels", 0)
    columns = attrs["panel"] if apart else output.shape[0] // groups
    lines = (x.shape[0], *spatial[:-1])
    with kernel(name, inputs, output) as k:
        source = _source(k, x, attrs, attrs["padding"])

        def image(batch: Index, row: Expr, unit: Expr, inner: Index) -> Expr:
            channel, *offset = unravel(row, [channels, *window])
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return source.read(number, channel if apart else batch[0] * i64(channels) + channel, place)

        def gradient(batch: Index, unit: Expr, inner: Index, column: Expr) -> Expr:
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            return load(k.inputs[1], [number, batch[0] * i64(columns) + column, *position])

        def panel(batch: Index, unit: Expr, inner: Index, column: Expr) -> Expr:
            if apart:
                return load(k.inputs[1], [i64(0), batch[0], ravel([unit, *inner], [0, *spatial[-1:]]), column])
            return _panel(k.inputs[1], attrs, spatial[-1:])(batch[0], unit, inner, column)

        product = Product(
            (apart or groups,),
            channels * math.prod(window),
            columns,
            math.prod(lines),
            spatial[-1:],
            units_per_chunk(spatial[-1]),
            x.dtype,
            image,
            panel if "panel" in attrs else gradient,
            panel=attrs.get("panel", 0),
            tile=attrs.get("tile", 0),
        )

        def place_of(i: Index) -> Index:
            return i if apart else [i[0] // i64(columns), ravel(i[1:], [channels, *window]), i[0] % i64(columns)]

        emit_product(k, product, place_of)
    return k.result()


@dataclass(frozen=True)
class Transposed:
    """Geometry of a convolution's input gradient: which dy meets input position i and kernel position j."""

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def borders(self, output: Sequence[int]) -> list[tuple[int, int]]:
        """Padding of dy such that every quotient (i + pad_low - j * dilation) // stride is inside."""
        result = []
        axes = zip(self.spatial, self.window, self.strides, self.dilations, self.padding, output, strict=True)
        for size, e, s, d, (lo, _), extent in axes:
            low, high = (lo - (e - 1) * d) // s, (size - 1 + lo) // s
            result.append((-low, high - extent + 1))
        return result

    def places(self, position: Index, offset: Index, borders: Sequence[tuple[int, int]]) -> list[Expr]:
        """Index into dy with its padding: (i + pad_low - j * dilation) // stride + border."""
        axes = zip(self._tops(position, offset), self.spatial, self.strides, borders, offset, strict=True)
        result = []
        for axis, (top, size, s, (low, _), j) in enumerate(axes):
            if size > 1:
                result.append(tirx.floordiv(top, i64(s)) + i64(low))
                continue
            # With j alone, and that subtracted, TVM does not see that dy is covered: (c - x) // s = c // s - (x + t) // s.
            c = self.padding[axis][0] + low * s
            x = j * i64(self.dilations[axis]) + i64(c // s * s - c + s - 1)
            result.append(i64(c // s) - tirx.floordiv(x, i64(s)))
        return result

    def divisible(self, position: Index, offset: Index) -> Expr:
        """Whether kernel position ``offset`` takes part for an input position."""
        tops = zip(self._tops(position, offset), self.strides, strict=True)
        return all_of([tirx.EQ(tirx.floormod(top, i64(s)), i64(0)) for top, s in tops if s > 1])

    def has_gaps(self) -> bool:
        """Whether some input positions meet no kernel position at all (a stride larger than the kernel)."""
        axes = zip(self.window, self.dilations, self.strides, strict=True)
        return any(len({j * d % s for j in range(e)}) < s for e, d, s in axes)

    def covered(self, position: Index) -> Expr:
        """Whether any kernel position takes part for an input position."""
        axes = zip(position, self.padding, self.window, self.dilations, self.strides, strict=True)
        return all_of(
            [
                any_of([tirx.EQ(tirx.floormod(i + i64(lo - j * d), i64(s)), i64(0)) for j in range(e)])
                for i, (lo, _), e, d, s in axes
            ]
        )

    def _tops(self, position: Index, offset: Index) -> list[Expr]:
        axes = zip(position, self.padding, offset, self.dilations, strict=True)
        return [i + i64(lo) - j * i64(d) for i, (lo, _), j, d in axes]


def conv_backward_data(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """dy (N, O, spatial…), w (O, C / groups, kernel…) -> dx (N, C, spatial…).

    Rows are input positions, columns input channels, units output channels. The layout pass has it computed by ``conv``.
    """
    dy, w = inputs
    groups, spatial, window = attrs["groups"], output.shape[2:], w.shape[2:]
    columns, units = w.shape[1], w.shape[0] // groups
    geometry = Transposed(spatial, window, attrs["strides"], attrs["dilations"], attrs["padding"])
    borders = geometry.borders(dy.shape[2:])
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], dy.shape, borders, dy.dtype)

        def gradient(batch: Index, row: Expr, unit: Expr, offset: Index) -> Expr:
            place = geometry.places(unravel(row, spatial), offset, borders)
            return load(source, [batch[0], batch[1] * i64(units) + unit, *place])

        def weight(batch: Index, unit: Expr, offset: Index, column: Expr) -> Expr:
            return load(k.inputs[1], [batch[1] * i64(units) + unit, column, *offset])

        strided = any(s > 1 for s in attrs["strides"])
        product = Product(
            (dy.shape[0], groups),
            math.prod(spatial),
            columns,
            units,
            window,
            units_per_chunk(math.prod(window)),
            dy.dtype,
            gradient,
            weight,
            takes_part=(lambda row, offset: geometry.divisible(unravel(row, spatial), offset)) if strided else None,
        )
        # With a stride larger than the kernel some positions receive nothing at all, and the sum of nothing is +0.0.
        zero = exact.const(0.0, dy.dtype)
        emit_product(
            k,
            product,
            lambda i: [i[0], i[1] // i64(columns), ravel(i[2:], spatial), i[1] % i64(columns)],
            (lambda value, i: exact.select(geometry.covered(i[2:]), value, zero)) if geometry.has_gaps() else None,
        )
    return k.result()
