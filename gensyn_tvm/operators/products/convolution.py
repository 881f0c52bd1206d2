"""Convolutions and their gradients as chunked products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact, terms
from gensyn_tvm.operators.nest import Buffer, Kernel, all_of, any_of, guarded, i64, kernel, load, ravel, unravel
from gensyn_tvm.operators.products.chunked import Product, emit_product, units_per_chunk

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


def conv(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), w (O, C / groups, kernel…) -> (N, O, spatial…): rows are positions, columns output channels."""
    x, w = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    channels, window, spatial, columns = w.shape[1], w.shape[2:], output.shape[2:], w.shape[0] // groups
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)

        def image(batch: Index, row: Expr, channel: Expr, offset: Index) -> Expr:
            position = unravel(row, spatial)
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return load(source, [batch[0], batch[1] * i64(channels) + channel, *place])

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
    return k.result()


def conv_backward_weight(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), dy (N, O, spatial…) -> dw (O, C / groups, kernel…).

    Rows are weight positions (channel, kernel…), columns output channels, units output rows, whose last axis is inner.
    """
    x, dy = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    spatial, window, channels, columns = dy.shape[2:], output.shape[2:], output.shape[1], dy.shape[1] // groups
    lines = (x.shape[0], *spatial[:-1])
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)

        def image(batch: Index, row: Expr, unit: Expr, inner: Index) -> Expr:
            channel, *offset = unravel(row, [channels, *window])
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return load(source, [number, batch[0] * i64(channels) + channel, *place])

        def gradient(batch: Index, unit: Expr, inner: Index, column: Expr) -> Expr:
            number, *line = unravel(unit, lines)
            position = [*line, *inner]
            return load(k.inputs[1], [number, batch[0] * i64(columns) + column, *position])

        product = Product(
            (groups,),
            channels * math.prod(window),
            columns,
            math.prod(lines),
            spatial[-1:],
            units_per_chunk(spatial[-1]),
            x.dtype,
            image,
            gradient,
        )
        emit_product(k, product, lambda i: [i[0] // i64(columns), ravel(i[1:], [channels, *window]), i[0] % i64(columns)])
    return k.result()


@dataclass(frozen=True)
class _Transposed:
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

    def divisible(self, row: Expr, offset: Index) -> Expr:
        """Whether kernel position ``offset`` takes part for the input position with flat index ``row``."""
        tops = zip(self._tops(unravel(row, self.spatial), offset), self.strides, strict=True)
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

    Rows are input positions, columns input channels, units output channels.
    """
    dy, w = inputs
    groups, spatial, window = attrs["groups"], output.shape[2:], w.shape[2:]
    columns, units = w.shape[1], w.shape[0] // groups
    geometry = _Transposed(spatial, window, attrs["strides"], attrs["dilations"], attrs["padding"])
    borders = geometry.borders(dy.shape[2:])
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], dy.shape, borders, dy.dtype)

        def gradient(batch: Index, row: Expr, unit: Expr, offset: Index) -> Expr:
            place = geometry.places(unravel(row, spatial), offset, borders)
            return load(source, [batch[0], batch[1] * i64(units) + unit, *place])

        def weight(batch: Index, unit: Expr, offset: Index, column: Expr) -> Expr:
            return load(k.inputs[1], [batch[1] * i64(units) + unit, column, *offset])

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
            geometry.divisible if any(s > 1 for s in attrs["strides"]) else None,
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
