"""Depthwise convolutions, whose channels are groups of their own, and the gradient of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators.nest import Kernel, i64, kernel, load, ravel, unravel
from gensyn_tvm.operators.products.chunked import Product, emit_product, units_per_chunk
from gensyn_tvm.operators.products.image import grid_of, window_start

Expr = Any
Index = Sequence[Expr]
Attrs = Mapping[str, Any]


def convolution(k: Kernel, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> None:
    """x (N, C, length) spread out over ``grid``, w (C, 1, kernel…) -> (N, C, spatial…).

    The positions of a line are read in vectors, a few lines at a time, with the same weight for all of them. What is computed
    beyond the end of a line is never stored. ``taps`` as in ``conv``.
    """
    taps, spatial, window = attrs.get("taps"), output.shape[2:], attrs["window"]
    extents = grid_of(attrs).extents

    def image(batch: Index, row: Expr, unit: Expr, offset: Index, column: Expr) -> Expr:
        line = ravel([*unravel(row, spatial[:-1]), i64(0)], extents)
        return load(k.inputs[0], [*batch, window_start(attrs, offset) + line + column])

    def weight(batch: Index, unit: Expr, offset: Index, column: Expr) -> Expr:
        if not taps:
            return load(k.inputs[1], [batch[1], unit, *offset])
        places = [o * i64(step) + i64(first) for o, (_, _, first, step) in zip(offset, taps, strict=True)]
        return load(k.inputs[1], [batch[1], unit, *places])

    product = Product(
        output.shape[:2],
        math.prod(spatial[:-1]),
        spatial[-1],
        1,
        window,
        units_per_chunk(attrs.get("unit", math.prod(window))),
        output.dtype,
        lambda batch, row, unit, inner: i64(0),
        weight,
        left_by_column=image,
        panel=attrs["panel"],
        tile=attrs["tile"],
    )
    emit_product(k, product, lambda i: [*i[:2], ravel(i[2:-1], spatial[:-1]), i[-1]])


def weight_gradient(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Both operands in panels of channels: x (1, panels, N * padded positions, width), dy (1, panels, N * positions, width)."""
    strides, dilations, spatial, window = attrs["strides"], attrs["dilations"], attrs["spatial"], output.shape[2:]
    extents, number, width = attrs["extents"], attrs["number"], attrs["panel"]
    lines = (number, *spatial[:-1])
    with kernel(name, inputs, output) as k:

        def place(unit: Expr, inner: Index) -> tuple[Expr, list[Expr]]:
            sample, *line = unravel(unit, lines)
            return sample, [*line, *inner]

        def image(batch: Index, row: Expr, unit: Expr, inner: Index, column: Expr) -> Expr:
            sample, position = place(unit, inner)
            axes = zip(position, unravel(row, window), strides, dilations, strict=True)
            term = ravel([sample, *(p * i64(s) + o * i64(d) for p, o, s, d in axes)], [number, *extents])
            return load(k.inputs[0], [i64(0), column // i64(width), term, column % i64(width)])

        def gradient(batch: Index, unit: Expr, inner: Index, column: Expr) -> Expr:
            sample, position = place(unit, inner)
            term = ravel([sample, *position], [number, *spatial])
            return load(k.inputs[1], [i64(0), column // i64(width), term, column % i64(width)])

        product = Product(
            (),
            math.prod(window),
            output.shape[0],
            math.prod(lines),
            spatial[-1:],
            units_per_chunk(spatial[-1]),
            output.dtype,
            lambda batch, row, unit, inner: i64(0),
            gradient,
            left_by_column=image,
            panel=width,
            tile=attrs["tile"],
        )
        emit_product(k, product, lambda i: [ravel(i[2:], window), i[0]])
    return k.result()
